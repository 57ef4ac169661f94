//! A channel as a byte stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{ChannelEvent, ChannelReader, ChannelWriter};

/// A channel as a stream of bytes: extended data is dropped, requests are refused, shutdown sends EOF. Dropping it
/// closes the channel.
#[derive(Debug)]
pub struct ChannelStream {
    reader: ChannelReader,
    writer: ChannelWriter,
    /// Received, not read.
    pending: Bytes,
    eof: bool,
}

impl ChannelStream {
    pub(super) fn new(reader: ChannelReader, writer: ChannelWriter) -> Self {
        Self { reader, writer, pending: Bytes::new(), eof: false }
    }
}

impl AsyncRead for ChannelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.pending.is_empty() && !this.eof {
            match this.reader.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(ChannelEvent::Data(data))) => this.pending = data,
                Poll::Ready(Some(ChannelEvent::Eof) | None) => this.eof = true,
                Poll::Ready(Some(ChannelEvent::Extended(..) | ChannelEvent::Request(_))) => {}
            }
        }
        let length = this.pending.len().min(buf.remaining());
        buf.put_slice(this.pending.get(..length).unwrap_or_default());
        this.pending.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.writer.poll_send(cx, false, buf).map_err(Into::into)
    }

    /// What is written is on its way at once.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.eof();
        Poll::Ready(Ok(()))
    }
}
