//! Reading and verifying the audit log.

use mezite_core::audit::types_matching;
use mezite_core::{Fault, Invalid};
use mezite_proto::v1::*;
use mezite_store::AuditFilter;
use time::OffsetDateTime;

use super::page;
use crate::caller::Caller;
use crate::hub::Hub;

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

pub(super) async fn verify(hub: &Hub, _: &Caller, _: VerifyAuditRequest) -> Result<VerifyAuditReply, Fault> {
    let report = hub.store.verify_audit().await?;
    let mut reply = VerifyAuditReply {
        ok: report.bad.is_none(),
        records: report.records,
        segments: report.segments,
        ..VerifyAuditReply::default()
    };
    if let Some(bad) = report.bad {
        reply.first_bad_id = bad.id;
        reply.first_bad_seq = bad.seq;
        reply.detail = bad.why;
    }
    Ok(reply)
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
