//! Handles on a connection.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use mezite_ssh::{
    CloseReason, Connection as Engine, DisconnectReason, Event as Raised, channel::OpenFailure, key::PublicKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{
    Answer, Channel, ChannelOpen, ChannelWriter, ConnectError, Event,
    channel::Guard,
    driver::Driver,
    request,
    shared::{Live, Shared},
};

/// Why a channel could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer refused. The text is the peer's, shown escaped.
    #[error("the peer refused the channel: {}", .message.escape_debug())]
    Refused {
        /// The peer's code.
        failure: OpenFailure,
        /// The peer's text, at most 1,024 bytes.
        message: String,
    },
    /// This side has as many channels as its limits allow.
    #[error("too many channels on this connection")]
    TooMany,
    /// The connection is over.
    #[error("the connection is closed")]
    Closed,
}

/// Why a global request had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The peer refused.
    #[error("the peer refused the request")]
    Refused,
    /// The connection is over.
    #[error("the connection is closed")]
    Closed,
}

/// A handle on a connection; clones are handles on the same one.
#[derive(Clone)]
pub struct Connection {
    live: Arc<Live>,
}

/// Starts the driver.
pub(super) fn start<S>(io: S, engine: Engine) -> (Connection, Incoming)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let shared = Shared::new(engine);
    tokio::spawn(Driver::new(io, Arc::clone(&shared)));
    let live = Arc::new(Live { shared });
    (Connection { live: Arc::clone(&live) }, Incoming { live })
}

impl Connection {
    /// Opens a channel and waits for the peer's word.
    ///
    /// # Errors
    /// If the peer refuses, there are too many channels, or the connection ends.
    pub async fn open(&self, open: ChannelOpen) -> Result<Channel, OpenError> {
        self.ask(open)?.opened().await
    }

    /// Asks for a channel. What is requested on it before the answer leaves in the same flight where both ends run this
    /// engine, together with the login if that is not granted yet.
    ///
    /// # Errors
    /// If there are too many channels or the connection is over.
    pub fn ask(&self, open: ChannelOpen) -> Result<Asked, OpenError> {
        let (sender, opened) = oneshot::channel();
        let id = self.live.shared.with(|state| {
            let id = state.open(open, sender);
            id.ok_or(if state.engine.closed().is_some() { OpenError::Closed } else { OpenError::TooMany })
        })?;
        // Releases the channel if nobody waits for the answer any more.
        Ok(Asked { guard: Guard::new(Arc::clone(&self.live), id), opened })
    }

    /// Sends a global request and waits for the data of its answer.
    ///
    /// # Errors
    /// If the peer refuses or the connection ends.
    pub async fn global_request(&self, name: &str, data: Bytes) -> Result<Bytes, RequestError> {
        let (sender, reply) = oneshot::channel();
        self.live.shared.with(|state| {
            if state.engine.closed().is_none() {
                state.engine.global_request(name, &data, true);
                state.globals.push_back(sender);
            }
        });
        match reply.await {
            Ok(Some(data)) => Ok(data),
            Ok(None) => Err(RequestError::Refused),
            Err(_) => Err(RequestError::Closed),
        }
    }

    /// Sends a global request that is not answered.
    pub fn global_notify(&self, name: &str, data: Bytes) {
        self.live.shared.with(|state| {
            if state.engine.closed().is_none() {
                state.engine.global_request(name, &data, false);
            }
        });
    }

    /// Ends the connection; the peer is told why.
    pub fn disconnect(&self, reason: DisconnectReason, message: &str) {
        self.live.shared.with(|state| state.engine.disconnect(reason, message));
    }

    /// Waits for the end of the connection, farewell written, and says how it came.
    pub async fn closed(&self) -> CloseReason {
        poll_fn(|cx| {
            self.live.shared.with(|state| match state.engine.closed() {
                Some(reason) if state.finished => Poll::Ready(reason.clone()),
                _ => {
                    if !state.closers.iter().any(|waker| waker.will_wake(cx.waker())) {
                        state.closers.push(cx.waker().clone());
                    }
                    Poll::Pending
                }
            })
        })
        .await
    }

    /// How the connection ended, if it did.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.live.close_reason()
    }

    /// The session id (RFC 4253 section 7.2): 32 bytes, empty before the first key exchange is over.
    #[must_use]
    pub fn session_id(&self) -> Bytes {
        self.live.shared.with(|state| state.engine.session_id().unwrap_or_default())
    }

    /// The peer's identification line, once it came. Printable ASCII.
    #[must_use]
    pub fn remote_ident(&self) -> Option<String> {
        self.live.shared.with(|state| state.engine.remote_ident().map(str::to_owned))
    }

    /// The host key that was believed (client only).
    #[must_use]
    pub fn host_key(&self) -> Option<PublicKey> {
        self.live.shared.with(|state| state.engine.host_key().cloned())
    }

    /// What the server said before login (client only), at most 8 KiB; its own words: escape them.
    #[must_use]
    pub fn banner(&self) -> String {
        self.live.shared.with(|state| state.engine.banner().to_owned())
    }
}

/// A channel that the peer was asked for. Dropping it gives the channel up.
pub struct Asked {
    guard: Arc<Guard>,
    opened: oneshot::Receiver<Result<(), OpenError>>,
}

impl Asked {
    /// For requests; data is taken once the channel is open.
    #[must_use]
    pub fn writer(&self) -> ChannelWriter {
        ChannelWriter::new(Arc::clone(&self.guard))
    }

    /// Waits for the peer's word.
    ///
    /// # Errors
    /// If the peer refuses or the connection ends.
    pub async fn opened(self) -> Result<Channel, OpenError> {
        self.opened.await.unwrap_or(Err(OpenError::Closed))?;
        Ok(Channel::new(self.guard))
    }
}

/// A login on its way.
pub struct Login {
    incoming: Incoming,
    prompt: Option<Answer>,
}

impl Login {
    pub(super) fn new(incoming: Incoming, prompt: Option<Answer>) -> Self {
        Self { incoming, prompt }
    }

    /// Waits until the user is authenticated.
    ///
    /// # Errors
    /// If the host is not believed, the user is refused, or the connection ends.
    pub async fn done(mut self) -> Result<Incoming, ConnectError> {
        match self.incoming.log_in(self.prompt.take()).await {
            Ok(()) => Ok(self.incoming),
            Err(CloseReason::Denied { methods }) => {
                let banner = self.incoming.live.shared.with(|state| state.engine.banner().to_owned());
                Err(ConnectError::Denied { methods, banner })
            }
            Err(CloseReason::Fault(fault)) if fault.reason() == DisconnectReason::HostKeyNotVerifiable => {
                Err(ConnectError::Host(fault.message().to_owned()))
            }
            Err(reason) => Err(ConnectError::Closed(reason)),
        }
    }
}

/// What the peer asks for. Dropping it refuses everything that is asked from then on.
pub struct Incoming {
    live: Arc<Live>,
}

impl Incoming {
    /// The next thing to decide; `None` when the connection is over.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let raised = poll_fn(|cx| self.poll_raised(cx)).await?;
            match request::event(&self.live, raised) {
                Ok(event) => return Some(event),
                // Asked after login, which no honest server does.
                Err(_) => self.live.shared.with(|state| state.engine.answer(None)),
            }
        }
    }

    fn poll_raised(&mut self, cx: &Context<'_>) -> Poll<Option<Raised>> {
        self.live.shared.with(|state| {
            if state.engine.closed().is_some() {
                return Poll::Ready(None);
            }
            match state.engine.poll_event() {
                Some(raised) => Poll::Ready(Some(raised)),
                None => {
                    state.incoming = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// A client's way from the first byte to the end of authentication.
    async fn log_in(&mut self, prompt: Option<Answer>) -> Result<(), CloseReason> {
        loop {
            match poll_fn(|cx| self.poll_raised(cx)).await {
                Some(Raised::Authenticated { .. }) => return Ok(()),
                Some(Raised::Challenge(challenge)) => {
                    let answers = match &prompt {
                        Some(prompt) => prompt(challenge).await,
                        None => None,
                    };
                    self.live.shared.with(|state| state.engine.answer(answers.as_deref()));
                }
                // Nothing else comes before authentication.
                Some(_) => {}
                None => {
                    let lost = || CloseReason::Lost("before login".to_owned());
                    return Err(self.live.close_reason().unwrap_or_else(lost));
                }
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.live.shared.with(|state| state.incoming_gone = true);
    }
}
