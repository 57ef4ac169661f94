//! From bytes and moments to lines.

use std::borrow::Cow;
use std::time::Duration;

use super::Header;

/// Most bytes of one event. JSON writes a byte as six at worst, so that a line stays within [`super::MAX_LINE`].
const MAX_EVENT: usize = 128 * 1024;

/// Writes a recording. Bytes that are no UTF-8 become U+FFFD; a character that is split between two calls is put together
/// again and carries the time of the call that completes it.
#[derive(Debug, Default)]
pub struct Writer {
    output: Carry,
    input: Carry,
}

impl Writer {
    /// A writer at the start of a recording.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the header line to `to`.
    pub fn header(header: &Header, to: &mut Vec<u8>) {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *to, header);
        to.push(b'\n');
    }

    /// Appends what the terminal showed at `at`, as zero or more lines.
    pub fn output(&mut self, at: Duration, bytes: &[u8], to: &mut Vec<u8>) {
        text(&mut self.output, at, "o", bytes, to);
    }

    /// Appends what the user typed at `at`, as zero or more lines.
    pub fn input(&mut self, at: Duration, bytes: &[u8], to: &mut Vec<u8>) {
        text(&mut self.input, at, "i", bytes, to);
    }

    /// Appends a new size of the terminal.
    pub fn resize(&mut self, at: Duration, width: u16, height: u16, to: &mut Vec<u8>) {
        line(at, "r", &format!("{width}x{height}"), to);
    }

    /// Appends a named point.
    pub fn marker(at: Duration, name: &str, to: &mut Vec<u8>) {
        line(at, "m", name, to);
    }

    /// Appends what is left of split characters. Nothing may be written after it.
    pub fn finish(mut self, at: Duration, to: &mut Vec<u8>) {
        for (carry, code) in [(&mut self.output, "o"), (&mut self.input, "i")] {
            if !carry.0.is_empty() {
                line(at, code, &String::from_utf8_lossy(&carry.0), to);
            }
        }
    }
}

/// The first bytes of a character whose rest has not come yet; three at most.
#[derive(Debug, Default)]
struct Carry(Vec<u8>);

impl Carry {
    /// The bytes that can be shown now; the rest is kept.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut whole = match self.0.is_empty() {
            true => Cow::Borrowed(bytes),
            false => Cow::Owned([std::mem::take(&mut self.0).as_slice(), bytes].concat()),
        };
        let tail = unfinished(&whole);
        let end = whole.len() - tail;
        self.0.extend(whole.iter().skip(end));
        match &mut whole {
            Cow::Borrowed(bytes) => *bytes = bytes.get(..end).unwrap_or_default(),
            Cow::Owned(bytes) => bytes.truncate(end),
        }
        whole
    }
}

/// How many bytes at the end are the start of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let starts =
        |tail: &[u8]| std::str::from_utf8(tail).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
    (1..=3).find(|n| bytes.len().checked_sub(*n).and_then(|start| bytes.get(start..)).is_some_and(starts)).unwrap_or(0)
}

fn text(carry: &mut Carry, at: Duration, code: &str, bytes: &[u8], to: &mut Vec<u8>) {
    for part in bytes.chunks(MAX_EVENT) {
        let whole = carry.take(part);
        if !whole.is_empty() {
            line(at, code, &String::from_utf8_lossy(&whole), to);
        }
    }
}

fn line(at: Duration, code: &str, data: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(format!("[{}.{:03}, \"{code}\", ", at.as_secs(), at.subsec_millis()).as_bytes());
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut *to, data);
    to.extend_from_slice(b"]\n");
}
