use std::os::unix::fs::PermissionsExt;

use mezite_core::Fault;
use mezite_core::kind::User;
use mezite_store::{Options, Store};
use sqlx::{Connection, SqliteConnection};

use crate::{NOW, keys, open};

async fn schema(path: &std::path::Path) -> Vec<(String, String)> {
    let mut conn = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query_as(
        "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'schema_migrations' ORDER BY 1",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap()
}

#[tokio::test]
async fn down_and_up_with_data_gives_the_same_schema() {
    let fresh = open().await;
    fresh.user("alice", &["dev"]).await;
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.add_login("alice", "token", NOW, mezite_store::Origin { source: [127, 0, 0, 1].into(), pinned: true })
        .await
        .unwrap();
    tx.add_invite("alice", "token", NOW).await.unwrap();
    tx.commit().await.unwrap();
    fresh.store.close().await;
    let (path, before) = (fresh.path(), schema(&fresh.path()).await);
    let plan = Store::plan(&path).await.unwrap();
    assert!(plan.iter().all(|step| step.applied_at.is_some()));
    assert_eq!(plan[0].description, "init");

    assert_eq!(Store::migrate_down(&path, plan.len()).await.unwrap(), plan.len());
    assert!(schema(&path).await.is_empty());
    assert!(Store::plan(&path).await.unwrap().iter().all(|step| step.applied_at.is_none()));

    let fresh = fresh.reopen(keys()).await;
    assert_eq!(schema(&path).await, before);
    assert!(fresh.store.find::<User>("alice").await.unwrap().is_none());
}

#[tokio::test]
async fn opening_again_applies_nothing() {
    let fresh = open().await;
    let plan = Store::plan(&fresh.path()).await.unwrap();
    let fresh = fresh.reopen(keys()).await;
    assert_eq!(Store::plan(&fresh.path()).await.unwrap(), plan);
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let fresh = open().await;
    fresh.raw("INSERT INTO schema_migrations (version, description) VALUES (999, 'future')").await;
    let again = Store::open(Options { path: fresh.path(), readers: 1, audit_keys: keys() }).await;
    let Err(Fault::Conflict(why)) = again else { panic!("opened") };
    assert!(why.contains("schema version 999") && why.contains("newer mezhub"), "{why}");
}

#[tokio::test]
async fn a_path_that_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing").join("mezhub.db");
    let Err(Fault::Unavailable(why)) =
        Store::open(Options { path: path.clone(), readers: 1, audit_keys: keys() }).await
    else {
        panic!("opened")
    };
    assert!(why.contains("unable to open database file") && why.contains(path.to_str().unwrap()), "{why}");
}

#[tokio::test]
async fn something_else_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mezhub.db");
    std::fs::write(&path, "this is a letter, not a database; it is long enough to be taken for one".repeat(20))
        .unwrap();
    let opened = Store::open(Options { path, readers: 1, audit_keys: keys() }).await;
    assert!(matches!(opened, Err(Fault::Unavailable(_))), "{opened:?}");
}

#[tokio::test]
async fn the_file_is_private_and_its_address_is_plain() {
    let fresh = open().await;
    fresh.store.ping().await.unwrap();
    assert_eq!(std::fs::metadata(fresh.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fresh.store.address(), format!("sqlite://{}", fresh.path().display()));
    fresh.store.close().await;
    assert!(matches!(fresh.store.ping().await, Err(Fault::Unavailable(_))));
}
