//! The SSH driver against itself and against OpenSSH.

#![expect(clippy::panic, reason = "helpers of tests may panic like tests")]

mod cluster;
mod openssh_client;
mod openssh_server;
mod pair;
mod putty;
mod server;
