//! Authentication and the final decision.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mezite_core::audit::{Event as AuditEvent, EventType, refusal};
use mezite_core::identity::Identity;
use mezite_core::rbac::{self, Denied, Permit, Proof, Question, Target};
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{
    AuthMethod, AuthRequest, Connection, Credential, DisconnectReason, Event, Incoming, Method, OpenFailure,
};
use mezite_net::watch::View;
use mezite_ssh::cert::{self, CertError, CertKind, Certificate, Policy};

use crate::Agent;
use crate::ssh::{Admitted, Dial};

/// Waits for a user certificate that is good for this node and login; `None` when the connection ended without one.
pub(super) async fn run(
    agent: Arc<Agent>,
    dial: Dial,
    connection: &Connection,
    incoming: &mut Incoming,
) -> Option<Admitted> {
    let mut admitted = None;
    while let Some(event) = incoming.next().await {
        match event {
            Event::Auth(request) => admitted = attempt(&agent, &dial, connection, request).or(admitted),
            Event::Authenticated { user } => return admitted.filter(|a: &Admitted| a.login == user),
            Event::Channel(request) => request.reject(OpenFailure::AdministrativelyProhibited, "authenticate first"),
            Event::Global(request) => request.reply(None),
        }
    }
    None
}

fn attempt(agent: &Arc<Agent>, dial: &Dial, connection: &Connection, request: AuthRequest) -> Option<Admitted> {
    let (credential, signed) = match &request.method {
        AuthMethod::PublicKeyQuery(credential) => (credential, false),
        AuthMethod::PublicKey(credential) => (credential, true),
        _ => {
            request.reject(&[Method::PublicKey]);
            return None;
        }
    };
    let Credential::Certificate(certificate) = credential else {
        request.reject(&[Method::PublicKey]);
        return None;
    };
    match admit(agent, dial, certificate, &request.user) {
        Ok(admitted) => {
            request.accept();
            signed.then_some(admitted)
        }
        Err(Refusal::Stranger(reason)) => {
            tracing::info!(reason, "a certificate was refused");
            request.reject(&[Method::PublicKey]);
            None
        }
        // Answered yes, so that the reason is given over a signature.
        Err(Refusal::Told { .. }) if !signed => {
            request.accept();
            None
        }
        Err(Refusal::Told { reason, event }) => {
            tracing::info!(reason, "access refused");
            let reason = refusal(&reason, &event.id);
            agent.reports.send(*event);
            // In the place of an answer: after a failure the client would write again, into a closed connection.
            connection.disconnect(DisconnectReason::NoMoreAuthMethods, &reason);
            request.reject(&[]);
            None
        }
    }
}

/// Why somebody is not admitted.
enum Refusal {
    /// No certificate of this cluster: nothing is explained.
    Stranger(String),
    /// A certificate of ours that is not good for this: its holder is told, and the refusal is an event.
    Told { reason: String, event: Box<AuditEvent> },
}

fn admit(agent: &Arc<Agent>, dial: &Dial, certificate: &Certificate, login: &str) -> Result<Admitted, Refusal> {
    let view = agent.cluster.current().map_err(|e| Refusal::Stranger(e.to_string()))?;
    let peer: Option<SocketAddr> = dial.grant.client_addr.parse().ok();
    let source = peer.map(|peer| peer.ip());
    let policy = Policy {
        kind: CertKind::User,
        authorities: &view.trust.user_authorities,
        now_unix: clock::now_unix(),
        principal: None,
        source,
    };
    let told = |reason: String, kind: EventType| {
        let event = Box::new(denial(agent, &certificate.key_id, login, source, &reason, kind));
        Refusal::Told { reason, event }
    };
    cert::verify(certificate, &policy).map_err(|error| {
        if error.is_from_known_authority() {
            let kind = match error {
                CertError::SourceAddress => EventType::AccessDeniedSourceIp,
                _ => EventType::AccessDeniedCertificate,
            };
            told(format!("ssh: {error}"), kind)
        } else {
            Refusal::Stranger(error.to_string())
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
    let permit = decide(agent, &view, &identity, login).map_err(|refused| {
        let NotAllowed::Denied(denied) = refused else { return Refusal::Stranger(refused.to_string()) };
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
        valid_before: certificate.valid_before,
        permit: permit.narrowed(dial.grant.port_forwarding),
    })
}

fn identity(agent: &Agent, certificate: &Certificate) -> Result<Identity, String> {
    let identity =
        Identity::from_certificate(&certificate.key_id, &certificate.principals, certificate.extension_texts())
            .map_err(|e| e.to_string())?;
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
pub(super) fn decide(agent: &Agent, view: &View, identity: &Identity, login: &str) -> Result<Permit, NotAllowed> {
    decide_for((&agent.node_id, &agent.node_name), view, identity, login)
}

fn decide_for(
    (node_id, name): (&str, &str),
    view: &View,
    identity: &Identity,
    login: &str,
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
        proof: Proof::Nothing,
        now: clock::now(),
    })?;
    Ok(permit)
}

/// Tells Auth of a forward that begins: without a session on the connection nothing else would.
pub(super) fn report_forward(admitted: &Admitted, target: &str) {
    let Admitted { agent, identity, login, dial, .. } = admitted;
    let source = dial.grant.client_addr.parse::<SocketAddr>().ok().map(|peer| peer.ip());
    let mut event = denial(agent, &identity.user, login, source, "", EventType::SessionPortForward);
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
    use mezite_core::kind::role::built_in;
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
        let decide = |view: &View, login| decide_for(("n1", "web-1"), view, &identity, login).map(drop);
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
    }
}
