//! Everything Mezite *decides*, as functions of values.
//!
//! Names and labels, the kinds of desired state, who may do what ([`rbac`]), what a certificate says about its holder
//! ([`identity`]), which node a name means ([`route`]), the audit record and its chain ([`audit`]), and the recording
//! format ([`asciicast`]).
//!
//! # Invariants
//!
//! * The same arguments give the same answer: time is an argument, and nothing here reads a clock, a random source, a
//!   file, a socket or the environment.
//! * A refusal is the default. What cannot be read or evaluated refuses: a missing role denies, a deny rule that fails
//!   denies, an allow rule that fails does not allow, an unreadable lock locks.
//! * Every input from outside is bounded before it is used; the bounds are constants beside the code they guard.
//! * A [`rbac::Permit`] exists only after [`rbac::check`] said yes.
//!
//! # Deliberately absent
//!
//! Storage, transport, YAML (callers decode it into a JSON value), key material (except audit MAC keys held by the caller),
//! and any name from the SSH engine: a certificate arrives here as plain pairs.
#![forbid(unsafe_code)]

pub mod admin;
pub mod asciicast;
pub mod audit;
pub mod decode;
pub mod document;
pub mod duration;
pub mod error;
pub mod identity;
pub mod kind;
pub mod labels;
pub mod lock;
pub mod name;
pub mod network;
pub mod predicate;
pub mod rbac;
pub mod route;
pub mod text;
pub mod totp;
pub mod when;

pub use error::{Fault, Invalid};
pub use identity::Identity;
pub use labels::Labels;
