//! Logging in, and what it leaves behind: session tokens and invites.

pub(crate) mod password;
pub(crate) mod throttle;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mezite_core::audit::EventType;
use mezite_core::lock::{self, Subject};
use mezite_core::{Fault, kind, name};
use mezite_net::clock;
use mezite_store::Tx;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::bursts::Cause;
use crate::caller::Caller;
use crate::hub::Hub;

/// How long an invite is good for.
pub(crate) const INVITE_LIFE: time::Duration = time::Duration::hours(1);

/// A new session.
pub(crate) struct Session {
    pub(crate) token: Zeroizing<String>,
    pub(crate) expires_at: OffsetDateTime,
}

/// 256 random bits in hex: a session token, an invite, a join token.
pub(crate) fn secret() -> Zeroizing<String> {
    use std::fmt::Write as _;
    let bytes = Zeroizing::new(clock::random::<32>());
    bytes.iter().fold(Zeroizing::new(String::with_capacity(64)), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Logs a user in by password. Whatever is wrong, an outsider gets one answer in one time; the reason is in the audit log.
///
/// # Errors
/// [`Fault::NotLoggedIn`], or [`Fault::Unavailable`] when there were too many failures.
pub(crate) async fn by_password(
    hub: &Hub,
    username: &str,
    password: Zeroizing<String>,
    source: IpAddr,
) -> Result<Session, Fault> {
    // Every name that cannot exist is one name to the counters.
    let username = if name::user(username).is_ok() { username } else { "" };
    admit(hub, username, source).await?;
    let hash = match check(hub, username, password).await? {
        Ok(hash) => hash,
        Err(reason) => return refuse(hub, username, source, reason).await,
    };
    let ttl = hub.setting("session_ttl").await?;
    let now = clock::now();
    let session = Session { token: secret(), expires_at: now + ttl };
    let mut tx = hub.store.begin(now).await?;
    // Verifying takes long: a reset or a change in between has ended what the old password opened, and this came too late.
    if !tx.is_password_hash(username, &hash).await? {
        drop(tx);
        return refuse(hub, username, source, "the password was changed meanwhile").await;
    }
    metrics::counter!("mezite_logins_total", "outcome" => "success").increment(1);
    hub.throttle.succeeded(username, source, Instant::now());
    tx.add_login(username, &session.token, session.expires_at).await?;
    let mut event = hub.event(EventType::UserLogin).user(username, &[]).detail("method", "password");
    event.client_ip = source.to_string();
    tx.audit(&event).await?;
    tx.commit().await?;
    Ok(session)
}

/// Notes why a login is refused, which the caller is not told.
async fn refuse(hub: &Hub, username: &str, source: IpAddr, reason: &str) -> Result<Session, Fault> {
    metrics::counter!("mezite_logins_total", "outcome" => "failure").increment(1);
    let mut event = hub.event(EventType::UserLoginFailed).user(username, &[]);
    event.client_ip = source.to_string();
    event.error_message = reason.into();
    hub.store.audit(vec![event]).await?;
    Err(Fault::NotLoggedIn("the user name or the password is wrong".into()))
}

/// The hash that the password matches; the inner error is why the login is refused.
async fn check(hub: &Hub, username: &str, password: Zeroizing<String>) -> Result<Result<String, &'static str>, Fault> {
    let hash = hub.store.password_hash(username).await?;
    let matches = hub.passwords.verify(password, hash.clone()).await?;
    let user = hub.store.find::<kind::User>(username).await?;
    let locks = hub.locks().await?;
    let Some(user) = user else { return Ok(Err("there is no such user")) };
    let Ok(spec) = &user.spec else { return Ok(Err("the user cannot be read")) };
    let subject = Subject { user: username, roles: &spec.roles, ..Subject::default() };
    Ok(match (hash.filter(|_| matches), lock::first(&locks, subject, clock::now())) {
        (None, _) => Err("the password is wrong"),
        (Some(_), Some(_)) => Err("the user is locked"),
        (Some(hash), None) => Ok(hash),
    })
}

/// Changes the caller's password and ends the user's other sessions.
///
/// # Errors
/// [`Fault::Denied`] when the old password is wrong, [`Fault::Invalid`] when the new one may not be set.
pub(crate) async fn change_password(
    hub: &Hub,
    caller: &Caller,
    old: Zeroizing<String>,
    new: Zeroizing<String>,
) -> Result<(), Fault> {
    let user = caller.user()?;
    password::check(&new)?;
    admit(hub, &user.name, caller.client_ip).await?;
    let old_hash = hub.store.password_hash(&user.name).await?;
    if !hub.passwords.verify(old, old_hash.clone()).await? {
        let mut event = caller.sign(hub.event(EventType::UserLoginFailed)).detail("method", "password change");
        event.error_message = "the old password is wrong".into();
        hub.store.audit(vec![event]).await?;
        return Err(Fault::Denied("the old password is wrong".into()));
    }
    hub.throttle.succeeded(&user.name, caller.client_ip, Instant::now());
    let hash = hub.passwords.hash(new).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    if !tx.is_password_hash(&user.name, &old_hash.unwrap_or_default()).await? {
        return Err(Fault::Denied("the password was changed meanwhile; log in again".into()));
    }
    tx.set_password_hash(&user.name, &hash).await?;
    tx.revoke_logins(&user.name, Some(&user.token)).await?;
    let event = hub.event(EventType::UserPasswordChanged).resource("user", &user.name);
    tx.audit(&caller.sign(event)).await?;
    tx.commit().await
}

/// Sets the first password of whoever holds the invite.
///
/// # Errors
/// [`Fault::Denied`] for an invite that is unknown, used or expired; [`Fault::Invalid`] when the password may not be set.
pub(crate) async fn redeem_invite(
    hub: &Hub,
    caller: &Caller,
    token: &str,
    password: Zeroizing<String>,
) -> Result<String, Fault> {
    admit_source(hub, caller.client_ip)?;
    password::check(&password)?;
    let refused = || Fault::Denied("the invite is not valid; ask for a new one".into());
    // Looked at and put back: an outsider without an invite is not worth a hash.
    if hub.store.begin(clock::now()).await?.use_invite(token).await?.is_none() {
        hub.throttle.source_failed(caller.client_ip, Instant::now());
        let mut event = hub.event(EventType::UserLoginFailed).detail("method", "invite");
        event.error_message = "the invite is unknown, used or expired".into();
        hub.audit_refusals(vec![(caller.cause(), caller.sign(event))]).await?;
        return Err(refused());
    }
    let hash = hub.passwords.hash(password).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    let username = tx.use_invite(token).await?.ok_or_else(refused)?;
    tx.set_password_hash(&username, &hash).await?;
    tx.revoke_logins(&username, None).await?;
    let event = hub.event(EventType::UserPasswordChanged).user(&username, &[]).resource("user", &username);
    let mut event = event.detail("method", "invite");
    event.client_ip = caller.client_ip.to_string();
    tx.audit(&event).await?;
    tx.commit().await?;
    Ok(username)
}

/// Makes an invite for a user in the caller's transaction.
pub(crate) async fn invite(tx: &mut Tx, username: &str) -> Result<Session, Fault> {
    let session = Session { token: secret(), expires_at: tx.now() + INVITE_LIFE };
    tx.add_invite(username, &session.token, session.expires_at).await?;
    Ok(session)
}

/// Charges an attempt. One that is refused for the failures before it is an event too, however many there are.
async fn admit(hub: &Hub, username: &str, source: IpAddr) -> Result<(), Fault> {
    let Err(wait) = hub.throttle.admit(username, source, Instant::now()) else { return Ok(()) };
    let mut event = hub.event(EventType::UserLoginFailed).user(username, &[]);
    event.client_ip = source.to_string();
    event.error_message = "there were too many failed attempts".into();
    hub.audit_refusals(vec![(Cause::outside(source), event)]).await?;
    Err(too_many(wait))
}

/// Whether this source may try a secret that names nobody.
///
/// # Errors
/// [`Fault::Unavailable`] when this source failed too often.
pub(crate) fn admit_source(hub: &Hub, source: IpAddr) -> Result<(), Fault> {
    hub.throttle.admit_source(source, Instant::now()).map_err(too_many)
}

fn too_many(wait: Duration) -> Fault {
    Fault::Unavailable(format!("too many failed attempts; try again in {} s", wait.as_secs() + 1))
}
