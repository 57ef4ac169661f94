//! An SSH-2 engine: transport (RFC 4253), authentication (RFC 4252, RFC 4256) and connection protocol (RFC 4254) of both
//! roles as state machines over byte buffers, with keys and OpenSSH certificates in types of its own. Bytes and time go
//! in; bytes, events and notices come out. `mezite-net` drives it.
//!
//! # Invariants
//! - No input or output, no threads, no clock: bytes and the current time come in as arguments.
//! - What comes from a peer is bounded in size and count before it is used, and refused unless it is in the one
//!   canonical form. No input panics.
//! - Every message is checked against the state and the role before it changes anything. What is out of place ends the
//!   connection.
//! - A window is returned to the peer when the application has *consumed* the data, never when it arrived. So a slow
//!   consumer holds up its own channel only, and what a peer can make this side hold is bounded by what was granted.
//! - The identity of a user is the key that signed this very connection.
//! - The host key is believed before any of its keys are used, and it stays the same for the whole connection.
//! - Strict key exchange is always offered, and enforced with every peer that offers it.
//! - Answers leave in the order of the questions.
//! - Cryptography is that of `aws-lc-rs`. Secrets are wiped when dropped and never shown by `Debug`.
//! - There is one certificate verifier, [`cert::verify`], for every place that accepts a certificate.
//!
//! # Between two ends of this engine
//! A client sends channels and requests along with its login; the server keeps them, bounded, until the login is granted. A
//! channel has the same number at both ends, with the top bit set at the end that was asked, so that requests need not wait
//! for the answer to the open. Windows are larger. Other peers see none of it.
//!
//! # Deliberately absent
//! Finite-field Diffie-Hellman, SHA-1, DSA, ciphers without authentication, compression, passwords, host-based
//! authentication, X11, SSH-1, certificates of other subject keys than Ed25519, and passphrases on key files.

#![forbid(unsafe_code)]

pub mod auth;
pub mod cert;
pub mod channel;
pub mod cipher;
pub mod config;
mod connection;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod ident;
pub mod kex;
pub mod key;
mod msg;
mod negotiate;
mod packet;
mod transport;
pub mod wire;

pub use cert::{CertError, CertKind, Certificate, CertificateBuilder, Policy};
pub use connection::{Connection, Event};
pub use error::{CloseReason, DisconnectReason, Fault};
pub use key::{KeyError, PrivateKey, PublicKey};
pub use transport::Role;
