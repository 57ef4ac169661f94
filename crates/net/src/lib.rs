//! What touches sockets, TLS, the clock and randomness on behalf of the programs.
//!
//! One accept loop serves every port ([`listener`]), one HTTP server carries gRPC and the web alike ([`http`]), one
//! dialer makes every outgoing TLS connection ([`dial`]), and a tunnel call becomes a byte stream ([`tunnel`]).
//!
//! Invariants:
//! - The accept loop never waits for a peer. What a peer may hold before it has authenticated is capped per source and
//!   in total; when the cap is reached the oldest silent connection goes, so that a newcomer is never locked out.
//! - A [`tls::Peer`] exists only for a leaf that a handshake verified against the Host CA.
//! - Where client certificates count there is no TLS session resumption: every connection is verified against the
//!   roots of that moment.
//! - No queue without a bound.
//!
//! Deliberately absent: decisions about access, knowledge of users, the environment, and files other than the system's
//! trusted roots and the service manager's socket.

#![deny(unsafe_code)]

pub mod backoff;
pub mod clock;
pub mod dial;
mod held;
pub mod host;
pub mod http;
pub mod listener;
pub mod nss;
pub mod proxy_protocol;
mod read_ahead;
pub mod report;
pub mod rpc;
pub mod shutdown;
pub mod ssh;
pub mod tls;
pub mod tunnel;
pub mod watch;

pub use read_ahead::ReadAhead;
