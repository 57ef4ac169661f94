use std::net::{IpAddr, Ipv4Addr};

use mezite_core::Fault;
use mezite_core::kind::User;
use mezite_store::{Authority, Expect, Origin};
use sqlx::{Connection, SqliteConnection};
use time::Duration;

use crate::{NOW, open};

const HERE: Origin = Origin { source: IpAddr::V4(Ipv4Addr::LOCALHOST), pinned: false };

#[tokio::test]
async fn a_login_remembers_where_it_came_from() {
    let fresh = open().await;
    let store = &fresh.store;
    fresh.user("alice", &[]).await;
    let mut tx = store.begin(NOW).await.unwrap();
    let mapped = Origin { source: "::ffff:192.0.2.7".parse().unwrap(), pinned: true };
    tx.add_login("alice", "one", NOW + Duration::HOUR, mapped).await.unwrap();
    tx.add_login("alice", "two", NOW + Duration::HOUR, HERE).await.unwrap();
    tx.commit().await.unwrap();
    let [one, two] = ["one", "two"];
    let one = store.login(one, NOW).await.unwrap().unwrap();
    assert_eq!((one.source, one.pinned), (Some([192, 0, 2, 7].into()), true), "as IPv4");
    let two = store.login(two, NOW).await.unwrap().unwrap();
    assert_eq!((two.source, two.pinned), (Some(HERE.source), false));
}

#[tokio::test]
async fn a_login_lasts_until_it_expires_or_is_revoked() {
    let fresh = open().await;
    let store = &fresh.store;
    fresh.user("alice", &[]).await;
    let end = NOW + Duration::HOUR;
    let mut tx = store.begin(NOW).await.unwrap();
    for token in ["one", "two", "three"] {
        tx.add_login("alice", token, end, HERE).await.unwrap();
    }
    assert!(matches!(tx.add_login("nobody", "four", end, HERE).await, Err(Fault::NotFound(_))));
    tx.commit().await.unwrap();

    let login = store.login("one", end - Duration::SECOND).await.unwrap().unwrap();
    assert_eq!((login.username.as_str(), login.expires_at), ("alice", end));
    assert_eq!(store.login("one", end).await.unwrap(), None);
    assert_eq!(store.login("four", NOW).await.unwrap(), None);

    let mut tx = store.begin(NOW).await.unwrap();
    assert!(tx.revoke_login("one").await.unwrap());
    assert!(!tx.revoke_login("one").await.unwrap());
    assert_eq!(tx.revoke_logins("alice", Some("two")).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(store.login("one", NOW).await.unwrap(), None);
    assert_eq!(store.login("three", NOW).await.unwrap(), None);
    assert!(store.login("two", NOW).await.unwrap().is_some());

    let mut tx = store.begin(NOW).await.unwrap();
    tx.delete::<User>("alice", Expect::Any).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.login("two", NOW).await.unwrap(), None, "a login ends with its user");
}

#[tokio::test]
async fn bearer_secrets_are_not_in_the_database() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.add_login("alice", "bearer-secret", NOW + Duration::HOUR, HERE).await.unwrap();
    tx.add_invite("alice", "invite-secret", NOW + Duration::HOUR).await.unwrap();
    tx.commit().await.unwrap();
    fresh.store.close().await;
    let held = std::fs::read(fresh.path()).unwrap();
    for secret in ["bearer-secret", "invite-secret"] {
        assert!(!held.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret} is in the file");
    }
    assert!(held.windows(5).any(|w| w == b"alice"), "the file was looked at");
}

#[tokio::test]
async fn a_password_belongs_to_a_user() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    assert_eq!(fresh.store.password_hash("alice").await.unwrap(), None);
    let before = fresh.store.get::<User>("alice").await.unwrap();
    assert_eq!(before.status["has_password"], false);
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.set_password_hash("alice", "$2b$12$x").await.unwrap();
    assert!(matches!(tx.set_password_hash("nobody", "x").await, Err(Fault::NotFound(_))));
    tx.commit().await.unwrap();
    assert_eq!(fresh.store.password_hash("alice").await.unwrap().as_deref(), Some("$2b$12$x"));
    let after = fresh.store.get::<User>("alice").await.unwrap();
    assert_eq!((after.revision, &after.status["has_password"]), (before.revision, &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_used_once() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.add_invite("alice", "older", NOW + Duration::HOUR).await.unwrap();
    tx.add_invite("alice", "invite", NOW + Duration::HOUR).await.unwrap();
    tx.commit().await.unwrap();

    let mut late = fresh.store.begin(NOW + Duration::HOUR).await.unwrap();
    assert_eq!(late.use_invite("invite").await.unwrap(), None, "expired");
    drop(late);
    let mut undone = fresh.store.begin(NOW).await.unwrap();
    assert_eq!(undone.use_invite("older").await.unwrap(), None, "replaced by the second invite");
    assert!(undone.use_invite("invite").await.unwrap().is_some());
    drop(undone);

    let tasks: Vec<_> = (0..32)
        .map(|i| {
            let store = fresh.store.clone();
            tokio::spawn(async move {
                let mut tx = store.begin(NOW).await.unwrap();
                let Some(user) = tx.use_invite("invite").await.unwrap() else { return 0 };
                assert_eq!(user, "alice");
                tx.set_password_hash(&user, &format!("hash {i}")).await.unwrap();
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
    assert!(fresh.store.password_hash("alice").await.unwrap().is_some());
}

#[tokio::test]
async fn an_authority_keeps_its_key_and_its_slot() {
    let fresh = open().await;
    let active = Authority {
        id: "a".into(),
        kind: "user".into(),
        slot: "active".into(),
        public_key: "ssh-ed25519 AAAA".into(),
        private_key: vec![0, 159, 146, 150],
        cluster_name: "example".into(),
        phase: "standby".into(),
        x509_pem: None,
        created_at: NOW,
    };
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put_authority(&active).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(fresh.store.authorities().await.unwrap(), std::slice::from_ref(&active));
    assert!(!format!("{active:?}").contains("159"));

    let mut tx = fresh.store.begin(NOW).await.unwrap();
    let second = Authority { id: "b".into(), ..active.clone() };
    assert!(matches!(tx.put_authority(&second).await, Err(Fault::Conflict(_))), "the slot is taken");
    drop(tx);
    let moved = Authority { phase: "init".into(), public_key: "another".into(), ..active.clone() };
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.put_authority(&moved).await.unwrap();
    tx.put_authority(&Authority { slot: "standby".into(), ..second }).await.unwrap();
    tx.commit().await.unwrap();
    let held = fresh.store.authorities().await.unwrap();
    assert_eq!((held[0].phase.as_str(), held[0].public_key.as_str()), ("init", "ssh-ed25519 AAAA"));
    assert_eq!(held[1].slot, "standby");
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    assert!(tx.delete_authority("b").await.unwrap());
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_hot_backup_restores() {
    let fresh = open().await;
    fresh.user("alice", &["dev"]).await;
    // What `sqlite3 … ".backup"` does, while the store is open and a write is under way (F413).
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.set_password_hash("alice", "x").await.unwrap();
    let copy = fresh.dir.path().join("copy.db");
    let mut conn = SqliteConnection::connect(fresh.path().to_str().unwrap()).await.unwrap();
    sqlx::query("VACUUM INTO $1").bind(copy.to_str().unwrap()).execute(&mut conn).await.unwrap();
    tx.commit().await.unwrap();
    let options = mezite_store::Options { path: copy, readers: 1, audit_keys: crate::keys() };
    let restored = mezite_store::Store::open(options).await.unwrap();
    assert!(restored.find::<User>("alice").await.unwrap().is_some());
    assert_eq!(restored.password_hash("alice").await.unwrap(), None);
}
