//! The configuration of `mezhub`: defaults, then the file, then `MEZITE_*` (spec 1.19).
//!
//! One struct per section. Every key of the file is also a variable: `MEZITE_` and the path in upper case with `_`; a few have
//! documented names of their own. A secret may be given as a file everywhere.

mod environment;
mod load;
mod secret;
mod sections;
#[cfg(test)]
mod tests;
mod validate;

pub(crate) use secret::{Secret, secret};
pub(crate) use sections::{Config, Format, Keypair};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(String);
