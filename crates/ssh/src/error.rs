//! Why a connection ends.

use std::fmt;

/// Reason code of SSH_MSG_DISCONNECT (RFC 4253 section 11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// SSH_DISCONNECT_PROTOCOL_ERROR
    ProtocolError,
    /// SSH_DISCONNECT_KEY_EXCHANGE_FAILED
    KeyExchangeFailed,
    /// SSH_DISCONNECT_MAC_ERROR
    MacError,
    /// SSH_DISCONNECT_SERVICE_NOT_AVAILABLE
    ServiceNotAvailable,
    /// SSH_DISCONNECT_HOST_KEY_NOT_VERIFIABLE
    HostKeyNotVerifiable,
    /// SSH_DISCONNECT_CONNECTION_LOST
    ConnectionLost,
    /// SSH_DISCONNECT_BY_APPLICATION
    ByApplication,
    /// SSH_DISCONNECT_TOO_MANY_CONNECTIONS
    TooManyConnections,
    /// SSH_DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE
    NoMoreAuthMethods,
    /// Any other code, as the peer sent it.
    Other(u32),
}

impl DisconnectReason {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::ProtocolError => 2,
            Self::KeyExchangeFailed => 3,
            Self::MacError => 5,
            Self::ServiceNotAvailable => 7,
            Self::HostKeyNotVerifiable => 9,
            Self::ConnectionLost => 10,
            Self::ByApplication => 11,
            Self::TooManyConnections => 12,
            Self::NoMoreAuthMethods => 14,
            Self::Other(code) => code,
        }
    }

    /// From the number on the wire.
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        match code {
            2 => Self::ProtocolError,
            3 => Self::KeyExchangeFailed,
            5 => Self::MacError,
            7 => Self::ServiceNotAvailable,
            9 => Self::HostKeyNotVerifiable,
            10 => Self::ConnectionLost,
            11 => Self::ByApplication,
            12 => Self::TooManyConnections,
            14 => Self::NoMoreAuthMethods,
            other => Self::Other(other),
        }
    }
}

/// A fault of the peer (or of the link) that ends the connection; carries the code the peer is told.
///
/// The message names what was wrong in words of ours; it never repeats bytes of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    reason: DisconnectReason,
    message: String,
}

impl Fault {
    /// A fault with its own code.
    pub(crate) fn new(reason: DisconnectReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A breach of the protocol.
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(DisconnectReason::ProtocolError, message)
    }

    /// The key exchange failed.
    pub(crate) fn kex(message: impl Into<String>) -> Self {
        Self::new(DisconnectReason::KeyExchangeFailed, message)
    }

    /// The code the peer is told.
    #[must_use]
    pub fn reason(&self) -> DisconnectReason {
        self.reason
    }

    /// What was wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<crate::wire::WireError> for Fault {
    fn from(error: crate::wire::WireError) -> Self {
        Self::protocol(format!("malformed message: {error}"))
    }
}

/// How a connection came to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer sent SSH_MSG_DISCONNECT. The text is the peer's: escape it before it is shown.
    #[error("the peer disconnected (code {}): {}", .reason.code(), .message.escape_debug())]
    Peer {
        /// The peer's reason.
        reason: DisconnectReason,
        /// The peer's text, at most 1,024 bytes.
        message: String,
    },
    /// This side closed the connection, or every handle was dropped.
    #[error("closed by this side: {message}")]
    Local {
        /// The reason the peer was told.
        reason: DisconnectReason,
        /// The text the peer was told.
        message: String,
    },
    /// The peer broke the protocol, failed the key exchange or could not be trusted.
    #[error(transparent)]
    Fault(Fault),
    /// The byte stream ended or failed without a farewell.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer did not log in, answer keepalives or finish a key exchange in time.
    #[error("timed out: {0}")]
    TimedOut(&'static str),
    /// The server refused every way to log in that was tried (client only).
    #[error("permission denied (the server accepts: {})", .methods.join(", "))]
    Denied {
        /// The methods the server named last.
        methods: Vec<String>,
    },
}
