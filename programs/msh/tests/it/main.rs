//! `msh` as a program, against a hub and a node inside the test: real TLS, real SSH, loopback only.

mod hub;
mod login;
mod openssh;
mod sessions;
mod ssh;
mod terminal;
mod user;
