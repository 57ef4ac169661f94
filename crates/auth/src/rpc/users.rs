//! What is done to users beside the object: the password is no part of it.

use mezite_core::audit::EventType;
use mezite_core::decode::{decode, parse_json};
use mezite_core::kind::{User, UserSpec};
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_proto::v1::*;
use mezite_store::Expect;
use zeroize::Zeroizing;

use super::objects::{refuse_last_password, to_wire};
use crate::caller::Caller;
use crate::hub::Hub;
use crate::issue::user::end_certificates;
use crate::login::{self, Session};

pub(super) async fn create(hub: &Hub, caller: &Caller, request: CreateUserRequest) -> Result<CreateUserReply, Fault> {
    let json = parse_json(&request.spec).map_err(|e| Invalid::new("spec", e.to_string()))?;
    let spec: UserSpec = decode(&json).map_err(|e| e.within("spec"))?;
    let hash = hashed(hub, request.password).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    let user = tx.put::<User>(&request.name, &spec, Expect::Absent).await?;
    let invite = match &hash {
        Some(hash) => {
            tx.set_password_hash(&request.name, hash).await?;
            None
        }
        None => Some(login::invite(&mut tx, &request.name).await?),
    };
    let event = hub.event(EventType::UserCreated).resource("user", &request.name).detail("roles", &spec.roles);
    tx.audit(&caller.sign(event.detail("invited", invite.is_some()))).await?;
    tx.commit().await?;
    let (invite_token, invite_expires_unix) = shown(invite);
    let proxy_addr = hub.proxy_addr.clone();
    Ok(CreateUserReply { user: Some(to_wire(user)?), invite_token, invite_expires_unix, proxy_addr })
}

/// Gives a user another password, or none and an invite. What the user was logged in with ends, certificates included; the
/// caller's own session at the API does not.
pub(super) async fn reset_password(
    hub: &Hub,
    caller: &Caller,
    request: ResetPasswordRequest,
) -> Result<ResetPasswordReply, Fault> {
    let name = request.name;
    let hash = hashed(hub, request.password).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    let invite = match &hash {
        Some(hash) => {
            tx.set_password_hash(&name, hash).await?;
            tx.revoke_invites(&name).await?;
            None
        }
        None => {
            refuse_last_password(hub, &name).await?;
            tx.clear_password(&name).await?;
            Some(login::invite(&mut tx, &name).await?)
        }
    };
    tx.revoke_logins(&name, Some(&caller.user()?.token)).await?;
    tx.end_mfa_proofs(&name).await?;
    let revision = end_certificates(&mut tx, &name).await?;
    let event = hub.event(EventType::UserPasswordChanged).resource("user", &name).detail("method", "reset");
    tx.audit(&caller.sign(event.detail("invited", invite.is_some()))).await?;
    tx.commit().await?;
    let (invite_token, invite_expires_unix) = shown(invite);
    Ok(ResetPasswordReply { invite_token, invite_expires_unix, proxy_addr: hub.proxy_addr.clone(), revision })
}

/// The hash of a password; `None` for none.
async fn hashed(hub: &Hub, password: String) -> Result<Option<String>, Fault> {
    if password.is_empty() {
        return Ok(None);
    }
    hub.passwords.hash(Zeroizing::new(password)).await.map(Some)
}

/// Token and end of an invite, as they are sent; empty for none.
fn shown(invite: Option<Session>) -> (String, i64) {
    invite.map(|invite| (invite.token.to_string(), invite.expires_at.unix_timestamp())).unwrap_or_default()
}
