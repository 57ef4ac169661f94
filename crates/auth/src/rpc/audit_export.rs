//! The audit log as a file, line by line ([`mezite_core::audit::export`]).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use mezite_core::audit::EventType;
use mezite_core::audit::chain::Head;
use mezite_core::audit::checkpoint::{Extent, Signed};
use mezite_core::audit::export::{Begin, Exported, FORMAT, Line};
use mezite_core::{Fault, Invalid, when};
use mezite_net::clock;
use mezite_proto::v1::{Chunk, ExportAuditRequest};
use mezite_store::StoredCheckpoint;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Answers;
use crate::caller::Caller;
use crate::checkpoint;
use crate::hub::Hub;

/// Size of a piece, in bytes; one is sent when it has reached this.
const PIECE: usize = 64 * 1024;
/// Pieces made ahead of a slow reader.
const AHEAD: usize = 2;

pub(super) async fn export(
    hub: &Arc<Hub>,
    caller: &Caller,
    request: ExportAuditRequest,
) -> Result<Answers<Chunk>, Fault> {
    let (since, until) = (moment("since", request.since_unix_ms)?, moment("until", request.until_unix_ms)?);
    let mut event = hub.event(EventType::AuditExported).resource("audit", "");
    for (name, bound) in [("since", since), ("until", until)] {
        if let Some(bound) = bound {
            event = event.detail(name, when::millis(bound));
        }
    }
    hub.store.audit(vec![caller.sign(event)]).await?;
    let end = checkpoint::advance(hub, true).await?;
    let (first, last) = match hub.store.audit_range(since, until).await? {
        Some((first, last)) if first <= end.seq => (first, last.min(end.seq)),
        _ => (end.seq + 1, end.seq),
    };
    let before = checkpoint::place(hub, first.saturating_sub(1)).await?;
    let (pieces, reader) = mpsc::channel(AHEAD);
    let writer = Writer { hub: Arc::clone(hub), pieces, text: String::new(), head: before, last };
    tokio::spawn(writer.run(first));
    Ok(Box::pin(ReceiverStream::new(reader)))
}

fn moment(field: &str, unix_ms: Option<i64>) -> Result<Option<OffsetDateTime>, Fault> {
    let read = |ms: i64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let moment = unix_ms.map(read).transpose();
    moment.map_err(|_| Invalid::new(field, "is not a time").into())
}

/// Writes one export.
struct Writer {
    hub: Arc<Hub>,
    pieces: mpsc::Sender<Result<Chunk, Status>>,
    text: String,
    head: Head,
    last: u64,
}

/// The reader went away, or the log cannot be exported; the reader was told.
struct Stopped;

impl Writer {
    async fn run(mut self, first: u64) {
        // An error is only that nobody reads.
        let _ = self.write(first).await;
    }

    async fn write(&mut self, first: u64) -> Result<(), Stopped> {
        let (cluster, before, at) = (self.hub.cluster().to_owned(), self.head.hash, clock::now());
        self.line(&Line::Begin(Begin { format: FORMAT, cluster: cluster.clone(), first, before, at })).await?;
        let mut checkpoints = VecDeque::new();
        while self.head.seq < self.last {
            self.stretch(&mut checkpoints).await?;
        }
        let extent = Extent { cluster, first, before, last: self.head.seq, hash: self.head.hash, at };
        let signed = self.hub.checkpoints.sign(&extent);
        let signed = self.check(signed).await?;
        self.line(&Line::End(signed)).await?;
        self.send().await
    }

    async fn stretch(&mut self, checkpoints: &mut VecDeque<StoredCheckpoint>) -> Result<(), Stopped> {
        let stretch = self.hub.store.audit_stretch(self.head).await;
        let stretch = self.check(stretch).await?;
        if stretch.records.is_empty() {
            let why =
                stretch.bad.map_or_else(|| format!("record {} is missing", self.head.seq + 1), |bad| bad.to_string());
            return self.fail(Status::data_loss(format!("{why}; run mezctl audit verify"))).await;
        }
        for (record, after) in stretch.records {
            if record.seq > self.last {
                return Ok(());
            }
            let text = String::from_utf8(record.canonical);
            let text = self.check(text.map_err(|e| Fault::Bug(e.to_string()))).await?;
            let event =
                serde_json::from_str(&text).map_err(|e| Fault::Bug(format!("audit record {}: {e}", record.seq)));
            let event = self.check(event).await?;
            let mac = record.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = Exported { seq: record.seq, key_id: record.key_id, mac, hash: after.hash, event };
            self.line(&Line::Record(line)).await?;
            self.head = after;
            self.checkpoint(checkpoints).await?;
        }
        Ok(())
    }

    /// The checkpoint over the record just written, if there is one.
    async fn checkpoint(&mut self, ahead: &mut VecDeque<StoredCheckpoint>) -> Result<(), Stopped> {
        if ahead.back().is_none_or(|last| last.seq < self.head.seq) {
            let page = self.hub.store.checkpoints_after(self.head.seq - 1).await;
            ahead.extend(self.check(page).await?);
        }
        while let Some(stored) = ahead.pop_front_if(|stored| stored.seq <= self.head.seq) {
            if stored.seq == self.head.seq {
                let signed: Result<Signed, _> = serde_json::from_str(&stored.signed);
                let signed = signed.map_err(|e| Fault::Conflict(format!("checkpoint {}: {e}", stored.seq)));
                let signed = self.check(signed).await?;
                self.line(&Line::Checkpoint(signed)).await?;
            }
        }
        Ok(())
    }

    async fn line(&mut self, line: &Line<'_>) -> Result<(), Stopped> {
        let text = line.print().ok_or_else(|| Fault::Bug("a line of an export cannot be written".into()));
        let text = self.check(text).await?;
        self.text.push_str(&text);
        if self.text.len() >= PIECE { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> Result<(), Stopped> {
        let data = Bytes::from(std::mem::take(&mut self.text));
        self.pieces.send(Ok(Chunk { data })).await.map_err(|_| Stopped)
    }

    async fn check<T>(&self, result: Result<T, Fault>) -> Result<T, Stopped> {
        match result {
            Ok(value) => Ok(value),
            Err(fault) => {
                self.hub.report("export_audit", &fault);
                self.fail(mezite_proto::status(&fault)).await
            }
        }
    }

    async fn fail<T>(&self, status: Status) -> Result<T, Stopped> {
        // The reader may be gone; then nobody needs to know.
        let _ = self.pieces.send(Err(status)).await;
        Err(Stopped)
    }
}
