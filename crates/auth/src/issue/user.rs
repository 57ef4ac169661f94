//! User certificates.

use std::time::Duration;

use mezite_core::audit::EventType;
use mezite_core::identity::{Identity, Since};
use mezite_core::lock::Subject;
use mezite_core::rbac::{certificate_flags, certificate_ttl, logins_for, pins_certificates};
use mezite_core::{Fault, Invalid, kind};
use mezite_net::clock;
use mezite_ssh::cert::{CertKind, Certificate, CertificateBuilder, SOURCE_ADDRESS};
use mezite_ssh::key::PublicKey;
use mezite_store::Tx;

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
    let default = hub.setting("user_cert_ttl").await?;
    // Decided and issued in one write: a lock or a change of a role or the user comes wholly before it or wholly after.
    let mut tx = hub.store.begin(clock::now()).await?;
    let gone = || Fault::NotLoggedIn("the user does not exist any more".into());
    let stored = tx.find::<kind::User>(&user.name).await?.filter(|held| held.id == user.id).ok_or_else(gone)?;
    let too_old = stored.status.get("certificates_from").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let spec = stored.spec()?.clone();
    let held = spec.roles_at(tx.now());
    refuse_locked(hub, &user.name, &held).await?;
    let roles = hub.roles().await?;
    let denied = |denied: mezite_core::rbac::Denied| Fault::Denied(denied.to_string());
    let logins = logins_for(&user.name, &spec.traits, &held, &roles).map_err(denied)?;
    let pinned = user.pinned || pins_certificates(&held, &roles).map_err(denied)?;
    let flags = certificate_flags(&held, &roles).map_err(denied)?;
    let valid_for = certificate_ttl(&held, &roles, ttl, default).map_err(denied)?;
    let longest = certificate_ttl(&held, &roles, Some(Duration::MAX), default).map_err(denied)?;

    let now = clock::now_unix();
    let mut valid_before = now.saturating_add(valid_for.as_secs()).min(user.logged_in_unix + longest.as_secs());
    // It names roles that end, and is not good beyond the first.
    for end in held.iter().filter_map(|role| spec.expires.get(role)) {
        valid_before = valid_before.min(end.unix_timestamp().unsigned_abs());
    }
    if valid_before <= now {
        return Err(Fault::NotLoggedIn("the login is older than max_session_ttl of the roles".into()));
    }
    let identity = Identity {
        user_id: user.id.clone(),
        user: user.name.clone(),
        cluster: hub.cluster().to_owned(),
        roles: held,
        traits: spec.traits,
        principals: logins.clone(),
        pinned,
        valid_after: now.saturating_sub(BACKDATE.whole_seconds().unsigned_abs()).max(too_old.saturating_add(1)),
        since: Since::default(),
    };
    let extensions = identity.to_extensions(flags).into_iter().map(|(name, value)| (name, value.into_bytes()));
    let certificate = CertificateBuilder {
        public_key: key,
        serial: u64::from_be_bytes(clock::random()),
        kind: CertKind::User,
        key_id: user.name.clone(),
        principals: if logins.is_empty() { vec![NO_LOGIN.into()] } else { logins.clone() },
        valid_after: identity.valid_after,
        valid_before,
        critical_options: source_address(user, pinned)?,
        extensions: extensions.collect(),
    }
    .sign(&hub.authorities.user.key)
    .map_err(|e| Fault::Bug(format!("signing a user certificate: {e}")))?;

    let mut event = hub
        .event(EventType::UserCertIssued)
        .user(&user.name, &identity.roles)
        .resource("certificate", certificate.serial.to_string())
        .detail("fingerprint", certificate.public_key.fingerprint())
        .detail("principals", &certificate.principals)
        .detail("valid_before_unix", valid_before);
    if let Some(source) = certificate.source_addresses() {
        event = event.detail("pinned_to", source);
    }
    event.client_ip = client_ip.to_owned();
    tx.audit(&event).await?;
    tx.commit().await?;
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

/// Ends the certificates of a user, for those that are issued from now on to be told from them; answers the revision.
pub(crate) async fn end_certificates(tx: &mut Tx, username: &str) -> Result<u64, Fault> {
    let now = tx.now().unix_timestamp().unsigned_abs();
    tx.end_certificates(username, now.saturating_sub(BACKDATE.whole_seconds().unsigned_abs())).await
}

/// # Errors
/// [`Fault::Conflict`] with the message of the lock that stops the user.
pub(crate) async fn refuse_locked(hub: &Hub, user: &str, roles: &[String]) -> Result<(), Fault> {
    match hub.locked(Subject { user, roles, ..Subject::default() }).await? {
        Some(lock) if lock.message().is_empty() => Err(Fault::Conflict(format!("{user} is locked"))),
        Some(lock) => Err(Fault::Conflict(format!("{user} is locked: {}", lock.message()))),
        None => Ok(()),
    }
}
