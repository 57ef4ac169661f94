//! The decision about a node and a login.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;

use super::forward::Forwarding;
use super::moderation::{Joining, Requirement};
use super::outcome::{Demand, Denied, Explanation, Factor, Finding, Outcome, Permit, Proof, Reason, Recording, Rule};
use super::principals::{DeniedLogins, expand_logins};
use super::selector::Matcher;
use super::template::Variables;
use crate::error::Invalid;
use crate::identity::Identity;
use crate::kind::RoleSpec;
use crate::kind::role::{
    DEFAULT_SESSION_TTL, DeviceTrust, JoinGrant, JoinMode, Record, RecordExec, RoleOptions, SessionMfa,
};
use crate::labels::Labels;
use crate::lock::{self, Lock, Subject};

/// Role definitions by name. A role that cannot be read is left out, and so denies its holders.
pub type Roles = BTreeMap<String, RoleSpec>;

/// What is to be reached.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Stable id of the node.
    pub node_id: &'a str,
    /// Name of the node.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
}

/// Everything a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// Definitions, at least of the identity's roles.
    pub roles: &'a Roles,
    /// What is to be reached.
    pub target: Target<'a>,
    /// The OS login; `None` when it is not known yet, and then some login must be possible.
    pub login: Option<&'a str>,
    /// All locks.
    pub locks: &'a [Lock],
    /// What is known of a second factor.
    pub proof: Proof,
    /// The present moment.
    pub now: OffsetDateTime,
}

/// Decides.
///
/// # Errors
/// [`Denied`] with every reason that was found.
pub fn check(question: &Question<'_>) -> Result<Permit, Denied> {
    explain(question).answer
}

/// Decides, and tells what each rule said.
pub fn explain<'a>(question: &Question<'a>) -> Explanation<'a> {
    Policy::new(question.identity, question.roles).decide(question)
}

/// The rules of one identity made ready for many nodes.
#[derive(Debug)]
pub struct Policy<'a> {
    pub(super) rules: Vec<Rules<'a>>,
    pub(super) missing: Vec<&'a str>,
}

#[derive(Debug)]
pub(super) struct Rules<'a> {
    role: &'a str,
    /// A role that the certificate does not name refuses, and grants nothing.
    grants: bool,
    options: &'a RoleOptions,
    /// Whether the identity's certificate is pinned.
    pinned: bool,
    moderation: Result<Vec<Requirement>, Invalid>,
    pub(super) allow_joins: &'a [JoinGrant],
    deny_joins: &'a [JoinGrant],
    allow_nodes: Result<Matcher<'a>, Invalid>,
    allow_logins: Result<BTreeSet<String>, Invalid>,
    deny_nodes: Result<Matcher<'a>, Invalid>,
    deny_logins: Result<DeniedLogins, Invalid>,
}

impl<'a> Policy<'a> {
    /// Prepares the rules of `identity`.
    pub fn new(identity: &'a Identity, roles: &'a Roles) -> Self {
        let variables = |traits| Variables { user: &identity.user, traits };
        let allow = variables(&identity.traits);
        let deny = variables(identity.since.traits.as_ref().unwrap_or(&identity.traits));
        let mut policy = Self { rules: Vec::new(), missing: Vec::new() };
        let named = identity.roles.iter().map(|role| (role, true));
        for (role, grants) in named.chain(identity.since.roles.iter().map(|role| (role, false))) {
            match roles.get(role) {
                Some(spec) => policy.rules.push(Rules::new((role, grants), spec, (allow, deny), identity.pinned)),
                None => policy.missing.push(role),
            }
        }
        policy
    }

    /// Whether the node may be shown to the identity: some login on it is allowed. A node that asks for more than this
    /// release can do is shown, so that the refusal can say why.
    pub fn sees(&self, target: Target<'_>) -> bool {
        let mut evaluation = Evaluation::default();
        self.evaluate(target, None, Proof::AskedLater, &mut evaluation);
        use Reason::{ModerationFailed, NotPinned, Unsupported};
        self.missing.is_empty()
            && !evaluation.granting.is_empty()
            && evaluation
                .reasons
                .iter()
                .all(|reason| matches!(reason, Unsupported { .. } | NotPinned { .. } | ModerationFailed { .. }))
    }

    /// Decides about one node and login, and tells what each rule said. The question is of the same identity and roles.
    pub fn decide(&self, question: &Question<'_>) -> Explanation<'a> {
        let Question { identity, target, login, .. } = *question;
        let mut evaluation = Evaluation::default();
        evaluation.reasons.extend(locked(question));
        if identity.roles.is_empty() {
            evaluation.reasons.push(Reason::NoRoles);
        }
        for role in &self.missing {
            evaluation.reasons.push(Reason::RoleMissing { role: (*role).to_owned() });
            let outcome = Outcome::Error("is not defined or cannot be read".into());
            evaluation.findings.push(Finding { role, rule: Rule::Definition, outcome });
        }
        self.evaluate(target, login, question.proof, &mut evaluation);
        if let Some(login) = login
            && !identity.principals.iter().any(|principal| principal == login)
            && evaluation.reasons.is_empty()
            && !evaluation.granting.is_empty()
        {
            evaluation.reasons.push(Reason::NotInCertificate { login: login.to_owned() });
        }
        let Evaluation { findings, mut reasons, factors, granting, matching, node_allowed } = evaluation;
        if reasons.is_empty() && granting.is_empty() {
            reasons.push(match login {
                _ if !node_allowed => Reason::NodeNotAllowed,
                Some(login) => Reason::LoginNotAllowed { login: login.to_owned() },
                None => Reason::NoLogin,
            });
        }
        // A factor is asked for when nothing else stands in the way.
        let reasons = if reasons.is_empty() { factors } else { reasons };
        let answer =
            if reasons.is_empty() { Ok(self.permit(question, &granting, &matching)) } else { Err(Denied { reasons }) };
        Explanation { findings, answer }
    }

    /// Asks every rule of every role.
    fn evaluate(&self, target: Target<'_>, login: Option<&str>, proof: Proof, evaluation: &mut Evaluation<'a>) {
        for rules in &self.rules {
            rules.ask_deny(target, login, evaluation);
            rules.ask_allow(target, login, proof, evaluation);
        }
        if login.is_none() {
            let denied = |login: &str| self.rules.iter().any(|r| r.deny_logins.as_ref().is_ok_and(|d| d.hold(login)));
            evaluation.granting.retain(|role| {
                let granted = self.rules.iter().filter(|rules| rules.role == *role);
                granted.flat_map(|rules| rules.allow_logins.iter().flatten()).any(|login| !denied(login))
            });
        }
    }

    fn permit(&self, question: &Question<'_>, granting: &[&str], matching: &[&str]) -> Permit {
        let matching = self.rules.iter().filter(|rules| matching.contains(&rules.role));
        let moderation: Vec<Requirement> =
            matching.flat_map(|rules| rules.moderation.iter().flatten()).cloned().collect();
        let all = || self.rules.iter().filter(|rules| rules.grants).map(|rules| rules.options);
        let granting_options =
            || self.rules.iter().filter(|rules| granting.contains(&rules.role)).map(|rules| rules.options);
        let any = |wanted: fn(&RoleOptions) -> bool| granting_options().any(wanted);
        Permit {
            user: question.identity.user.clone(),
            node_id: question.target.node_id.to_owned(),
            login: question.login.map(str::to_owned),
            roles: granting.iter().map(|role| (*role).to_owned()).collect(),
            max_session_ttl: granting_options()
                .map(|options| options.max_session_ttl.unwrap_or(DEFAULT_SESSION_TTL))
                .min()
                .unwrap_or(DEFAULT_SESSION_TTL),
            client_idle_timeout: granting_options().filter_map(|options| options.client_idle_timeout).min(),
            max_sessions: granting_options().filter_map(|options| options.max_sessions).min(),
            max_connections: granting_options().filter_map(|options| options.max_connections).min(),
            // Nobody sees what goes through a forward.
            forwarding: Forwarding::of(all().filter(|_| moderation.is_empty())),
            file_copy: !any(|options| options.file_copy == Some(false)),
            agent_forwarding: any(|options| options.agent_forwarding == Some(true)),
            recording: Recording {
                on: any(|options| options.record != Some(Record::Off)),
                strict: any(|options| options.record.is_none_or(|record| record == Record::Strict)),
                exec: match any(|options| options.record_exec == Some(RecordExec::Full)) {
                    true => RecordExec::Full,
                    false => RecordExec::Limited,
                },
                input: any(|options| options.record_input == Some(true)),
            },
            moderation: moderation.into(),
        }
    }
}

#[derive(Default)]
struct Evaluation<'a> {
    findings: Vec<Finding<'a>>,
    reasons: Vec<Reason>,
    /// Second factors that are asked for and not proven.
    factors: Vec<Reason>,
    /// Roles that allow the node and the login.
    granting: Vec<&'a str>,
    /// Roles that match the node, or cannot say that they do not.
    matching: Vec<&'a str>,
    node_allowed: bool,
}

impl<'a> Rules<'a> {
    fn new(
        (role, grants): (&'a str, bool),
        spec: &'a RoleSpec,
        (allow, deny): (Variables<'_>, Variables<'_>),
        pinned: bool,
    ) -> Self {
        Self {
            role,
            grants,
            options: &spec.options,
            pinned,
            moderation: spec.options.require_session_join.iter().map(|entry| Requirement::new(role, entry)).collect(),
            allow_joins: &spec.allow.join_sessions,
            deny_joins: &spec.deny.join_sessions,
            allow_nodes: Matcher::new(&spec.allow.node_labels, allow),
            allow_logins: expand_logins(&spec.allow.logins, allow),
            deny_nodes: Matcher::new(&spec.deny.node_labels, deny),
            deny_logins: DeniedLogins::new(&spec.deny.logins, deny),
        }
    }

    fn ask_deny(&self, target: Target<'_>, login: Option<&str>, evaluation: &mut Evaluation<'a>) {
        let role = || self.role.to_owned();
        let nodes = self.deny_nodes.as_ref().map(|matcher| matcher.matches(target.labels));
        let logins = self.deny_logins.as_ref().map(|denied| login.is_some_and(|login| denied.hold(login)));
        for (rule, outcome) in [(Rule::DenyNodeLabels, nodes), (Rule::DenyLogins, logins)] {
            // Most rules say no to most nodes: a reason is made for those that do not.
            match (&outcome, rule) {
                (Ok(false), _) => {}
                (Ok(true), Rule::DenyLogins) => evaluation.reasons.push(Reason::DeniedLogin { role: role() }),
                (Ok(true), _) => evaluation.reasons.push(Reason::DeniedNode { role: role() }),
                (Err(e), _) => evaluation.reasons.push(Reason::DenyFailed { role: role(), error: e.to_string() }),
            }
            evaluation.finding(self.role, rule, outcome);
        }
    }

    fn ask_allow(&self, target: Target<'_>, login: Option<&str>, proof: Proof, evaluation: &mut Evaluation<'a>) {
        let nodes = self.allow_nodes.as_ref().map(|matcher| matcher.matches(target.labels));
        let logins = self.allow_logins.as_ref().map(|allowed| match login {
            Some(login) => allowed.contains(login),
            None => !allowed.is_empty(),
        });
        evaluation.finding(self.role, Rule::AllowNodeLabels, nodes);
        evaluation.finding(self.role, Rule::AllowLogins, logins);
        // A selector that cannot be read may well be meant for this node, and so the role's demands hold.
        if nodes != Ok(false) {
            evaluation.factors.extend(self.factor(proof));
            evaluation.reasons.extend(self.unsupported());
            evaluation.matching.push(self.role);
        }
        evaluation.node_allowed |= self.grants && nodes == Ok(true);
        if self.grants && nodes == Ok(true) && logins == Ok(true) {
            evaluation.granting.push(self.role);
        }
    }
}

impl Rules<'_> {
    /// What the role asks for that is not there, besides a second factor.
    pub(super) fn unsupported(&self) -> impl Iterator<Item = Reason> {
        let role = || self.role.to_owned();
        let unreadable = self.moderation.as_ref().err();
        let unreadable = unreadable.map(|error| Reason::ModerationFailed { role: role(), error: error.to_string() });
        let demanded = demands(self.options).map(move |demand| Reason::Unsupported { role: role(), demand });
        let is_loose = self.options.pin_source_ip == Some(true) && !self.pinned;
        let loose = is_loose.then(|| Reason::NotPinned { role: role() });
        unreadable.into_iter().chain(demanded).chain(loose)
    }

    /// Whether the role matches the node. A selector that cannot be read may well be meant for it.
    pub(super) fn may_match(&self, target: Target<'_>) -> bool {
        self.allow_nodes.as_ref().map(|matcher| matcher.matches(target.labels)) != Ok(false)
    }

    /// Why the role keeps its holder out of somebody else's session.
    pub(super) fn refusals_to_join(&self, target: Target<'_>, joining: Joining<'_>) -> Vec<Reason> {
        let role = || self.role.to_owned();
        let is_peer = joining.mode == JoinMode::Peer;
        let nodes = self.deny_nodes.as_ref().map(|matcher| matcher.matches(target.labels));
        // A peer types as the session's login.
        let logins = self.deny_logins.as_ref().map(|denied| is_peer && denied.hold(joining.login));
        let is_denied = self.deny_joins.iter().any(|grant| grant.covers(joining.owner_roles, joining.mode));
        let found = [
            (nodes, Reason::DeniedNode { role: role() }),
            (logins, Reason::DeniedLogin { role: role() }),
            (Ok(is_denied), Reason::DeniedJoin { role: role() }),
        ];
        let refusal = |(outcome, reason): (Result<bool, &Invalid>, Reason)| match outcome {
            Ok(false) => None,
            Ok(true) => Some(reason),
            Err(e) => Some(Reason::DenyFailed { role: role(), error: e.to_string() }),
        };
        found.into_iter().filter_map(refusal).collect()
    }

    /// The second factor that the role asks for and that is not proven.
    pub(super) fn factor(&self, proof: Proof) -> Option<Reason> {
        let factor = match self.options.require_session_mfa {
            Some(SessionMfa::Totp) => Factor::Totp,
            // The last two are demands that nothing satisfies so far.
            None | Some(SessionMfa::Off | SessionMfa::Webauthn | SessionMfa::HardwareKey) => return None,
        };
        let reuse = self.options.session_mfa_reuse.unwrap_or_default();
        (!proof.satisfies(factor)).then(|| Reason::FactorNeeded { role: self.role.to_owned(), factor, reuse })
    }
}

impl<'a> Evaluation<'a> {
    fn finding(&mut self, role: &'a str, rule: Rule, outcome: Result<bool, &Invalid>) {
        let outcome = match outcome {
            Ok(true) => Outcome::Match,
            Ok(false) => Outcome::NoMatch,
            Err(e) => Outcome::Error(e.to_string()),
        };
        self.findings.push(Finding { role, rule, outcome });
    }
}

pub(super) fn locked(question: &Question<'_>) -> Option<Reason> {
    let Question { identity, target, login, locks, now, .. } = *question;
    let names = [target.name, target.node_id];
    let subject = Subject {
        user: &identity.user,
        roles: &identity.roles,
        node: &names,
        login: login.unwrap_or_default(),
        ..Subject::machine(&names)
    };
    let since = Subject { roles: &identity.since.roles, ..Subject::default() };
    let lock = lock::first(locks, subject, now).or_else(|| lock::first(locks, since, now))?;
    Some(Reason::Locked { lock: lock.name.clone(), message: lock.message().to_owned() })
}

/// What a role asks for that cannot be done yet.
fn demands(options: &RoleOptions) -> impl Iterator<Item = Demand> {
    let device = options.device_trust_mode == Some(DeviceTrust::Required);
    [
        (options.require_session_mfa == Some(SessionMfa::Webauthn), Demand::Webauthn),
        (options.require_session_mfa == Some(SessionMfa::HardwareKey), Demand::HardwareKey),
        (device, Demand::Device),
    ]
    .into_iter()
    .filter_map(|(asked, demand)| asked.then_some(demand))
}
