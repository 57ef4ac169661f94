//! Exports of the audit log: written, verified, and read for their checkpoints.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use mezite_client::admin::refused;
use mezite_client::cli::Format;
use mezite_client::{Error, Result, audit_key};
use mezite_core::audit::export::{self, Contents, FileVerifier, MAX_LINE};
use mezite_core::text::escape_control;
use mezite_core::when;
use mezite_proto::v1;
use serde_json::{Value, json};

use super::recordings::created;
use super::{Context, count};

/// Most checkpoints a hub is asked about at once.
const MAX_CHECKPOINTS: usize = 1000;
/// Longest file of public keys, in bytes.
const MAX_KEYS: u64 = 64 * 1024;

/// Writes an export beside `out` and gives it that name when every line of it has verified.
pub(super) async fn export(mut context: Context, request: v1::ExportAuditRequest, out: &Path) -> Result<()> {
    let mut request = context.admin.request(request)?;
    // A long log takes as long as it takes.
    request.metadata_mut().remove("grpc-timeout");
    let mut pieces = context.admin.auth.export_audit(request).await.map_err(refused)?.into_inner();
    let failed = |error: std::io::Error| Error::Local(format!("cannot write {}: {error}", out.display()));
    let mut partial = out.as_os_str().to_owned();
    partial.push(".part");
    let partial = Path::new(&partial);
    let mut file = BufWriter::new(created(partial).map_err(failed)?);
    let mut lines = Lines { verifier: FileVerifier::new(None), rest: Vec::new() };
    let written = async {
        while let Some(piece) = pieces.message().await.map_err(refused)? {
            lines.push(&piece.data)?;
            file.write_all(&piece.data).map_err(failed)?;
        }
        let contents = lines.finish()?;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)?;
        std::fs::rename(partial, out).map_err(failed)?;
        Ok(contents)
    };
    match written.await {
        Ok(contents) => context.format.print_text(&record(&contents), |_| {
            let name = out.display().to_string();
            format!("Wrote {}: {}", escape_control(&name), text(&contents))
        }),
        Err(error) => {
            // What is half is of no use, and the name of a whole one must stay free.
            let _ = std::fs::remove_file(partial);
            Err(error)
        }
    }
}

/// Cuts what arrives into lines and verifies each.
struct Lines {
    verifier: FileVerifier,
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, piece: &[u8]) -> Result<()> {
        let mut parts = piece.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            self.rest.extend_from_slice(part);
            if parts.peek().is_some() {
                let line = std::mem::take(&mut self.rest);
                self.verifier.push(&String::from_utf8_lossy(&line)).map_err(|bad| broken(&bad))?;
            } else if self.rest.len() > MAX_LINE {
                return Err(broken(&"it sent a line without end"));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Contents> {
        self.verifier.finish().map_err(|bad| broken(&bad))
    }
}

fn broken(why: &dyn std::fmt::Display) -> Error {
    Error::Local(format!("what the server sent does not verify: {why}"))
}

/// Verifies an export without a hub.
pub(super) fn verify(file: &Path, keys: &[PathBuf], format: Format) -> Result<()> {
    let trusted = keys.iter().map(|path| trusted(path)).collect::<Result<Vec<_>>>()?;
    let trusted = (!keys.is_empty()).then(|| trusted.into_iter().flatten().collect());
    let told = trusted.is_some();
    let mut verifier = FileVerifier::new(trusted);
    let checked = each_line(file, |line| verifier.push(line).map_err(|bad| (bad.seq, bad.to_string())));
    let checked = match checked? {
        Ok(()) => verifier.finish().map_err(|bad| (bad.seq, bad.to_string())),
        Err(bad) => Err(bad),
    };
    match checked {
        Ok(contents) => format.print_text(&record(&contents), |_| {
            let mut text = format!("Export is whole and unchanged: {}", text(&contents));
            if !told {
                text.push_str(
                    "Compare the key with what `mezctl ca export --type=audit` printed, or give that with --key.\n",
                );
            }
            text
        }),
        Err((seq, detail)) => {
            if format != Format::Text {
                format
                    .print_text(&json!({ "ok": false, "first_bad_seq": seq, "detail": detail }), |_| String::new())?;
            }
            Err(Error::Local(format!("{} does not verify: {}", file.display(), escape_control(&detail))))
        }
    }
}

fn trusted(path: &Path) -> Result<Vec<[u8; 32]>> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_KEYS).read_to_string(&mut text));
    read.map_err(|error| cannot_read(path, &error))?;
    audit_key::parse(&text).map_err(|error| Error::Local(format!("{}: {error}", path.display())))
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Error {
    Error::Local(format!("cannot read {}: {error}", path.display()))
}

/// The signed lines of an export, the newest thousand if there are more.
pub(super) fn checkpoints(file: &Path) -> Result<Vec<Vec<u8>>> {
    let mut found = std::collections::VecDeque::new();
    let read = each_line(file, |line| {
        if export::statement(line)?.is_some() {
            found.push_back(line.as_bytes().to_vec());
        }
        if found.len() > MAX_CHECKPOINTS {
            found.pop_front();
        }
        Ok::<_, &str>(())
    });
    read?.map_err(|why| Error::Local(format!("{}: a line {why}", file.display())))?;
    if found.is_empty() {
        return Err(Error::Local(format!("{} holds no checkpoint", file.display())));
    }
    Ok(found.into())
}

/// Gives each line to `visit` until it refuses one. No more than one line is held.
fn each_line<E>(
    path: &Path,
    mut visit: impl FnMut(&str) -> std::result::Result<(), E>,
) -> Result<std::result::Result<(), E>> {
    let mut reader = BufReader::new(File::open(path).map_err(|error| cannot_read(path, &error))?);
    let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX) + 2;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(most).read_until(b'\n', &mut line);
        if read.map_err(|error| cannot_read(path, &error))? == 0 {
            return Ok(Ok(()));
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        if let Err(refused) = visit(&String::from_utf8_lossy(&line)) {
            return Ok(Err(refused));
        }
    }
}

fn record(contents: &Contents) -> Value {
    let Contents { extent, checkpoints, keys } = contents;
    let keys: Vec<String> = keys.iter().map(audit_key::fingerprint).collect();
    json!({
        "ok": true, "cluster": extent.cluster, "first": extent.first, "last": extent.last, "records": records(contents),
        "checkpoints": checkpoints, "exported": when::millis(extent.at), "signed_by": keys,
    })
}

fn records(contents: &Contents) -> u64 {
    (contents.extent.last + 1).saturating_sub(contents.extent.first)
}

fn text(contents: &Contents) -> String {
    let Contents { extent, checkpoints, keys } = contents;
    let keys: Vec<String> = keys.iter().map(audit_key::fingerprint).collect();
    let range = match records(contents) {
        0 => String::new(),
        _ => format!(" ({} to {})", extent.first, extent.last),
    };
    format!(
        "{}{range} and {} of cluster {}, as of {}\nSigned by {}\n",
        count(records(contents), "record"),
        count(*checkpoints, "checkpoint"),
        escape_control(&extent.cluster),
        when::seconds(extent.at),
        keys.join(", "),
    )
}
