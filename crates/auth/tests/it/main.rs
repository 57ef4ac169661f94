//! The Auth service over its network interface: TLS, real callers, a real database.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod cluster;
mod join;
mod login;
mod objects;
mod policy;
mod recordings;
mod sessions;
mod start;
mod watch;
