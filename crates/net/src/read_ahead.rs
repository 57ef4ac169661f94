//! Large reads for a TLS connection.
//!
//! rustls asks for 4 KiB at a time, which makes four system calls of every full record.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Most bytes read at once.
const SIZE: usize = 64 * 1024;
/// A read of so many bytes is one of many.
const BULK: usize = SIZE / 4;

/// A stream that is read in large pieces. It holds memory only while it holds bytes, or while much is coming.
#[derive(Debug)]
pub struct ReadAhead<S> {
    io: S,
    unread: BytesMut,
    bulk: bool,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { io, unread: BytesMut::new(), bulk: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, unread, bulk } = self.get_mut();
        if unread.is_empty() {
            unread.reserve(SIZE);
            let read = poll_read_buf(Pin::new(io), cx, unread);
            if unread.is_empty() && !*bulk {
                *unread = BytesMut::new();
            }
            *bulk = ready!(read)? >= BULK;
        }
        let length = unread.len().min(buf.remaining());
        buf.put_slice(unread.get(..length).unwrap_or_default());
        unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn small_reads_get_what_one_large_read_brought_and_nothing_is_kept() {
        let (mut far, near) = tokio::io::duplex(2 * SIZE);
        let mut near = ReadAhead::new(near);
        let sent: Vec<u8> = (0..SIZE + 5).map(|n| u8::try_from(n % 251).unwrap()).collect();
        far.write_all(&sent).await.unwrap();
        let mut first = [0; 5];
        near.read_exact(&mut first).await.unwrap();
        assert_eq!((&first[..], near.unread.len()), (&sent[..5], SIZE - 5));
        drop(far);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, sent[5..]);
        assert_eq!(near.unread.capacity(), 0);
    }
}
