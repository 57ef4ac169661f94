use mezite_proto::v1::*;
use tonic::{Code, Streaming};

use crate::cluster::Cluster;

async fn next(events: &mut Streaming<WatchEvent>) -> WatchEvent {
    events.message().await.unwrap().unwrap()
}

async fn first(events: &mut Streaming<WatchEvent>) -> Vec<WatchEvent> {
    let mut all = Vec::new();
    loop {
        let event = next(events).await;
        if event.synced {
            return all;
        }
        all.push(event);
    }
}

fn kinds(kinds: &[&str]) -> WatchRequest {
    WatchRequest { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect() }
}

#[tokio::test]
async fn a_watcher_gets_everything_and_then_every_change() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let all = kinds(&["trust", "role", "lock", "node", "user", "termination"]);
    let mut events = node.client.watch(all).await.unwrap().into_inner();
    let everything = first(&mut events).await;
    let of = |kind: &str| everything.iter().filter(|event| event.kind == kind).collect::<Vec<_>>();
    assert_eq!(of("role").len(), 4);
    assert_eq!(of("user").iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["admin"]);
    let user: serde_json::Value = serde_json::from_slice(&of("user")[0].json).unwrap();
    assert!(user["user_id"].is_string() && user.get("password_hash").is_none());
    let trust: serde_json::Value = serde_json::from_slice(&of("trust")[0].json).unwrap();
    assert!(trust["user_authorities"][0].as_str().unwrap().starts_with("ssh-ed25519 "));
    assert_eq!(of("node")[0].name, "web-1");

    crate::login::lock(&cluster, "admin2").await;
    let change = next(&mut events).await;
    assert_eq!((change.kind.as_str(), change.name.as_str(), change.deleted), ("lock", "l-admin2", false));
    assert!(change.revision > of("node")[0].revision);
    let delete = DeleteObjectRequest { kind: "lock".into(), name: "l-admin2".into(), expected_revision: None };
    admin.client.delete_object(admin.with(delete)).await.unwrap();
    let change = next(&mut events).await;
    assert_eq!((change.kind.as_str(), change.deleted, change.json.is_empty()), ("lock", true, true));

    let session = crate::sessions::info("alice");
    let id = session.session_id.clone();
    node.client.start_session(StartSessionRequest { session: Some(session) }).await.unwrap();
    let end = TerminateSessionRequest { session_id: id.clone() };
    admin.client.terminate_session(admin.with(end)).await.unwrap();
    let change = next(&mut events).await;
    assert_eq!((change.kind.as_str(), change.name), ("termination", id));
    assert_eq!(change.json, br#"{"reason":"terminated"}"#);
    let unknown = TerminateSessionRequest { session_id: mezite_net::clock::uuid() };
    assert_eq!(admin.client.terminate_session(admin.with(unknown)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_deleted_user_is_told_and_one_made_anew_is_another() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let mut events = node.client.watch(kinds(&["user"])).await.unwrap().into_inner();
    let before = first(&mut events).await.into_iter().find(|event| event.name == "alice").unwrap();
    let delete = DeleteObjectRequest { kind: "user".into(), name: "alice".into(), expected_revision: None };
    admin.client.delete_object(admin.with(delete)).await.unwrap();
    let gone = next(&mut events).await;
    assert_eq!((gone.kind.as_str(), gone.deleted, gone.name.as_str()), ("user", true, "alice"));
    let refused = alice.client.who_am_i(alice.with(WhoAmIRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    cluster.new_user("alice", &["viewer"], &[]).await;
    let standing = |event: &WatchEvent| serde_json::from_slice::<mezite_core::rbac::Standing>(&event.json).unwrap();
    let after = standing(&next(&mut events).await);
    assert_eq!(after.roles, ["viewer"]);
    assert_ne!(after.user_id, standing(&before).user_id);
}

#[tokio::test]
async fn an_agent_learns_of_no_other_node_and_nothing_once_it_is_removed() {
    let cluster = Cluster::new().await;
    let mut one = cluster.machine("node", "web-1").await;
    let mut proxy = cluster.machine("proxy", "p").await;
    let mut admin = cluster.admin().await;
    cluster.machine("node", "web-2").await;
    let mut events = one.client.watch(kinds(&["node"])).await.unwrap().into_inner();
    let own: Vec<_> = first(&mut events).await.into_iter().map(|event| event.name).collect();
    assert_eq!(own, ["web-1"]);
    let mut all = proxy.client.watch(kinds(&["node"])).await.unwrap().into_inner();
    assert_eq!(first(&mut all).await.len(), 2);
    for name in ["web-2", "web-1"] {
        let delete = DeleteObjectRequest { kind: "node".into(), name: name.into(), expected_revision: None };
        admin.client.delete_object(admin.with(delete)).await.unwrap();
        assert_eq!(next(&mut all).await.name, name);
    }
    let told = next(&mut events).await;
    assert_eq!((told.name.as_str(), told.deleted), ("web-1", true));
    assert_eq!(events.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_watcher_asks_for_known_kinds_only_and_is_let_go_at_the_stop() {
    let cluster = Cluster::new().await;
    let mut proxy = cluster.machine("proxy", "p").await;
    for bad in ["token", "config", "", "audit"] {
        let refused = proxy.client.watch(kinds(&[bad])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad}");
    }
    let mut events = proxy.client.watch(kinds(&["lock"])).await.unwrap().into_inner();
    first(&mut events).await;
    cluster.stop.cancel();
    assert!(!matches!(events.message().await, Ok(Some(_))));
}
