//! Sockets with the rights of the login user: a process of ours that has become the user ([`crate::Command::Sockets`])
//! opens them and hands them to the agent.
//!
//! The agent is root. Were it to open a Unix socket that a client names, or to make one, it would do so with rights that the
//! user does not have; so it asks the helper. One request is one packet of JSON on a socket pair, one answer a packet with
//! the descriptors. The helper does one thing at a time and never waits for anybody: connecting to a socket whose queue is
//! full is a refusal.
//!
//! What the helper made it removes when it is told, and all of it when the agent is gone.

mod client;
mod helper;

use serde::{Deserialize, Serialize};

pub use client::Sockets;
pub(crate) use helper::serve;

/// Longest packet, in bytes.
const PACKET_MAX: usize = 4096;

/// What the helper is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// A connection to the Unix socket at this absolute path.
    Connect(String),
    /// A Unix socket at this absolute path that takes connections. Nothing may be there; only the user may connect
    /// (`StreamLocalBindMask` 0177 of sshd_config(5)).
    ListenAt(String),
    /// Listeners on the loopback addresses at this port, or at any free one for 0 (`GatewayPorts no`). Ports below 1024 are
    /// root's.
    Listen(u16),
    /// A Unix socket for a key agent, in a new directory that only the user may enter.
    ListenForKeys,
    /// Removal of a socket that [`Ask::ListenAt`] made.
    Remove(String),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Place),
    Refused(String),
}

/// Where the helper listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The port; 0 without one.
    pub port: u16,
    /// The path; empty without one.
    pub path: String,
}
