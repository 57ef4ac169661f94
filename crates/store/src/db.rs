//! Opening the database and reading from it.

use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mezite_core::Fault;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Connection, Sqlite, SqliteConnection};
use time::OffsetDateTime;
use tokio::sync::{Mutex, broadcast, mpsc};

use crate::audit::{AuditKeys, append};
use crate::fault::column;
use crate::tx::{self, Tx};
use crate::watch::Change;
use crate::{fault, migrate};

/// A statement with its arguments.
pub(crate) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// How long a statement waits for another process that holds the database (`sqlite3 .backup`).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for its turn to write, or for a reading connection.
pub(crate) const TURN_TIMEOUT: Duration = Duration::from_secs(15);
/// Changes kept for a slow watcher before it has to start again.
const CHANGES_KEPT: usize = 4096;
/// Audit events that may wait for the writer.
const APPENDS_WAITING: usize = 1024;

/// Where the database is and how to open it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database file; created with mode 0600 when it is missing. Its directory must exist.
    pub path: PathBuf,
    /// Connections that read; at least one.
    pub readers: u32,
    /// Keys of the audit chain.
    pub audit_keys: AuditKeys,
}

/// The hub's database. Clones share one set of connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) read: SqlitePool,
    pub(crate) writer: Writer,
    pub(crate) appends: mpsc::Sender<append::Waiting>,
    path: PathBuf,
}

/// What it takes to write: the one connection, the turn, and where changes are told.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) pool: SqlitePool,
    pub(crate) turn: Arc<Mutex<()>>,
    pub(crate) changes: broadcast::Sender<Change>,
    pub(crate) keys: Arc<AuditKeys>,
}

impl Store {
    /// Opens the database, creating the file if needed, and applies the migrations that are missing.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] with `unable to open database file` when the path cannot be opened (F411);
    /// [`Fault::Conflict`] when the database is newer than this program.
    pub async fn open(options: Options) -> Result<Self, Fault> {
        create_private(&options.path);
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(TURN_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_release(|conn, _| Box::pin(tx::undo(conn)))
            .connect_with(connect_options(&options.path))
            .await
            .map_err(|e| at(&options.path, e))?;
        let mut conn = write.acquire().await.map_err(fault::db)?;
        migrate::up(&mut conn).await?;
        drop(conn);
        let read = SqlitePoolOptions::new()
            .max_connections(options.readers.max(1))
            .acquire_timeout(TURN_TIMEOUT)
            .connect_with(connect_options(&options.path).create_if_missing(false).pragma("query_only", "on"))
            .await
            .map_err(|e| at(&options.path, e))?;
        let writer = Writer {
            pool: write,
            turn: Arc::new(Mutex::new(())),
            changes: broadcast::Sender::new(CHANGES_KEPT),
            keys: Arc::new(options.audit_keys),
        };
        let (appends, waiting) = mpsc::channel(APPENDS_WAITING);
        tokio::spawn(append::run(writer.clone(), waiting));
        Ok(Self { inner: Arc::new(Inner { read, writer, appends, path: options.path }) })
    }

    /// What the boot log may say about where the data is; never holds a password (F408).
    pub fn address(&self) -> String {
        format!("sqlite://{}", self.inner.path.display())
    }

    /// Begins a write. Writes are serial, in the order of these calls: between here and [`Tx::commit`] nobody else writes,
    /// so do slow work (hashing, signing) before. Dropping the [`Tx`] undoes it. `now` is the time of everything in it.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the turn does not come within 15 s or the database cannot be written.
    pub async fn begin(&self, now: OffsetDateTime) -> Result<Tx, Fault> {
        self.inner.writer.begin(now).await
    }

    /// Changes of objects from here on, in the order of their commits. A receiver that falls 4096 behind is told so and
    /// must list again. Subscribe first, then list, then drop what is not newer than the list.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.inner.writer.changes.subscribe()
    }

    /// The revision of the newest change. Whatever is read after it is at least as new.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn revision(&self) -> Result<u64, Fault> {
        let row = self.row(sqlx::query("SELECT value FROM counter WHERE name = 'revision'")).await?;
        let row = row.ok_or_else(|| Fault::Bug("database: no revision counter".into()))?;
        column::<i64>(&row, 0).map(i64::unsigned_abs)
    }

    /// Answers whether the database can be written: takes the write lock and lets it go.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when it cannot.
    pub async fn ping(&self) -> Result<(), Fault> {
        let mut tx = self.begin(OffsetDateTime::UNIX_EPOCH).await?;
        tx.execute(sqlx::query("UPDATE counter SET value = value WHERE name = 'revision'")).await?;
        Ok(())
    }

    /// Waits for running statements and closes the files. Later calls fail with [`Fault::Unavailable`].
    pub async fn close(&self) {
        let _turn = self.inner.writer.turn.lock().await;
        self.inner.read.close().await;
        self.inner.writer.pool.close().await;
    }

    /// The schema versions known to this program and which of them the database at `path` has.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn plan(path: &Path) -> Result<Vec<migrate::Step>, Fault> {
        migrate::plan(&mut connect(path).await?).await
    }

    /// Undoes the newest `count` schema versions of the database at `path`, which no hub may have open. The answer is how
    /// many were undone. Data that only the newer schema can hold is lost.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn migrate_down(path: &Path, count: usize) -> Result<usize, Fault> {
        migrate::down(&mut connect(path).await?, count).await
    }

    pub(crate) async fn row(&self, query: Query<'_>) -> Result<Option<SqliteRow>, Fault> {
        query.fetch_optional(&self.inner.read).await.map_err(fault::db)
    }

    pub(crate) async fn rows(&self, query: Query<'_>) -> Result<Vec<SqliteRow>, Fault> {
        query.fetch_all(&self.inner.read).await.map_err(fault::db)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("address", &self.address()).finish_non_exhaustive()
    }
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
}

async fn connect(path: &Path) -> Result<SqliteConnection, Fault> {
    SqliteConnection::connect_with(&connect_options(path).create_if_missing(false)).await.map_err(|e| at(path, e))
}

/// SQLite would create the file with the umask's mode. A failure is left for SQLite to report, in its words.
fn create_private(path: &Path) {
    let _ = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
}

fn at(path: &Path, error: sqlx::Error) -> Fault {
    match fault::db(error) {
        Fault::Unavailable(why) => Fault::Unavailable(format!("{}: {why}", path.display())),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use mezite_core::audit::chain::ChainKey;
    use mezite_core::audit::checkpoint::Marks;
    use mezite_core::audit::{Event, EventType};
    use mezite_core::kind::{Role, RoleSpec};

    use super::*;
    use crate::{AuditFilter, Expect, Page};

    /// The database may grow by so many pages, as on a disk that is nearly full.
    async fn limit_growth(store: &Store, pages: i64) {
        let mut conn = store.inner.writer.pool.acquire().await.unwrap();
        let held: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut *conn).await.unwrap();
        let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", held + pages));
        sqlx::query(limit).fetch_one(&mut *conn).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let current = ChainKey::new(b"a key of the audit chain").unwrap();
        let audit_keys = AuditKeys { current, former: Vec::new() };
        let path = dir.path().join("mezhub.db");
        let store = Store::open(Options { path, readers: 1, audit_keys }).await.unwrap();
        let now = OffsetDateTime::UNIX_EPOCH;
        let event = |n: usize| Event::new(EventType::UserLogin, format!("e{n}"), now).detail("x", "y".repeat(3000));
        store.audit(vec![event(0)]).await.unwrap();

        limit_growth(&store, 2).await;
        let mut kept = 1;
        let refused = loop {
            match store.audit(vec![event(kept)]).await {
                Ok(()) => kept += 1,
                Err(fault) => break fault,
            }
            assert!(kept < 100, "the disk never filled up");
        };
        assert!(matches!(&refused, Fault::Unavailable(why) if why.contains("database or disk is full")), "{refused}");
        let mut tx = store.begin(now).await.unwrap();
        let spec = RoleSpec { description: "d".repeat(1000), ..RoleSpec::default() };
        let mut written = Ok(());
        for n in 0..100 {
            written = written.and(tx.put::<Role>(&format!("r{n}"), &spec, Expect::Absent).await.map(drop));
            if written.is_err() {
                break;
            }
        }
        assert!(matches!(written, Err(Fault::Unavailable(_))), "{written:?}");
        assert!(tx.find::<Role>("r0").await.is_err(), "a statement after that would stand alone");
        assert!(tx.commit().await.is_err());

        limit_growth(&store, 1000).await;
        store.audit(vec![event(kept)]).await.unwrap();
        assert!(store.all::<Role>().await.unwrap().is_empty());
        let events = store.audit_events(&AuditFilter::default(), &Page::default()).await.unwrap();
        assert_eq!(events.items.len(), kept + 1);
        assert_eq!(store.verify_audit(Marks::default()).await.unwrap().bad, None);
    }
}
