//! `msh` as a program, against a hub and a node inside the test: real TLS, real SSH, loopback only.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod hub;
mod login;
mod openssh;
mod sessions;
mod ssh;
mod terminal;
mod user;
