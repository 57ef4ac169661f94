//! Verifying the whole log.

use mezite_core::audit::Columns;
use mezite_core::audit::chain::{ChainKey, Head, Record, Verifier, chain_mac};
use mezite_core::audit::checkpoint::{Divergence, Marks};
use mezite_core::text::unhex;
use mezite_core::{Fault, when};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::END;
use super::append::stamp;
use crate::{Store, fault, secret};

/// Records read at a time.
const BATCH: i64 = 500;

/// The outcome of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// Records that verified, from the first on.
    pub records: u64,
    /// Runs of records under one key among them.
    pub segments: u32,
    /// The end of what verified; compare it with one kept elsewhere.
    pub head: Head,
    /// The first thing that does not verify.
    pub bad: Option<BadEvent>,
    /// Where a log that verifies by itself leaves the marks it was held against.
    pub diverged: Option<Divergence>,
}

/// Something in the log that does not verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEvent {
    /// Number in the chain.
    pub seq: u64,
    /// Id of the event; empty where there is none to name.
    pub id: String,
    /// What is wrong.
    pub why: String,
}

impl Store {
    /// Verifies every record, every column beside it, and the end of the chain, as they stood when the call began, and holds
    /// them against `marks`.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read. What was tampered with is no error but a report.
    pub async fn verify_audit(&self, mut marks: Marks) -> Result<AuditReport, Fault> {
        let keys = self.inner.writer.keys.all();
        let mut snapshot = self.inner.read.begin().await.map_err(fault::db)?;
        let mut verifier = Verifier::new(&keys);
        let mut report = AuditReport { records: 0, segments: 0, head: verifier.head(), bad: None, diverged: None };
        let mut key_id = String::new();
        // A record may have been given any number, so the first batch begins below all of them.
        let mut after = i64::MIN;
        loop {
            let rows = batch(&mut snapshot, after, BATCH).await?;
            let Some(last) = rows.last() else { break };
            after = last.try_get(0).map_err(fault::db)?;
            for row in &rows {
                let (record, id) = match read(row) {
                    Ok(read) => read,
                    Err(e) => return Ok(found(report, verifier.head().seq + 1, String::new(), e.to_string())),
                };
                if let Err(bad) = verifier.push(&record) {
                    return Ok(found(report, bad.seq, id, bad.why.to_string()));
                }
                if record.key_id != key_id {
                    key_id = record.key_id;
                    report.segments += 1;
                }
                report.records += 1;
                report.head = verifier.head();
                marks.pass(&report.head);
            }
        }
        match check_end(&mut snapshot, &keys, verifier.head()).await? {
            Some(why) => Ok(found(report, verifier.head().seq + 1, String::new(), why)),
            None => Ok(AuditReport { diverged: marks.verdict(report.head.seq).err(), ..report }),
        }
    }
}

fn found(mut report: AuditReport, seq: u64, id: String, why: String) -> AuditReport {
    report.bad = Some(BadEvent { seq, id, why });
    report
}

pub(super) async fn batch(conn: &mut SqliteConnection, after: i64, limit: i64) -> Result<Vec<SqliteRow>, Fault> {
    sqlx::query(
        "SELECT seq, id, event_type, event_code, \"user\", resource, action, status, session_id, metadata, created_at,
           key_id, mac
         FROM audit_events WHERE seq > $1 ORDER BY seq LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(fault::db)
}

pub(super) fn read(row: &SqliteRow) -> Result<(Record, String), sqlx::Error> {
    let column = |index: usize| row.try_get::<String, _>(index);
    let seq: i64 = row.try_get(0)?;
    let id = column(1)?;
    let columns = Columns {
        id: id.clone(),
        event_type: column(2)?,
        event_code: column(3)?,
        user: column(4)?,
        resource: column(5)?,
        action: column(6)?,
        status: match column(7)?.as_str() {
            "success" => "success",
            "failure" => "failure",
            _ => "",
        },
        session_id: column(8)?,
        created_at: unix_ms(&column(10)?),
    };
    let record = Record {
        seq: u64::try_from(seq).unwrap_or(0),
        key_id: column(11)?,
        mac: unhex(&column(12)?).unwrap_or_default(),
        canonical: column(9)?.into_bytes(),
        columns: Some(columns),
    };
    Ok((record, id))
}

/// The time of a column; text that differs from what we write reads as no time at all.
fn unix_ms(text: &str) -> i64 {
    let at = when::parse(text).map_or(i128::MIN, |at| at.unix_timestamp_nanos().div_euclid(1_000_000));
    i64::try_from(at).ok().filter(|ms| stamp(*ms) == text).unwrap_or(i64::MIN)
}

/// Compares the end of the records with the stored end of the chain.
async fn check_end(conn: &mut SqliteConnection, keys: &[ChainKey], end: Head) -> Result<Option<String>, Fault> {
    let row: Option<(i64, String, String, String)> = sqlx::query_as("SELECT seq, mac, key_id, seal FROM audit_head")
        .fetch_optional(conn)
        .await
        .map_err(fault::db)?;
    let Some((seq, mac, key_id, seal)) = row else {
        return Ok((end.seq > 0).then(|| "the stored end of the chain is missing".into()));
    };
    if seq.unsigned_abs() > end.seq {
        return Ok(Some(format!("records up to {seq} were written and are missing")));
    }
    let Some(key) = keys.iter().find(|key| key.id() == key_id) else {
        return Ok(Some("the key of the end of the chain is not known; give the former key as well".into()));
    };
    let expected = (end.seq, secret::hex(&end.mac), secret::hex(&chain_mac(key, end.seq, &end.mac, END)));
    let same = (seq.unsigned_abs(), mac, seal) == expected;
    Ok((!same).then(|| "the stored end of the chain was changed".into()))
}
