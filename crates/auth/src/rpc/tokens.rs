//! Join tokens.

use mezite_core::audit::EventType;
use mezite_core::kind::token::JoinRole;
use mezite_core::kind::{Token, TokenSpec};
use mezite_core::labels::Labels;
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_proto::v1::*;
use mezite_store::Expect;
use time::Duration;

use super::authorities::pin;
use crate::caller::Caller;
use crate::hub::Hub;
use crate::login::secret;

/// Life of a token when none is asked for.
const DEFAULT_TTL: u32 = 3600;
/// How many characters of a token without a name are its name.
const NAME_LENGTH: usize = 12;
/// Longest life of a token, in seconds.
const MAX_TTL: u32 = 7 * 86_400;

pub(super) async fn create(hub: &Hub, caller: &Caller, request: CreateTokenRequest) -> Result<CreateTokenReply, Fault> {
    let CreateTokenRequest { roles, ttl_seconds, name, labels } = request;
    let ttl = if ttl_seconds == 0 { DEFAULT_TTL } else { ttl_seconds };
    if ttl > MAX_TTL {
        return Err(Invalid::new("ttl", "must be at most 7 days").into());
    }
    let now = clock::now();
    let spec = TokenSpec {
        roles: roles.iter().map(|word| role(word)).collect::<Result<_, _>>()?,
        expires: now + Duration::seconds(ttl.into()),
        labels: labels.into_iter().collect::<Labels>(),
    };
    let secret = secret();
    // Whoever was given the token finds it in the list; the rest of it is still 208 random bits.
    let name = if name.is_empty() { secret.chars().take(NAME_LENGTH).collect() } else { name };
    let mut tx = hub.store.begin(now).await?;
    let token = tx.put::<Token>(&name, &spec, Expect::Absent).await?;
    tx.set_token_secret(&name, &secret).await?;
    let event = hub.event(EventType::TokenCreated).resource("token", &name).detail("roles", &roles);
    let event = event.detail("expires", mezite_core::when::seconds(spec.expires));
    tx.audit(&caller.sign(event)).await?;
    tx.commit().await?;
    Ok(CreateTokenReply {
        token: secret.to_string(),
        id: token.id,
        expires_unix: spec.expires.unix_timestamp(),
        ca_pin: pin(&hub.authorities.host)?,
        roles,
        name,
    })
}

fn role(word: &str) -> Result<JoinRole, Fault> {
    match word {
        "node" => Ok(JoinRole::Node),
        "proxy" => Ok(JoinRole::Proxy),
        other => Err(Invalid::new("roles", format!("{other:?} is not node or proxy")).into()),
    }
}
