//! Adding records, alone in groups or as part of a write.

use mezite_core::audit::chain::{ChainKey, GENESIS, Mac, chain_mac};
use mezite_core::audit::{Columns, Event};
use mezite_core::text::unhex;
use mezite_core::{Fault, Invalid, when};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use super::END;
use crate::db::Writer;
use crate::fault::column;
use crate::{Store, Tx, secret};

/// Most requests that share one commit.
const GROUP: usize = 256;
/// Longest record, in bytes.
const MAX_RECORD: usize = 256 * 1024;

/// The keys of the chain. Debug shows ids only.
#[derive(Clone, Debug)]
pub struct AuditKeys {
    /// Signs new records. When it differs from the key of the last record, a new segment begins.
    pub current: ChainKey,
    /// Keys of older segments, for verification only (F420).
    pub former: Vec<ChainKey>,
}

impl AuditKeys {
    pub(super) fn all(&self) -> Vec<ChainKey> {
        std::iter::once(&self.current).chain(&self.former).cloned().collect()
    }
}

/// Events on their way to the writer.
pub(crate) struct Waiting {
    events: Vec<Event>,
    done: oneshot::Sender<Result<(), Fault>>,
}

impl Store {
    /// Appends events that belong to no other change. Many callers share one commit; the answer comes after it.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when they could not be made durable: none of them was kept, and whatever they stand for must
    /// not happen. [`Fault::Invalid`] when one is longer than 256 KiB.
    pub async fn audit(&self, events: Vec<Event>) -> Result<(), Fault> {
        let gone = || Fault::Unavailable("database: the audit writer has ended".into());
        let (done, answer) = oneshot::channel();
        self.inner.appends.send(Waiting { events, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Tx {
    /// Appends an event that commits together with the change it tells of.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written; [`Fault::Invalid`] when it is longer than 256 KiB.
    pub async fn audit(&mut self, event: &Event) -> Result<(), Fault> {
        let canonical = event.canonical();
        if canonical.len() > MAX_RECORD {
            return Err(Invalid::new("details", format!("audit record is longer than {MAX_RECORD} bytes")).into());
        }
        let (last, previous) = self.end().await?;
        let seq = last + 1;
        let keys = std::sync::Arc::clone(&self.writer.keys);
        let mac = chain_mac(&keys.current, seq, &previous, &canonical);
        self.insert(seq, &event.columns(), canonical, &mac, keys.current.id()).await?;
        self.execute(
            sqlx::query(
                "INSERT INTO audit_head (one, seq, mac, key_id, seal) VALUES (1, $1, $2, $3, $4)
             ON CONFLICT (one) DO UPDATE SET seq = $1, mac = $2, key_id = $3, seal = $4",
            )
            .bind(seq.cast_signed())
            .bind(secret::hex(&mac))
            .bind(keys.current.id())
            .bind(secret::hex(&chain_mac(&keys.current, seq, &mac, END))),
        )
        .await?;
        Ok(())
    }

    async fn has_event(&mut self, id: &str) -> Result<bool, Fault> {
        Ok(self.row(sqlx::query("SELECT 1 FROM audit_events WHERE id = $1").bind(id)).await?.is_some())
    }

    /// Number and MAC of the last record.
    async fn end(&mut self) -> Result<(u64, Mac), Fault> {
        let row = self.row(sqlx::query("SELECT seq, mac FROM audit_head")).await?;
        let Some(row) = row else { return Ok((0, GENESIS)) };
        // A head that makes no sense was written by somebody else; what follows it will not verify, and says so.
        let mac = unhex(&column::<String>(&row, 1)?).and_then(|mac| Mac::try_from(mac).ok()).unwrap_or(GENESIS);
        Ok((column::<i64>(&row, 0)?.unsigned_abs(), mac))
    }

    async fn insert(
        &mut self,
        seq: u64,
        columns: &Columns,
        canonical: Vec<u8>,
        mac: &Mac,
        key_id: &str,
    ) -> Result<(), Fault> {
        let metadata = String::from_utf8(canonical).map_err(|e| Fault::Bug(format!("audit record: {e}")))?;
        let insert = sqlx::query(
            "INSERT INTO audit_events
               (seq, id, event_type, event_code, \"user\", resource, action, status, session_id, metadata, created_at,
                key_id, mac)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(seq.cast_signed())
        .bind(&columns.id)
        .bind(&columns.event_type)
        .bind(&columns.event_code)
        .bind(&columns.user)
        .bind(&columns.resource)
        .bind(&columns.action)
        .bind(columns.status)
        .bind(&columns.session_id)
        .bind(metadata)
        .bind(stamp(columns.created_at))
        .bind(key_id)
        .bind(secret::hex(mac));
        match self.execute(insert).await {
            Ok(_) => Ok(()),
            Err(Fault::Conflict(_)) => Err(Fault::Conflict(format!(
                "audit record {seq} or event {} exists already; if it stays so, verify the audit log",
                columns.id
            ))),
            Err(other) => Err(other),
        }
    }
}

/// The one task that appends what waits, a group per commit. It ends with the last [`Store`].
pub(crate) async fn run(writer: Writer, mut waiting: mpsc::Receiver<Waiting>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let answers = commit(&writer, &group).await;
        for (index, one) in group.drain(..).enumerate() {
            let answer = match &answers {
                Ok(each) => each.get(index).cloned().unwrap_or(Ok(())),
                Err(fault) => Err(fault.clone()),
            };
            // The caller may be gone; the record is kept all the same.
            let _ = one.done.send(answer);
        }
    }
}

/// Appends a group. A request that is refused for itself does not fail the others; anything else fails the whole group.
async fn commit(writer: &Writer, group: &[Waiting]) -> Result<Vec<Result<(), Fault>>, Fault> {
    let mut tx = writer.begin(OffsetDateTime::UNIX_EPOCH).await?;
    let mut answers = Vec::with_capacity(group.len());
    for one in group {
        let fits = one.events.iter().all(|event| event.canonical().len() <= MAX_RECORD);
        if !fits {
            let long = Invalid::new("details", format!("audit record is longer than {MAX_RECORD} bytes"));
            answers.push(Err(long.into()));
            continue;
        }
        for event in &one.events {
            // Machines give their reports an id, for the refused user to name. One that is taken suppresses nothing.
            if tx.has_event(&event.id).await? {
                let id = uuid::Uuid::new_v4().to_string();
                tx.audit(&Event { id, ..event.clone() }).await?;
            } else {
                tx.audit(event).await?;
            }
        }
        answers.push(Ok(()));
    }
    tx.commit().await?;
    Ok(answers)
}

pub(super) fn stamp(unix_ms: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    when::millis(at.unwrap_or(OffsetDateTime::UNIX_EPOCH))
}
