//! Authentication and the final decision: a certificate, and a code where the roles ask for one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mezite_core::audit::{self, Event as AuditEvent, EventType};
use mezite_core::identity::Identity;
use mezite_core::rbac::{self, Denied, Factor, Permit, Proof, Question, Target};
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{
    AuthMethod, AuthRequest, Connection, Credential, DisconnectReason, Event, Incoming, Method, OpenFailure, Prompt,
};
use mezite_net::watch::View;
use mezite_ssh::cert::{self, CertError, CertKind, Certificate, Policy};

use crate::Agent;
use crate::ssh::factor::{self, MAX_CODES, Outcome};
use crate::ssh::{Admitted, Dial};

/// What is said when a code is asked for again.
const WRONG: &str = "the code is wrong or was used already; wait for the next one";

/// Waits for a user certificate that is good for this node and login, and for a code if the roles ask for one; `None` when the
/// connection ended without.
pub(super) async fn run(
    agent: Arc<Agent>,
    dial: Dial,
    connection: &Connection,
    incoming: &mut Incoming,
) -> Option<Admitted> {
    let mut door = Door { agent, dial, connection, codes: MAX_CODES, unanswered: None };
    let mut admitted = None;
    while let Some(event) = incoming.next().await {
        match event {
            Event::Auth(request) => admitted = door.attempt(request).await.or(admitted),
            Event::Authenticated { user } => return admitted.filter(|a: &Admitted| a.login == user),
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
    async fn attempt(&mut self, request: AuthRequest) -> Option<Admitted> {
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
            Ok(admitted) => {
                request.accept();
                signed.then_some(admitted)
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

    async fn look_at(&mut self, request: AuthRequest, code: &str) -> Option<Admitted> {
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
    async fn second(&mut self, request: AuthRequest, certificate: &Certificate, code: &str) -> Option<Admitted> {
        let login = request.user.clone();
        let unproven = |why: &str| {
            let kind = EventType::AccessDeniedMfa;
            denial(&self.agent, &certificate.key_id, &login, source(&self.dial), why, kind)
        };
        match factor::prove(&self.agent, &self.dial, certificate, &login, code).await {
            Outcome::Proven => {
                // With what is known by now: the answer may have taken its time.
                match admit(&self.agent, &self.dial, certificate, &login, Proof::Proven(Factor::Totp)) {
                    Ok(admitted) => {
                        request.accept();
                        return Some(admitted);
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
) -> Result<Admitted, Refusal> {
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
    Ok(Admitted {
        agent: Arc::clone(agent),
        dial: dial.clone(),
        identity,
        login: login.to_owned(),
        proof,
        valid_before: certificate.valid_before,
        permit: permit.narrowed(dial.grant.port_forwarding),
    })
}

/// Where the visitor comes from, as the proxy saw it.
pub(super) fn source(dial: &Dial) -> Option<IpAddr> {
    dial.grant.client_addr.parse().ok().map(|peer: SocketAddr| peer.ip())
}

fn identity(agent: &Agent, certificate: &Certificate) -> Result<Identity, String> {
    let mut identity =
        Identity::from_certificate(&certificate.key_id, &certificate.principals, certificate.extension_texts())
            .map_err(|e| e.to_string())?;
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
    rbac::standing(identity, &view.users)?;
    let permit = rbac::check(&Question {
        identity,
        roles: &view.roles,
        target: Target { node_id, name, labels },
        login: Some(login),
        locks: &view.locks,
        proof,
        now: clock::now(),
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
    use mezite_core::kind::NodeSpec;
    use mezite_core::kind::role::{SessionMfa, built_in};
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
        let standing = Standing { user_id: text("u1"), roles: vec![text("access")], traits: identity.traits.clone() };
        let node = NodeSpec { node_id: text("n1"), hostname: text("web-1"), ..NodeSpec::default() };
        let view = View {
            roles: Arc::new([(text("access"), built_in("access").unwrap())].into()),
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
