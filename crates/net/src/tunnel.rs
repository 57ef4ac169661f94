//! A `Tunnel.Dial` call as a byte stream, for either end.
//!
//! The end of a direction is the end of that direction's message stream, so that a half-closed TCP or SSH connection
//! stays half-closed across the tunnel. A reader that does not read stops the writer at the other end: HTTP/2's windows
//! and [`QUEUE`] chunks are all that is in flight.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use mezite_proto::v1::TunnelChunk;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tonic::{Status, Streaming};

/// Most bytes of one chunk that is sent: two of them with their framing fit the 64 KiB that TLS takes at once, which is
/// also what a call sends at once when there is more.
pub const CHUNK: usize = 32 * 1024 - 64;
/// Chunks waiting to be sent.
pub const QUEUE: usize = 4;

/// A byte stream over a pair of message streams.
pub struct TunnelStream {
    incoming: Option<Streaming<TunnelChunk>>,
    unread: Bytes,
    outgoing: PollSender<TunnelChunk>,
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelStream").field("unread", &self.unread.len()).finish_non_exhaustive()
    }
}

/// The queue between a [`TunnelStream`] and the call that sends its chunks. The receiver becomes the request stream of
/// the client or the reply stream of the server.
#[must_use]
pub fn queue() -> (mpsc::Sender<TunnelChunk>, mpsc::Receiver<TunnelChunk>) {
    mpsc::channel(QUEUE)
}

impl TunnelStream {
    /// Joins what the call receives with the queue of what it sends; see [`queue`].
    #[must_use]
    pub fn new(incoming: Streaming<TunnelChunk>, outgoing: mpsc::Sender<TunnelChunk>) -> Self {
        Self { incoming: Some(incoming), unread: Bytes::new(), outgoing: PollSender::new(outgoing) }
    }
}

impl AsyncBufRead for TunnelStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            let Some(incoming) = this.incoming.as_mut() else { break };
            match ready!(Pin::new(incoming).poll_next(cx)) {
                Some(Ok(chunk)) => this.unread = chunk.data,
                Some(Err(status)) => {
                    this.incoming = None;
                    return Poll::Ready(Err(broken(&status)));
                }
                None => this.incoming = None,
            }
        }
        Poll::Ready(Ok(&this.unread))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.unread.advance(amount.min(this.unread.len()));
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let length = available.len().min(buf.remaining());
        buf.put_slice(available.get(..length).unwrap_or_default());
        self.consume(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outgoing = &mut self.get_mut().outgoing;
        ready!(outgoing.poll_reserve(cx)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let data = buf.get(..CHUNK).unwrap_or(buf);
        let chunk = TunnelChunk { data: Bytes::copy_from_slice(data) };
        outgoing.send_item(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Poll::Ready(Ok(data.len()))
    }

    /// The queue is emptied by the call itself, at the pace of the peer.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().outgoing.close();
        Poll::Ready(Ok(()))
    }
}

/// A call that failed is a connection that was reset. The peer's words are not passed on as ours.
fn broken(status: &Status) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, format!("the tunnel stream broke: {:?}", status.code()))
}
