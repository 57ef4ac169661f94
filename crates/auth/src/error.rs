//! Why the Auth service does not start.

use mezite_core::Fault;

/// A reason not to start, in a sentence for whoever runs the hub. Never holds a secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(String);

impl AuthError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<Fault> for AuthError {
    fn from(fault: Fault) -> Self {
        Self(fault.to_string())
    }
}

impl From<rcgen::Error> for AuthError {
    fn from(error: rcgen::Error) -> Self {
        Self(format!("making a certificate: {error}"))
    }
}

impl From<mezite_net::tls::TlsError> for AuthError {
    fn from(error: mezite_net::tls::TlsError) -> Self {
        Self(error.to_string())
    }
}

impl From<mezite_ssh::key::KeyError> for AuthError {
    fn from(error: mezite_ssh::key::KeyError) -> Self {
        Self(error.to_string())
    }
}
