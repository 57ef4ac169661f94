//! `recordings`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mezite_client::admin::refused;
use mezite_client::{Error, Result, cli};
use mezite_core::text::{Table, escape_control};
use mezite_core::{Fault, name};
use mezite_proto::v1::{self, RecordingInfo};
use serde_json::{Value, json};
use tonic::Streaming;

use super::{Context, count, moment_ms, sessions};
use crate::args::Recordings;

const PAGE: u32 = 500;

pub(super) async fn run(mut context: Context, command: Recordings) -> Result<()> {
    match command {
        Recordings::Ls { user, limit } => {
            let recordings = list(&mut context, user.unwrap_or_default(), limit).await?;
            let records: Vec<Value> = recordings.iter().map(record).collect();
            context.format.print(&records, |_| table(&recordings))
        }
        Recordings::Download { session, out } => download(context, session, out).await,
        Recordings::Verify { session } => verify(context, session).await,
    }
}

async fn list(context: &mut Context, user: String, limit: Option<usize>) -> Result<Vec<RecordingInfo>> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut recordings = Vec::new();
    let mut page_token = String::new();
    loop {
        let page_size = u32::try_from(limit.saturating_sub(recordings.len())).unwrap_or(PAGE).min(PAGE);
        if page_size == 0 {
            return Ok(recordings);
        }
        let request = context.admin.request(v1::ListRecordingsRequest { user: user.clone(), page_token, page_size })?;
        let reply = context.admin.auth.list_recordings(request).await.map_err(refused)?.into_inner();
        recordings.extend(reply.recordings);
        if reply.next_page_token.is_empty() {
            recordings.truncate(limit);
            return Ok(recordings);
        }
        page_token = reply.next_page_token;
    }
}

fn table(recordings: &[RecordingInfo]) -> Table {
    let mut table = Table::new(&["SESSION ID", "USER", "NODE", "LOGIN", "STARTED", "SECONDS", "BYTES", "STATE"]);
    for recording in recordings {
        let Some(s) = &recording.session else { continue };
        let state = if recording.complete { "complete" } else { "incomplete" };
        let seconds = (recording.duration_ms / 1000).to_string();
        let (started, bytes) = (moment_ms(s.started_unix_ms), recording.bytes.to_string());
        table.row([s.session_id.as_str(), &s.user, &s.node_name, &s.login, &started, &seconds, &bytes, state]);
    }
    table
}

fn record(recording: &RecordingInfo) -> Value {
    json!({
        "session": recording.session.as_ref().map(sessions::record),
        "bytes": recording.bytes, "duration_ms": recording.duration_ms, "complete": recording.complete,
    })
}

/// The file appears under its name only when it is whole. One that was not named on the command line is never replaced.
async fn download(mut context: Context, session: String, out: Option<PathBuf>) -> Result<()> {
    let out = match out {
        Some(out) => out,
        None => beside(&session)?,
    };
    let out = out.as_path();
    let mut request = context.admin.request(v1::DownloadRecordingRequest { session_id: session })?;
    // A long recording takes as long as it takes.
    request.metadata_mut().remove("grpc-timeout");
    let parts = context.admin.auth.download_recording(request).await.map_err(refused)?.into_inner();
    let failed = |error: std::io::Error| Error::Local(format!("cannot write {}: {error}", out.display()));
    if out == Path::new("-") {
        return copy(parts, std::io::stdout().lock(), failed).await.map(drop);
    }
    let mut partial = out.as_os_str().to_owned();
    partial.push(".part");
    let partial = Path::new(&partial);
    let copied = copy(parts, created(partial).map_err(failed)?, failed).await;
    let kept = copied.and_then(|file| file.sync_all().and_then(|()| std::fs::rename(partial, out)).map_err(failed));
    if let Err(error) = kept {
        let _ = std::fs::remove_file(partial);
        return Err(error);
    }
    cli::print(&format!("Wrote {}; play it with `msh play {0}`\n", out.display()))
}

/// A file of one's own: what was recorded is nobody else's to read, and what stands in the way, a link perhaps, is removed
/// and not written through.
pub(super) fn created(path: &Path) -> std::io::Result<File> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// `ID.cast` in this directory.
fn beside(session: &str) -> Result<PathBuf> {
    if !name::is_uuid(session) {
        return Err(Fault::NotFound("no such session; see `mezctl recordings ls`".into()).into());
    }
    let out = PathBuf::from(format!("{session}.cast"));
    match out.symlink_metadata() {
        Ok(_) => Err(Error::Local(format!("{} is here already; name another file with --out", out.display()))),
        Err(_) => Ok(out),
    }
}

async fn copy<W: Write>(
    mut parts: Streaming<v1::Chunk>,
    mut to: W,
    failed: impl Fn(std::io::Error) -> Error,
) -> Result<W> {
    while let Some(part) = parts.message().await.map_err(refused)? {
        to.write_all(&part.data).map_err(&failed)?;
    }
    to.flush().map_err(failed)?;
    Ok(to)
}

async fn verify(mut context: Context, session: String) -> Result<()> {
    let request = context.admin.request(v1::VerifyRecordingRequest { session_id: session.clone() })?;
    let verdict = context.admin.auth.verify_recording(request).await.map_err(refused)?.into_inner();
    let record = json!({
        "session": session, "ok": verdict.ok, "complete": verdict.complete, "detail": verdict.detail,
        "chunks": verdict.chunks, "bytes": verdict.bytes,
    });
    let (session, detail) = (escape_control(&session), escape_control(&verdict.detail));
    if verdict.ok {
        let state = match verdict.complete {
            true => "whole and unchanged",
            false => "unchanged and lacks its end, for the recorder ended before the session did",
        };
        return context.format.print_text(&record, |_| {
            format!(
                "Recording of {session} is {state} ({}, {})\n",
                count(verdict.chunks, "chunk"),
                count(verdict.bytes, "byte")
            )
        });
    }
    if context.format != cli::Format::Text {
        context.format.print_text(&record, |_| String::new())?;
    }
    Err(Fault::Bug(format!("recording of {session} does not verify: {detail}")).into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_link_in_the_way_of_a_download_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (precious, partial) = (dir.path().join("precious"), dir.path().join("x.cast.part"));
        std::fs::write(&precious, "kept").unwrap();
        symlink(&precious, &partial).unwrap();
        created(&partial).unwrap().write_all(b"recorded").unwrap();
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "kept");
        assert_eq!(std::fs::read_to_string(&partial).unwrap(), "recorded");
        assert_eq!(partial.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
