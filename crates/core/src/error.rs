//! Whose fault it is, and the one table that turns that into an exit code, an HTTP status and a gRPC code.

use std::fmt;

/// A value written by a person that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the field, such as `spec.options.max_session_ttl`; empty when the whole value is meant.
    pub field: String,
    /// What is wrong and what would be right; lower case, no trailing dot.
    pub message: String,
}

impl Invalid {
    /// An invalid `field` with the reason in `message`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// The same finding, seen from one level further out: `options.x` inside `spec` becomes `spec.options.x`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = match (outer.is_empty(), self.field.is_empty()) {
            (true, _) => self.field,
            (false, true) => outer.to_owned(),
            (false, false) => format!("{outer}.{}", self.field),
        };
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

impl std::error::Error for Invalid {}

/// Why a request failed, in the words of whoever has to act on it. The text is shown to the caller, so it never holds a
/// secret, and for an outsider it never tells "does not exist" from "not allowed".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The caller is known and may not do this.
    #[error("{0}")]
    Denied(String),
    /// The request holds a value that cannot be accepted.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The thing named does not exist, or the caller may not know that it does.
    #[error("{0}")]
    NotFound(String),
    /// The thing exists already, was changed by somebody else, is still in use, or is locked.
    #[error("{0}")]
    Conflict(String),
    /// A part that is needed does not answer; the same request may work later.
    #[error("{0}")]
    Unavailable(String),
    /// No valid session or certificate.
    #[error("{0}")]
    NotLoggedIn(String),
    /// A second factor is needed before the request can go on.
    #[error("{0}")]
    MfaNeeded(String),
    /// Our own mistake.
    #[error("{0}")]
    Bug(String),
}

impl Fault {
    /// Exit code of `msh` and `mezctl`: 1 failed, 2 usage, 3 not found, 4 denied, 5 not logged in, 6 MFA needed,
    /// 7 conflict or locked, 8 unavailable.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Bug(_) => 1,
            Self::Invalid(_) => 2,
            Self::NotFound(_) => 3,
            Self::Denied(_) => 4,
            Self::NotLoggedIn(_) => 5,
            Self::MfaNeeded(_) => 6,
            Self::Conflict(_) => 7,
            Self::Unavailable(_) => 8,
        }
    }

    /// HTTP status (RFC 9110). A missing second factor is 401, as the login flow documents (F500).
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Invalid(_) => 400,
            Self::NotLoggedIn(_) | Self::MfaNeeded(_) => 401,
            Self::Denied(_) => 403,
            Self::NotFound(_) => 404,
            Self::Conflict(_) => 409,
            Self::Bug(_) => 500,
            Self::Unavailable(_) => 503,
        }
    }

    /// gRPC status code as its number on the wire.
    pub const fn grpc_code(&self) -> i32 {
        match self {
            Self::Invalid(_) => 3,
            Self::NotFound(_) => 5,
            Self::Denied(_) => 7,
            Self::MfaNeeded(_) => 9,
            Self::Conflict(_) => 10,
            Self::Bug(_) => 13,
            Self::Unavailable(_) => 14,
            Self::NotLoggedIn(_) => 16,
        }
    }

    /// The fault behind a gRPC status received from a peer. Codes that [`Fault::grpc_code`] never sends map to the
    /// nearest meaning, and anything unknown to [`Fault::Bug`].
    pub fn from_grpc(code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        match code {
            3 | 11 => Self::Invalid(Invalid::new("", message)),
            5 => Self::NotFound(message),
            7 => Self::Denied(message),
            9 => Self::MfaNeeded(message),
            6 | 10 => Self::Conflict(message),
            1 | 4 | 8 | 14 => Self::Unavailable(message),
            16 => Self::NotLoggedIn(message),
            _ => Self::Bug(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_codes_come_back_as_the_same_fault() {
        let faults = [
            Fault::Denied("m".into()),
            Fault::Invalid(Invalid::new("", "m")),
            Fault::NotFound("m".into()),
            Fault::Conflict("m".into()),
            Fault::Unavailable("m".into()),
            Fault::NotLoggedIn("m".into()),
            Fault::MfaNeeded("m".into()),
            Fault::Bug("m".into()),
        ];
        let mut exits: Vec<u8> = faults.iter().map(Fault::exit_code).collect();
        exits.sort_unstable();
        assert_eq!(exits, [1, 2, 3, 4, 5, 6, 7, 8]);
        for fault in faults {
            assert_eq!(Fault::from_grpc(fault.grpc_code(), "m"), fault);
        }
        assert_eq!(Fault::from_grpc(-1, "m").exit_code(), 1);
    }

    #[test]
    fn a_field_is_named_from_the_outside_in() {
        let inner = Invalid::new("max_session_ttl", "is not a duration");
        assert_eq!(
            inner.within("options").within("spec").to_string(),
            "spec.options.max_session_ttl: is not a duration"
        );
        assert_eq!(Invalid::new("", "is empty").within("spec").to_string(), "spec: is empty");
    }
}
