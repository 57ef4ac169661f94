//! Decisions explained to administrators and auditors. Each answer is one of the decision itself, about the certificate that
//! the user would get now.

use std::collections::BTreeSet;

use mezite_core::decode::{decode, nearest, parse_json};
use mezite_core::kind::{Kind, Node, NodeSpec, Role, RoleSpec, User};
use mezite_core::lock::Lock;
use mezite_core::rbac::{self, Access, Explanation, Outcome, Proof, Question, Roles, Standing, Survey, Target, Users};
use mezite_core::text::escape_control;
use mezite_core::{Fault, Identity, Invalid};
use mezite_net::clock;
use mezite_proto::v1::*;
use time::OffsetDateTime;

use crate::caller::Caller;
use crate::hub::Hub;

/// Most pairs of a user and a node that a preview decides about.
const MAX_PAIRS: usize = 200_000;
/// Most changes that a preview tells.
const MAX_CHANGES: usize = 1000;

/// Everything that decisions depend on, at one moment.
struct State {
    roles: Roles,
    locks: Vec<Lock>,
    users: Users,
    nodes: Vec<NodeSpec>,
    now: OffsetDateTime,
}

impl State {
    async fn load(hub: &Hub, at_unix: Option<i64>) -> Result<Self, Fault> {
        let now = match at_unix {
            None => clock::now(),
            Some(at) => OffsetDateTime::from_unix_timestamp(at).map_err(|_| Invalid::new("at", "is out of range"))?,
        };
        let users = hub.store.all::<User>().await?.into_iter().filter_map(|user| {
            let spec = user.spec.ok()?;
            Some((user.name, Standing::new(user.id, spec)))
        });
        let nodes = hub.store.all::<Node>().await?.into_iter().filter_map(|node| node.spec.ok());
        Ok(Self {
            roles: hub.roles().await?,
            locks: hub.locks().await?,
            users: users.collect(),
            nodes: nodes.collect(),
            now,
        })
    }

    fn survey(&self) -> Survey<'_> {
        Survey { roles: &self.roles, locks: &self.locks, now: self.now }
    }

    fn user(&self, name: &str) -> Result<(&str, &Standing), Fault> {
        let found = self.users.get_key_value(name).map(|(name, user)| (name.as_str(), user));
        found.ok_or_else(|| unknown("user", name, self.users.keys().map(String::as_str)))
    }

    /// By name, else by id.
    fn node(&self, name: &str) -> Result<Target<'_>, Fault> {
        let named = |node: &&NodeSpec| node.hostname == name;
        let found = self.nodes.iter().find(named).or_else(|| self.nodes.iter().find(|node| node.node_id == name));
        let names = self.nodes.iter().map(|node| node.hostname.as_str());
        found.map(target).ok_or_else(|| unknown("node", name, names))
    }

    fn ask<'a>(&'a self, identity: &'a Identity, target: Target<'a>, login: Option<&'a str>) -> Answer<'a> {
        let ask = |proof| {
            let Self { roles, locks, now, .. } = self;
            rbac::explain(&Question { identity, roles, target, login, locks, proof, now: *now })
        };
        let unproven = ask(Proof::Nothing).answer.err().filter(|denied| denied.needs().is_some());
        let mut needs = unproven.map(|denied| reasons(&denied)).unwrap_or_default();
        let explanation = ask(Proof::AskedLater);
        if let Ok(permit) = &explanation.answer {
            needs.extend(permit.moderation().iter().map(ToString::to_string));
        }
        Answer { explanation, needs }
    }
}

struct Answer<'a> {
    explanation: Explanation<'a>,
    /// What the node asks for besides.
    needs: Vec<String>,
}

fn target(node: &NodeSpec) -> Target<'_> {
    Target { node_id: &node.node_id, name: &node.hostname, labels: &node.labels }
}

fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Fault {
    let hint = nearest(name, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let shown: String = name.chars().take(64).collect();
    Fault::NotFound(format!("{kind} {} does not exist{hint}", escape_control(&shown)))
}

fn reasons(denied: &rbac::Denied) -> Vec<String> {
    denied.reasons().iter().map(ToString::to_string).collect()
}

fn some(login: &str) -> Option<&str> {
    Some(login).filter(|login| !login.is_empty())
}

pub(super) async fn explain(hub: &Hub, _: &Caller, request: ExplainAccessRequest) -> Result<ExplainAccessReply, Fault> {
    let state = State::load(hub, request.at_unix).await?;
    let (name, user) = state.user(&request.user)?;
    let node = state.node(&request.node)?;
    let identity = state.survey().identity(name, user);
    let Answer { explanation, needs } = state.ask(&identity, node, some(&request.login));
    let findings = explanation.findings.into_iter().map(|finding| AccessFinding {
        role: finding.role.to_owned(),
        rule: finding.rule.as_str().to_owned(),
        outcome: match finding.outcome {
            Outcome::Match => "match".to_owned(),
            Outcome::NoMatch => "no match".to_owned(),
            Outcome::Error(error) => format!("error: {error}"),
        },
    });
    let mut reply = ExplainAccessReply {
        findings: findings.collect(),
        needs: needs.join("; "),
        node_name: node.name.to_owned(),
        ..ExplainAccessReply::default()
    };
    match explanation.answer {
        Ok(permit) => {
            reply.allowed = true;
            reply.roles = permit.roles().to_vec();
            reply.max_session_seconds = permit.max_session_ttl().as_secs();
            reply.port_forwarding = permit.port_forwarding();
            reply.file_copy = permit.file_copy();
            reply.recorded = permit.recording().on;
        }
        Err(denied) => reply.reasons = reasons(&denied),
    }
    Ok(reply)
}

pub(super) async fn who_can(hub: &Hub, _: &Caller, request: WhoCanRequest) -> Result<WhoCanReply, Fault> {
    let state = State::load(hub, request.at_unix).await?;
    state.node(&request.node)?;
    aside(move || {
        let node = state.node(&request.node)?;
        let users = state.users.iter().filter_map(|(name, user)| can(&state, name, user, node, &request.login));
        Ok(WhoCanReply { users: users.collect() })
    })
    .await
}

fn can(state: &State, name: &str, user: &Standing, node: Target<'_>, login: &str) -> Option<UserAccess> {
    let identity = state.survey().identity(name, user);
    let mut roles = BTreeSet::new();
    let mut found = UserAccess { user: name.to_owned(), ..UserAccess::default() };
    let wanted = identity.principals.iter().filter(|principal| login.is_empty() || *principal == login);
    for principal in wanted {
        let answer = state.ask(&identity, node, Some(principal));
        let Ok(permit) = answer.explanation.answer else { continue };
        roles.extend(permit.roles().iter().cloned());
        found.logins.push(principal.clone());
        found.needs = answer.needs.join("; ");
    }
    found.roles = roles.into_iter().collect();
    (!found.logins.is_empty()).then_some(found)
}

pub(super) async fn preview(hub: &Hub, _: &Caller, request: PreviewRoleRequest) -> Result<PreviewRoleReply, Fault> {
    let json = parse_json(&request.spec).map_err(|e| Invalid::new("spec", e.to_string()))?;
    let spec: RoleSpec = decode(&json).map_err(|e| e.within("spec"))?;
    Role::validate(&request.name, &spec)?;
    let state = State::load(hub, None).await?;
    aside(move || Ok(changes(&state, request.name, spec))).await
}

/// What the holders of the role would gain and lose: nobody else is touched.
fn changes(state: &State, name: String, spec: RoleSpec) -> PreviewRoleReply {
    let mut reply = PreviewRoleReply { exists: state.roles.contains_key(&name), ..PreviewRoleReply::default() };
    let mut roles = state.roles.clone();
    roles.insert(name.clone(), spec);
    let after = Survey { roles: &roles, ..state.survey() };
    let holders = state.users.iter().filter(|(_, user)| user.roles.contains(&name));
    let mut pairs = 0;
    for (user, standing) in holders {
        reply.holders.push(user.clone());
        pairs += state.nodes.len();
        if pairs > MAX_PAIRS {
            reply.truncated = true;
            continue;
        }
        let accesses = |survey: Survey<'_>| survey.accesses(user, standing, state.nodes.iter().map(target));
        let (before, after) = (accesses(state.survey()), accesses(after));
        let change =
            |(node, login): &Access| AccessChange { user: user.clone(), node: node.clone(), login: login.clone() };
        reply.gained.extend(after.difference(&before).map(change));
        reply.lost.extend(before.difference(&after).map(change));
    }
    reply.truncated |= reply.gained.len() > MAX_CHANGES || reply.lost.len() > MAX_CHANGES;
    reply.gained.truncate(MAX_CHANGES);
    reply.lost.truncate(MAX_CHANGES);
    reply
}

/// Decisions by the thousand, off the threads that serve calls.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Fault::Bug(format!("a survey of accesses failed: {e}")))?
}
