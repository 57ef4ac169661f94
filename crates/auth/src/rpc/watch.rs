//! The watch: everything of the kinds asked for, then every change.
//!
//! The reader subscribes before it lists, so that no change falls between; a change that the list already shows is passed
//! over. A reader that falls behind loses its stream and starts again.

use std::collections::BTreeSet;
use std::sync::Arc;

use mezite_core::kind::{Kind, Lock, Node, NodeSpec, Role, User};
use mezite_core::{Fault, Invalid};
use mezite_net::tls::PeerRole;
use mezite_proto::v1::{
    AwaitRevisionReply, AwaitRevisionRequest, ConfirmRevisionReply, ConfirmRevisionRequest, WatchEvent, WatchRequest,
};
use mezite_store::{Change, Object, Store};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Answers;
use super::sessions::{TERMINATION, node_of};
use crate::caller::{Caller, Who};
use crate::hub::{Hub, standing};
use crate::watchers::Peer;

/// The pseudo-kind of the trust bundle.
const TRUST: &str = "trust";
const KINDS: [&str; 6] = [Role::KIND, Lock::KIND, Node::KIND, User::KIND, TRUST, TERMINATION];
/// Events on their way to a reader.
const WAITING: usize = 64;

pub(super) async fn watch(
    hub: &Arc<Hub>,
    caller: &Caller,
    request: WatchRequest,
) -> Result<Answers<WatchEvent>, Fault> {
    if let Some(unknown) = request.kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(Invalid::new("kinds", format!("{unknown:?} is not one of {}", KINDS.join(", "))).into());
    }
    let reader = Reader::of(hub, caller, request.kinds).await?;
    let following = reader.decides().then(|| hub.watchers.follow(reader.peer.clone()));
    let changes = hub.store.subscribe();
    let revision = hub.store.revision().await?;
    let first = everything(hub, &reader).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        let _following = following;
        tokio::select! {
            () = hub.stop.cancelled() => {}
            // Also waits while nothing changes.
            () = sender.closed() => {}
            ended = follow(&hub, &reader, (first, revision), changes, &sender) => {
                if let Err(status) = ended {
                    // The reader may be gone.
                    let _ = sender.try_send(Err(status));
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// A machine has applied a revision.
pub(super) async fn confirm(
    hub: &Hub,
    caller: &Caller,
    request: ConfirmRevisionRequest,
) -> Result<ConfirmRevisionReply, Fault> {
    let (Who::Agent(peer) | Who::Proxy(peer)) = &caller.who else {
        return Err(Fault::Denied("only agents and proxies may call this".into()));
    };
    hub.watchers.confirm(&peer.id, request.revision);
    Ok(ConfirmRevisionReply {})
}

/// Waits until a change is in force everywhere it can be. Expected are those that follow the watch, and those that hold or
/// are held by a tunnel: somebody could come in there.
pub(super) async fn await_revision(
    hub: &Hub,
    _: &Caller,
    request: AwaitRevisionRequest,
) -> Result<AwaitRevisionReply, Fault> {
    let newest = hub.store.revision().await?;
    if request.revision > newest {
        return Err(Invalid::new("revision", format!("is newer than the newest, {newest}")).into());
    }
    let (nodes, proxies) = hub.presence.online();
    let mut expected: BTreeSet<Peer> = proxies.iter().map(|id| peer(PeerRole::Proxy, id, id)).collect();
    for node in hub.store.all::<Node>().await?.iter().filter(|node| nodes.contains(&node.id)) {
        expected.insert(peer(PeerRole::Agent, &node.id, &node.name));
    }
    let settled = hub.watchers.settled(request.revision, &expected).await;
    Ok(AwaitRevisionReply {
        confirmed: u32::try_from(settled.confirmed).unwrap_or(u32::MAX),
        unconfirmed: settled.missing,
    })
}

fn peer(role: PeerRole, id: &str, name: &str) -> Peer {
    let what = if role == PeerRole::Agent { "node" } else { "proxy" };
    Peer { id: id.to_owned(), name: format!("{what} {name}") }
}

type Sender = mpsc::Sender<Result<WatchEvent, Status>>;

/// Who watches, and what may be told.
struct Reader {
    kinds: Vec<String>,
    peer: Peer,
    /// Id and name of the node whose agent this is; it learns of no other node.
    own: Option<(String, String)>,
}

impl Reader {
    async fn of(hub: &Hub, caller: &Caller, kinds: Vec<String>) -> Result<Self, Fault> {
        match &caller.who {
            Who::Agent(_) => {
                let node = node_of(hub, caller).await?;
                let peer = peer(PeerRole::Agent, &node.node_id, &node.hostname);
                Ok(Self { kinds, peer, own: Some((node.node_id, node.hostname)) })
            }
            Who::Proxy(proxy) => Ok(Self { kinds, peer: peer(PeerRole::Proxy, &proxy.id, &proxy.id), own: None }),
            Who::User(_) | Who::Nobody => Err(Fault::Denied("only agents and proxies may call this".into())),
        }
    }

    /// Whether accesses are decided by what is told.
    fn decides(&self) -> bool {
        self.kinds.iter().any(|kind| kind == Lock::KIND)
    }

    fn wants(&self, kind: &str, name: &str) -> bool {
        let is_visible = kind != Node::KIND || self.own.as_ref().is_none_or(|(_, own)| own == name);
        is_visible && self.kinds.iter().any(|wanted| wanted == kind)
    }

    /// Whether the change takes the reader's own node away.
    fn is_removed_by(&self, change: &Change) -> bool {
        let Some((id, name)) = &self.own else { return false };
        let is_own = |json: &str| serde_json::from_str::<NodeSpec>(json).is_ok_and(|node| node.node_id == *id);
        change.kind == Node::KIND && change.name == *name && !change.json.as_deref().is_some_and(is_own)
    }
}

async fn follow(
    hub: &Hub,
    reader: &Reader,
    (first, revision): (Vec<WatchEvent>, u64),
    mut changes: Receiver<Change>,
    sender: &Sender,
) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the reader went away");
    let listed = |kind: &str| first.iter().filter(|event| event.kind == kind).map(|event| event.revision).max();
    let newest: Vec<(&'static str, u64)> = KINDS.map(|kind| (kind, listed(kind).unwrap_or_default())).to_vec();
    for event in first {
        sender.send(Ok(event)).await.map_err(gone)?;
    }
    sender.send(Ok(WatchEvent { revision, synced: true, ..WatchEvent::default() })).await.map_err(gone)?;
    loop {
        let change = match changes.recv().await {
            Ok(change) => change,
            Err(RecvError::Lagged(_)) => return Err(Status::unavailable("too slow for the changes; start again")),
            Err(RecvError::Closed) => return Ok(()),
        };
        let is_removed = reader.is_removed_by(&change);
        let is_wanted = reader.wants(change.kind, &change.name);
        let is_listed =
            newest.iter().any(|(kind, held)| *kind == change.kind && 0 < change.revision && change.revision <= *held);
        if is_wanted {
            let revision = change.revision;
            let event = match is_listed {
                // The reader learns that it has this revision, too.
                true => WatchEvent { revision, ..WatchEvent::default() },
                false => changed(&hub.store, change).await.map_err(|fault| mezite_proto::status(&fault))?,
            };
            sender.send(Ok(event)).await.map_err(gone)?;
        }
        // Told first, so that the agent ends at once what runs under its old identity.
        if is_removed {
            return Err(Status::permission_denied("this node was deleted or replaced"));
        }
    }
}

async fn changed(store: &Store, change: Change) -> Result<WatchEvent, Fault> {
    let json = match (change.kind, &change.json) {
        (User::KIND, Some(_)) => store.find::<User>(&change.name).await?.as_ref().map(user_json),
        (_, json) => json.as_ref().map(|json| json.as_bytes().to_vec()),
    };
    Ok(WatchEvent {
        revision: change.revision,
        kind: change.kind.into(),
        name: change.name,
        deleted: json.is_none(),
        json: json.unwrap_or_default(),
        synced: false,
    })
}

/// The objects of the kinds asked for, as they stand.
async fn everything(hub: &Hub, reader: &Reader) -> Result<Vec<WatchEvent>, Fault> {
    let wants = |kind: &str| reader.kinds.iter().any(|wanted| wanted == kind);
    let mut events = Vec::new();
    if wants(TRUST) {
        events.push(WatchEvent { kind: TRUST.into(), json: trust_json(hub), ..WatchEvent::default() });
    }
    if wants(Role::KIND) {
        events.extend(objects::<Role>(&hub.store).await?);
    }
    if wants(Lock::KIND) {
        events.extend(objects::<Lock>(&hub.store).await?);
    }
    if wants(Node::KIND) {
        let nodes = objects::<Node>(&hub.store).await?;
        events.extend(nodes.into_iter().filter(|node| reader.wants(Node::KIND, &node.name)));
    }
    if wants(User::KIND) {
        let users = hub.store.all::<User>().await?.into_iter();
        events.extend(
            users.map(|user| WatchEvent { json: user_json(&user), ..event(User::KIND, user.name, user.revision) }),
        );
    }
    Ok(events)
}

async fn objects<K: Kind>(store: &Store) -> Result<Vec<WatchEvent>, Fault> {
    let events = store.all::<K>().await?.into_iter().map(|object| {
        // A spec that cannot be read goes out as null: whoever decides by it must refuse.
        let json = object.spec.as_ref().ok().and_then(|spec| serde_json::to_vec(spec).ok());
        WatchEvent { json: json.unwrap_or_else(|| b"null".to_vec()), ..event(K::KIND, object.name, object.revision) }
    });
    Ok(events.collect())
}

fn event(kind: &str, name: String, revision: u64) -> WatchEvent {
    WatchEvent { kind: kind.into(), name, revision, ..WatchEvent::default() }
}

/// Of a user, agents and proxies learn that it exists, under which id, and what it stands for.
fn user_json(user: &Object<User>) -> Vec<u8> {
    serde_json::to_vec(&standing(user)).unwrap_or_default()
}

fn trust_json(hub: &Hub) -> Vec<u8> {
    let trust = hub.authorities.trust();
    let json = serde_json::json!({
        "user_authorities": trust.user_authorities,
        "host_authorities": trust.host_authorities,
        "tls_ca_pem": trust.tls_ca_pem,
    });
    json.to_string().into_bytes()
}
