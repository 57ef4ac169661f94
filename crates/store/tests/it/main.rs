//! What every database behind the store has to do. Each test starts from [`open`].
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod files;
mod kill;
mod logins;
mod mfa;
mod migrations;
mod nodes;
mod objects;
mod sessions;

use std::path::PathBuf;

use mezite_core::audit::chain::ChainKey;
use mezite_core::kind::{Role, RoleSpec, User, UserSpec};
use mezite_store::{AuditKeys, Expect, Options, Store};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-03-24 15:00 UTC);

/// A fresh database in a directory of its own.
struct Fresh {
    store: Store,
    dir: TempDir,
}

impl Fresh {
    fn path(&self) -> PathBuf {
        self.dir.path().join("mezhub.db")
    }

    /// Opens the same database again, as after a restart.
    async fn reopen(self, keys: AuditKeys) -> Self {
        let path = self.path();
        drop(self.store);
        Self { store: Store::open(Options { path, readers: 2, audit_keys: keys }).await.unwrap(), dir: self.dir }
    }

    /// Runs statements past the store, as somebody with the file in hand would.
    async fn raw(&self, sql: &str) {
        let mut conn = SqliteConnection::connect(self.path().to_str().unwrap()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    async fn user(&self, name: &str, roles: &[&str]) {
        let mut tx = self.store.begin(NOW).await.unwrap();
        for role in roles {
            tx.put::<Role>(role, &RoleSpec::default(), Expect::Any).await.unwrap();
        }
        let spec = UserSpec { roles: roles.iter().map(|r| (*r).to_owned()).collect(), ..UserSpec::default() };
        tx.put::<User>(name, &spec, Expect::Absent).await.unwrap();
        tx.commit().await.unwrap();
    }
}

fn key(secret: &str) -> ChainKey {
    ChainKey::new(secret.as_bytes()).unwrap()
}

fn keys() -> AuditKeys {
    AuditKeys { current: key("a key of the audit chain"), former: Vec::new() }
}

async fn open() -> Fresh {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mezhub.db");
    let store = Store::open(Options { path, readers: 2, audit_keys: keys() }).await.unwrap();
    Fresh { store, dir }
}
