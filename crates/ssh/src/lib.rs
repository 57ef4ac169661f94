//! An SSH-2 engine: transport, authentication and connection protocol of both roles as state machines over byte
//! buffers, with keys and OpenSSH certificates in types of its own.
//!
//! # Invariants
//! - No input or output, no threads, no clock: bytes and the current time come in as arguments.
//! - What comes from a peer is bounded in size and count before it is used, and refused unless it is in the one
//!   canonical form. No input panics.
//! - Cryptography is that of `aws-lc-rs`. Secrets are wiped when dropped and never shown by `Debug`.
//! - There is one certificate verifier, [`cert::verify`], for every place that accepts a certificate.
//!
//! # Deliberately absent
//! Finite-field Diffie-Hellman, SHA-1, DSA, ciphers without authentication, compression, passwords, SSH-1,
//! certificates of other subject keys than Ed25519, and passphrases on key files.

#![forbid(unsafe_code)]

pub mod cert;
#[doc(hidden)]
pub mod fuzz;
pub mod kex;
pub mod key;
pub mod wire;

pub use cert::{CertError, CertKind, Certificate, CertificateBuilder, Policy};
pub use key::{KeyError, PrivateKey, PublicKey};
