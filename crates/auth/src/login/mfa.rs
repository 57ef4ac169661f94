//! Second factors: TOTP, asked for at the login of whoever has one, and before what one has is changed.
//!
//! A code is used up in the transaction of its effect, in the database, so that it is good once for the whole cluster and
//! for one purpose.

use std::sync::Arc;
use std::time::Instant;

use mezite_core::audit::EventType;
use mezite_core::kind::role::SessionMfa;
use mezite_core::lock::{self, Subject};
use mezite_core::{Fault, Invalid, name, totp};
use mezite_net::clock;
use mezite_store::{MfaDevice, Tx};
use zeroize::Zeroizing;

use super::admit;
use crate::caller::{Caller, User};
use crate::hub::Hub;

/// The only kind of factor there is.
pub(crate) const TOTP: &str = "totp";
/// Most factors of one user.
const MOST: usize = 5;
/// How old a login may be that enrols the first factor, and how long an enrolment may take, in seconds.
const FRESH: u64 = 600;

/// A right code that is not used up yet.
pub(crate) struct Proof {
    device: MfaDevice,
    step: u64,
}

/// What a code shows.
pub(crate) enum Factor {
    /// The user has no factor: nothing is to be shown.
    Absent,
    /// The user has one, and no code was given.
    Missing,
    /// The code is of no factor of the user, or of another time.
    Wrong,
    /// The code is right.
    Right(Proof),
}

impl Proof {
    /// What the user calls the factor.
    pub(crate) fn device(&self) -> &str {
        &self.device.name
    }

    pub(crate) fn device_id(&self) -> &str {
        &self.device.id
    }

    /// Uses the code up; the answer is whether it was unused.
    pub(crate) async fn spend(&self, tx: &mut Tx) -> Result<bool, Fault> {
        tx.use_mfa_step(&self.device.id, self.step).await
    }
}

/// How a lock names a factor.
pub(crate) fn target(username: &str, device: &str) -> String {
    format!("{username}/{device}")
}

/// Holds a code against the factors of a user. `given` may be empty.
pub(crate) async fn look(hub: &Hub, username: &str, given: &str) -> Result<Factor, Fault> {
    let devices = hub.store.mfa_devices(username).await?;
    if devices.is_empty() {
        return Ok(Factor::Absent);
    }
    if given.is_empty() {
        return Ok(Factor::Missing);
    }
    let Some(code) = totp::normalize(given) else { return Ok(Factor::Wrong) };
    let locks = hub.locks().await?;
    for device in devices {
        let subject = Subject { mfa_device: &target(username, &device.name), ..Subject::default() };
        if lock::first(&locks, subject, clock::now()).is_some() {
            // It counts as a factor of the user, and no code of it is right.
            continue;
        }
        if let Some(step) = matching_step(hub, &device, &code).await? {
            return Ok(Factor::Right(Proof { device, step }));
        }
    }
    Ok(Factor::Wrong)
}

/// A factor that cannot be opened matches nothing.
async fn matching_step(hub: &Hub, device: &MfaDevice, code: &str) -> Result<Option<u64>, Fault> {
    match open(hub, device).await? {
        Ok(secret) => Ok(totp::matching_step(&secret, code, clock::now_unix())),
        Err(error) => {
            tracing::error!(factor = device.id, %error, "a second factor cannot be opened; its codes are refused");
            Ok(None)
        }
    }
}

/// Enrols a factor: the address for the authenticator, which holds the secret, and the id by which it is confirmed. The
/// first needs a login that is not old, further ones a code: a stolen session alone gives none.
///
/// # Errors
/// [`Fault::Invalid`] for another kind or a bad name; [`Fault::Conflict`] when the name is taken or there are too many;
/// [`Fault::Denied`] for an old login; those of [`prove`].
pub(crate) async fn begin(
    hub: &Hub,
    caller: &Caller,
    (kind, device_name): (&str, &str),
    otp: &str,
) -> Result<(String, Zeroizing<String>), Fault> {
    let user = caller.user()?;
    if kind != TOTP {
        return Err(Invalid::new("type", "must be totp, the only kind there is").into());
    }
    let device_name = if device_name.is_empty() { TOTP } else { device_name };
    name::object(device_name).map_err(|error| error.within("name"))?;
    let devices = hub.store.mfa_devices(&user.name).await?;
    if devices.iter().any(|device| device.name == device_name) {
        return Err(Fault::Conflict(format!(
            "you have a factor {device_name} already; choose another name, or remove it"
        )));
    }
    if devices.len() >= MOST {
        return Err(Fault::Conflict(format!("you have {MOST} factors already; remove one first")));
    }
    let proof = if devices.is_empty() {
        fresh(user)?;
        None
    } else {
        Some(prove(hub, caller, otp).await?)
    };
    let id = clock::uuid();
    let secret = Zeroizing::new(clock::random::<{ totp::SECRET_LEN }>());
    let uri = Zeroizing::new(totp::uri(secret.as_slice(), hub.cluster(), &user.name));
    let device = MfaDevice {
        id: id.clone(),
        user_id: user.id.clone(),
        kind: TOTP.into(),
        name: device_name.into(),
        secret: seal(hub, binding(&user.id, &id), secret).await?,
        created_at: clock::now(),
        last_used_at: None,
    };
    let mut tx = hub.store.begin(clock::now()).await?;
    spend(proof.as_ref(), &mut tx).await?;
    tx.begin_mfa(&device).await?;
    tx.commit().await?;
    Ok((id, uri))
}

/// Ends an enrolment by a first code.
///
/// # Errors
/// [`Fault::NotFound`] when nothing is being enrolled, or it took too long; [`Fault::Denied`] for a wrong code.
pub(crate) async fn finish(hub: &Hub, caller: &Caller, id: &str, given: &str) -> Result<String, Fault> {
    let user = caller.user()?;
    let begun = |device: &MfaDevice| {
        let age = clock::now() - device.created_at;
        device.id == id && age.whole_seconds().unsigned_abs() <= FRESH
    };
    let gone = || Fault::NotFound("no factor is being enrolled, or it took too long; begin again".into());
    let device = hub.store.mfa_pending(&user.name).await?.filter(begun).ok_or_else(gone)?;
    let step = match totp::normalize(given) {
        Some(code) => matching_step(hub, &device, &code).await?,
        None => None,
    };
    let Some(step) = step else {
        return Err(refuse(hub, caller, "the code is wrong; check the clocks of this device and of the hub").await?);
    };
    let mut tx = hub.store.begin(clock::now()).await?;
    if !tx.confirm_mfa(&device.id, step).await? {
        return Err(gone());
    }
    let event = hub.event(EventType::UserMfaAdded).resource("user", &user.name);
    tx.audit(&caller.sign(event.detail("type", TOTP).detail("factor", &device.name))).await?;
    tx.commit().await?;
    Ok(device.name)
}

/// Removes a factor of the caller, who shows a code of any.
///
/// # Errors
/// [`Fault::NotFound`] for an unknown name; [`Fault::Conflict`] for the last one while a role demands one; those of [`prove`].
pub(crate) async fn remove(hub: &Hub, caller: &Caller, device_name: &str, otp: &str) -> Result<(), Fault> {
    let user = caller.user()?;
    let devices = hub.store.mfa_devices(&user.name).await?;
    if !devices.iter().any(|device| device.name == device_name) {
        return Err(Fault::NotFound("you have no factor of this name; see msh mfa ls".into()));
    }
    if devices.len() == 1 && is_demanded(hub, user).await? {
        return Err(Fault::Conflict("a role of yours demands a second factor; add another one first".into()));
    }
    let proof = prove(hub, caller, otp).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    spend(Some(&proof), &mut tx).await?;
    tx.remove_mfa(&user.id, device_name).await?;
    let event = hub.event(EventType::UserMfaRemoved).resource("user", &user.name);
    tx.audit(&caller.sign(event.detail("type", TOTP).detail("factor", device_name))).await?;
    tx.commit().await
}

/// A right code of the caller.
///
/// # Errors
/// [`Fault::MfaNeeded`] without one, [`Fault::Denied`] for a wrong one, [`Fault::Unavailable`] after too many.
async fn prove(hub: &Hub, caller: &Caller, otp: &str) -> Result<Proof, Fault> {
    let user = caller.user()?;
    if otp.is_empty() {
        return Err(needed());
    }
    admit(hub, &user.name, caller.client_ip).await?;
    match look(hub, &user.name, otp).await? {
        Factor::Right(proof) => {
            hub.throttle.succeeded(&user.name, caller.client_ip, Instant::now());
            Ok(proof)
        }
        _ => Err(refuse(hub, caller, "the code is wrong").await?),
    }
}

/// Uses the code up in the transaction it stands for.
///
/// # Errors
/// [`Fault::Denied`] when it was used before.
async fn spend(proof: Option<&Proof>, tx: &mut Tx) -> Result<(), Fault> {
    match proof {
        Some(proof) if !proof.spend(tx).await? => Err(Fault::Denied(USED.into())),
        _ => Ok(()),
    }
}

/// Why a right code is refused.
pub(crate) const USED: &str = "the code was used already; wait for the next one";

/// What a user with a factor hears who gave no code.
pub(crate) fn needed() -> Fault {
    Fault::MfaNeeded("a code of your authenticator is needed".into())
}

/// Writes that a code was refused; the answer for the caller.
async fn refuse(hub: &Hub, caller: &Caller, why: &str) -> Result<Fault, Fault> {
    let mut event = caller.sign(hub.event(EventType::UserMfaFailed));
    event.error_message = why.into();
    hub.audit_refusals(vec![(caller.cause(), event)]).await?;
    Ok(Fault::Denied(why.into()))
}

fn fresh(user: &User) -> Result<(), Fault> {
    if clock::now_unix().saturating_sub(user.logged_in_unix) <= FRESH {
        return Ok(());
    }
    Err(Fault::Denied(format!("this login is older than {} min; log in again, then enrol", FRESH / 60)))
}

async fn is_demanded(hub: &Hub, user: &User) -> Result<bool, Fault> {
    let roles = hub.roles().await?;
    let mut held = user.roles.iter().filter_map(|name| roles.get(name));
    Ok(held.any(|role| role.options.require_session_mfa.is_some_and(|mode| mode != SessionMfa::Off)))
}

/// A sealed secret opens for its own user only.
fn binding(user_id: &str, id: &str) -> String {
    format!("{user_id}:{id}")
}

async fn seal(hub: &Hub, row: String, secret: Zeroizing<[u8; totp::SECRET_LEN]>) -> Result<Vec<u8>, Fault> {
    let sealer = Arc::clone(&hub.authorities.sealer);
    let sealed = tokio::task::spawn_blocking(move || sealer.seal(TOTP, &row, secret.as_slice())).await;
    sealed.map_err(|e| Fault::Bug(e.to_string()))?.map_err(|e| Fault::Bug(e.to_string()))
}

async fn open(hub: &Hub, device: &MfaDevice) -> Result<Result<Zeroizing<Vec<u8>>, crate::AuthError>, Fault> {
    let (sealer, row, sealed) =
        (Arc::clone(&hub.authorities.sealer), binding(&device.user_id, &device.id), device.secret.clone());
    let opened = tokio::task::spawn_blocking(move || sealer.open(TOTP, &row, &sealed)).await;
    opened.map_err(|e| Fault::Bug(e.to_string()))
}
