//! The connection protocol (RFC 4254): channels, their windows, requests and replies in order.

mod forward;
mod inbox;
mod incoming;
mod open;
mod outgoing;
mod replies;
mod request;
mod table;

pub use forward::ForwardRequest;
pub use open::{ChannelOpen, OpenFailure};
pub use request::{PtyRequest, SessionRequest};

pub(crate) use open::is_own;
pub use table::Notice;

pub(crate) use table::{Channels, HIGH_WATER, PeerRequest};

use bytes::Bytes;

/// Number of a channel on this side. Numbers are not used again soon, a stale one names nothing.
pub type ChannelId = u32;

/// What a channel brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Data.
    Data(Bytes),
    /// Extended data of type SSH_EXTENDED_DATA_STDERR; other types do not exist.
    Stderr(Bytes),
    /// No more data will come.
    Eof,
    /// A request.
    Request {
        /// What is asked.
        request: SessionRequest,
        /// Number to answer with; `None` if the peer wants no answer.
        token: Option<u64>,
    },
    /// The peer closed the channel; nothing comes after.
    Closed,
}
