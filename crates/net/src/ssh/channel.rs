//! Handles on a channel.

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use mezite_ssh::channel::{ChannelId, Inbound, SessionRequest};
use tokio::sync::oneshot;

use super::{ChannelStream, shared::Live};

/// The channel, or the connection it belongs to, is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub struct Closed;

impl From<Closed> for std::io::Error {
    fn from(closed: Closed) -> Self {
        Self::new(std::io::ErrorKind::BrokenPipe, closed)
    }
}

/// Keeps the channel open; the last one closes it.
pub(super) struct Guard {
    live: Arc<Live>,
    id: ChannelId,
}

impl Guard {
    pub(super) fn new(live: Arc<Live>, id: ChannelId) -> Arc<Self> {
        Arc::new(Self { live, id })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.live.shared.with(|state| {
            state.engine.release(self.id);
            state.slots.remove(&self.id);
        });
    }
}

/// An open channel: both halves in one.
#[derive(Debug)]
pub struct Channel {
    reader: ChannelReader,
    writer: ChannelWriter,
}

impl Channel {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { reader: ChannelReader { guard: Arc::clone(&guard) }, writer: ChannelWriter { guard } }
    }

    /// The next event, see [`ChannelReader::recv`].
    pub async fn recv(&mut self) -> Option<ChannelEvent> {
        self.reader.recv().await
    }

    /// The sending half.
    #[must_use]
    pub fn writer(&self) -> &ChannelWriter {
        &self.writer
    }

    /// The halves. The channel is closed when both are dropped, all clones of the writer included.
    #[must_use]
    pub fn split(self) -> (ChannelReader, ChannelWriter) {
        (self.reader, self.writer)
    }

    /// The channel as a stream of bytes: extended data is dropped, requests are refused, shutdown sends EOF.
    #[must_use]
    pub fn into_stream(self) -> ChannelStream {
        ChannelStream::new(self.reader, self.writer)
    }
}

/// What a channel brings.
#[derive(Debug)]
pub enum ChannelEvent {
    /// Data.
    Data(Bytes),
    /// Extended data; the type is always 1, stderr.
    Extended(u32, Bytes),
    /// No more data will come.
    Eof,
    /// A request of the peer.
    Request(ChannelReq),
}

/// A request within a channel. Dropping it unanswered refuses it.
pub struct ChannelReq {
    /// What is asked.
    pub request: SessionRequest,
    owed: Owed,
}

impl ChannelReq {
    /// Whether the peer waits for an answer.
    #[must_use]
    pub fn want_reply(&self) -> bool {
        self.owed.token.is_some()
    }

    /// Answers; without effect if no answer is wanted.
    pub fn reply(mut self, ok: bool) {
        self.owed.pay(ok);
    }
}

impl fmt::Debug for ChannelReq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelReq").field("request", &self.request).field("want_reply", &self.want_reply()).finish()
    }
}

struct Owed {
    guard: Arc<Guard>,
    token: Option<u64>,
}

impl Owed {
    fn pay(&mut self, ok: bool) {
        if let Some(token) = self.token.take() {
            self.guard.live.shared.with(|state| state.engine.reply(self.guard.id, token, ok));
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.pay(false);
    }
}

/// The receiving half. When it is dropped, what comes is thrown away.
pub struct ChannelReader {
    guard: Arc<Guard>,
}

impl ChannelReader {
    /// The next event; `None` when the channel is closed. Asking says that the data before is consumed: only then the
    /// peer may send more. May be cancelled without loss.
    pub async fn recv(&mut self) -> Option<ChannelEvent> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub(super) fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<ChannelEvent>> {
        let id = self.guard.id;
        let inbound = self.guard.live.shared.with(|state| {
            let inbound = state.engine.poll_channel(id);
            if inbound.is_none()
                && let Some(slot) = state.slots.get_mut(&id)
            {
                slot.reader = Some(cx.waker().clone());
            }
            inbound
        });
        Poll::Ready(Some(match inbound {
            None => return Poll::Pending,
            Some(Inbound::Closed) => return Poll::Ready(None),
            Some(Inbound::Data(data)) => ChannelEvent::Data(data),
            Some(Inbound::Stderr(data)) => ChannelEvent::Extended(1, data),
            Some(Inbound::Eof) => ChannelEvent::Eof,
            Some(Inbound::Request { request, token }) => {
                ChannelEvent::Request(ChannelReq { request, owed: Owed { guard: Arc::clone(&self.guard), token } })
            }
        }))
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        self.guard.live.shared.with(|state| state.engine.discard(self.guard.id));
    }
}

impl fmt::Debug for ChannelReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChannelReader").field(&self.guard.id).finish()
    }
}

/// The sending half.
#[derive(Clone)]
pub struct ChannelWriter {
    guard: Arc<Guard>,
}

impl ChannelWriter {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { guard }
    }

    /// Sends data, waiting for the peer's window as often as it takes. If it is cancelled, part may have been sent.
    ///
    /// # Errors
    /// [`Closed`], also after [`Self::eof`].
    pub async fn data(&self, data: Bytes) -> Result<(), Closed> {
        self.send(false, data).await
    }

    /// Sends extended data; the only type there is, is 1, stderr.
    ///
    /// # Errors
    /// [`Closed`], also after [`Self::eof`] and for another type.
    pub async fn extended(&self, code: u32, data: Bytes) -> Result<(), Closed> {
        if code == 1 { self.send(true, data).await } else { Err(Closed) }
    }

    async fn send(&self, stderr: bool, mut data: Bytes) -> Result<(), Closed> {
        poll_fn(|cx| {
            loop {
                if data.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                match self.poll_send(cx, stderr, &data) {
                    Poll::Ready(Ok(sent)) => data.advance(sent),
                    Poll::Ready(Err(closed)) => return Poll::Ready(Err(closed)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Sends some of `data`. When it is empty or the window is closed, the waker is kept until that may have changed.
    pub(super) fn poll_send(&self, cx: &Context<'_>, stderr: bool, data: &[u8]) -> Poll<Result<usize, Closed>> {
        let id = self.guard.id;
        self.guard.live.shared.with(|state| match state.engine.send_data(id, stderr, data) {
            None => Poll::Ready(Err(Closed)),
            Some(0) => {
                let Some(slot) = state.slots.get_mut(&id) else { return Poll::Ready(Err(Closed)) };
                if !slot.writers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    slot.writers.push(cx.waker().clone());
                }
                Poll::Pending
            }
            Some(sent) => Poll::Ready(Ok(sent)),
        })
    }

    /// Comes back when the peer has closed the channel or the connection is over, whether or not what came before is read;
    /// at once after an [`Self::eof`] of ours.
    pub async fn closed(&self) {
        poll_fn(|cx| match self.poll_send(cx, false, &[]) {
            Poll::Ready(Err(Closed)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        })
        .await;
    }

    /// Says that no more data will follow.
    pub fn eof(&self) {
        self.guard.live.shared.with(|state| state.engine.eof(self.guard.id));
    }

    /// Closes the channel in both directions, after what was sent.
    pub fn close(&self) {
        self.guard.live.shared.with(|state| state.engine.close(self.guard.id));
    }

    /// Sends a request and waits for the answer. It is sent when the future is first polled.
    ///
    /// # Errors
    /// [`Closed`]
    pub async fn request(&self, name: &str, payload: Bytes) -> Result<bool, Closed> {
        let (sender, reply) = oneshot::channel();
        let id = self.guard.id;
        self.guard.live.shared.with(|state| {
            if state.engine.request(id, name, &payload, true)
                && let Some(slot) = state.slots.get_mut(&id)
            {
                slot.replies.push_back(sender);
            }
        });
        reply.await.map_err(|_| Closed)
    }

    /// Sends a request that is not answered.
    pub fn notify(&self, name: &str, payload: Bytes) {
        self.guard.live.shared.with(|state| state.engine.request(self.guard.id, name, &payload, false));
    }
}

impl fmt::Debug for ChannelWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChannelWriter").field(&self.guard.id).finish()
    }
}
