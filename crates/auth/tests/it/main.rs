//! The Auth service over its network interface: TLS, real callers, a real database.
#![expect(clippy::unwrap_used, reason = "helpers outside test functions")]

mod audit_export;
mod calls;
mod cluster;
mod force;
mod join;
mod login;
mod mfa;
mod objects;
mod policy;
mod recordings;
mod session_mfa;
mod sessions;
mod start;
mod watch;
