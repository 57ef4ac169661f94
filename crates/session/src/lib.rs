//! The privileged starter of one session, and the lookup of OS users.
//!
//! The agent is multi-threaded and must not fork by itself: between `fork` and `exec` such a process may call next to
//! nothing. It runs a *zygote* instead, once and from its own executable ([`Starters`] on the agent's side, [`run_starter`]
//! inside), a small single-threaded process that forks a *starter* for each session ([`spawn`]). The starter looks the OS user up, forks the session's
//! leader, drops its privileges, waits for the agent's word to run it, reports how it ended, and can end all of it.
//!
//! Agent and starter speak over one socket pair, which the zygote hands on: a [`SessionSpec`] with the session's
//! own descriptors (`SCM_RIGHTS`), then one JSON value a line, [`Control`] one way and [`Message`] the other.
//!
//! Invariants:
//! - Nothing of the user runs before [`Control::Go`], and never with more rights than the user's own.
//! - The session holds descriptors 0, 1 and 2 and no other, with default signals and an environment made here.
//! - The starter lives as long as the leader. It ends the session when the agent ends, and on
//!   [`Control::Terminate`] it returns only when no descendant is left, however it hid.
//! - When the leader ends by itself, its background jobs live on, as with `sshd`.
//!
//! - A PAM stack (feature `pam`, in the dynamic program `mezd-session` only) comes on top of the checks made here. It may
//!   refuse and add; it never admits whom they refuse. It is closed after the leader's end.
//!
//! - A Unix socket or a port for a client is opened by a process of the login user ([`Sockets`]), never by the agent.
//!
//! Deliberately absent: tokio, sockets of the starter other than the pair, NSS inside this process (a static program must not load
//! it; `getent` is asked), PAM's passwords and the groups of `pam_group`, `~/.ssh/rc`, `~/.ssh/environment`, utmp.
#![warn(clippy::undocumented_unsafe_blocks)]

mod account;
mod cgroup;
mod child;
mod choose;
mod client;
mod descriptors;
mod env;
mod fork;
mod getent;
mod line;
mod login;
mod monitor;
#[cfg(feature = "pam")]
mod pam;
mod pty;
mod reap;
mod sockets;
mod spec;
mod starter;
mod starters;
pub mod users;
mod zygote;

pub use account::{Refusal, may_log_in};
pub use cgroup::{session_groups, sweep_groups};
pub use choose::choose_starter;
pub use client::{Running, spawn};
pub use env::accepted_env;
pub use line::{DecodeError, Decoder};
#[cfg(feature = "pam")]
pub use pam::pam_service;
pub use pty::{echoes, resize};
pub use sockets::{Ask, Place, Sockets};
pub use spec::{Command, Control, InvalidSpec, Message, Pty, SessionSpec};
pub use starter::run_starter;
#[cfg(feature = "pam")]
pub use starter::run_starter_with_pam;
pub use starters::{STARTER_ARGUMENT, Starter, Starters};

#[cfg(all(feature = "pam", target_feature = "crt-static"))]
compile_error!("a static program cannot load PAM: build mezd-session without +crt-static");
