//! What every call passes before its handler: sizes, addresses, and the bound on what refusals write.

use mezite_core::audit::{Event, EventType};
use mezite_proto::v1::ListObjectsRequest;
use tonic::Code;

use crate::cluster::Cluster;

/// A message is held in memory while it arrives.
#[tokio::test]
async fn a_strangers_message_is_small() {
    let cluster = Cluster::new().await;
    let refused = cluster.login("admin", &"x".repeat(1 << 20)).await.unwrap_err();
    assert_ne!(refused.code(), Code::Unauthenticated, "it was read whole");
    let alice = cluster.new_user("alice", &["access"], &[]).await;
    let large = ListObjectsRequest { kind: "role".into(), page_token: "x".repeat(1 << 20), page_size: 0 };
    alice.client.clone().list_objects(alice.with(large)).await.unwrap();
}

#[tokio::test]
async fn a_proxy_relays_a_user_with_the_users_address_and_nobody_else_can() {
    let cluster = Cluster::new().await;
    let alice = cluster.new_user("alice", &["access"], &[]).await;
    let mut proxy = cluster.machine("proxy", "p").await;
    let mut admin = cluster.admin().await;
    let relay = |ip: &str| {
        let mut request = alice.with(mezite_proto::v1::GetObjectRequest { kind: "lock".into(), name: "x".into() });
        request.metadata_mut().insert("x-mezite-client-ip", ip.parse().unwrap());
        request
    };
    assert_eq!(proxy.client.get_object(relay("203.0.113.9")).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(proxy.client.get_object(relay("no address")).await.unwrap_err().code(), Code::PermissionDenied);
    let mut direct = cluster.nobody();
    assert_eq!(direct.get_object(relay("203.0.113.10")).await.unwrap_err().code(), Code::PermissionDenied);
    let events = crate::sessions::events(&mut admin, "authz.denied").await;
    let from: Vec<_> = events.iter().map(|event| event["client_ip"].as_str().unwrap()).collect();
    assert_eq!(from, ["127.0.0.1", "203.0.113.9"]);
}

#[tokio::test]
async fn refusals_without_end_are_written_a_few_times_and_counted() {
    let mut cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let mut node = cluster.machine("node", "web-1").await;
    let event = serde_json::json!({
        "id": "x", "event_type": "access.denied", "event_code": "T4000W", "user_name": "mallory",
        "timestamp": "2026-01-01T00:00:00.000Z", "success": false,
    });
    let event = event.to_string().into_bytes();
    for _ in 0..50 {
        let request = alice.with(mezite_proto::v1::GetObjectRequest { kind: "lock".into(), name: "x".into() });
        alice.client.get_object(request).await.unwrap_err();
        let request = mezite_proto::v1::EmitAuditEventsRequest { events: vec![event.clone(); 100] };
        node.client.emit_audit_events(request).await.unwrap();
    }
    let kinds = [("authz.denied", 45), ("access.denied", 4995)];
    let mut admin = cluster.admin().await;
    for (kind, _) in kinds {
        assert_eq!(crate::sessions::events(&mut admin, kind).await.len(), 5, "{kind}");
    }
    // What was counted is written at the stop at the latest.
    cluster.restart(|_| {}).await.unwrap();
    let mut admin = cluster.admin().await;
    for (kind, repeated) in kinds {
        let written = crate::sessions::events(&mut admin, kind).await;
        assert_eq!((written.len(), &written[0]["details"]["repeated"]), (6, &repeated.into()), "{kind}: {written:?}");
    }
}

#[tokio::test]
async fn a_report_waits_for_a_hub_that_is_away() {
    let mut cluster = Cluster::new().await;
    let proxy = cluster.machine("proxy", "p").await;
    let addr = cluster.running().addr;
    cluster.stop.cancel();
    cluster.running.take().unwrap().stopped().await;
    let reports = mezite_net::report::Reports::start(proxy.client);
    let event = Event::new(EventType::AccessDenied, "x", mezite_net::clock::now());
    reports.send(event.user("mallory", &[]));
    cluster.restart(|config| config.listen_addr = addr).await.unwrap();
    let mut admin = cluster.admin().await;
    let written = async {
        loop {
            if let Some(event) = crate::sessions::events(&mut admin, "access.denied").await.first() {
                break event.clone();
            }
        }
    };
    let event = tokio::time::timeout(std::time::Duration::from_secs(60), written).await.unwrap();
    assert_eq!(event["user_name"], "mallory");
}

/// Who is refused chooses the login, the target and with them the size of what is told of it.
#[tokio::test]
async fn large_reports_take_no_others_with_them() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let proxy = cluster.machine("proxy", "p").await;
    let reports = mezite_net::report::Reports::start(proxy.client);
    let denied = |user: &str| Event::new(EventType::AccessDenied, "x", mezite_net::clock::now()).user(user, &[]);
    let large =
        || denied("mallory").resource("node", "\u{1}".repeat(32 << 10)).detail("target", "\u{1}".repeat(32 << 10));
    for _ in 0..40 {
        reports.send(large());
    }
    // No machine may say this; whoever stands beside it is heard all the same.
    reports.send(Event::new(EventType::UserLogin, "x", mezite_net::clock::now()));
    reports.send(denied("bob"));
    reports.send(denied("carol"));
    let written = async {
        loop {
            let events = crate::sessions::events(&mut admin, "access.denied").await;
            if events.iter().any(|event| event["user_name"] == "carol") {
                break events;
            }
        }
    };
    let events = tokio::time::timeout(std::time::Duration::from_secs(60), written).await.unwrap();
    for user in ["mallory", "bob"] {
        assert!(events.iter().any(|event| event["user_name"] == user), "{user}");
    }
}
