//! Logging in, and what it leaves behind: session tokens and invites.

pub(crate) mod mfa;
pub(crate) mod password;
pub(crate) mod session_mfa;
pub(crate) mod throttle;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mezite_core::audit::EventType;
use mezite_core::lock::{self, Subject};
use mezite_core::rbac::pins_certificates;
use mezite_core::{Fault, kind, name};
use mezite_net::clock;
use mezite_store::{Origin, Tx};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::bursts::Cause;
use crate::caller::Caller;
use crate::hub::Hub;
use crate::issue::user::end_certificates;

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

/// What somebody logs in with.
pub(crate) struct Credentials<'a> {
    pub(crate) username: &'a str,
    pub(crate) password: Zeroizing<String>,
    /// A code of the user's second factor; may be empty.
    pub(crate) otp: &'a str,
}

/// What a login showed.
struct Admitted {
    /// The hash that the password matches.
    hash: String,
    /// Whether the user's roles pin certificates.
    pinned: bool,
    /// The code that is to be used up.
    proof: Option<mfa::Proof>,
}

/// Why a login is refused; for the audit log.
enum Refusal {
    /// Something is wrong.
    Wrong(&'static str),
    /// All is right, and a code is needed.
    NoCode,
}

/// Logs a user in by password, and by a code for whoever has a second factor. Whatever is wrong, an outsider gets one answer
/// in one time; the reason is in the audit log. Only who gave the right password hears that a code is needed.
///
/// # Errors
/// [`Fault::NotLoggedIn`], [`Fault::MfaNeeded`], or [`Fault::Unavailable`] when there were too many failures.
pub(crate) async fn by_password(
    hub: &Hub,
    Credentials { username, password, otp }: Credentials<'_>,
    source: IpAddr,
) -> Result<Session, Fault> {
    // Every name that cannot exist is one name to the counters.
    let username = if name::user(username).is_ok() { username } else { "" };
    admit(hub, username, source).await?;
    let Admitted { hash, pinned, proof } = match check(hub, username, password, otp).await? {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(refuse(hub, username, source, refusal, otp).await?),
    };
    let ttl = hub.setting("session_ttl").await?;
    let now = clock::now();
    let session = Session { token: secret(), expires_at: now + ttl };
    let mut tx = hub.store.begin(now).await?;
    // Verifying takes long: a reset or a change in between has ended what the old password opened, and this came too late.
    if !tx.is_password_hash(username, &hash).await? {
        drop(tx);
        let late = Refusal::Wrong("the password was changed meanwhile");
        return Err(refuse(hub, username, source, late, otp).await?);
    }
    if is_locked(hub, username, proof.as_ref()).await? {
        drop(tx);
        return Err(refuse(hub, username, source, Refusal::Wrong("the user is locked"), otp).await?);
    }
    let mut event = hub.event(EventType::UserLogin).user(username, &[]).detail("method", "password");
    if let Some(proof) = &proof {
        if !proof.spend(&mut tx).await? {
            drop(tx);
            return Err(refuse(hub, username, source, Refusal::Wrong("the code was used already"), otp).await?);
        }
        event = event.detail("mfa", mfa::TOTP).detail("factor", proof.device());
    }
    tx.add_login(username, &session.token, session.expires_at, Origin { source, pinned }).await?;
    event.client_ip = source.to_string();
    tx.audit(&event).await?;
    tx.commit().await?;
    hub.throttle.succeeded(username, source, Instant::now());
    if proof.is_some() {
        // The attempt that was answered by asking for the code.
        hub.throttle.succeeded(username, source, Instant::now());
    }
    metrics::counter!("mezite_logins_total", "outcome" => "success").increment(1);
    Ok(session)
}

/// Writes why a login is refused; the answer for the outsider, which depends on what was sent only.
async fn refuse(hub: &Hub, username: &str, source: IpAddr, refusal: Refusal, otp: &str) -> Result<Fault, Fault> {
    metrics::counter!("mezite_logins_total", "outcome" => "failure").increment(1);
    let mut event = hub.event(EventType::UserLoginFailed).user(username, &[]);
    event.client_ip = source.to_string();
    let (reason, fault) = match refusal {
        Refusal::NoCode => ("the password is right, a code is missing", mfa::needed()),
        Refusal::Wrong(reason) if otp.is_empty() => {
            (reason, Fault::NotLoggedIn("the user name or the password is wrong".into()))
        }
        Refusal::Wrong(reason) => {
            (reason, Fault::NotLoggedIn("the user name, the password or the code is wrong".into()))
        }
    };
    event.error_message = reason.into();
    hub.store.audit(vec![event]).await?;
    Ok(fault)
}

/// The inner error is why the login is refused.
async fn check(
    hub: &Hub,
    username: &str,
    password: Zeroizing<String>,
    otp: &str,
) -> Result<Result<Admitted, Refusal>, Fault> {
    let hash = hub.store.password_hash(username).await?;
    let matches = hub.passwords.verify(password, hash.clone()).await?;
    let user = hub.store.find::<kind::User>(username).await?;
    let locks = hub.locks().await?;
    // Also for a wrong password, so that it takes the same.
    let factor = mfa::look(hub, username, otp).await?;
    let wrong = |reason| Ok(Err(Refusal::Wrong(reason)));
    let Some(user) = user else { return wrong("there is no such user") };
    let Ok(spec) = &user.spec else { return wrong("the user cannot be read") };
    let roles = spec.roles_at(clock::now());
    let subject = Subject { user: username, roles: &roles, ..Subject::default() };
    // A role that is missing denies everything, and so counts as one that pins.
    let pinned = pins_certificates(&roles, &hub.roles().await?).unwrap_or(true);
    let admitted = |hash, proof| Ok(Ok(Admitted { hash, pinned, proof }));
    match (hash.filter(|_| matches), lock::first(&locks, subject, clock::now()), factor) {
        (None, ..) => wrong("the password is wrong"),
        (Some(_), Some(_), _) => wrong("the user is locked"),
        (Some(_), None, mfa::Factor::Wrong) => wrong("the code is wrong"),
        (Some(_), None, mfa::Factor::Missing) => Ok(Err(Refusal::NoCode)),
        (Some(hash), None, mfa::Factor::Absent) => admitted(hash, None),
        (Some(hash), None, mfa::Factor::Right(proof)) => admitted(hash, Some(proof)),
    }
}

/// Whether a lock came meanwhile. To be asked while the login's write is held.
async fn is_locked(hub: &Hub, username: &str, proof: Option<&mfa::Proof>) -> Result<bool, Fault> {
    let user = hub.store.find::<kind::User>(username).await?;
    let Some(Ok(spec)) = user.map(|user| user.spec) else { return Ok(true) };
    let roles = spec.roles_at(clock::now());
    let mfa_device = proof.map(|proof| mfa::target(username, proof.device())).unwrap_or_default();
    let subject = Subject { user: username, roles: &roles, mfa_device: &mfa_device, ..Subject::default() };
    Ok(hub.locked(subject).await?.is_some())
}

/// Changes the caller's password and ends the user's other sessions. Whoever has a second factor shows a code of it.
///
/// # Errors
/// [`Fault::Denied`] when the old password or the code is wrong, [`Fault::MfaNeeded`] when only the code is missing,
/// [`Fault::Invalid`] when the new password may not be set.
pub(crate) async fn change_password(
    hub: &Hub,
    caller: &Caller,
    Credentials { password: old, otp, .. }: Credentials<'_>,
    new: Zeroizing<String>,
) -> Result<(), Fault> {
    let user = caller.user()?;
    password::check(&new)?;
    admit(hub, &user.name, caller.client_ip).await?;
    let old_hash = hub.store.password_hash(&user.name).await?;
    let matches = hub.passwords.verify(old, old_hash.clone()).await?;
    let proof = match (matches, mfa::look(hub, &user.name, otp).await?) {
        (false, _) => return Err(refuse_change(hub, caller, Refusal::Wrong("the old password is wrong"), otp).await?),
        (true, mfa::Factor::Wrong) => {
            return Err(refuse_change(hub, caller, Refusal::Wrong("the code is wrong"), otp).await?);
        }
        (true, mfa::Factor::Missing) => return Err(refuse_change(hub, caller, Refusal::NoCode, otp).await?),
        (true, mfa::Factor::Absent) => None,
        (true, mfa::Factor::Right(proof)) => Some(proof),
    };
    let hash = hub.passwords.hash(new).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    if !tx.is_password_hash(&user.name, &old_hash.unwrap_or_default()).await? {
        return Err(Fault::Denied("the password was changed meanwhile; log in again".into()));
    }
    if let Some(proof) = &proof
        && !proof.spend(&mut tx).await?
    {
        drop(tx);
        return Err(refuse_change(hub, caller, Refusal::Wrong("the code was used already"), otp).await?);
    }
    tx.set_password_hash(&user.name, &hash).await?;
    tx.revoke_logins(&user.name, Some(&user.token)).await?;
    tx.end_mfa_proofs(&user.name).await?;
    end_certificates(&mut tx, &user.name).await?;
    let event = hub.event(EventType::UserPasswordChanged).resource("user", &user.name);
    tx.audit(&caller.sign(event)).await?;
    tx.commit().await?;
    hub.throttle.succeeded(&user.name, caller.client_ip, Instant::now());
    if proof.is_some() {
        // The attempt that was answered by asking for the code.
        hub.throttle.succeeded(&user.name, caller.client_ip, Instant::now());
    }
    Ok(())
}

/// Writes why a password is not changed; the answer for the caller, which depends on what was sent only.
async fn refuse_change(hub: &Hub, caller: &Caller, refusal: Refusal, otp: &str) -> Result<Fault, Fault> {
    let mut event = caller.sign(hub.event(EventType::UserLoginFailed)).detail("method", "password change");
    let (reason, fault) = match refusal {
        Refusal::NoCode => ("the old password is right, a code is missing", mfa::needed()),
        Refusal::Wrong(reason) if otp.is_empty() => (reason, Fault::Denied("the old password is wrong".into())),
        Refusal::Wrong(reason) => (reason, Fault::Denied("the old password or the code is wrong".into())),
    };
    event.error_message = reason.into();
    hub.store.audit(vec![event]).await?;
    Ok(fault)
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
    tx.end_mfa_proofs(&username).await?;
    end_certificates(&mut tx, &username).await?;
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
