//! The audit log: records in a chain of MACs ([`mezite_core::audit::chain`]), only ever added.
//!
//! The stored end of the chain has a MAC of its own and is what the next record continues from, so that records cut off at
//! the end stay missing: what is appended later does not heal the gap. Someone who puts back an older copy of the whole
//! database is told apart only by a [`Head`](mezite_core::audit::chain::Head) kept elsewhere.

pub(crate) mod append;
mod checkpoint;
mod query;
mod verify;

pub use append::AuditKeys;
pub use checkpoint::{StoredCheckpoint, Stretch};
pub use query::{AuditFilter, StoredEvent};
pub use verify::{AuditReport, BadEvent};

/// Marks the MAC over the end of the chain; no record reads like this, since records are JSON objects.
const END: &[u8] = b"end of chain";
