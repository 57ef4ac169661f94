//! What `msh` and `mezctl` share: profiles, login, dialing a node, the terminal, and the command lines' common parts.
//!
//! # Invariants
//!
//! * Keys, certificates and the session token live in a private directory; every file is replaced whole.
//! * The session token is sent only to a hub whose TLS certificate verifies, or is the very one accepted at login.
//! * Host certificates are checked against the Host CA for the exact name asked for; nothing is ever trusted on first use.
//! * A node that asks gets a code of an authenticator, and no answer to any other question.
//! * The terminal is put back whatever ends the session: an exit, an error, a panic or a signal.
//! * Text that strangers chose is escaped before it is shown.
//!
//! # Deliberately absent
//!
//! Any decision about access (the hub and the node decide), and the environment (a program's `main` reads it).
#![forbid(unsafe_code)]

pub mod address;
pub mod admin;
pub mod api;
pub mod audit_key;
pub mod cli;
pub mod error;
pub mod home;
pub mod http;
pub mod login;
pub mod mfa_prompt;
pub mod passwd;
pub mod player;
pub mod profile;
pub mod session;
pub mod ssh_config;
pub mod ssh_dial;
pub mod stdio;
pub mod terminal;
pub mod trust;

pub use error::{Error, Result};
