//! Authentication and the final decision: a certificate, and a code where the roles ask for one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mezite_core::audit::{self, Event as AuditEvent, EventType};
use mezite_core::identity::Identity;
use mezite_core::kind::role::JoinMode;
use mezite_core::name::JOIN_LOGIN;
use mezite_core::rbac::{self, Denied, Factor, Joining, Permit, Proof, Question, Seat, Target};
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{
    AuthMethod, AuthRequest, Connection, Credential, DisconnectReason, Event, Incoming, Method, OpenFailure, Prompt,
};
use mezite_net::watch::View;
use mezite_ssh::cert::{self, CertError, CertKind, Certificate, Policy};

use crate::Agent;
use crate::ssh::factor::{self, MAX_CODES, Outcome};
use crate::ssh::guest::Guest;
use crate::ssh::{Admitted, Dial};

/// What is said when a code is asked for again.
const WRONG: &str = "the code is wrong or was used already; wait for the next one";

/// What a connection that authenticated may do.
pub(super) enum Entered {
    /// Sessions and forwards on this node.
    Node(Box<Admitted>),
    /// Join one session of somebody else.
    Session(Box<Guest>),
}

/// Waits for a user certificate that is good for this node and login, and for a code if the roles ask for one; `None` when the
/// connection ended without.
pub(super) async fn run(
    agent: Arc<Agent>,
    dial: Dial,
    connection: &Connection,
    incoming: &mut Incoming,
) -> Option<Entered> {
    let mut door = Door { agent, dial, connection, codes: MAX_CODES, unanswered: None };
    let mut entered = None;
    while let Some(event) = incoming.next().await {
        match event {
            Event::Auth(request) => entered = door.attempt(request).await.or(entered),
            Event::Authenticated { user } => {
                return entered.filter(|entered| match entered {
                    Entered::Node(admitted) => admitted.login == user,
                    Entered::Session(_) => user == JOIN_LOGIN,
                });
            }
            Event::Channel(request) => request.reject(OpenFailure::AdministrativelyProhibited, "authenticate first"),
            Event::Global(request) => request.reply(None),
        }
    }
    if let Some(event) = door.unanswered {
        door.agent.reports.send(event);
    }
    None
}

/// One connection that is not let in yet.
struct Door<'a> {
    agent: Arc<Agent>,
    dial: Dial,
    connection: &'a Connection,
    /// How often a code may be asked for yet.
    codes: u32,
    /// The event of a visitor who was asked for a code and goes without giving one.
    unanswered: Option<AuditEvent>,
}

impl Door<'_> {
    async fn attempt(&mut self, request: AuthRequest) -> Option<Entered> {
        let (credential, signed) = match &request.method {
            AuthMethod::PublicKeyQuery(credential) => (credential, false),
            AuthMethod::PublicKey(credential) => (credential, true),
            AuthMethod::KeyboardInteractive => {
                self.challenge(request, "");
                return None;
            }
            AuthMethod::KeyboardResponses(answers) => {
                let code = answers.first().cloned().unwrap_or_default();
                return self.look_at(request, &code).await;
            }
        };
        let Credential::Certificate(certificate) = credential else {
            request.reject(&[Method::PublicKey]);
            return None;
        };
        match admit(&self.agent, &self.dial, certificate, &request.user, Proof::Nothing) {
            Ok(entered) => {
                request.accept();
                signed.then_some(entered)
            }
            // Answered yes, so that a code is asked for, or the reason given, over a signature.
            Err(Refusal::Unproven | Refusal::Told { .. }) if !signed => {
                request.accept();
                None
            }
            Err(Refusal::Unproven) => {
                let certificate = certificate.clone();
                self.second(request, &certificate, "").await
            }
            Err(refusal) => {
                self.refuse(request, refusal);
                None
            }
        }
    }

    /// Asks for a code, if this connection has proven its certificate and was not asked too often.
    fn challenge(&mut self, request: AuthRequest, instruction: &str) {
        match self.codes.checked_sub(1) {
            Some(left) if !request.proven.is_empty() => {
                self.codes = left;
                request.challenge("", instruction, vec![Prompt { text: "MFA code: ".to_owned(), echo: false }]);
            }
            _ => request.reject(&[]),
        }
    }

    async fn look_at(&mut self, request: AuthRequest, code: &str) -> Option<Entered> {
        let Some(Credential::Certificate(certificate)) = request.proven.last().cloned() else {
            request.reject(&[]);
            return None;
        };
        self.unanswered = None;
        // An empty code would ask whether one is needed.
        let code = if code.is_empty() { "-" } else { code };
        self.second(request, &certificate, code).await
    }

    /// Has Auth look at a code, or whether an earlier proof serves, and goes on as it answers. Auth writes what it refuses.
    async fn second(&mut self, request: AuthRequest, certificate: &Certificate, code: &str) -> Option<Entered> {
        let login = request.user.clone();
        let unproven = |why: &str| {
            let kind = EventType::AccessDeniedMfa;
            denial(&self.agent, &certificate.key_id, &login, source(&self.dial), why, kind)
        };
        match factor::prove(&self.agent, &self.dial, certificate, &login, code).await {
            Outcome::Proven => {
                // With what is known by now: the answer may have taken its time.
                match admit(&self.agent, &self.dial, certificate, &login, Proof::Proven(Factor::Totp)) {
                    Ok(entered) => {
                        request.accept();
                        return Some(entered);
                    }
                    Err(refusal) => self.refuse(request, refusal),
                }
            }
            Outcome::CodeNeeded if code.is_empty() => {
                self.unanswered = Some(unproven("a code was asked for and none was given"));
                request.accept_partial(&[Method::KeyboardInteractive]);
            }
            Outcome::Wrong(_) if self.codes > 0 => self.challenge(request, WRONG),
            Outcome::Wrong(reference) => {
                let reason = format!("none of {MAX_CODES} codes was right; wait for the next one, and try again");
                self.tell(request, &audit::refusal(&reason, &reference));
            }
            Outcome::CodeNeeded => request.reject(&[]),
            Outcome::Refused(reason) => self.tell(request, &reason),
            Outcome::Unasked(why) => {
                let reason = format!("your second factor cannot be checked: {why}");
                let event = Box::new(unproven(&reason));
                self.refuse(request, Refusal::Told { reason, event });
            }
        }
        None
    }

    fn refuse(&self, request: AuthRequest, refusal: Refusal) {
        match refusal {
            Refusal::Stranger(reason) => {
                tracing::info!(reason, "a certificate was refused");
                request.reject(&[Method::PublicKey]);
            }
            Refusal::Unproven => request.reject(&[]),
            Refusal::Told { reason, event } => {
                let reason = audit::refusal(&reason, &event.id);
                self.agent.reports.send(*event);
                self.tell(request, &reason);
            }
        }
    }

    fn tell(&self, request: AuthRequest, reason: &str) {
        tracing::info!(reason, "access refused");
        // In the place of an answer: after a failure the client would write again, into a closed connection.
        self.connection.disconnect(DisconnectReason::NoMoreAuthMethods, reason);
        request.reject(&[]);
    }
}

/// Why somebody is not admitted.
enum Refusal {
    /// No certificate of this cluster: nothing is explained.
    Stranger(String),
    /// All is well but for a second factor.
    Unproven,
    /// A certificate of ours that is not good for this: its holder is told, and the refusal is an event.
    Told { reason: String, event: Box<AuditEvent> },
}

fn admit(
    agent: &Arc<Agent>,
    dial: &Dial,
    certificate: &Certificate,
    login: &str,
    proof: Proof,
) -> Result<Entered, Refusal> {
    let view = agent.cluster.current().map_err(|e| Refusal::Stranger(e.to_string()))?;
    let source = source(dial);
    let policy = Policy {
        kind: CertKind::User,
        authorities: &view.trust.user_authorities,
        now_unix: clock::now_unix(),
        principal: None,
        source,
    };
    let told = |reason: String, kind: EventType| {
        let mut event = denial(agent, &certificate.key_id, login, source, &reason, kind);
        if let (EventType::AccessDeniedSourceIp, Some(pinned_to)) = (kind, certificate.source_addresses()) {
            event = event.detail("pinned_to", pinned_to);
        }
        Refusal::Told { reason, event: Box::new(event) }
    };
    cert::verify(certificate, &policy).map_err(|error| {
        if !error.is_from_known_authority() {
            return Refusal::Stranger(error.to_string());
        }
        match error {
            CertError::SourceAddress { .. } => {
                told(format!("ssh: {error}; run msh login"), EventType::AccessDeniedSourceIp)
            }
            error => told(format!("ssh: {error}"), EventType::AccessDeniedCertificate),
        }
    })?;
    let identity = identity(agent, certificate).map_err(|e| told(e, EventType::AccessDeniedCertificate))?;
    if identity.user_id != dial.grant.user_id {
        return Err(told(
            "the certificate is of another user than the one that the proxy let in".to_owned(),
            EventType::AccessDenied,
        ));
    }
    if (login == JOIN_LOGIN) == dial.grant.join_session.is_empty() {
        let reason = match login {
            JOIN_LOGIN => format!("{JOIN_LOGIN} is no login; join a session by msh sessions join"),
            _ => "the proxy let you in to join a session".to_owned(),
        };
        return Err(told(reason, EventType::AccessDenied));
    }
    if login == JOIN_LOGIN {
        let guest = join(agent, dial, &view, identity, certificate.valid_before, proof)?;
        return Ok(Entered::Session(Box::new(guest)));
    }
    if !dial.grant.login.is_empty() && dial.grant.login != login {
        return Err(told(
            format!("the proxy let you in as {}, not as {}", escape_control(&dial.grant.login), escape_control(login)),
            EventType::AccessDenied,
        ));
    }
    let permit = decide(agent, &view, &identity, login, proof).map_err(|refused| {
        let NotAllowed::Denied(denied) = refused else { return Refusal::Stranger(refused.to_string()) };
        if denied.needs().is_some() {
            return Refusal::Unproven;
        }
        let mut event = denial(agent, &identity.user, login, source, &denied.to_string(), denied.event_type());
        event.user_roles.clone_from(&identity.roles);
        if let Ok(reasons) = serde_json::to_value(&denied) {
            event.details.insert("reasons".to_owned(), reasons);
        }
        Refusal::Told { reason: denied.to_string(), event: Box::new(event) }
    })?;
    Ok(Entered::Node(Box::new(Admitted {
        agent: Arc::clone(agent),
        dial: dial.clone(),
        identity,
        login: login.to_owned(),
        proof,
        valid_before: certificate.valid_before,
        permit: permit.narrowed(dial.grant.port_forwarding),
    })))
}

/// Lets somebody in who may join the session in some mode; in which, is asked for later and decided again.
fn join(
    agent: &Arc<Agent>,
    dial: &Dial,
    view: &View,
    identity: Identity,
    valid_before: u64,
    proof: Proof,
) -> Result<Guest, Refusal> {
    let gone = || Refusal::Stranger("the session to be joined has ended".to_owned());
    let room = agent.rooms.find(&dial.grant.join_session).ok_or_else(gone)?;
    let guest = Guest { agent: Arc::clone(agent), dial: dial.clone(), identity, valid_before, room, proof };
    match with_joining(&guest, view, JoinMode::Observer, rbac::may_join_somehow) {
        Ok(()) => Ok(guest),
        Err(NotAllowed::Denied(denied)) if denied.needs().is_some() => Err(Refusal::Unproven),
        Err(NotAllowed::Denied(denied)) => {
            Err(Refusal::Told { reason: denied.to_string(), event: Box::new(join_denied(&guest, &denied)) })
        }
        Err(refused @ NotAllowed::Unlisted) => Err(Refusal::Stranger(refused.to_string())),
    }
}

/// The decision about joining a session of this node, with roles, locks and labels of the agent's own view.
pub(super) fn decide_join(guest: &Guest, view: &View, mode: JoinMode) -> Result<Seat, NotAllowed> {
    with_joining(guest, view, mode, rbac::may_join)
}

fn with_joining<T>(
    guest: &Guest,
    view: &View,
    mode: JoinMode,
    decide: impl FnOnce(&Question<'_>, Joining<'_>) -> Result<T, Denied>,
) -> Result<T, NotAllowed> {
    let Guest { agent, identity, room, proof, .. } = guest;
    let (node_id, name) = (&agent.node_id, &agent.node_name);
    let node = view.nodes.get(name).filter(|node| node.node_id == *node_id);
    let labels = &node.ok_or(NotAllowed::Unlisted)?.labels;
    let now = clock::now();
    let bound = rbac::standing(identity, &view.users, now)?;
    let question = Question {
        identity: &bound,
        roles: &view.roles,
        target: Target { node_id, name, labels },
        login: None,
        locks: &view.locks,
        proof: *proof,
        now,
    };
    let requirements = room.requirements();
    let owner = &room.owner;
    let joining = Joining { mode, login: &owner.login, owner_roles: &owner.roles, requirements: &requirements };
    Ok(decide(&question, joining)?)
}

/// The refusal of a joining.
pub(super) fn join_denied(guest: &Guest, denied: &Denied) -> AuditEvent {
    let event = join_event(guest, denied.event_type(), &denied.to_string());
    match serde_json::to_value(denied) {
        Ok(reasons) => event.detail("reasons", reasons),
        Err(_) => event,
    }
}

/// An event about somebody who joins, or would.
pub(super) fn join_event(guest: &Guest, kind: EventType, reason: &str) -> AuditEvent {
    let Guest { agent, dial, identity, room, .. } = guest;
    let mut event = denial(agent, &identity.user, &room.owner.login, source(dial), reason, kind);
    event.user_roles.clone_from(&identity.roles);
    event.session_id.clone_from(&room.session_id);
    event.success = kind.is_success();
    event.detail("session_user", &room.owner.user)
}

/// Reports a session that is not let begin on a connection that was let in; what its user is told.
pub(super) fn session_denied(admitted: &Admitted, reason: &str) -> String {
    let Admitted { agent, identity, login, dial, .. } = admitted;
    let mut event = denial(agent, &identity.user, login, source(dial), reason, EventType::AccessDenied);
    event.user_roles.clone_from(&identity.roles);
    let told = audit::refusal(reason, &event.id);
    agent.reports.send(event);
    told
}

/// Where the visitor comes from, as the proxy saw it.
pub(super) fn source(dial: &Dial) -> Option<IpAddr> {
    dial.grant.client_addr.parse().ok().map(|peer: SocketAddr| peer.ip())
}

fn identity(agent: &Agent, certificate: &Certificate) -> Result<Identity, String> {
    let mut identity =
        Identity::from_certificate(&certificate.key_id, &certificate.principals, certificate.extension_texts())
            .map_err(|e| e.to_string())?
            .since_unix(certificate.valid_after);
    identity.pinned = certificate.source_addresses().is_some();
    if identity.cluster == agent.cluster_name {
        return Ok(identity);
    }
    Err(format!("the certificate is of cluster {}", escape_control(&identity.cluster)))
}

/// Why the final decision is no.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAllowed {
    /// Roles or locks say so.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The labels that count are the administrator's, and they are not known here: no rule can be evaluated.
    #[error("this node is not in the cluster's inventory")]
    Unlisted,
}

impl NotAllowed {
    /// The word for the record of a session that ends by it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denied) if denied.event_type() == EventType::AccessDeniedLocked => "locked",
            Self::Denied(_) | Self::Unlisted => "denied",
        }
    }
}

/// The decision, with roles, locks and labels of the agent's own view.
pub(super) fn decide(
    agent: &Agent,
    view: &View,
    identity: &Identity,
    login: &str,
    proof: Proof,
) -> Result<Permit, NotAllowed> {
    decide_for((&agent.node_id, &agent.node_name), view, identity, login, proof)
}

fn decide_for(
    (node_id, name): (&str, &str),
    view: &View,
    identity: &Identity,
    login: &str,
    proof: Proof,
) -> Result<Permit, NotAllowed> {
    let node = view.nodes.get(name).filter(|node| node.node_id == node_id);
    let labels = &node.ok_or(NotAllowed::Unlisted)?.labels;
    let now = clock::now();
    let permit = rbac::check(&Question {
        identity: &*rbac::standing(identity, &view.users, now)?,
        roles: &view.roles,
        target: Target { node_id, name, labels },
        login: Some(login),
        locks: &view.locks,
        proof,
        now,
    })?;
    Ok(permit)
}

/// Tells Auth of a forward that begins: without a session on the connection nothing else would.
pub(super) fn report_forward(admitted: &Admitted, target: &str) {
    let Admitted { agent, identity, login, dial, .. } = admitted;
    let mut event = denial(agent, &identity.user, login, source(dial), "", EventType::SessionPortForward);
    event.user_roles.clone_from(&identity.roles);
    event.success = true;
    agent.reports.send(event.detail("target", target));
}

fn denial(agent: &Agent, user: &str, login: &str, source: Option<IpAddr>, reason: &str, kind: EventType) -> AuditEvent {
    let mut event = AuditEvent::new(kind, clock::uuid(), clock::now()).resource("node", agent.node_name.as_str());
    event.user_name = user.to_owned();
    event.server_hostname.clone_from(&agent.node_name);
    event.server_id.clone_from(&agent.node_id);
    event.client_ip = source.map(|ip| ip.to_string()).unwrap_or_default();
    event.login = login.to_owned();
    event.error_message = reason.to_owned();
    event.component = "agent".to_owned();
    event.success = false;
    event
}

#[cfg(test)]
mod tests {
    use mezite_core::kind::role::{Conditions, SessionMfa, built_in};
    use mezite_core::kind::{NodeSpec, RoleSpec, UserSpec};
    use mezite_core::lock::Lock;
    use mezite_core::rbac::{Standing, Users};

    use super::*;

    /// The agent says no whatever a proxy has let through (F012).
    #[test]
    fn the_final_word_is_the_agents_own() {
        let text = str::to_owned;
        let identity = Identity {
            user_id: text("u1"),
            user: text("alice"),
            roles: vec![text("access")],
            traits: [(text("logins"), vec![text("ubuntu")])].into(),
            principals: vec![text("ubuntu")],
            ..Identity::default()
        };
        let spec = UserSpec { roles: vec![text("access")], traits: identity.traits.clone(), ..UserSpec::default() };
        let standing = Standing::new("u1", spec.clone());
        let denying = UserSpec { roles: vec![text("access"), text("no-ubuntu")], ..spec };
        let no_ubuntu = RoleSpec {
            deny: Conditions { logins: vec![text("ubuntu")], ..Conditions::default() },
            ..RoleSpec::default()
        };
        let node = NodeSpec { node_id: text("n1"), hostname: text("web-1"), ..NodeSpec::default() };
        let view = View {
            roles: Arc::new([(text("access"), built_in("access").unwrap()), (text("no-ubuntu"), no_ubuntu)].into()),
            users: Arc::new(Users::from([(text("alice"), standing)])),
            nodes: Arc::new([(text("web-1"), node)].into()),
            ..View::default()
        };
        let decide = |view: &View, login| decide_for(("n1", "web-1"), view, &identity, login, Proof::Nothing).map(drop);
        decide(&view, "ubuntu").unwrap();
        assert!(decide(&view, "root").is_err(), "a login that no role allows");
        let lock = Lock::from_stored("l", &serde_json::json!({ "target_type": "user", "target": "alice" }));
        let refused = [
            ("a lock", View { locks: Arc::new(vec![lock]), ..view.clone() }),
            ("a user who is gone", View { users: Arc::default(), ..view.clone() }),
            (
                "a role given since that denies",
                View { users: Arc::new([(text("alice"), Standing::new("u1", denying))].into()), ..view.clone() },
            ),
            ("a role that is gone", View { roles: Arc::default(), ..view.clone() }),
            ("a node that is not listed", View { nodes: Arc::default(), ..view.clone() }),
        ];
        for (why, view) in refused {
            assert!(decide(&view, "ubuntu").is_err(), "{why}");
        }
        // A factor is asked for here, whatever the proxy thought of it.
        let mut strict = built_in("access").unwrap();
        strict.options.require_session_mfa = Some(SessionMfa::Totp);
        let view = View { roles: Arc::new([(text("access"), strict)].into()), ..view };
        let Err(NotAllowed::Denied(denied)) = decide(&view, "ubuntu") else { panic!("let in without a factor") };
        assert_eq!(denied.needs().map(|needed| needed.factor), Some(Factor::Totp));
        decide_for(("n1", "web-1"), &view, &identity, "ubuntu", Proof::Proven(Factor::Totp)).unwrap();
    }
}
