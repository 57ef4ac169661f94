//! Second factors.

use mezite_core::audit::EventType;
use mezite_core::kind::User;
use mezite_core::rbac::{Resource, Verb};
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_proto::v1::*;
use mezite_store::MfaDevice;

use super::authorize;
use crate::caller::Caller;
use crate::hub::Hub;
use crate::login::{mfa, session_mfa};

pub(super) async fn begin(hub: &Hub, caller: &Caller, request: BeginMfaRequest) -> Result<BeginMfaReply, Fault> {
    let (id, uri) = mfa::begin(hub, caller, (&request.r#type, &request.name), &request.otp).await?;
    Ok(BeginMfaReply { id, uri: uri.to_string() })
}

pub(super) async fn finish(hub: &Hub, caller: &Caller, request: FinishMfaRequest) -> Result<FinishMfaReply, Fault> {
    let name = mfa::finish(hub, caller, &request.id, &request.code).await?;
    Ok(FinishMfaReply { name })
}

pub(super) async fn list(hub: &Hub, caller: &Caller, request: ListMfaRequest) -> Result<ListMfaReply, Fault> {
    let own = &caller.user()?.name;
    let user = if request.user.is_empty() { own } else { &request.user };
    if user != own {
        authorize(hub, caller, Verb::Read, Resource::Users, "ListMfa").await?;
        hub.store.find::<User>(user).await?.ok_or_else(|| unknown(user))?;
    }
    let factors = hub.store.mfa_devices(user).await?.into_iter().map(shown).collect();
    Ok(ListMfaReply { factors })
}

pub(super) async fn remove(hub: &Hub, caller: &Caller, request: RemoveMfaRequest) -> Result<RemoveMfaReply, Fault> {
    mfa::remove(hub, caller, &request.name, &request.otp).await?;
    Ok(RemoveMfaReply {})
}

pub(super) async fn prove_session(
    hub: &Hub,
    caller: &Caller,
    request: ProveSessionMfaRequest,
) -> Result<ProveSessionMfaReply, Fault> {
    session_mfa::prove(hub, caller, request).await
}

/// Takes all factors of a user away, for whoever lost the authenticator: the next login asks for the password only.
pub(super) async fn reset(hub: &Hub, caller: &Caller, request: ResetMfaRequest) -> Result<ResetMfaReply, Fault> {
    if request.r#type != mfa::TOTP {
        return Err(Invalid::new("type", "must be totp, the only kind there is").into());
    }
    let user = hub.store.find::<User>(&request.user).await?.ok_or_else(|| unknown(&request.user))?;
    let mut tx = hub.store.begin(clock::now()).await?;
    let removed = tx.reset_mfa(&user.id, mfa::TOTP).await?;
    if removed > 0 {
        let event = hub.event(EventType::UserMfaRemoved).resource("user", &user.name);
        let event = event.detail("type", mfa::TOTP).detail("method", "reset").detail("removed", removed);
        tx.audit(&caller.sign(event)).await?;
    }
    tx.commit().await?;
    Ok(ResetMfaReply { removed: u32::try_from(removed).unwrap_or(u32::MAX) })
}

fn shown(device: MfaDevice) -> MfaFactor {
    MfaFactor {
        name: device.name,
        r#type: device.kind,
        added_unix: device.created_at.unix_timestamp(),
        last_used_unix: device.last_used_at.map_or(0, time::OffsetDateTime::unix_timestamp),
    }
}

fn unknown(user: &str) -> Fault {
    Fault::NotFound(format!("user {user} does not exist"))
}
