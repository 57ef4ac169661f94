//! Recordings as people get them: asciicast v2 (<https://docs.asciinema.org/manual/asciicast/v2/>), one JSON value per line,
//! first a header, then events `[seconds, code, data]`.

mod filter;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use filter::Filter;
pub use reader::{CastError, Reader};
pub use writer::Writer;

/// Longest line that is read, in bytes. The writer cuts its events so that every line it writes is shorter.
pub const MAX_LINE: usize = 1 << 20;

/// The marker at the end of a recording that is shorter than its session.
pub const BREAKS_OFF: &str = "the recording breaks off here: its recorder ended before the session did";

/// First line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format, always 2.
    pub version: u8,
    /// Columns of the terminal.
    pub width: u16,
    /// Rows of the terminal.
    pub height: u16,
    /// Start, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// The command, when the session ran one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// A title for players.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Environment worth knowing, such as `TERM`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Header {
    /// A header for a terminal of this size.
    pub const fn new(width: u16, height: u16) -> Self {
        Self { version: 2, width, height, timestamp: None, command: None, title: None, env: BTreeMap::new() }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time since the start, to the millisecond; never less than that of the event before.
    pub at: Duration,
    /// What happened.
    pub data: Data,
}

/// What happened at one moment of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// `o`: the terminal showed this.
    Output(String),
    /// `i`: the user typed this.
    Input(String),
    /// `r`: the terminal has this size from here on.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// `m`: a named point.
    Marker(String),
}
