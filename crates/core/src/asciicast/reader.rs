//! From lines to events, within bounds: a recording may come from anywhere.

use std::io::{BufRead, Read};
use std::time::Duration;

use super::{Data, Event, Header, MAX_LINE};

/// Latest moment of an event; recordings are cut long before.
const MAX_TIME: f64 = 366.0 * 86_400.0;

/// Reads a recording line by line, in memory bounded by [`MAX_LINE`].
#[derive(Debug)]
pub struct Reader<R> {
    lines: R,
    header: Header,
    line: u64,
    last: Duration,
}

/// Why a recording cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum CastError {
    /// The source failed.
    #[error("cannot read the recording: {0}")]
    Io(#[from] std::io::Error),
    /// There is nothing in it.
    #[error("the recording is empty")]
    Empty,
    /// The first line is no header of version 2.
    #[error("not a recording in asciicast v2: {0}")]
    Header(String),
    /// A line is longer than [`MAX_LINE`].
    #[error("line {0} of the recording is too long")]
    TooLong(u64),
    /// A line is no event.
    #[error("line {0} of the recording is not an event")]
    Malformed(u64),
    /// The last line stops in the middle: the recording was not finished.
    #[error("the recording ends in the middle of line {0}")]
    Truncated(u64),
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`CastError`] when there is none.
    pub fn new(mut lines: R) -> Result<Self, CastError> {
        let text = next_line(&mut lines, 1)?.ok_or(CastError::Empty)?;
        let header: Header = match serde_json::from_slice(&text) {
            Ok(header) => header,
            Err(error) if error.is_eof() && !text.ends_with(b"\n") => return Err(CastError::Truncated(1)),
            Err(_) => return Err(CastError::Header("its first line is no header".into())),
        };
        if header.version != 2 {
            return Err(CastError::Header(format!("its version is {}", header.version)));
        }
        Ok(Self { lines, header, line: 1, last: Duration::ZERO })
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The next event, `None` at the end. Empty lines and events of unknown code are passed over.
    ///
    /// # Errors
    /// [`CastError`] when a line is no event; the next call goes on after it.
    pub fn next_event(&mut self) -> Result<Option<Event>, CastError> {
        loop {
            self.line += 1;
            let Some(text) = next_line(&mut self.lines, self.line)? else { return Ok(None) };
            if text.trim_ascii().is_empty() {
                continue;
            }
            let parsed = serde_json::from_slice::<(f64, String, String)>(&text);
            let Ok((seconds, code, data)) = parsed else {
                let whole = text.ends_with(b"\n");
                return Err(if whole { CastError::Malformed(self.line) } else { CastError::Truncated(self.line) });
            };
            let malformed = || CastError::Malformed(self.line);
            if !(0.0..=MAX_TIME).contains(&seconds) {
                return Err(malformed());
            }
            let data = match code.as_str() {
                "o" => Data::Output(data),
                "i" => Data::Input(data),
                "m" => Data::Marker(data),
                "r" => size(&data).ok_or_else(malformed)?,
                _ => continue,
            };
            self.last = self.last.max(to_millis(seconds));
            return Ok(Some(Event { at: self.last, data }));
        }
    }
}

fn next_line(lines: &mut impl BufRead, number: u64) -> Result<Option<Vec<u8>>, CastError> {
    let mut text = Vec::new();
    lines.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut text)?;
    match text.len() {
        0 => Ok(None),
        length if length > MAX_LINE => Err(CastError::TooLong(number)),
        _ => Ok(Some(text)),
    }
}

fn to_millis(seconds: f64) -> Duration {
    let exact = Duration::from_secs_f64(seconds) + Duration::from_micros(500);
    Duration::from_millis(u64::try_from(exact.as_millis()).unwrap_or(u64::MAX))
}

fn size(text: &str) -> Option<Data> {
    let (width, height) = text.split_once('x')?;
    Some(Data::Resize { width: width.parse().ok()?, height: height.parse().ok()? })
}
