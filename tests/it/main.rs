//! One binary for all end-to-end tests. They need root, for they switch OS users and mount small disks.
//!
//! Harness: `process` (programs), `pty` (programs on a terminal), `cluster` (the product), `user` (a person with `msh` and
//! OpenSSH), `os_user`, `setup` (all of it). The other files hold tests, one idea each.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml allows these in tests, and everything here is one; clippy does not see that of helpers"
)]

mod cluster;
mod os_user;
mod process;
mod pty;
mod setup;
mod user;

mod audit;
mod calls;
mod clock;
mod codes;
mod config;
mod disk;
mod exec;
mod fleet;
mod force;
mod forward;
mod guides;
mod house;
mod join;
mod listening;
mod locks;
mod login;
mod main_job;
mod mfa;
mod moderation;
mod openssh;
mod peers;
mod pinning;
mod recording;
mod recover;
mod refusal;
mod rest;
mod restart;
mod session_mfa;
mod terminal;
mod terminate;
