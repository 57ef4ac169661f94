use mezite_core::kind::token::JoinRole;
use mezite_core::kind::{Node, Token, TokenSpec};
use mezite_store::{Expect, Heartbeat, HostCert, Store};
use time::Duration;

use crate::objects::{NODE_ID, node};
use crate::{Fresh, NOW, open};

const OTHER_ID: &str = "2b4e28ba-2fa1-41d2-883f-0016d3cca427";

async fn with_token() -> Fresh {
    let fresh = open().await;
    let spec = TokenSpec { roles: vec![JoinRole::Node], expires: NOW + Duration::HOUR, labels: [].into() };
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put::<Token>("t1", &spec, Expect::Absent).await.unwrap();
    tx.set_token_secret("t1", "join secret").await.unwrap();
    tx.commit().await.unwrap();
    fresh
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_lets_one_machine_in() {
    let fresh = with_token().await;
    let tasks: Vec<_> = (0..32)
        .map(|i| {
            let store = fresh.store.clone();
            tokio::spawn(async move {
                let mut tx = store.begin(NOW).await.unwrap();
                let Some(token) = tx.use_join_token("join secret", &format!("n{i}")).await.unwrap() else { return 0 };
                assert_eq!(token.spec().unwrap().roles, [JoinRole::Node]);
                let id = format!("{i:08x}-2fa1-41d2-883f-0016d3cca427");
                tx.put::<Node>(&format!("n{i}"), &node(&format!("n{i}"), &id), Expect::Absent).await.unwrap();
                tx.commit().await.unwrap();
                1
            })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += task.await.unwrap();
    }
    assert_eq!(winners, 1);
    let nodes = fresh.store.all::<Node>().await.unwrap();
    assert_eq!(nodes.len(), 1);
    let token = fresh.store.get::<Token>("t1").await.unwrap();
    assert_eq!(token.status["used_by"], nodes[0].name);
}

#[tokio::test]
async fn a_join_token_ends() {
    let fresh = with_token().await;
    let mut late = fresh.store.begin(NOW + Duration::HOUR).await.unwrap();
    assert!(late.use_join_token("join secret", "n").await.unwrap().is_none());
    drop(late);
    let mut wrong = fresh.store.begin(NOW).await.unwrap();
    assert!(wrong.use_join_token("t1", "n").await.unwrap().is_none(), "the name is no secret");
    drop(wrong);
    let fresh = fresh.reopen(crate::keys()).await;
    let mut in_time = fresh.store.begin(NOW + Duration::MINUTE).await.unwrap();
    assert!(in_time.use_join_token("join secret", "n").await.unwrap().is_some(), "undone uses do not count");
}

#[tokio::test]
async fn a_token_that_cannot_be_read_lets_nobody_in() {
    let fresh = with_token().await;
    fresh.raw("UPDATE tokens SET spec = '{}'").await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    assert!(tx.use_join_token("join secret", "n").await.unwrap().is_none());
}

async fn status(store: &Store, name: &str) -> serde_json::Value {
    store.get::<Node>(name).await.unwrap().status
}

#[tokio::test]
async fn machines_write_beside_the_spec() {
    let fresh = open().await;
    let store = &fresh.store;
    let mut tx = store.begin(NOW).await.unwrap();
    let made = tx.put::<Node>("web-1", &node("web-1", NODE_ID), Expect::Any).await.unwrap();
    tx.put::<Node>("web-2", &node("web-2", OTHER_ID), Expect::Any).await.unwrap();
    let cert = HostCert { fingerprint: "SHA256:k".into(), signer_fingerprint: "SHA256:ca".into(), expires_at: NOW };
    tx.set_host_cert(NODE_ID, &cert).await.unwrap();
    tx.commit().await.unwrap();
    let beat = |id: &str| Heartbeat { node_id: id.into(), live_sessions: 3 };
    let known = store.heartbeats(&[beat(NODE_ID), beat("unknown"), beat(OTHER_ID)], NOW).await.unwrap();
    assert_eq!(known, 2);
    let seen = status(store, "web-1").await;
    assert_eq!(seen["last_heartbeat"], "2026-03-24T15:00:00.000Z");
    assert_eq!((&seen["live_sessions"], &seen["online"]), (&3.into(), &false.into()));
    assert_eq!(seen["host_cert_signer_fingerprint"], "SHA256:ca");
    assert_eq!(store.get::<Node>("web-1").await.unwrap().revision, made.revision);

    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    store.set_tunnels("p1", &ids(&[NODE_ID, OTHER_ID]), NOW).await.unwrap();
    assert_eq!(status(store, "web-2").await["online"], true);
    store.set_tunnels("p2", &ids(&[OTHER_ID]), NOW).await.unwrap();
    store.set_tunnels("p1", &[], NOW).await.unwrap();
    assert_eq!(status(store, "web-1").await["online"], false);
    assert_eq!(status(store, "web-2").await["tunnel_id"], "p2", "it moved; the former holder has no say");
    store.clear_tunnels(Some("p1"), NOW).await.unwrap();
    assert_eq!(status(store, "web-2").await["online"], true);
    store.clear_tunnels(None, NOW).await.unwrap();
    assert_eq!(status(store, "web-2").await["online"], false);
}
