//! The one way to write.

use std::fmt;
use std::sync::Arc;

use mezite_core::{Fault, when};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, SqliteConnection};
use time::OffsetDateTime;
use tokio::sync::OwnedMutexGuard;

use crate::db::{Query, TURN_TIMEOUT, Writer};
use crate::fault::{self, column};
use crate::watch::Change;

/// One write: what is put, deleted, used up and audited through it commits together or not at all.
///
/// After an error other than [`Fault::Conflict`], [`Fault::NotFound`] and [`Fault::Invalid`] it can only be dropped.
#[must_use = "a transaction that is not committed is undone"]
pub struct Tx {
    // Declared before `turn`: the connection goes back before the next writer may start.
    conn: PoolConnection<Sqlite>,
    turn: OwnedMutexGuard<()>,
    pub(crate) writer: Writer,
    now: OffsetDateTime,
    changes: Vec<Change>,
    /// SQLite undoes a transaction by itself when the disk is full or fails. A statement after that would stand alone.
    broken: bool,
}

impl Writer {
    pub(crate) async fn begin(&self, now: OffsetDateTime) -> Result<Tx, Fault> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turn).lock_owned())
            .await
            .map_err(|_| Fault::Unavailable("database: too many writes are waiting; try again".into()))?;
        let mut conn = self.pool.acquire().await.map_err(fault::db)?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await.map_err(fault::db)?;
        Ok(Tx { conn, turn, writer: self.clone(), now, changes: Vec::new(), broken: false })
    }
}

/// Ends whatever transaction a returning connection still has. A connection that cannot is closed.
///
/// The transactions of sqlx count on `ROLLBACK` to work; after SQLite undid one by itself it does not, and the connection
/// would be lost for good.
pub(crate) async fn undo(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    match sqlx::query("ROLLBACK").execute(conn).await {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(said)) => Ok(said.message().contains("no transaction is active")),
        Err(_) => Ok(false),
    }
}

impl Tx {
    /// The time given to [`Store::begin`](crate::Store::begin).
    pub fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// Makes everything durable, then tells the watchers. It runs to its end even when the caller goes away, so that no
    /// committed change is left untold.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written; nothing was changed then.
    pub async fn commit(self) -> Result<(), Fault> {
        self.whole()?;
        let Self { mut conn, turn, writer, changes, .. } = self;
        let committing = tokio::spawn(async move {
            sqlx::query("COMMIT").execute(&mut *conn).await.map_err(fault::db)?;
            for change in changes {
                // An error only says that nobody listens.
                let _ = writer.changes.send(change);
            }
            drop(conn);
            drop(turn);
            Ok(())
        });
        committing.await.map_err(|e| Fault::Unavailable(format!("database: commit was cut off: {e}")))?
    }

    /// Adds a change that is no object of a kind (`trust`, `termination`) to what watchers are told after the commit.
    pub fn announce(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(crate) fn stamp(&self) -> String {
        when::millis(self.now)
    }

    /// Runs a statement; answers how many rows it changed.
    pub(crate) async fn execute(&mut self, query: Query<'_>) -> Result<u64, Fault> {
        self.whole()?;
        let done = query.execute(&mut *self.conn).await;
        done.map(|done| done.rows_affected()).map_err(|e| self.broke(e))
    }

    pub(crate) async fn row(&mut self, query: Query<'_>) -> Result<Option<SqliteRow>, Fault> {
        self.whole()?;
        let row = query.fetch_optional(&mut *self.conn).await;
        row.map_err(|e| self.broke(e))
    }

    pub(crate) async fn rows(&mut self, query: Query<'_>) -> Result<Vec<SqliteRow>, Fault> {
        self.whole()?;
        let rows = query.fetch_all(&mut *self.conn).await;
        rows.map_err(|e| self.broke(e))
    }

    /// The next number of the one counter that all objects share, so that revisions order changes across kinds and a name
    /// that is used again never gets an old revision.
    pub(crate) async fn next_revision(&mut self) -> Result<u64, Fault> {
        let sql = "UPDATE counter SET value = value + 1 WHERE name = 'revision' RETURNING value";
        let row =
            self.row(sqlx::query(sql)).await?.ok_or_else(|| Fault::Bug("database: no revision counter".into()))?;
        column::<i64>(&row, 0).map(i64::unsigned_abs)
    }

    fn broke(&mut self, error: sqlx::Error) -> Fault {
        let fault = fault::db(error);
        self.broken |= !matches!(fault, Fault::Conflict(_));
        fault
    }

    fn whole(&self) -> Result<(), Fault> {
        if self.broken { Err(Fault::Unavailable("database: this write failed already".into())) } else { Ok(()) }
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("now", &self.now).finish_non_exhaustive()
    }
}
