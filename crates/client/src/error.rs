//! What can go wrong in a client program, and the exit code it ends with.

use std::path::Path;

pub use mezite_core::error::{Fault, Invalid};

/// A failure, in words for the person at the terminal: what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something with a place in the common table, met here or told by the hub.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Something on this machine: a file, a terminal.
    #[error("{0}")]
    Local(String),
    /// Whoever read standard output has gone, as in `| head`.
    #[error("standard output is closed")]
    Closed,
    /// A signal of this number ended the program.
    #[error("ended by signal {0}")]
    Ended(u8),
}

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Exit code of `msh` and `mezctl`, see [`Fault::exit_code`]; 1 for a local failure, 141 where SIGPIPE ends others,
    /// and 128 + n after a signal.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Fault(fault) => fault.exit_code(),
            Self::Local(_) => 1,
            Self::Closed => 141,
            Self::Ended(signal) => 128 + *signal,
        }
    }

    /// Whether nobody is to be told.
    pub const fn is_silent(&self) -> bool {
        matches!(self, Self::Closed | Self::Ended(_))
    }

    pub(crate) fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::Local(format!("cannot {doing} {}: {error}", path.display()))
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Fault::Unavailable(message.into()).into()
    }

    pub(crate) fn not_logged_in(message: impl Into<String>) -> Self {
        Fault::NotLoggedIn(message.into()).into()
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Fault::Invalid(invalid).into()
    }
}

/// Adds the command to run next, unless the message names it.
pub(crate) fn with_next(message: String, command: &str) -> String {
    if message.contains(command) { message } else { format!("{message}; run `{command}`") }
}

/// A value of the command line that cannot be accepted.
pub fn invalid(field: &str, message: impl Into<String>) -> Error {
    Invalid::new(field, message).into()
}
