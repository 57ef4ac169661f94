//! The SSH driver against itself and against OpenSSH, PuTTY and AsyncSSH.

#![expect(clippy::panic, reason = "helpers of tests may panic like tests")]

mod asyncssh;
mod cluster;
mod openssh_client;
mod openssh_server;
mod pair;
mod putty;
mod server;
