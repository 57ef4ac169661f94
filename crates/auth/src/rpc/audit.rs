//! Reading and verifying the audit log.

use mezite_core::audit::checkpoint::{Mark, Marks};
use mezite_core::audit::{export, types_matching};
use mezite_core::{Fault, Invalid};
use mezite_proto::v1::*;
use mezite_store::AuditFilter;
use time::OffsetDateTime;

use super::page;
use crate::caller::Caller;
use crate::checkpoint;
use crate::hub::Hub;

/// Most checkpoints one verification may ask about.
const MAX_CHECKPOINTS: usize = 1000;
/// Most types one list may ask for.
const MAX_TYPES: usize = 64;

pub(super) async fn list(hub: &Hub, _: &Caller, request: ListAuditRequest) -> Result<ListAuditReply, Fault> {
    let ListAuditRequest { types, user, since_unix_ms, until_unix_ms, page_token, page_size, session_id, event_id } =
        request;
    if types.len() > MAX_TYPES {
        return Err(Invalid::new("types", format!("more than {MAX_TYPES}")).into());
    }
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let filter = AuditFilter {
        types: types.iter().flat_map(|word| types_matching(word)).map(str::to_owned).collect(),
        user: some(user),
        since: moment(since_unix_ms)?,
        until: moment(until_unix_ms)?,
        session_id: some(session_id),
        id: some(event_id),
    };
    let found = hub.store.audit_events(&filter, &page(page_token, page_size)).await?;
    Ok(ListAuditReply {
        events: found.items.into_iter().map(|event| event.json.into_bytes()).collect(),
        next_page_token: found.next.unwrap_or_default(),
    })
}

pub(super) async fn verify(hub: &Hub, _: &Caller, request: VerifyAuditRequest) -> Result<VerifyAuditReply, Fault> {
    let mut marks = given(hub, &request.checkpoints)?;
    if let Err((seq, why)) = checkpoint::marks(hub, &mut marks).await? {
        let detail = format!("the checkpoint kept here over this record cannot be believed: {why}");
        return Ok(VerifyAuditReply { first_bad_seq: seq, detail, ..VerifyAuditReply::default() });
    }
    let checkpoints = u64::try_from(marks.len()).unwrap_or(u64::MAX);
    let report = hub.store.verify_audit(Marks::new(marks)).await?;
    let mut reply = VerifyAuditReply {
        ok: report.bad.is_none(),
        records: report.records,
        segments: report.segments,
        checkpoints,
        ..VerifyAuditReply::default()
    };
    if let Some(diverged) = report.diverged {
        reply.ok = false;
        reply.first_bad_seq = diverged.seq();
        reply.detail = format!("this is not the log that was signed: {diverged}");
    }
    if let Some(bad) = report.bad {
        reply.first_bad_id = bad.id;
        reply.first_bad_seq = bad.seq;
        reply.detail = bad.why;
    }
    Ok(reply)
}

/// The places that signed lines of an export speak of.
fn given(hub: &Hub, lines: &[Vec<u8>]) -> Result<Vec<Mark>, Fault> {
    if lines.len() > MAX_CHECKPOINTS {
        return Err(Invalid::new("checkpoints", format!("more than {MAX_CHECKPOINTS}")).into());
    }
    let read = |(i, line): (usize, &Vec<u8>)| {
        let refuse = |why: String| Invalid::new(format!("checkpoints.[{i}]"), why);
        let line = str::from_utf8(line).map_err(|_| refuse("is not text".into()))?;
        let signed = export::statement(line).map_err(|why| refuse(why.into()))?;
        let signed = signed.ok_or_else(|| refuse("is no checkpoint".into()))?;
        export::mark(&signed, hub.cluster(), &[hub.checkpoints.public()])
            .map_err(|why| refuse(format!("is no checkpoint of this cluster: {why}")).into())
    };
    lines.iter().enumerate().map(read).collect()
}

/// 0 stands for no bound.
fn moment(unix_ms: i64) -> Result<Option<OffsetDateTime>, Fault> {
    if unix_ms == 0 {
        return Ok(None);
    }
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .map(Some)
        .map_err(|_| Invalid::new("unix_ms", "is not a time").into())
}
