//! The audit record: one shape ([`Event`]), one table of types and codes ([`EventType`]), one chain ([`chain`]), statements
//! about it that anybody can verify ([`checkpoint`]), and the file that carries both ([`export`]).
//!
//! What is stored is the canonical JSON text of the event, unchanged; columns beside it are projections for queries and are
//! compared with the text when the chain is verified.

pub mod chain;
pub mod checkpoint;
mod event;
pub mod export;
mod types;

pub use event::{Columns, Event, refusal};
pub use types::{EventType, types_matching};
