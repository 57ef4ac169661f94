//! The Auth service: the cluster's brain, and the only holder of CA private keys.
//!
//! [`start`] opens the database and the authorities and serves gRPC on :3025. Every call passes one gate (`rpc/gate`), which
//! finds out who calls and holds that against one table (`rpc/policy`); handlers are one file per group of calls.
//! Certificates are issued in `issue`, machines join in `join`, people log in in `login`.
//!
//! # Invariants
//!
//! * A call without a row in the policy table is refused. A credential that is given and not valid is a refusal.
//! * A privileged change and its audit event commit in one transaction, or not at all.
//! * Private keys of authorities are open in memory only, and in no answer. The database has them sealed.
//! * A join token or an invite is used up in the transaction of its effect.
//! * A login, an unknown user, a locked user and a wrong password look and take the same to an outsider.
//! * A code of a second factor is used once, for one purpose: a login, a change, or a session on the node that asks.
//! * An agent acts for its own node only; a node that was deleted or replaced acts for nothing.
//! * A recording chunk is acknowledged when it is verified and on the disk.
//! * What a caller can cause at will is written a bounded number of times, and counted beyond that ([`bursts`]).
//! * Locks count at once for every call and every certificate. A locked agent can still tell what has happened.
//!
//! # Deliberately absent
//!
//! Decisions (they are in `mezite_core`), SQL (in `mezite_store`), the web, SSH connections, and the environment.

#![forbid(unsafe_code)]

mod bootstrap;
mod bursts;
mod ca;
mod caller;
mod checkpoint;
mod error;
mod event;
mod hub;
mod issue;
mod join;
mod login;
mod presence;
mod recover;
mod rpc;
mod start;
mod sweep;
mod watchers;

pub use error::AuthError;
pub use recover::{Recovered, recover};
pub use start::{AuthConfig, FirstAdmin, Running, start};
