//! The watch: everything of the kinds asked for, then every change.
//!
//! The reader subscribes before it lists, so that no change falls between; a change that the list already shows is passed
//! over. A reader that falls behind loses its stream and starts again.

use std::sync::Arc;

use mezite_core::kind::{Kind, Lock, Node, Role, User};
use mezite_core::{Fault, Invalid};
use mezite_proto::v1::{WatchEvent, WatchRequest};
use mezite_store::{Change, Store};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Answers;
use super::sessions::TERMINATION;
use crate::hub::Hub;

/// The pseudo-kind of the trust bundle.
const TRUST: &str = "trust";
const KINDS: [&str; 6] = [Role::KIND, Lock::KIND, Node::KIND, User::KIND, TRUST, TERMINATION];
/// Events on their way to a reader.
const WAITING: usize = 64;

pub(super) async fn watch(hub: &Arc<Hub>, request: WatchRequest) -> Result<Answers<WatchEvent>, Fault> {
    if let Some(unknown) = request.kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(Invalid::new("kinds", format!("{unknown:?} is not one of {}", KINDS.join(", "))).into());
    }
    let changes = hub.store.subscribe();
    let first = everything(hub, &request.kinds).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        tokio::select! {
            () = hub.stop.cancelled() => {}
            // Also waits while nothing changes.
            () = sender.closed() => {}
            ended = follow(&hub, &request.kinds, first, changes, &sender) => {
                if let Err(status) = ended {
                    // The reader may be gone.
                    let _ = sender.try_send(Err(status));
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

type Sender = mpsc::Sender<Result<WatchEvent, Status>>;

async fn follow(
    hub: &Hub,
    kinds: &[String],
    first: Vec<WatchEvent>,
    mut changes: Receiver<Change>,
    sender: &Sender,
) -> Result<(), Status> {
    let gone = |_| Status::cancelled("the reader went away");
    let listed = |kind: &str| first.iter().filter(|event| event.kind == kind).map(|event| event.revision).max();
    let newest: Vec<(&'static str, u64)> = KINDS.map(|kind| (kind, listed(kind).unwrap_or_default())).to_vec();
    let revision = newest.iter().map(|(_, revision)| *revision).max().unwrap_or_default();
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
        let is_wanted = kinds.iter().any(|kind| kind == change.kind);
        let is_listed =
            newest.iter().any(|(kind, held)| *kind == change.kind && 0 < change.revision && change.revision <= *held);
        if is_wanted && !is_listed {
            let event = changed(&hub.store, change).await.map_err(|fault| mezite_proto::status(&fault))?;
            sender.send(Ok(event)).await.map_err(gone)?;
        }
    }
}

async fn changed(store: &Store, change: Change) -> Result<WatchEvent, Fault> {
    let json = match (change.kind, &change.json) {
        (User::KIND, Some(_)) => match store.find::<User>(&change.name).await? {
            Some(user) => {
                Some(user_json(&user.id, user.spec.as_ref().map(|spec| spec.roles.as_slice()).unwrap_or_default()))
            }
            None => None,
        },
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
async fn everything(hub: &Hub, kinds: &[String]) -> Result<Vec<WatchEvent>, Fault> {
    let wants = |kind: &str| kinds.iter().any(|wanted| wanted == kind);
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
        events.extend(objects::<Node>(&hub.store).await?);
    }
    if wants(User::KIND) {
        events.extend(hub.store.all::<User>().await?.into_iter().map(|user| {
            let roles = user.spec.as_ref().map(|spec| spec.roles.as_slice()).unwrap_or_default();
            let json = user_json(&user.id, roles);
            WatchEvent { json, ..event(User::KIND, user.name, user.revision) }
        }));
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

/// Of a user, agents and proxies learn that it exists, under which id, and with which roles.
fn user_json(id: &str, roles: &[String]) -> Vec<u8> {
    serde_json::json!({ "user_id": id, "roles": roles }).to_string().into_bytes()
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
