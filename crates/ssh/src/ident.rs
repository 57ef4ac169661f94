//! The identification exchange (RFC 4253 section 4.2).

use bytes::{Buf, BytesMut};

use crate::{error::Fault, transport::Role};

/// Longest identification line, CR LF included.
const MAX_LINE: usize = 255;
/// Lines a server may send before its identification.
const MAX_LINES_BEFORE: usize = 32;

/// Reads the peer's identification line.
#[derive(Debug)]
pub(crate) struct IdentReader {
    lines_before: usize,
}

impl IdentReader {
    pub(crate) fn new() -> Self {
        Self { lines_before: 0 }
    }

    /// The line without CR LF; `None` until it is complete. Only a server may send other lines before it.
    pub(crate) fn next(&mut self, role: Role, input: &mut BytesMut) -> Result<Option<String>, Fault> {
        loop {
            let window = input.get(..input.len().min(MAX_LINE)).unwrap_or_default();
            let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
                if window.len() == MAX_LINE {
                    return Err(Fault::protocol("identification line too long"));
                }
                // A client that does not begin like SSH is told at once.
                let expected = b"SSH-";
                if role == Role::Server && !window.iter().zip(expected).all(|(a, b)| a == b) {
                    return Err(Fault::protocol("not an SSH client"));
                }
                return Ok(None);
            };
            let line = input.split_to(end);
            input.advance(1);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.starts_with(b"SSH-") {
                return check(line).map(Some);
            }
            self.lines_before += 1;
            if role == Role::Server || self.lines_before > MAX_LINES_BEFORE {
                return Err(Fault::protocol("no SSH identification"));
            }
        }
    }
}

fn check(line: &[u8]) -> Result<String, Fault> {
    if !line.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(Fault::protocol("identification line is not printable ASCII"));
    }
    if !line.starts_with(b"SSH-2.0-") && !line.starts_with(b"SSH-1.99-") {
        return Err(Fault::protocol("protocol version is not 2.0"));
    }
    Ok(String::from_utf8_lossy(line).into_owned())
}
