//! Opening the database, and the one way to write to it.

use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mezite_core::{Fault, when};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Sqlite, SqliteConnection, Transaction};
use time::OffsetDateTime;
use tokio::sync::{Mutex, OwnedMutexGuard, broadcast, mpsc};

use crate::audit::{AuditKeys, append};
use crate::watch::Change;
use crate::{fault, migrate};

/// How long a statement waits for another process that holds the database (`sqlite3 .backup`).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for its turn to write, or for a reading connection.
const TURN_TIMEOUT: Duration = Duration::from_secs(15);
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
    pool: SqlitePool,
    turn: Arc<Mutex<()>>,
    changes: broadcast::Sender<Change>,
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

    /// Answers whether the database can be written: takes the write lock and lets it go.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when it cannot.
    pub async fn ping(&self) -> Result<(), Fault> {
        let mut tx = self.begin(OffsetDateTime::UNIX_EPOCH).await?;
        sqlx::query("UPDATE counter SET value = value WHERE name = 'revision'")
            .execute(tx.conn())
            .await
            .map_err(fault::db)?;
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

    pub(crate) async fn read(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>, Fault> {
        self.inner.read.acquire().await.map_err(fault::db)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Writer {
    pub(crate) async fn begin(&self, now: OffsetDateTime) -> Result<Tx, Fault> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turn).lock_owned())
            .await
            .map_err(|_| Fault::Unavailable("database: too many writes are waiting; try again".into()))?;
        let inner = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(fault::db)?;
        Ok(Tx { inner, turn, writer: self.clone(), now, changes: Vec::new() })
    }
}

/// One write: what is put, deleted, used up and audited through it commits together or not at all.
#[must_use = "a transaction that is not committed is undone"]
pub struct Tx {
    // Declared before `turn`: the connection goes back before the next writer may start.
    inner: Transaction<'static, Sqlite>,
    turn: OwnedMutexGuard<()>,
    pub(crate) writer: Writer,
    now: OffsetDateTime,
    changes: Vec<Change>,
}

impl Tx {
    /// The time given to [`Store::begin`].
    pub fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// Makes everything durable, then tells the watchers. It runs to its end even when the caller goes away, so that no
    /// committed change is left untold.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written; nothing was changed then.
    pub async fn commit(self) -> Result<(), Fault> {
        let Self { inner, turn, writer, changes, .. } = self;
        let committing = tokio::spawn(async move {
            inner.commit().await.map_err(fault::db)?;
            for change in changes {
                // An error only says that nobody listens.
                let _ = writer.changes.send(change);
            }
            drop(turn);
            Ok(())
        });
        committing.await.map_err(|e| Fault::Unavailable(format!("database: commit was cut off: {e}")))?
    }

    /// Adds a change that is no object of a kind (`trust`, `termination`) to what watchers are told after the commit.
    pub fn announce(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(crate) fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }

    pub(crate) fn stamp(&self) -> String {
        when::millis(self.now)
    }

    /// The next number of the one counter that all objects share, so that revisions order changes across kinds and a name
    /// that is used again never gets an old revision.
    pub(crate) async fn next_revision(&mut self) -> Result<i64, Fault> {
        sqlx::query_scalar("UPDATE counter SET value = value + 1 WHERE name = 'revision' RETURNING value")
            .fetch_one(self.conn())
            .await
            .map_err(fault::db)
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("now", &self.now).finish_non_exhaustive()
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
