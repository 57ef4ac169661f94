//! What checkpoints and exports need of the log: verified stretches of it, places in it, and the checkpoints themselves.

use mezite_core::audit::chain::{BadRecord, Head, Record, Verifier};
use mezite_core::{Fault, when};
use sqlx::{QueryBuilder, Sqlite};
use time::OffsetDateTime;

use super::verify::{batch, read};
use crate::fault::{self, column};
use crate::{Store, Tx};

/// Records read at a time; together at most 25 MiB.
const STRETCH: i64 = 100;

/// Records that follow each other and verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Each with the place in the chain after it; empty at the end of the log.
    pub records: Vec<(Record, Head)>,
    /// Why there are no more: the first record after them that does not verify.
    pub bad: Option<BadRecord>,
}

/// A signed checkpoint as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Number of the record it was stored for. What counts is what it says itself.
    pub seq: u64,
    /// JSON of a signed statement.
    pub signed: String,
}

impl Store {
    /// The records after `head`, at most 100 of them, verified with the keys of the chain.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read. A record that does not verify is no error but an answer.
    pub async fn audit_stretch(&self, head: Head) -> Result<Stretch, Fault> {
        let mut conn = self.inner.read.acquire().await.map_err(fault::db)?;
        let rows = batch(&mut conn, head.seq.cast_signed(), STRETCH).await?;
        let keys = self.inner.writer.keys.all();
        let mut verifier = Verifier::after(&keys, head);
        let mut stretch = Stretch { records: Vec::with_capacity(rows.len()), bad: None };
        for row in &rows {
            let (record, _) = read(row).map_err(fault::db)?;
            if let Err(bad) = verifier.push(&record) {
                stretch.bad = Some(bad);
                break;
            }
            stretch.records.push((record, verifier.head()));
        }
        Ok(stretch)
    }

    /// Number of the last record and id of its key; `None` for an empty log.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn audit_end(&self) -> Result<Option<(u64, String)>, Fault> {
        let row = self.row(sqlx::query("SELECT seq, key_id FROM audit_head")).await?;
        row.map(|row| Ok((column::<i64>(&row, 0)?.unsigned_abs(), column(&row, 1)?))).transpose()
    }

    /// The numbers of the first and the last record at or after `since` and before `until`; `None` when there is none. A clock
    /// that went backwards may have put others between them.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn audit_range(
        &self,
        since: Option<OffsetDateTime>,
        until: Option<OffsetDateTime>,
    ) -> Result<Option<(u64, u64)>, Fault> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT min(seq), max(seq) FROM audit_events WHERE true");
        if let Some(since) = since {
            query.push(" AND created_at >= ").push_bind(when::millis(since));
        }
        if let Some(until) = until {
            query.push(" AND created_at < ").push_bind(when::millis(until));
        }
        let Some(row) = self.row(query.build()).await? else { return Ok(None) };
        let ends = (column::<Option<i64>>(&row, 0)?, column::<Option<i64>>(&row, 1)?);
        Ok(ends.0.zip(ends.1).map(|(first, last)| (first.unsigned_abs(), last.unsigned_abs())))
    }

    /// The newest checkpoint over a record up to `seq`.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn newest_checkpoint(&self, seq: u64) -> Result<Option<StoredCheckpoint>, Fault> {
        let sql = "SELECT seq, signed FROM audit_checkpoints WHERE seq <= $1 ORDER BY seq DESC LIMIT 1";
        let row = self.row(sqlx::query(sql).bind(i64::try_from(seq).unwrap_or(i64::MAX))).await?;
        row.as_ref().map(stored).transpose()
    }

    /// The checkpoints over records after `seq`, in order, at most 1000.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn checkpoints_after(&self, seq: u64) -> Result<Vec<StoredCheckpoint>, Fault> {
        let sql = "SELECT seq, signed FROM audit_checkpoints WHERE seq > $1 ORDER BY seq LIMIT 1000";
        let rows = self.rows(sqlx::query(sql).bind(i64::try_from(seq).unwrap_or(i64::MAX))).await?;
        rows.iter().map(stored).collect()
    }
}

impl Tx {
    /// Keeps a checkpoint; one over the same record that is there stays.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn add_checkpoint(&mut self, seq: u64, signed: &str) -> Result<(), Fault> {
        let sql = "INSERT INTO audit_checkpoints (seq, signed) VALUES ($1, $2) ON CONFLICT (seq) DO NOTHING";
        self.execute(sqlx::query(sql).bind(seq.cast_signed()).bind(signed)).await.map(drop)
    }
}

fn stored(row: &sqlx::sqlite::SqliteRow) -> Result<StoredCheckpoint, Fault> {
    Ok(StoredCheckpoint { seq: column::<i64>(row, 0)?.unsigned_abs(), signed: column(row, 1)? })
}
