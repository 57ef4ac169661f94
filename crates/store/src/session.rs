//! SSH sessions and the index of their recordings: facts reported by agents.

use mezite_core::{Fault, when};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite};
use time::OffsetDateTime;

use crate::fault::column;
use crate::page::{Listed, Page};
use crate::{Store, Tx};

/// One SSH session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// UUID made by the agent.
    pub id: String,
    /// `shell`, `exec` or `subsystem`.
    pub kind: String,
    /// Name of the user.
    pub user: String,
    /// Id of the node.
    pub node_id: String,
    /// OS login.
    pub login: String,
    /// When it began.
    pub started_at: OffsetDateTime,
    /// When it ended; `None` while it lives.
    pub ended_at: Option<OffsetDateTime>,
    /// Why it ended, in one word; empty while it lives.
    pub ended_reason: String,
    /// Exit status or signal; empty when unknown.
    pub exit: String,
    /// Empty (not recorded), `recording`, `complete` or `incomplete`.
    pub recording_state: String,
    /// What is only shown.
    pub detail: Detail,
}

/// The part of a session that no query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detail {
    /// Id of the user.
    pub user_id: String,
    /// Roles the user had.
    pub roles: Vec<String>,
    /// Name of the node at that time.
    pub node_name: String,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Command line of `exec`, name of `subsystem`.
    pub command: String,
    /// Address of the client.
    pub client_ip: String,
    /// Whether a terminal was asked for.
    pub pty: bool,
    /// Whether it is recorded.
    pub recorded: bool,
    /// Whom it waits for, in words; empty when it runs.
    pub waiting: String,
}

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Only those that have not ended.
    pub active_only: bool,
    /// Only those of this user.
    pub user: Option<String>,
    /// Only those on the node of this id.
    pub node_id: Option<String>,
    /// Skip this many of the newest; for callers that count pages.
    pub offset: u32,
}

/// The index entry of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The session.
    pub session: Session,
    /// Compressed length of all chunks.
    pub bytes: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// Length of the session in the recording.
    pub duration_ms: u64,
    /// Last value of the chain over the chunks, hex; empty until it is sealed.
    pub root: String,
    /// Whether it is sealed and has an end.
    pub complete: bool,
}

/// What a seal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRecording {
    /// Number of chunks.
    pub chunks: u64,
    /// Compressed length of all chunks.
    pub bytes: u64,
    /// Length of the session in the recording.
    pub duration_ms: u64,
    /// Last value of the chain over the chunks, hex.
    pub root: String,
    /// Whether the recorder lived to the end.
    pub complete: bool,
}

const COLUMNS: &str = "s.id, s.type, s.\"user\", s.node_id, s.login, s.started_at, s.ended_at, s.ended_reason, \
    s.\"exit\", s.recording_state, s.detail";

impl Tx {
    /// Records the start of a session. Saying it again changes nothing.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when the id belongs to a session of another node or user.
    pub async fn start_session(&mut self, session: &Session) -> Result<(), Fault> {
        let detail = serde_json::to_string(&session.detail).map_err(|e| Fault::Bug(e.to_string()))?;
        let done = self.execute(sqlx::query(
            "INSERT INTO sessions (id, type, \"user\", node_id, login, started_at, recording_path, recording_state, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (id) DO UPDATE SET id = id WHERE node_id = $4 AND \"user\" = $3",
        )
        .bind(&session.id)
        .bind(&session.kind)
        .bind(&session.user)
        .bind(&session.node_id)
        .bind(&session.login)
        .bind(when::millis(session.started_at))
        .bind(session.detail.recorded.then(|| crate::files::relative(&session.id)).flatten())
        .bind(&session.recording_state)
        .bind(detail)).await?;
        if done == 0 {
            return Err(Fault::Conflict(format!("session {} belongs to another node or user", session.id)));
        }
        Ok(())
    }

    /// Writes what is only shown of a session anew.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn set_session_detail(&mut self, session_id: &str, detail: &Detail) -> Result<(), Fault> {
        let detail = serde_json::to_string(detail).map_err(|e| Fault::Bug(e.to_string()))?;
        let update = sqlx::query("UPDATE sessions SET detail = $2 WHERE id = $1").bind(session_id).bind(detail);
        self.execute(update).await?;
        Ok(())
    }

    /// Records the end of a session, and its start if that was never delivered. The first end counts; the answer is whether
    /// this was it.
    ///
    /// # Errors
    /// As [`Tx::start_session`].
    pub async fn end_session(&mut self, session: &Session) -> Result<bool, Fault> {
        self.start_session(session).await?;
        let ended_at = session.ended_at.unwrap_or_else(|| self.now());
        let done = self.execute(sqlx::query(
            "UPDATE sessions SET ended_at = $2, ended_reason = $3, \"exit\" = $4 WHERE id = $1 AND ended_at IS NULL",
        )
        .bind(&session.id)
        .bind(when::millis(ended_at))
        .bind(&session.ended_reason)
        .bind(&session.exit)).await?;
        Ok(done == 1)
    }

    /// Opens the index entry of a recording. Saying it again changes nothing.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when the session is not known.
    pub async fn open_recording(&mut self, session_id: &str) -> Result<(), Fault> {
        let done = self
            .execute(
                sqlx::query(
                    "INSERT INTO recordings (session_id, \"user\", started_at)
             SELECT id, \"user\", started_at FROM sessions WHERE id = $1
             ON CONFLICT (session_id) DO UPDATE SET session_id = session_id",
                )
                .bind(session_id),
            )
            .await?;
        if done == 0 {
            return Err(Fault::NotFound(format!("session {session_id} does not exist")));
        }
        self.set_recording_state(session_id, "recording").await
    }

    /// Closes the index entry of a recording. A sealed one is never changed: the answer is whether this was the seal.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn seal_recording(&mut self, session_id: &str, seal: &SealedRecording) -> Result<bool, Fault> {
        let now = self.stamp();
        let done = self.execute(sqlx::query(
            "UPDATE recordings SET sealed_at = $2, chunks = $3, bytes = $4, duration_ms = $5, root = $6, complete = $7
             WHERE session_id = $1 AND sealed_at IS NULL",
        )
        .bind(session_id)
        .bind(now)
        .bind(seal.chunks.cast_signed())
        .bind(seal.bytes.cast_signed())
        .bind(seal.duration_ms.cast_signed())
        .bind(&seal.root)
        .bind(seal.complete)).await?;
        if done == 0 {
            return Ok(false);
        }
        self.set_recording_state(session_id, if seal.complete { "complete" } else { "incomplete" }).await?;
        Ok(true)
    }

    async fn set_recording_state(&mut self, session_id: &str, state: &str) -> Result<(), Fault> {
        self.execute(
            sqlx::query(
                "UPDATE sessions SET recording_state = $2, recording_path = coalesce(recording_path, $3)
             WHERE id = $1 AND recording_state IN ('', 'recording')",
            )
            .bind(session_id)
            .bind(state)
            .bind(crate::files::relative(session_id)),
        )
        .await?;
        Ok(())
    }
}

impl Store {
    /// The session of this id, if there is one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn session(&self, id: &str) -> Result<Option<Session>, Fault> {
        let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {COLUMNS} FROM sessions s WHERE s.id = "));
        query.push_bind(id);
        let row = self.row(query.build()).await?;
        row.as_ref().map(decode).transpose()
    }

    /// How many sessions of a user live, besides the one of this id.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn live_sessions(&self, user: &str, besides: &str) -> Result<u64, Fault> {
        let sql = "SELECT count(*) FROM sessions WHERE \"user\" = $1 AND ended_at IS NULL AND id <> $2";
        let row = self.row(sqlx::query(sql).bind(user).bind(besides)).await?;
        row.map_or(Ok(0), |row| column::<i64>(&row, 0).map(i64::unsigned_abs))
    }

    /// Sessions, newest first, one page at a time.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a page token that is not ours.
    pub async fn sessions(&self, filter: &SessionFilter, page: &Page) -> Result<Listed<Session>, Fault> {
        let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {COLUMNS} FROM sessions s WHERE true"));
        if filter.active_only {
            query.push(" AND s.ended_at IS NULL");
        }
        if let Some(user) = &filter.user {
            query.push(" AND s.\"user\" = ").push_bind(user);
        }
        if let Some(node_id) = &filter.node_id {
            query.push(" AND s.node_id = ").push_bind(node_id);
        }
        push_page(&mut query, page, filter.offset)?;
        let rows = self.rows(query.build()).await?;
        let sessions = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        Ok(Listed::cut(sessions, page, token))
    }

    /// The index entry of one recording, if there is one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn recording(&self, session_id: &str) -> Result<Option<Recording>, Fault> {
        let mut query = recordings();
        query.push(" WHERE s.id = ").push_bind(session_id);
        let row = self.row(query.build()).await?;
        row.as_ref().map(decode_recording).transpose()
    }

    /// Recordings of a user, or of all (`None`), newest first, one page at a time.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a page token that is not ours.
    pub async fn recordings(&self, user: Option<&str>, page: &Page) -> Result<Listed<Recording>, Fault> {
        let mut query = recordings();
        query.push(" WHERE true");
        if let Some(user) = user {
            query.push(" AND r.\"user\" = ").push_bind(user);
        }
        push_page(&mut query, page, 0)?;
        let rows = self.rows(query.build()).await?;
        let recordings = rows.iter().map(decode_recording).collect::<Result<Vec<_>, _>>()?;
        Ok(Listed::cut(recordings, page, |last| token(&last.session)))
    }
}

fn recordings() -> QueryBuilder<Sqlite> {
    QueryBuilder::new(format!(
        "SELECT {COLUMNS}, r.bytes, r.chunks, r.duration_ms, r.root, r.complete
         FROM recordings r JOIN sessions s ON s.id = r.session_id"
    ))
}

/// Newest first; the id settles the order of equal times, so that no page skips or repeats a row.
fn push_page(query: &mut QueryBuilder<Sqlite>, page: &Page, offset: u32) -> Result<(), Fault> {
    if !page.token.is_empty() {
        let bad = || mezite_core::Invalid::new("page_token", "is not a token of this list");
        let (started_at, id) = page.token.split_once(' ').ok_or_else(bad)?;
        query.push(" AND (s.started_at, s.id) < (").push_bind(started_at.to_owned());
        query.push(", ").push_bind(id.to_owned()).push(")");
    }
    query.push(" ORDER BY s.started_at DESC, s.id DESC LIMIT ").push_bind(page.limit() + 1);
    query.push(" OFFSET ").push_bind(offset);
    Ok(())
}

fn token(last: &Session) -> String {
    format!("{} {}", when::millis(last.started_at), last.id)
}

fn decode(row: &SqliteRow) -> Result<Session, Fault> {
    let optional = |index| column::<Option<String>>(row, index);
    Ok(Session {
        id: column(row, 0)?,
        kind: column(row, 1)?,
        user: column(row, 2)?,
        node_id: column(row, 3)?,
        login: column(row, 4)?,
        started_at: when::parse(&column::<String>(row, 5)?)?,
        ended_at: optional(6)?.map(|at| when::parse(&at)).transpose()?,
        ended_reason: optional(7)?.unwrap_or_default(),
        exit: optional(8)?.unwrap_or_default(),
        recording_state: column(row, 9)?,
        detail: serde_json::from_str(&column::<String>(row, 10)?).unwrap_or_default(),
    })
}

fn decode_recording(row: &SqliteRow) -> Result<Recording, Fault> {
    let count = |index| column::<i64>(row, index).map(i64::unsigned_abs);
    Ok(Recording {
        session: decode(row)?,
        bytes: count(11)?,
        chunks: count(12)?,
        duration_ms: count(13)?,
        root: column::<Option<String>>(row, 14)?.unwrap_or_default(),
        complete: column(row, 15)?,
    })
}
