//! Authentication at the front door: a user certificate of this cluster, nothing else.

use mezite_core::identity::Identity;
use mezite_core::lock::{self, Subject};
use mezite_core::rbac;
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{AuthMethod, AuthRequest, Credential, DisconnectReason, Event, Incoming, Method, OpenFailure};
use mezite_net::watch::View;
use mezite_ssh::cert::{self, CertKind, Certificate, Policy};

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
            let Refusal { reason, ours } = refusal;
            let key_id = escape_control(&certificate.key_id);
            tracing::info!(peer = %client.peer, %key_id, reason, "login refused at the SSH front door");
            client.front.reporter.certificate_refused(ours.then_some(&certificate.key_id), client.peer, &reason);
            request.reject(&[Method::PublicKey]);
            if ours {
                // The holder of a certificate that we issued is told why; anybody else is not.
                client.connection.disconnect(DisconnectReason::NoMoreAuthMethods, &reason);
            }
        }
        // Answered yes, so that the reason is given over a signature.
        Err(Refusal { ours: true, .. }) => request.accept(),
        Err(Refusal { ours: false, .. }) => request.reject(&[Method::PublicKey]),
    }
}

/// Why a certificate does not open the front door.
struct Refusal {
    reason: String,
    /// The certificate was signed by a User CA of this cluster.
    ours: bool,
}

/// Everything that can be said about a certificate before a node is named.
fn verify(client: &Client, certificate: &Certificate) -> Result<User, Refusal> {
    let front = &client.front;
    let view = front.cluster.current().map_err(|e| Refusal { reason: e.to_string(), ours: false })?;
    let policy = Policy {
        kind: CertKind::User,
        authorities: &view.trust.user_authorities,
        now_unix: clock::now_unix(),
        principal: None,
        source: Some(client.peer.ip()),
    };
    cert::verify(certificate, &policy)
        .map_err(|e| Refusal { reason: format!("ssh: {e}"), ours: e.is_from_known_authority() })?;
    admit(front, &view, certificate).map_err(|reason| Refusal { reason, ours: true })
}

/// What a good certificate says, and whether a lock stops its holder.
fn admit(front: &Front, view: &View, certificate: &Certificate) -> Result<User, String> {
    let identity =
        Identity::from_certificate(&certificate.key_id, &certificate.principals, certificate.extension_texts())
            .map_err(|e| e.to_string())?;
    if identity.cluster != front.cluster_name {
        return Err(format!("the certificate is of cluster {}", escape_control(&identity.cluster)));
    }
    rbac::standing(&identity, &view.users).map_err(|denied| denied.to_string())?;
    let subject = Subject { user: &identity.user, roles: &identity.roles, ..Default::default() };
    if let Some(lock) = lock::first(&view.locks, subject, clock::now()) {
        return Err(format!("access denied: locked ({}): {}", lock.name, lock.message()));
    }
    Ok(User { identity, key: certificate.public_key.clone(), valid_before: certificate.valid_before })
}
