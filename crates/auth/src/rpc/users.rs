//! Making users, whose password is no part of the object.

use mezite_core::audit::EventType;
use mezite_core::decode::{decode, parse_json};
use mezite_core::kind::{User, UserSpec};
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_proto::v1::*;
use mezite_store::Expect;
use zeroize::Zeroizing;

use super::objects::to_wire;
use crate::caller::Caller;
use crate::hub::Hub;
use crate::login;

pub(super) async fn create(hub: &Hub, caller: &Caller, request: CreateUserRequest) -> Result<CreateUserReply, Fault> {
    let json = parse_json(&request.spec).map_err(|e| Invalid::new("spec", e.to_string()))?;
    let spec: UserSpec = decode(&json).map_err(|e| e.within("spec"))?;
    let password = Zeroizing::new(request.password);
    let hash = match password.is_empty() {
        true => None,
        false => Some(hub.passwords.hash(password).await?),
    };
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
    let (invite_token, invite_expires_unix) =
        invite.map(|invite| (invite.token.to_string(), invite.expires_at.unix_timestamp())).unwrap_or_default();
    let proxy_addr = hub.proxy_addr.clone();
    Ok(CreateUserReply { user: Some(to_wire(user)?), invite_token, invite_expires_unix, proxy_addr })
}
