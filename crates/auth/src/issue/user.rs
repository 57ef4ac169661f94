//! User certificates.

use std::time::Duration;

use mezite_core::audit::EventType;
use mezite_core::identity::Identity;
use mezite_core::lock::{self, Subject};
use mezite_core::rbac::{certificate_flags, certificate_ttl, logins_for, pins_certificates};
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_ssh::cert::{CertKind, Certificate, CertificateBuilder, SOURCE_ADDRESS};
use mezite_ssh::key::PublicKey;

use crate::ca::x509::BACKDATE;
use crate::caller::User;
use crate::hub::Hub;

/// The principal of somebody whose roles give no login: no OS login begins with a dash, and old sshds take a certificate
/// without principals for one that is good for everybody.
const NO_LOGIN: &str = "-mezite-nologin";

/// A user certificate and what it says.
pub(crate) struct UserCert {
    pub(crate) certificate: Certificate,
    pub(crate) logins: Vec<String>,
}

/// Issues a certificate for `key` to a logged-in user, valid for `ttl` or the cluster's default, cut to what the roles
/// allow. Issuing again from one login never reaches further than a certificate issued at the login could.
///
/// # Errors
/// [`Fault::Conflict`] when the user or one of the roles is locked; [`Fault::Denied`] when a role is missing;
/// [`Fault::NotLoggedIn`] when the login is too old for the roles' `max_session_ttl`.
pub(crate) async fn issue(
    hub: &Hub,
    user: &User,
    client_ip: &str,
    key: PublicKey,
    ttl: Option<Duration>,
) -> Result<UserCert, Fault> {
    if !matches!(key, PublicKey::Ed25519(_)) {
        return Err(Invalid::new("ssh_public_key", "must be an Ed25519 key").into());
    }
    refuse_locked(hub, user).await?;
    let roles = hub.roles().await?;
    let denied = |denied: mezite_core::rbac::Denied| Fault::Denied(denied.to_string());
    let logins = logins_for(&user.name, &user.traits, &user.roles, &roles).map_err(denied)?;
    let pinned = user.pinned || pins_certificates(&user.roles, &roles).map_err(denied)?;
    let flags = certificate_flags(&user.roles, &roles).map_err(denied)?;
    let default = hub.setting("user_cert_ttl").await?;
    let valid_for = certificate_ttl(&user.roles, &roles, ttl, default).map_err(denied)?;
    let longest = certificate_ttl(&user.roles, &roles, Some(Duration::MAX), default).map_err(denied)?;

    let now = clock::now_unix();
    let valid_before = now.saturating_add(valid_for.as_secs()).min(user.logged_in_unix + longest.as_secs());
    if valid_before <= now {
        return Err(Fault::NotLoggedIn("the login is older than max_session_ttl of the roles".into()));
    }
    let identity = Identity {
        user_id: user.id.clone(),
        user: user.name.clone(),
        cluster: hub.cluster().to_owned(),
        roles: user.roles.clone(),
        traits: user.traits.clone(),
        principals: logins.clone(),
        pinned,
    };
    let extensions = identity.to_extensions(flags).into_iter().map(|(name, value)| (name, value.into_bytes()));
    let certificate = CertificateBuilder {
        public_key: key,
        serial: u64::from_be_bytes(clock::random()),
        kind: CertKind::User,
        key_id: user.name.clone(),
        principals: if logins.is_empty() { vec![NO_LOGIN.into()] } else { logins.clone() },
        valid_after: now.saturating_sub(BACKDATE.whole_seconds().unsigned_abs()),
        valid_before,
        critical_options: source_address(user, pinned)?,
        extensions: extensions.collect(),
    }
    .sign(&hub.authorities.user.key)
    .map_err(|e| Fault::Bug(format!("signing a user certificate: {e}")))?;

    let mut event = hub
        .event(EventType::UserCertIssued)
        .user(&user.name, &user.roles)
        .resource("certificate", certificate.serial.to_string())
        .detail("fingerprint", certificate.public_key.fingerprint())
        .detail("principals", &certificate.principals)
        .detail("valid_before_unix", valid_before);
    if let Some(source) = certificate.source_addresses() {
        event = event.detail("pinned_to", source);
    }
    event.client_ip = client_ip.to_owned();
    hub.store.audit(vec![event]).await?;
    metrics::counter!("mezite_certificates_issued_total", "kind" => "user").increment(1);
    Ok(UserCert { certificate, logins })
}

/// The address of the login, however often the certificate is issued anew.
fn source_address(user: &User, pinned: bool) -> Result<Vec<(String, Vec<u8>)>, Fault> {
    match user.source {
        _ if !pinned => Ok(Vec::new()),
        Some(source) => Ok(vec![(SOURCE_ADDRESS.to_owned(), source.to_string().into_bytes())]),
        None => Err(Fault::NotLoggedIn(
            "your roles pin certificates to the address of the login, which is not known".into(),
        )),
    }
}

/// # Errors
/// [`Fault::Conflict`] with the message of the lock that stops the user.
pub(crate) async fn refuse_locked(hub: &Hub, user: &User) -> Result<(), Fault> {
    let locks = hub.locks().await?;
    let subject = Subject { user: &user.name, roles: &user.roles, ..Subject::default() };
    match lock::first(&locks, subject, clock::now()) {
        Some(lock) if lock.message().is_empty() => Err(Fault::Conflict(format!("{} is locked", user.name))),
        Some(lock) => Err(Fault::Conflict(format!("{} is locked: {}", user.name, lock.message()))),
        None => Ok(()),
    }
}
