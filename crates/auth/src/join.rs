//! How machines become part of the cluster, and stay in it.

use std::sync::PoisonError;

use mezite_core::audit::EventType;
use mezite_core::kind::token::JoinRole;
use mezite_core::kind::{self, NodeSpec};
use mezite_core::lock::Subject;
use mezite_core::{Fault, Invalid, name};
use mezite_net::clock;
use mezite_proto::v1::GenerateHostCertsReply;
use mezite_ssh::key::PublicKey;
use mezite_store::{Expect, Tx};

use crate::caller::Caller;
use crate::hub::Hub;
use crate::issue::host::{self, Host};
use crate::login::admit_source;

/// What a machine says about itself.
pub(crate) struct Joining<'a> {
    pub(crate) name: &'a str,
    pub(crate) addresses: &'a [String],
    pub(crate) ssh_key: PublicKey,
    pub(crate) tls_key: &'a [u8],
}

/// Lets a machine in. The token is used up in the transaction that makes its node, so that it admits one machine or none
/// (F018, F366). An outsider learns that the token is refused, not why.
///
/// # Errors
/// [`Fault::Denied`] for the token, [`Fault::Invalid`] for a name, [`Fault::Conflict`] when an online node has the name.
pub(crate) async fn join(
    hub: &Hub,
    caller: &Caller,
    role: JoinRole,
    token: &str,
    joining: Joining<'_>,
) -> Result<GenerateHostCertsReply, Fault> {
    let Joining { name, addresses, ssh_key, tls_key } = joining;
    admit_source(hub, caller.client_ip)?;
    match role {
        JoinRole::Node => check_node_name(hub, name)?,
        JoinRole::Proxy => check_proxy_names(hub, name, addresses).await?,
    }
    let id = clock::uuid();
    let host = Host { id: &id, role, name, addresses, ssh_key, tls_key };
    let certs = host::issue(hub, host).await?;

    let refused = || Fault::Denied("the join token is not valid; make a new one with mezctl tokens create".into());
    let mut tx = hub.store.begin(clock::now()).await?;
    let token = tx.use_join_token(token, &id).await?.ok_or_else(refused)?;
    let spec = token.spec()?;
    if !spec.roles.contains(&role) {
        return Err(refused());
    }
    if role == JoinRole::Node {
        refuse_locked(hub, &[name, &id]).await?;
        replace_offline(hub, caller, &mut tx, name).await?;
        let node = NodeSpec {
            node_id: id.clone(),
            hostname: name.to_owned(),
            labels: spec.labels.clone(),
            token_labels: spec.labels.clone(),
            ..NodeSpec::default()
        };
        tx.put::<kind::Node>(name, &node, Expect::Absent).await?;
        tx.set_host_cert(&id, &certs.note).await?;
    }
    let event = hub.event(EventType::TokenUsed).resource("token", &token.name).detail("used_by", &id);
    tx.audit(&caller.sign(event)).await?;
    for kind in [EventType::NodeJoined, EventType::HostCertIssued] {
        let mut event = hub.event(kind).resource(role.as_str(), name).detail("fingerprint", &certs.note.fingerprint);
        event.server_hostname = name.to_owned();
        event.resource_labels.clone_from(&spec.labels);
        let mut event = caller.sign(event);
        event.server_id.clone_from(&id);
        tx.audit(&event).await?;
    }
    tx.commit().await?;
    reserve(hub, role, addresses);
    Ok(certs.reply)
}

/// Gives a machine that is in new certificates, for the id of the certificate it showed.
///
/// # Errors
/// [`Fault::Denied`] when the node is gone, [`Fault::Conflict`] when it is locked.
pub(crate) async fn renew(
    hub: &Hub,
    role: JoinRole,
    id: &str,
    joining: Joining<'_>,
) -> Result<GenerateHostCertsReply, Fault> {
    let Joining { name, addresses, ssh_key, tls_key } = joining;
    let node = match role {
        JoinRole::Node => Some(unlocked_node(hub, id).await?),
        JoinRole::Proxy => {
            check_proxy_names(hub, name, addresses).await?;
            None
        }
    };
    let name = node.as_ref().map_or(name, |node| &node.hostname);
    let certs = host::issue(hub, Host { id, role, name, addresses, ssh_key, tls_key }).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    if role == JoinRole::Node {
        refuse_locked(hub, &[name, id]).await?;
        tx.set_host_cert(id, &certs.note).await?;
    }
    let mut event = hub
        .event(EventType::HostCertIssued)
        .resource(role.as_str(), name)
        .detail("fingerprint", &certs.note.fingerprint);
    event.server_hostname = name.to_owned();
    event.server_id = id.to_owned();
    tx.audit(&event).await?;
    tx.commit().await?;
    reserve(hub, role, addresses);
    Ok(certs.reply)
}

/// The node with this id, unless a lock stops it.
///
/// # Errors
/// [`Fault::Denied`] when there is none, [`Fault::Conflict`] when it is locked.
pub(crate) async fn unlocked_node(hub: &Hub, id: &str) -> Result<NodeSpec, Fault> {
    let gone = || Fault::Denied("this node was deleted or replaced; join again with a new token".into());
    let node = hub.store.find_by_id::<kind::Node>(id).await?.ok_or_else(gone)?;
    let spec = node.spec()?.clone();
    refuse_locked(hub, &[&spec.hostname, id]).await?;
    Ok(spec)
}

/// # Errors
/// [`Fault::Conflict`] when the machine of these names is locked.
async fn refuse_locked(hub: &Hub, names: &[&str]) -> Result<(), Fault> {
    match hub.locked(Subject::machine(names)).await? {
        Some(lock) => {
            let name = names.first().copied().unwrap_or_default();
            Err(Fault::Conflict(format!("node {name} is locked ({})", lock.name)))
        }
        None => Ok(()),
    }
}

/// A name with one holder: an online one keeps it, an offline one makes room and loses its identity.
async fn replace_offline(hub: &Hub, caller: &Caller, tx: &mut Tx, name: &str) -> Result<(), Fault> {
    let Some(held) = tx.find::<kind::Node>(name).await? else { return Ok(()) };
    if hub.presence.is_online(&held.id) {
        return Err(Fault::Conflict(format!("the name {name} is in use by a node that is online; choose another")));
    }
    tx.delete::<kind::Node>(name, Expect::Revision(held.revision)).await?;
    let mut event = hub.event(EventType::NodeReplaced).resource("node", name).detail("replaced_id", &held.id);
    event.server_hostname = name.to_owned();
    tx.audit(&caller.sign(event)).await
}

fn check_node_name(hub: &Hub, name: &str) -> Result<(), Fault> {
    name::node(name)?;
    let long = format!("{name}.{}", hub.cluster());
    let proxies = hub.proxy_names.lock().unwrap_or_else(PoisonError::into_inner);
    let ends_in_cluster = name == hub.cluster() || name.ends_with(&format!(".{}", hub.cluster()));
    if ends_in_cluster || proxies.contains(name) || proxies.contains(&long) {
        return Err(Invalid::new("hostname", format!("{name} is reserved; choose another node name")).into());
    }
    Ok(())
}

/// A proxy must not get a certificate for the name of a node.
async fn check_proxy_names(hub: &Hub, name: &str, addresses: &[String]) -> Result<(), Fault> {
    if !name.is_empty() {
        name::object(name)?;
    }
    for address in addresses {
        let address = address.to_ascii_lowercase();
        let short = address.strip_suffix(hub.cluster()).and_then(|head| head.strip_suffix('.')).unwrap_or(&address);
        for name in [address.as_str(), short] {
            if name::is_uuid(name) || hub.store.find::<kind::Node>(name).await?.is_some() {
                return Err(Invalid::new("addresses", format!("{address} is the name of a node")).into());
            }
        }
    }
    Ok(())
}

/// Keeps the names of a proxy from nodes.
fn reserve(hub: &Hub, role: JoinRole, addresses: &[String]) {
    if role == JoinRole::Proxy {
        let mut names = hub.proxy_names.lock().unwrap_or_else(PoisonError::into_inner);
        names.extend(addresses.iter().map(|address| address.to_ascii_lowercase()));
    }
}
