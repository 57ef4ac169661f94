//! Session recordings: from terminal output to sealed chunks, from the spool of a node to the Auth service.
//!
//! A recording is a sequence of chunks. Each is zstd-compressed asciicast v2 text, numbered from 0, and carries the value
//! of a hash chain that begins with the session's id; a [`Seal`] closes it with the last value, the count and the length.
//! [`Recorder`] makes chunks and is awaited before output goes on to the client; [`Spool`] keeps them on disk with fsync;
//! [`Uploader`] brings them to Auth, which checks each with a [`Chain`]; [`reader`] gives plain asciicast back.
//!
//! Invariants:
//! - What is in the spool after a call returned survives a crash of the process and of the machine.
//! - A gap, an edit or a missing end is an error that names the first bad chunk, never shorter output.
//! - A recording leaves the spool only after Auth acknowledged its seal, or into `quarantine/`.
//! - Every queue is bounded in bytes. A recorder that cannot keep up slows the session down.
//!
//! Deliberately absent: where Auth keeps its chunks, who may read them, and whether a session is to be recorded.

#![forbid(unsafe_code)]

mod chunk;
mod exec;
mod metadata;
pub mod reader;
mod recorder;
mod seal;
mod sink;
mod spool;
mod upload;

pub use chunk::{Chain, Chunk, Hash, MAX_CHUNK, MAX_RAW};
pub use exec::{ExecPolicy, ExecStream, HEAD, exec_policy};
pub use metadata::{MAX_METADATA, Metadata};
pub use recorder::{Content, RecordError, Recorder};
pub use seal::{Corrupt, Seal, verify};
pub use sink::Mode;
pub use spool::Spool;
pub use upload::{UploadError, Uploader};
