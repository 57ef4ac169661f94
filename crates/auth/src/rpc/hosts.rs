//! Joining the cluster, and renewing the certificates of those who have.

use std::time::Instant;

use mezite_core::audit::EventType;
use mezite_core::kind::token::JoinRole;
use mezite_core::{Fault, Invalid};
use mezite_proto::v1::*;
use mezite_ssh::key::PublicKey;

use crate::caller::{Caller, Who};
use crate::hub::Hub;
use crate::join::{self, Joining};

pub(super) async fn generate_host_certs(
    hub: &Hub,
    caller: &Caller,
    request: GenerateHostCertsRequest,
) -> Result<GenerateHostCertsReply, Fault> {
    let ssh_key =
        PublicKey::from_wire(&request.ssh_public_key).map_err(|e| Invalid::new("ssh_public_key", e.to_string()))?;
    let joining =
        Joining { name: &request.name, addresses: &request.addresses, ssh_key, tls_key: &request.tls_public_key };
    match (&caller.who, request.token.as_str()) {
        (Who::Agent(peer), "") => join::renew(hub, JoinRole::Node, &peer.id, joining).await,
        (Who::Proxy(peer), "") => join::renew(hub, JoinRole::Proxy, &peer.id, joining).await,
        (_, "") => Err(Fault::Denied("a join token is needed; make one with mezctl tokens create".into())),
        (_, token) => {
            let joined = join::join(hub, caller, role(&request.role)?, token, joining).await;
            if let Err(Fault::Denied(reason) | Fault::Conflict(reason)) = &joined {
                hub.throttle.source_failed(caller.client_ip, Instant::now());
                let mut event = hub.event(EventType::NodeJoinFailed).resource("node", &request.name);
                event.error_message.clone_from(reason);
                hub.audit_refusals(vec![(caller.cause(), caller.sign(event))]).await?;
            }
            joined
        }
    }
}

fn role(word: &str) -> Result<JoinRole, Fault> {
    match word {
        "node" => Ok(JoinRole::Node),
        "proxy" => Ok(JoinRole::Proxy),
        _ => Err(Invalid::new("role", "must be node or proxy").into()),
    }
}
