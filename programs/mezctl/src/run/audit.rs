//! `audit`.

use std::path::PathBuf;

use mezite_client::admin::refused;
use mezite_client::cli::{self, Format};
use mezite_client::{Error, Result};
use mezite_core::audit::{Event, EventType, types_matching};
use mezite_core::decode::nearest;
use mezite_core::text::escape_control;
use mezite_core::{Fault, when};
use mezite_net::clock;
use mezite_proto::v1;
use serde_json::{Value, json};

use super::{Context, audit_file, count};
use crate::args::Audit;

const PAGE: u32 = 1000;

pub(super) async fn run(context: Context, command: Audit) -> Result<()> {
    match command {
        Audit::Ls { types, user, since, until, session, id, limit } => {
            warn_of_unknown(&types);
            let request = v1::ListAuditRequest {
                types,
                user: user.unwrap_or_default(),
                since_unix_ms: bound("--since", since.as_deref())?,
                until_unix_ms: bound("--until", until.as_deref())?,
                page_token: String::new(),
                page_size: PAGE,
                session_id: session.unwrap_or_default(),
                event_id: id.unwrap_or_default(),
            };
            list(context, request, limit.unwrap_or(usize::MAX)).await
        }
        Audit::Export { out, since, until } => {
            let some = |flag, text: Option<String>| text.map(|text| bound(flag, Some(&text))).transpose();
            let request = v1::ExportAuditRequest {
                since_unix_ms: some("--since", since)?,
                until_unix_ms: some("--until", until)?,
            };
            audit_file::export(context, request, &out).await
        }
        Audit::Verify { checkpoint, .. } => verify(context, checkpoint).await,
    }
}

/// Says which types this release does not know. The hub is asked all the same: its log may hold those of another release.
fn warn_of_unknown(types: &[String]) {
    let known = || EventType::ALL.iter().map(|kind| kind.name());
    for word in types {
        if types_matching(word) == [word] && !known().any(|name| name == word) {
            let meant = nearest(word, known()).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            eprintln!("mezctl: warning: no event type is called {}{meant}", escape_control(word));
        }
    }
}

/// Unix milliseconds; 0 for no bound.
fn bound(flag: &str, text: Option<&str>) -> Result<i64> {
    let Some(text) = text else { return Ok(0) };
    let at = when::parse_since(text, clock::now()).map_err(|error| error.within(flag))?;
    Ok(i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX))
}

/// Prints page by page, so that a log of any length can be read.
async fn list(mut context: Context, mut request: v1::ListAuditRequest, mut left: usize) -> Result<()> {
    let mut out = Printer { format: context.format, first: true };
    let mut begun = false;
    loop {
        request.page_size = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let call = context.admin.request(request.clone())?;
        let reply = context.admin.auth.list_audit(call).await.map_err(refused)?.into_inner();
        // A refusal prints nothing.
        if !std::mem::replace(&mut begun, true) {
            out.begin()?;
        }
        for event in reply.events.iter().take(left) {
            out.event(event)?;
        }
        left = left.saturating_sub(reply.events.len());
        request.page_token = reply.next_page_token;
        if request.page_token.is_empty() || left == 0 {
            break;
        }
    }
    out.end()
}

struct Printer {
    format: Format,
    first: bool,
}

impl Printer {
    fn begin(&self) -> Result<()> {
        match self.format {
            Format::Text => cli::print(&line("TIME", "TYPE", "CODE", "USER", "STATUS", "SUMMARY")),
            Format::Json => cli::print("["),
            Format::Yaml => Ok(()),
        }
    }

    fn event(&mut self, json: &[u8]) -> Result<()> {
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| Error::Local(format!("the server sent an event that cannot be read: {error}")))?;
        let comma = if std::mem::take(&mut self.first) { "\n" } else { ",\n" };
        match self.format {
            Format::Text => cli::print(&text(&value)),
            Format::Json => cli::print(&format!("{comma}{value}")),
            Format::Yaml => Format::Yaml.print_text(&[value], |_| String::new()),
        }
    }

    fn end(&self) -> Result<()> {
        match self.format {
            Format::Json => cli::print(if self.first { "]\n" } else { "\n]\n" }),
            Format::Yaml if self.first => cli::print("[]\n"),
            Format::Text | Format::Yaml => Ok(()),
        }
    }
}

/// One line of the text form. Pages come one by one, so widths are fixed; a longer cell pushes its line to the right.
fn line(time: &str, kind: &str, code: &str, user: &str, status: &str, summary: &str) -> String {
    let line = format!("{time:<24}  {kind:<26}  {code:<6}  {user:<16}  {status:<7}  {summary}");
    format!("{}\n", line.trim_end())
}

fn text(value: &Value) -> String {
    let Ok(event) = serde_json::from_value::<Event>(value.clone()) else {
        return format!("{}\n", escape_control(&value.to_string()));
    };
    let columns = event.columns();
    let named = [
        ("", &columns.resource),
        ("node=", &event.server_hostname),
        ("login=", &event.login),
        ("session=", &event.session_id),
        ("from=", &event.client_ip),
        ("error=", &event.error_message),
    ];
    let mut summary: Vec<String> = named
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}{}", escape_control(value)))
        .collect();
    summary.extend(event.details.iter().map(|(key, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", escape_control(key), escape_control(&value))
    }));
    let user = if event.user_name.is_empty() { "-" } else { &event.user_name };
    let (kind, code, user) =
        (escape_control(&event.event_type), escape_control(&event.event_code), escape_control(user));
    line(&when::millis(event.timestamp), &kind, &code, &user, columns.status, &summary.join(" "))
}

async fn verify(mut context: Context, checkpoint: Option<PathBuf>) -> Result<()> {
    let checkpoints = checkpoint.as_deref().map(audit_file::checkpoints).transpose()?;
    let held = checkpoints.as_ref().map(|held| count(held.len().try_into().unwrap_or(u64::MAX), "checkpoint"));
    let checkpoints = checkpoints.unwrap_or_default();
    let mut request = context.admin.request(v1::VerifyAuditRequest { checkpoints })?;
    // The whole log is read; it takes as long as it takes.
    request.metadata_mut().remove("grpc-timeout");
    let verdict = context.admin.auth.verify_audit(request).await.map_err(refused)?.into_inner();
    let record = json!({
        "ok": verdict.ok, "records": verdict.records, "segments": verdict.segments, "first_bad_id": verdict.first_bad_id,
        "first_bad_seq": verdict.first_bad_seq, "detail": verdict.detail, "checkpoints": verdict.checkpoints,
    });
    if verdict.ok {
        return context.format.print_text(&record, |_| {
            format!(
                "Audit log is whole and unchanged ({}, {}){}\n",
                count(verdict.records, "record"),
                count(verdict.segments.into(), "key segment"),
                held.map(|held| format!(", and agrees with {held} of the export")).unwrap_or_default(),
            )
        });
    }
    if context.format != Format::Text {
        context.format.print_text(&record, |_| String::new())?;
    }
    let detail = escape_control(&verdict.detail);
    let id = match verdict.first_bad_id.as_str() {
        "" => String::new(),
        id => format!(" ({})", escape_control(id)),
    };
    Err(Fault::Bug(format!("audit log does not verify: record {}{id}: {detail}", verdict.first_bad_seq)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let event = json!({
            "id": "x", "event_type": "access.denied", "event_code": "T4000W", "user_name": "bob\n\u{1b}[2J",
            "timestamp": "2026-03-24T15:00:00.123Z", "success": false, "error_message": "a\nb",
            "details": { "reason": "role \u{202e}", "n": 1 },
        });
        let shown = text(&event);
        assert_eq!(shown.matches('\n').count(), 1, "{shown}");
        assert!(shown.starts_with("2026-03-24T15:00:00.123Z  access.denied               T4000W  bob\\n"), "{shown}");
        assert!(!shown.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{shown}");
        assert!(shown.contains(" n=1 ") && shown.contains("error=a\\nb"), "{shown}");
        assert_eq!(text(&json!({ "odd": "\u{1b}" })).chars().filter(|c| c.is_control()).count(), 1);
    }
}
