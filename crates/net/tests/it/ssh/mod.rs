//! The SSH driver against itself and against OpenSSH.

mod cluster;
mod openssh_client;
mod openssh_server;
mod pair;
mod server;
