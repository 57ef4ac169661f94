use mezite_core::Fault;
use mezite_core::kind::lock::TargetType;
use mezite_core::kind::node::NodeKind;
use mezite_core::kind::token::JoinRole;
use mezite_core::kind::{
    Config, ConfigSpec, Kind, Lock, LockSpec, Node, NodeSpec, Role, RoleSpec, Token, TokenSpec, User, UserSpec,
};
use mezite_store::{Change, Expect, Page, Store};
use sqlx::{Connection, Row, SqliteConnection};
use time::Duration;

use crate::{Fresh, NOW, open};

pub(crate) const NODE_ID: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

pub(crate) fn node(hostname: &str, node_id: &str) -> NodeSpec {
    NodeSpec {
        node_id: node_id.into(),
        hostname: hostname.into(),
        kind: NodeKind::Node,
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        ..NodeSpec::default()
    }
}

async fn life<K: Kind>(store: &Store, name: &str, spec: K::Spec) {
    assert_eq!(K::PLURAL, format!("{}s", K::KIND), "references rely on this");
    let mut tx = store.begin(NOW).await.unwrap();
    let made = tx.put::<K>(name, &spec, Expect::Absent).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(made.spec().unwrap(), &spec);
    assert_eq!((made.created_at, made.updated_at), (NOW, NOW));

    let mut tx = store.begin(NOW + Duration::HOUR).await.unwrap();
    let exists = tx.put::<K>(name, &spec, Expect::Absent).await.unwrap_err();
    assert!(matches!(exists, Fault::Conflict(_)), "{exists}");
    let stale = tx.put::<K>(name, &spec, Expect::Revision(made.revision + 1)).await.unwrap_err();
    assert!(matches!(stale, Fault::Conflict(_)), "{stale}");
    let next = tx.put::<K>(name, &spec, Expect::Revision(made.revision)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(next.revision > made.revision);
    assert_eq!((&next.id, next.created_at), (&made.id, NOW));
    assert_eq!(next.updated_at, NOW + Duration::HOUR);

    assert_eq!(store.get::<K>(name).await.unwrap().revision, next.revision);
    assert_eq!(store.find_by_id::<K>(&made.id).await.unwrap().unwrap().name, name);
    assert_eq!(store.all::<K>().await.unwrap().len(), 1);

    let mut tx = store.begin(NOW).await.unwrap();
    let stale = tx.delete::<K>(name, Expect::Revision(made.revision)).await.unwrap_err();
    assert!(matches!(stale, Fault::Conflict(_)), "{stale}");
    tx.delete::<K>(name, Expect::Revision(next.revision)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(matches!(store.get::<K>(name).await, Err(Fault::NotFound(_))));

    let mut tx = store.begin(NOW).await.unwrap();
    let gone = tx.put::<K>(name, &spec, Expect::Revision(next.revision)).await.unwrap_err();
    assert!(matches!(gone, Fault::NotFound(_)), "{gone}");
    let again = tx.put::<K>(name, &spec, Expect::Absent).await.unwrap();
    assert!(again.revision > next.revision, "a revision never comes back");
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn every_kind_lives_by_the_same_rules() {
    let fresh = open().await;
    let store = &fresh.store;
    life::<Role>(store, "dev", RoleSpec::default()).await;
    life::<User>(store, "alice", UserSpec { roles: vec!["dev".into()], ..UserSpec::default() }).await;
    life::<Node>(store, "web-1", node("web-1", NODE_ID)).await;
    let spec = TokenSpec { roles: vec![JoinRole::Node], expires: NOW + Duration::HOUR, labels: [].into() };
    life::<Token>(store, "t1", spec).await;
    let spec =
        LockSpec { target_type: TargetType::User, target: "alice".into(), message: String::new(), expires: None };
    life::<Lock>(store, "l1", spec).await;
    life::<Config>(store, "user_cert_ttl", ConfigSpec { value: "8h".into() }).await;
}

#[tokio::test]
async fn the_documented_columns_hold_what_the_spec_says() {
    let fresh = open().await;
    fresh.user("alice", &["dev"]).await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put::<Node>("web-1", &node("web-1", NODE_ID), Expect::Absent).await.unwrap();
    let spec: RoleSpec = serde_json::from_value(serde_json::json!({
        "options": {"max_session_ttl": "8h"},
        "allow": {"logins": ["ubuntu"], "node_labels": {"env": "prod"}},
    }))
    .unwrap();
    tx.put::<Role>("dev", &spec, Expect::Any).await.unwrap();
    tx.commit().await.unwrap();

    let mut conn = SqliteConnection::connect(fresh.path().to_str().unwrap()).await.unwrap();
    let row = sqlx::query("SELECT id, username, password_hash, roles, created_at, updated_at FROM users")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(row.get::<String, _>("username"), "alice");
    assert_eq!(row.get::<String, _>("roles"), r#"["dev"]"#);
    assert_eq!(row.get::<Option<String>, _>("password_hash"), None);
    assert_eq!(row.get::<String, _>("created_at"), "2026-03-24T15:00:00.000Z");
    let row = sqlx::query("SELECT id, hostname, addr, labels, last_heartbeat, tunnel_id FROM nodes")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(row.get::<String, _>("id"), NODE_ID);
    assert_eq!(row.get::<String, _>("hostname"), "web-1");
    assert_eq!(row.get::<String, _>("labels"), r#"{"env":"prod"}"#);
    let row = sqlx::query("SELECT id, name, allowed_logins, node_labels, max_session_ttl FROM roles")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(row.get::<String, _>("allowed_logins"), r#"["ubuntu"]"#);
    assert!(row.get::<String, _>("max_session_ttl").contains('8'));
    for (table, columns) in [
        ("certificate_authorities", "id, type, public_key, private_key, cluster_name, created_at"),
        ("sessions", "id, type, \"user\", node_id, started_at, ended_at, recording_path"),
        ("audit_events", "id, event_type, \"user\", resource, action, status, metadata, created_at"),
        (
            "access_requests",
            "id, \"user\", requested_roles, reason, state, resolved_by, created_at, resolved_at, expires_at",
        ),
        ("auth_connectors", "id, type, name, config, created_at"),
    ] {
        let sql = format!("SELECT {columns} FROM {table}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
    }
}

#[tokio::test]
async fn a_spec_that_is_wrong_or_refers_to_nothing_is_refused() {
    let fresh = open().await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    let spec = UserSpec { roles: vec!["nosuch".into()], ..UserSpec::default() };
    let Err(Fault::Invalid(invalid)) = tx.put::<User>("alice", &spec, Expect::Absent).await else {
        panic!("a role that does not exist was accepted")
    };
    assert_eq!(invalid.to_string(), "roles: role nosuch does not exist");
    let bad_name = tx.put::<User>("Alice", &UserSpec::default(), Expect::Absent).await;
    assert!(matches!(bad_name, Err(Fault::Invalid(_))));
}

#[tokio::test]
async fn what_is_in_use_is_not_deleted() {
    let fresh = open().await;
    fresh.user("alice", &["dev", "ops"]).await;
    for i in 0..6 {
        fresh.user(&format!("u{i}"), &["dev"]).await;
    }
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    let refused = tx.delete::<Role>("dev", Expect::Any).await.unwrap_err().to_string();
    assert_eq!(refused, "role dev is in use by user alice, user u0, user u1, user u2, user u3, 2 more");
    let spec = UserSpec { roles: vec!["dev".into()], ..UserSpec::default() };
    tx.put::<User>("alice", &spec, Expect::Any).await.unwrap();
    tx.delete::<Role>("ops", Expect::Any).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_node_keeps_its_name_until_it_is_deleted() {
    let fresh = open().await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put::<Node>("web-1", &node("web-1", NODE_ID), Expect::Any).await.unwrap();
    let other = node("web-1", "2b4e28ba-2fa1-41d2-883f-0016d3cca427");
    let taken = tx.put::<Node>("web-1", &other, Expect::Any).await.unwrap_err();
    assert!(matches!(taken, Fault::Conflict(_)), "{taken}");
    tx.delete::<Node>("web-1", Expect::Any).await.unwrap();
    assert_eq!(tx.put::<Node>("web-1", &other, Expect::Any).await.unwrap().id, other.node_id);
}

#[tokio::test]
async fn lists_come_in_pages_and_show_a_bad_row() {
    let fresh = open().await;
    for i in 0..5 {
        fresh.user(&format!("u{i}"), &[]).await;
    }
    fresh.raw("UPDATE users SET spec = '{\"roles\": 7}' WHERE name = 'u3'").await;
    let mut page = Page::first(2);
    let mut seen = Vec::new();
    loop {
        let listed = fresh.store.list::<User>(&page).await.unwrap();
        assert!(listed.items.len() <= 2);
        seen.extend(listed.items);
        let Some(next) = listed.next else { break };
        page.token = next;
    }
    let names: Vec<_> = seen.iter().map(|u| (u.name.as_str(), u.spec.is_ok())).collect();
    assert_eq!(names, [("u0", true), ("u1", true), ("u2", true), ("u3", false), ("u4", true)]);
    assert!(seen[3].spec().is_err());
}

#[tokio::test]
async fn watchers_hear_of_commits_in_order_and_of_nothing_else() {
    let fresh = open().await;
    let mut changes = fresh.store.subscribe();
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put::<Role>("undone", &RoleSpec::default(), Expect::Any).await.unwrap();
    drop(tx);
    fresh.user("alice", &["dev"]).await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.delete::<User>("alice", Expect::Any).await.unwrap();
    tx.announce(Change { kind: "trust", name: "trust".into(), revision: 0, json: Some("{}".into()) });
    tx.commit().await.unwrap();

    let mut heard = Vec::new();
    while let Ok(change) = changes.try_recv() {
        heard.push((change.kind, change.name, change.json.is_some(), change.revision));
    }
    let words: Vec<_> = heard.iter().map(|(kind, name, there, _)| (*kind, name.as_str(), *there)).collect();
    assert_eq!(
        words,
        [("role", "dev", true), ("user", "alice", true), ("user", "alice", false), ("trust", "trust", true)]
    );
    assert!(heard[0].3 < heard[1].3 && heard[1].3 < heard[2].3);
}

#[tokio::test]
async fn a_commit_outlives_its_caller() {
    let fresh = open().await;
    let mut changes = fresh.store.subscribe();
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put::<Role>("dev", &RoleSpec::default(), Expect::Any).await.unwrap();
    let mut commit = Box::pin(tx.commit());
    // One poll starts the commit; then the caller goes away.
    let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(commit.as_mut().poll(cx).is_ready())).await;
    drop(commit);
    assert_eq!(changes.recv().await.unwrap().name, "dev");
    assert!(fresh.store.find::<Role>("dev").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_take_turns() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    let tasks = (0..32).map(|_| {
        let store = fresh.store.clone();
        tokio::spawn(async move {
            loop {
                let held = store.get::<User>("alice").await.unwrap();
                let mut tx = store.begin(NOW).await.unwrap();
                let mut spec = held.spec().unwrap().clone();
                let n = spec.traits.entry("n".into()).or_insert_with(|| vec!["0".into()]);
                n[0] = (n[0].parse::<u32>().unwrap() + 1).to_string();
                match tx.put::<User>("alice", &spec, Expect::Revision(held.revision)).await {
                    Ok(_) => return tx.commit().await.unwrap(),
                    Err(Fault::Conflict(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(fresh.store.get::<User>("alice").await.unwrap().spec().unwrap().traits["n"], ["32"]);
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let fresh: Fresh = open().await;
    fresh.user("alice", &["dev"]).await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put::<Role>("undone", &RoleSpec::default(), Expect::Any).await.unwrap();
    drop(tx);
    let fresh = fresh.reopen(crate::keys()).await;
    assert!(fresh.store.find::<User>("alice").await.unwrap().is_some());
    assert!(fresh.store.find::<Role>("undone").await.unwrap().is_none());
}
