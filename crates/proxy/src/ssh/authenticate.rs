//! Authentication at the front door: a user certificate of this cluster, nothing else.

use std::sync::Arc;

use mezite_core::audit::EventType;
use mezite_core::identity::Identity;
use mezite_core::lock::{self, Subject};
use mezite_core::rbac::{self, Denied};
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{AuthMethod, AuthRequest, Credential, DisconnectReason, Event, Incoming, Method, OpenFailure};
use mezite_net::watch::View;
use mezite_ssh::cert::{self, CertError, CertKind, Certificate, Policy};

use crate::ssh::{Client, Front, User};

/// Waits for a user certificate that is good; `None` when the connection ended without one.
pub(super) async fn run(client: &Client, incoming: &mut Incoming) -> Option<User> {
    let mut verified = None;
    while let Some(event) = incoming.next().await {
        match event {
            Event::Auth(request) => attempt(client, request, &mut verified),
            Event::Authenticated { .. } => return verified,
            Event::Channel(request) => {
                request.reject(OpenFailure::AdministrativelyProhibited, "authenticate first");
            }
            Event::Global(request) => request.reply(None),
        }
    }
    None
}

fn attempt(client: &Client, request: AuthRequest, verified: &mut Option<User>) {
    let (credential, signed) = match &request.method {
        AuthMethod::PublicKeyQuery(credential) => (credential, false),
        AuthMethod::PublicKey(credential) => (credential, true),
        _ => return request.reject(&[Method::PublicKey]),
    };
    let Credential::Certificate(certificate) = credential else {
        tracing::debug!(peer = %client.peer, "a plain key was offered; only certificates are accepted");
        return request.reject(&[Method::PublicKey]);
    };
    match verify(client, certificate) {
        Ok(user) => {
            if signed {
                *verified = Some(user);
            }
            request.accept();
        }
        Err(refusal) if signed => {
            let Refusal { reason, event } = refusal;
            let key_id = escape_control(&certificate.key_id);
            tracing::info!(peer = %client.peer, %key_id, reason, "login refused at the SSH front door");
            if let Some(kind) = event {
                client.front.reporter.certificate_refused(kind, certificate, client.peer, &reason);
                // The holder of a certificate that we issued is told why, in the place of an answer: after a failure the
                // client would write again, into a closed connection. Anybody else is told nothing.
                client.connection.disconnect(DisconnectReason::NoMoreAuthMethods, &reason);
            }
            request.reject(&[Method::PublicKey]);
        }
        // Answered yes, so that the reason is given over a signature.
        Err(Refusal { event: Some(_), .. }) => request.accept(),
        Err(Refusal { event: None, .. }) => request.reject(&[Method::PublicKey]),
    }
}

/// Why a certificate does not open the front door.
struct Refusal {
    reason: String,
    /// What it is in the audit log, when a User CA of this cluster signed the certificate; nothing of a stranger's is logged.
    event: Option<EventType>,
}

impl Refusal {
    fn of(error: &CertError) -> Self {
        let (kind, cure) = match error {
            CertError::SourceAddress { .. } => (EventType::AccessDeniedSourceIp, "; run msh login"),
            _ => (EventType::AccessDeniedCertificate, ""),
        };
        Self { reason: format!("ssh: {error}{cure}"), event: error.is_from_known_authority().then_some(kind) }
    }
}

/// Everything that can be said about a certificate before a node is named.
fn verify(client: &Client, certificate: &Certificate) -> Result<User, Refusal> {
    let front = &client.front;
    let view = front.cluster.current().map_err(|e| Refusal { reason: e.to_string(), event: None })?;
    let policy = Policy {
        kind: CertKind::User,
        authorities: &view.trust.user_authorities,
        now_unix: clock::now_unix(),
        principal: None,
        source: Some(client.peer.ip()),
    };
    cert::verify(certificate, &policy).map_err(|e| Refusal::of(&e))?;
    admit(front, &view, certificate).map_err(|(kind, reason)| Refusal { reason, event: Some(kind) })
}

/// What a good certificate says, and whether a lock stops its holder.
fn admit(front: &Front, view: &View, certificate: &Certificate) -> Result<User, (EventType, String)> {
    let other = |reason: String| (EventType::AccessDeniedCertificate, reason);
    let mut identity =
        Identity::from_certificate(&certificate.key_id, &certificate.principals, certificate.extension_texts())
            .map_err(|e| other(e.to_string()))?
            .since_unix(certificate.valid_after);
    identity.pinned = certificate.source_addresses().is_some();
    if identity.cluster != front.cluster_name {
        return Err(other(format!("the certificate is of cluster {}", escape_control(&identity.cluster))));
    }
    let now = clock::now();
    let told = |denied: Denied| (denied.event_type(), denied.to_string());
    let bound = rbac::standing(&identity, &view.users, now).map_err(told)?;
    for roles in [&bound.roles, &bound.since.roles] {
        let subject = Subject { user: &identity.user, roles, ..Default::default() };
        if let Some(lock) = lock::first(&view.locks, subject, now) {
            return Err(told(Denied::locked(lock)));
        }
    }
    Ok(User {
        identity: Arc::new(identity),
        key: certificate.public_key.clone(),
        valid_before: certificate.valid_before,
    })
}
