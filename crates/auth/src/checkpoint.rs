//! Signed checkpoints of the audit log: every thousand records, every ten minutes while something happens, at the end of each
//! segment, at the stop, and for each export. What does not verify is never signed.
//!
//! The newest one also lies in `data_dir/audit.checkpoint`, outside the database, so that a start on an older copy of the
//! database says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mezite_core::Fault;
use mezite_core::audit::EventType;
use mezite_core::audit::chain::Head;
use mezite_core::audit::checkpoint::{Checkpoint, Mark, PublicKey, Signed, SigningKey, Statement, Unbelieved};
use mezite_core::audit::export::Line;
use mezite_net::clock;
use mezite_ssh::key::PrivateKey;
use tokio::sync::Mutex;

use crate::AuthError;
use crate::hub::Hub;

/// Most records between two checkpoints.
const EVERY: u64 = 1000;
/// Longest time that a record waits for a checkpoint.
const PERIOD: Duration = Duration::from_secs(600);
/// How often it is looked.
const LOOK: Duration = Duration::from_secs(10);

/// Makes checkpoints, one at a time.
pub(crate) struct Checkpoints {
    key: SigningKey,
    /// The newest checkpoint, outside the database.
    file: PathBuf,
    turn: Mutex<()>,
}

impl Checkpoints {
    /// Signs with this key, and keeps the newest checkpoint in `data_dir`.
    pub(crate) fn new(key: &PrivateKey, data_dir: &Path) -> Result<Self, AuthError> {
        let key = SigningKey::from_seed(&key.seed()).ok_or_else(|| AuthError::new("the audit key cannot be used"))?;
        Ok(Self { key, file: data_dir.join("audit.checkpoint"), turn: Mutex::default() })
    }

    /// The key by which everybody verifies.
    pub(crate) fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs a statement.
    pub(crate) fn sign<S: Statement>(&self, statement: &S) -> Result<Signed, Fault> {
        Signed::new(statement, &self.key).ok_or_else(|| Fault::Bug("a statement cannot be written".into()))
    }

    /// Reads a signed checkpoint from the database.
    fn open(&self, seq: u64, signed: &str) -> Result<Checkpoint, Fault> {
        self.believe(signed).map_err(|why| {
            Fault::Conflict(format!(
                "the checkpoint over audit record {seq} cannot be believed: {why}; run mezctl audit verify"
            ))
        })
    }

    fn believe(&self, signed: &str) -> Result<Checkpoint, Unbelieved> {
        let signed: Signed = serde_json::from_str(signed).map_err(|_| Unbelieved::Unreadable)?;
        signed.open(&[self.public()])
    }
}

/// Looks until the stop.
pub(crate) async fn run(hub: Arc<Hub>) {
    // The segment before this start may have ended.
    let mut all = true;
    loop {
        if let Err(fault) = advance(&hub, all).await {
            tracing::error!(%fault, "no checkpoint of the audit log can be signed");
        }
        all = false;
        if hub.stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

/// Signs what is due; with `all`, up to the last record. The answer is how far the log was followed.
///
/// # Errors
/// [`Fault::Conflict`] for the first record that does not verify, once everything before it is signed as due.
pub(crate) async fn advance(hub: &Hub, all: bool) -> Result<Head, Fault> {
    let _turn = hub.checkpoints.turn.lock().await;
    let newest = hub.store.newest_checkpoint(u64::MAX).await?;
    let newest = newest.map(|stored| hub.checkpoints.open(stored.seq, &stored.signed)).transpose()?;
    let start = newest.as_ref().map_or(Head::START, Checkpoint::head);
    let end = hub.store.audit_end().await?.map_or(0, |(seq, _)| seq);
    let late = newest.as_ref().is_none_or(|newest| clock::now() - newest.at >= PERIOD);
    let whole = (all || late) && end != start.seq;
    if !whole && end.saturating_sub(start.seq) < EVERY {
        return Ok(start);
    }
    let mut walk =
        Walk { head: start, segment: newest.map(|newest| newest.segment).unwrap_or_default(), signed: start.seq };
    loop {
        let stretch = hub.store.audit_stretch(walk.head).await?;
        let mut due: Vec<Checkpoint> =
            stretch.records.iter().filter_map(|(record, after)| walk.pass(hub, &record.key_id, *after)).collect();
        let ended = stretch.records.is_empty() || stretch.bad.is_some();
        if ended && whole && walk.head.seq > walk.signed {
            due.push(walk.sign_here(hub));
        }
        keep(hub, &due).await?;
        match stretch.bad {
            Some(bad) => return Err(Fault::Conflict(format!("{bad}; run mezctl audit verify"))),
            None if ended => return Ok(walk.head),
            None => {}
        }
    }
}

/// Where the log was followed to.
struct Walk {
    head: Head,
    segment: String,
    /// The newest record under a checkpoint.
    signed: u64,
}

impl Walk {
    /// Passes a record; the answer is the checkpoint that is due with it.
    fn pass(&mut self, hub: &Hub, key_id: &str, after: Head) -> Option<Checkpoint> {
        let segment_ended = key_id != self.segment && self.head.seq > self.signed;
        let due = segment_ended.then(|| self.sign_here(hub));
        (self.head, self.segment) = (after, key_id.to_owned());
        due.or_else(|| (after.seq - self.signed >= EVERY).then(|| self.sign_here(hub)))
    }

    fn sign_here(&mut self, hub: &Hub) -> Checkpoint {
        let Head { seq, mac, hash } = self.head;
        self.signed = seq;
        Checkpoint { cluster: hub.cluster().into(), segment: self.segment.clone(), seq, mac, hash, at: clock::now() }
    }
}

async fn keep(hub: &Hub, due: &[Checkpoint]) -> Result<(), Fault> {
    let Some(newest) = due.last() else { return Ok(()) };
    let mut tx = hub.store.begin(clock::now()).await?;
    for checkpoint in due {
        let signed = hub.checkpoints.sign(checkpoint)?;
        tx.add_checkpoint(checkpoint.seq, &json(&signed)?).await?;
    }
    tx.commit().await?;
    let line = Line::Checkpoint(hub.checkpoints.sign(newest)?).print().unwrap_or_default();
    if let Err(error) = write(&hub.checkpoints.file, &line).await {
        tracing::warn!(%error, file = %hub.checkpoints.file.display(), "the newest checkpoint cannot be kept here");
    }
    Ok(())
}

fn json(signed: &Signed) -> Result<String, Fault> {
    serde_json::to_string(signed).map_err(|e| Fault::Bug(format!("a checkpoint as JSON: {e}")))
}

async fn write(file: &Path, line: &str) -> std::io::Result<()> {
    let new = file.with_extension("checkpoint.new");
    tokio::fs::write(&new, line).await?;
    tokio::fs::rename(&new, file).await
}

/// Says when the database is older than the checkpoint beside it: somebody restored a backup, knowingly or not.
///
/// # Errors
/// [`AuthError`] when the database cannot be read or written.
pub(crate) async fn warn_of_older_database(hub: &Hub) -> Result<(), AuthError> {
    let Ok(line) = tokio::fs::read_to_string(&hub.checkpoints.file).await else { return Ok(()) };
    let known = mezite_core::audit::export::statement(line.trim_end()).ok().flatten();
    let known = known.and_then(|signed| signed.open::<Checkpoint>(&[hub.checkpoints.public()]).ok());
    let Some(known) = known.filter(|known| known.cluster == hub.cluster()) else {
        tracing::warn!(file = %hub.checkpoints.file.display(), "this is no checkpoint of this cluster; it is replaced");
        return Ok(());
    };
    let kept = hub.store.newest_checkpoint(known.seq).await?;
    let kept = kept.and_then(|stored| hub.checkpoints.open(stored.seq, &stored.signed).ok());
    if kept.is_some_and(|kept| kept.head() == known.head()) {
        return Ok(());
    }
    let end = hub.store.audit_end().await?.map_or(0, |(seq, _)| seq);
    tracing::warn!(
        records = end,
        missing = known.seq,
        "the database is older than the audit checkpoint beside it: a backup was restored; what happened since is not in it"
    );
    let event = hub.event(EventType::AuditRestored).resource("audit", "").detail("records", end);
    Ok(hub.store.audit(vec![event.detail("known_record", known.seq)]).await?)
}

/// The place in the chain after record `seq`, which is not beyond the end.
///
/// # Errors
/// [`Fault::Conflict`] for a record that does not verify on the way.
pub(crate) async fn place(hub: &Hub, seq: u64) -> Result<Head, Fault> {
    let from = hub.store.newest_checkpoint(seq).await?;
    let from = from.map(|stored| hub.checkpoints.open(stored.seq, &stored.signed)).transpose()?;
    let mut head = from.as_ref().map_or(Head::START, Checkpoint::head);
    while head.seq < seq {
        let stretch = hub.store.audit_stretch(head).await?;
        let reached = stretch.records.iter().map(|(_, after)| *after).take_while(|after| after.seq <= seq).last();
        match (reached, stretch.bad) {
            (Some(reached), _) => head = reached,
            (None, Some(bad)) => return Err(Fault::Conflict(format!("{bad}; run mezctl audit verify"))),
            (None, None) => return Err(Fault::Conflict(format!("audit record {} is missing", head.seq + 1))),
        }
    }
    Ok(head)
}

/// Adds the marks of all checkpoints in the database; the inner error names the first that cannot be believed.
///
/// # Errors
/// [`Fault::Unavailable`] when the database cannot be read.
pub(crate) async fn marks(hub: &Hub, marks: &mut Vec<Mark>) -> Result<Result<(), (u64, Unbelieved)>, Fault> {
    let mut after = 0;
    loop {
        let page = hub.store.checkpoints_after(after).await?;
        let Some(last) = page.last() else { return Ok(Ok(())) };
        after = last.seq;
        for stored in &page {
            match hub.checkpoints.believe(&stored.signed) {
                Ok(checkpoint) => marks.push(Mark::from(&checkpoint)),
                Err(why) => return Ok(Err((stored.seq, why))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::tests::hub;

    async fn signed(hub: &Hub) -> Vec<u64> {
        hub.store.checkpoints_after(0).await.unwrap().iter().map(|stored| stored.seq).collect()
    }

    async fn log(hub: &Hub, count: u64) {
        let events = (0..count).map(|_| hub.event(EventType::UserLogin)).collect();
        hub.store.audit(events).await.unwrap();
    }

    #[tokio::test]
    async fn every_thousandth_record_is_signed_and_the_last_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(dir.path()).await;
        let made = hub.store.audit_end().await.unwrap().unwrap().0;
        assert_eq!(advance(&hub, true).await.unwrap().seq, made);
        log(&hub, 999).await;
        advance(&hub, false).await.unwrap();
        assert_eq!(signed(&hub).await, [made]);
        log(&hub, 1501).await;
        advance(&hub, false).await.unwrap();
        assert_eq!(signed(&hub).await, [made, made + 1000, made + 2000]);
        let end = advance(&hub, true).await.unwrap();
        assert_eq!(signed(&hub).await, [made, made + 1000, made + 2000, made + 2500]);
        assert_eq!(place(&hub, made + 2500).await.unwrap(), end);
        assert_eq!(place(&hub, made + 1234).await.unwrap().seq, made + 1234);
        assert_eq!(advance(&hub, true).await.unwrap(), end, "nothing new");
        let mut found = Vec::new();
        marks(&hub, &mut found).await.unwrap().unwrap();
        assert_eq!(found.len(), 4);
    }
}
