//! A lock is wholly before or wholly after whatever is raced against it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mezite_proto::v1::*;
use mezite_ssh::key::PrivateKey;
use tonic::Code;

use crate::cluster::{Caller, Cluster, Machine, PASSWORD};

/// Attempts of each sort.
const RACED: usize = 100;

pub(crate) async fn lock(admin: &mut Caller, kind: &str, target: &str) -> Object {
    let spec = serde_json::json!({ "target_type": kind, "target": target, "message": "raced" }).to_string();
    let name = mezite_net::clock::uuid();
    let request = PutObjectRequest { kind: "lock".into(), name, spec: spec.into_bytes(), expected_revision: Some(0) };
    admin.client.put_object(admin.with(request)).await.unwrap().into_inner()
}

async fn events(admin: &mut Caller, kinds: &[&str]) -> Vec<serde_json::Value> {
    let types = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let request = ListAuditRequest { types, page_size: 1000, ..ListAuditRequest::default() };
    let events = admin.client.list_audit(admin.with(request)).await.unwrap().into_inner().events;
    events.iter().map(|json| serde_json::from_slice(json).unwrap()).collect()
}

fn certificate(caller: &Caller) -> tonic::Request<IssueUserCertsRequest> {
    let ssh_public_key = PrivateKey::generate().unwrap().public().to_wire();
    caller.with(IssueUserCertsRequest { ssh_public_key, ttl_seconds: 0 })
}

fn session(roles: &[&str]) -> SessionInfo {
    SessionInfo { roles: roles.iter().map(|role| (*role).to_owned()).collect(), ..crate::sessions::info("alice") }
}

async fn start(node: &mut Machine, session: SessionInfo) -> Result<(), tonic::Status> {
    node.client.start_session(StartSessionRequest { session: Some(session) }).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_slips_through_a_lock() {
    let cluster = Arc::new(Cluster::new().await);
    let alice = cluster.new_user("alice", &["access"], &["ubuntu"]).await;
    let (mut node, mut admin) = (cluster.machine("node", "web-1").await, cluster.admin().await);
    let done = Arc::new(AtomicUsize::new(0));
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..RACED {
        let (cluster, done) = (Arc::clone(&cluster), Arc::clone(&done));
        let mut caller = Caller { client: alice.client.clone(), token: alice.token.clone() };
        let mut client = node.client.clone();
        attempts.spawn(async move {
            let started =
                client.start_session(StartSessionRequest { session: Some(session(&["access"])) }).await.is_ok();
            done.fetch_add(1, Ordering::Relaxed);
            let request = certificate(&caller);
            let issued = caller.client.issue_user_certs(request).await.is_ok();
            let logged_in = cluster.login("alice", PASSWORD).await.is_ok();
            [started, issued, logged_in]
        });
    }
    while done.load(Ordering::Relaxed) < RACED / 4 {
        tokio::task::yield_now().await;
    }
    lock(&mut admin, "user", "alice").await;
    let won: Vec<[bool; 3]> = attempts.join_all().await;
    let won: Vec<usize> = (0..3).map(|sort| won.iter().filter(|all| all[sort]).count()).collect();
    assert!(won.iter().sum::<usize>() < 3 * RACED, "all were before the lock: the race was none");

    // Newest first, in the order in which they were written.
    let all = events(&mut admin, &["lock.create", "session.start", "user.cert.issued", "user.login"]).await;
    let after: Vec<_> = all.iter().take_while(|event| event["event_type"] != "lock.create").collect();
    let slipped: Vec<_> = after.iter().filter(|event| event["user_name"] == "alice").collect();
    assert!(slipped.is_empty(), "written after the lock: {slipped:#?}");
    let counted = |kind: &str| all.iter().filter(|e| e["event_type"] == kind && e["user_name"] == "alice").count();
    // The first login was made to have somebody.
    assert_eq!(won, [counted("session.start"), counted("user.cert.issued"), counted("user.login") - 1]);

    assert_eq!(start(&mut node, session(&["access"])).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(cluster.login("alice", PASSWORD).await.is_err());
}

#[tokio::test]
async fn every_kind_of_lock_is_looked_at_when_a_session_starts() {
    let cluster = Cluster::new().await;
    cluster.new_user("alice", &["access"], &["ubuntu"]).await;
    let (mut node, mut admin) = (cluster.machine("node", "web-1").await, cluster.admin().await);
    for (kind, target, code) in [
        ("user", "alice", Code::PermissionDenied),
        ("role", "access", Code::PermissionDenied),
        ("login", "ubuntu", Code::PermissionDenied),
        ("node", "web-1", Code::PermissionDenied),
        ("agent", "web-1", Code::Aborted),
        ("agent_identity", "web-1", Code::Aborted),
    ] {
        start(&mut node, session(&["access"])).await.unwrap();
        let lock = lock(&mut admin, kind, target).await;
        assert_eq!(start(&mut node, session(&["access"])).await.unwrap_err().code(), code, "{kind}");
        let renewal = crate::cluster::joining("", "node", "web-1").0;
        let renewed = node.client.generate_host_certs(renewal).await;
        assert_eq!(renewed.is_err(), kind.starts_with("agent"), "{kind}: certificates of the machine");
        let delete = DeleteObjectRequest { kind: "lock".into(), name: lock.name, expected_revision: None };
        admin.client.delete_object(admin.with(delete)).await.unwrap();
    }
    start(&mut node, session(&["access"])).await.unwrap();
    lock(&mut admin, "agent", "web-2").await;
    let (joining, _) = crate::cluster::joining(&cluster.token("node").await.token, "node", "web-2");
    let refused = cluster.nobody().generate_host_certs(joining).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "a new machine under a locked name");
}

#[tokio::test]
async fn as_many_sessions_as_the_smallest_of_the_roles_allows() {
    let cluster = Cluster::new().await;
    let (mut one, mut other) = (cluster.machine("node", "web-1").await, cluster.machine("node", "web-2").await);
    let mut admin = cluster.admin().await;
    for (name, most) in [("wide", 3), ("narrow", 2)] {
        let spec = serde_json::json!({ "options": { "max_sessions": most } }).to_string().into_bytes();
        let request = PutObjectRequest { kind: "role".into(), name: name.into(), spec, expected_revision: None };
        admin.client.put_object(admin.with(request)).await.unwrap();
    }
    cluster.new_user("alice", &["access", "wide", "narrow"], &[]).await;
    let first = session(&["wide", "narrow"]);
    start(&mut one, first.clone()).await.unwrap();
    start(&mut other, session(&["wide", "narrow"])).await.unwrap();
    start(&mut one, first.clone()).await.unwrap();
    let refused = start(&mut other, session(&["wide", "narrow"])).await.unwrap_err();
    assert_eq!(refused.message(), "access denied: your roles allow 2 sessions at a time; end one first");
    start(&mut other, session(&["wide"])).await.unwrap();
    start(&mut other, session(&["access"])).await.unwrap();
    let denied = events(&mut admin, &["access.denied"]).await;
    assert_eq!((denied.len(), &denied[0]["user_name"]), (1, &"alice".into()), "{denied:#?}");
    one.client.end_session(crate::sessions::ending(first, "exit")).await.unwrap();
    let live = session(&["wide", "narrow"]);
    assert!(start(&mut one, live).await.is_err(), "three are left");
}

#[tokio::test]
async fn a_role_that_has_run_out_is_not_held() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &["ubuntu"]).await;
    let mut admin = cluster.admin().await;
    let mut expire = async |end: i64| {
        let end = time::OffsetDateTime::from_unix_timestamp(mezite_net::clock::now_unix().cast_signed() + end).unwrap();
        let spec = serde_json::json!({
            "roles": ["access"], "traits": { "logins": ["ubuntu"] }, "expires": { "access": mezite_core::when::seconds(end) }
        });
        let spec = spec.to_string().into_bytes();
        let request = PutObjectRequest { kind: "user".into(), name: "alice".into(), spec, expected_revision: None };
        admin.client.put_object(admin.with(request)).await.unwrap();
        end.unix_timestamp()
    };
    let end = expire(600).await;
    let request = certificate(&alice);
    let issued = alice.client.issue_user_certs(request).await.unwrap().into_inner();
    assert_eq!((issued.valid_before_unix, issued.logins.len()), (end, 1), "no longer than the role is held");
    expire(0).await;
    let request = certificate(&alice);
    let issued = alice.client.issue_user_certs(request).await.unwrap().into_inner();
    assert!(issued.logins.is_empty() && issued.valid_before_unix > end, "{issued:?}");
    let who = alice.client.who_am_i(alice.with(WhoAmIRequest {})).await.unwrap().into_inner();
    assert!(who.roles.is_empty());
}

#[tokio::test]
async fn the_last_administrator_cannot_be_locked_or_given_an_end() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let put = |kind: &str, name: &str, spec: serde_json::Value| PutObjectRequest {
        kind: kind.into(),
        name: name.into(),
        spec: spec.to_string().into_bytes(),
        expected_revision: None,
    };
    let lock = |kind: &str, target: &str| {
        put("lock", &mezite_net::clock::uuid(), serde_json::json!({ "target_type": kind, "target": target }))
    };
    let ending = serde_json::json!({ "roles": ["admin"], "expires": { "admin": "2099-01-01T00:00:00Z" } });
    for request in [lock("user", "admin"), lock("role", "admin"), put("user", "admin", ending.clone())] {
        let refused = admin.client.put_object(admin.with(request)).await.unwrap_err();
        assert!(refused.message().contains("nobody to administer"), "{refused}");
    }
    cluster.new_user("bob", &["admin"], &[]).await;
    admin.client.put_object(admin.with(put("user", "admin", ending))).await.unwrap();
    let refused = admin.client.put_object(admin.with(lock("user", "bob"))).await.unwrap_err();
    assert!(refused.message().contains("nobody to administer"), "{refused}");
}

#[tokio::test]
async fn a_revision_is_awaited_until_every_watcher_has_confirmed_it() {
    let cluster = Cluster::new().await;
    let (mut node, mut proxy) = (cluster.machine("node", "web-1").await, cluster.machine("proxy", "p").await);
    let mut admin = cluster.admin().await;
    let kinds = WatchRequest { kinds: vec!["lock".into()] };
    let mut events = node.client.watch(kinds.clone()).await.unwrap().into_inner();
    let _other = proxy.client.watch(kinds).await.unwrap();
    let revision = lock(&mut admin, "login", "root").await.revision;
    loop {
        let event = events.message().await.unwrap().unwrap();
        if event.revision >= revision && event.kind == "lock" {
            break;
        }
    }
    node.client.confirm_revision(ConfirmRevisionRequest { revision }).await.unwrap();
    let request = AwaitRevisionRequest { revision };
    let reply = admin.client.await_revision(admin.with(request)).await.unwrap().into_inner();
    let proxy_name = format!("proxy {}", proxy.certs.host_id);
    assert_eq!((reply.confirmed, reply.unconfirmed), (1, vec![proxy_name]));
    proxy.client.confirm_revision(ConfirmRevisionRequest { revision }).await.unwrap();
    let reply = admin.client.await_revision(admin.with(request)).await.unwrap().into_inner();
    assert_eq!((reply.confirmed, reply.unconfirmed.len()), (2, 0));
    let future = AwaitRevisionRequest { revision: revision + 1000 };
    let refused = admin.client.await_revision(admin.with(future)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
