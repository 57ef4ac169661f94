//! The hub's state: a SQL database and a directory of recordings. The only crate that knows either.
//!
//! * [`Store`] reads; [`Store::begin`] gives a [`Tx`], the one way to write. Objects of all kinds go through one
//!   implementation ([`Tx::put`], [`Tx::delete`], [`Store::list`]), driven by [`mezite_core::kind::Kind`].
//! * Facts that machines write (sessions, heartbeats, login sessions, audit records) have calls of their own.
//! * [`Recordings`] keeps the chunks of recordings as files.
//!
//! # Invariants
//!
//! * What is written in one [`Tx`], its audit events included, is durable together or not there at all. A commit is not
//!   cut off by a caller that goes away, and watchers hear of every commit, in order.
//! * A one-time secret is used up by one `UPDATE … WHERE used_at IS NULL` in the transaction of its effect.
//! * Bearer secrets are stored as SHA-256, private keys arrive sealed; neither is logged or shown by `Debug`.
//! * Audit records are added, never changed or removed; recording files are never rewritten.
//! * A row that cannot be read is reported with its error and never left out.
//! * Time is an argument: nothing here reads a clock, except that the database dates applied migrations.
//!
//! # Deliberately absent
//!
//! Decisions about who may do what, encryption, making of tokens, and any knowledge of the network.
#![forbid(unsafe_code)]

mod audit;
mod authority;
mod db;
mod fault;
mod files;
mod login;
mod mfa;
mod mfa_proof;
mod migrate;
mod node;
mod object;
mod page;
mod secret;
mod session;
mod tx;
mod watch;

pub use audit::{AuditFilter, AuditKeys, AuditReport, BadEvent, StoredCheckpoint, StoredEvent, Stretch};
pub use authority::Authority;
pub use db::{Options, Store};
pub use files::Recordings;
pub use login::{Login, Origin};
pub use mfa::MfaDevice;
pub use mfa_proof::MfaProof;
pub use migrate::Step;
pub use node::{Heartbeat, HostCert};
pub use object::{Expect, Object};
pub use page::{Listed, Page};
pub use session::{Detail, Recording, SealedRecording, Session, SessionFilter};
pub use tx::Tx;
pub use watch::Change;
