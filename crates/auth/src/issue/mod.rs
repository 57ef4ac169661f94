//! Issuing certificates: for users, for hosts, and for the listeners of this process.

pub(crate) mod host;
pub(crate) mod listener;
pub(crate) mod user;
