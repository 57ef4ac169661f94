//! Standard input and output joined to a channel, for `ProxyCommand`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;

use mezite_net::ssh::ChannelStream;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::fcntl_setpipe_size;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::net::unix::pipe;

use crate::error::{Error, Result};

/// Bytes carried at once.
const CHUNK: usize = 64 << 10;
/// Room asked for in the pipes to and from ssh(1), so that neither process waits for the other at every chunk. What the
/// system grants everybody.
const PIPE: usize = 1 << 20;

/// Carries bytes both ways until the far side ends; the end of input is passed on as the end of what we send.
///
/// # Errors
/// When standard output fails.
pub async fn join(channel: ChannelStream) -> Result<()> {
    let (from_node, mut to_node) = tokio::io::split(channel);
    let (flags_in, flags_out) = (flags(&io::stdin()), flags(&io::stdout()));
    let up = async {
        let sent = copy_buf(&mut BufReader::with_capacity(CHUNK, input()), &mut to_node).await;
        let ended = to_node.shutdown().await;
        sent.and(ended)
    };
    let mut output = output();
    let mut from_node = BufReader::with_capacity(CHUNK, from_node);
    let down = copy_buf(&mut from_node, &mut output);
    tokio::pin!(up, down);
    let carried = tokio::select! {
        carried = &mut down => carried,
        // What the node still has to say is carried even when sending has failed.
        _ = &mut up => down.await,
    };
    restore(&io::stdin(), flags_in);
    restore(&io::stdout(), flags_out);
    match carried {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::Closed),
        Err(error) => Err(Error::unavailable(format!("the connection ended: {error}"))),
        Ok(_) => Ok(()),
    }
}

/// ssh(1) gives its ProxyCommand pipes, which can be awaited; anything else is read by a thread.
fn input() -> Pin<Box<dyn AsyncRead + Send>> {
    let pipe = io::stdin().as_fd().try_clone_to_owned().map(widened).and_then(pipe::Receiver::from_owned_fd);
    pipe.map_or_else(|_| Box::pin(tokio::io::stdin()) as Pin<Box<dyn AsyncRead + Send>>, |pipe| Box::pin(pipe))
}

fn output() -> Pin<Box<dyn AsyncWrite + Send>> {
    let pipe = io::stdout().as_fd().try_clone_to_owned().map(widened).and_then(pipe::Sender::from_owned_fd);
    pipe.map_or_else(|_| Box::pin(tokio::io::stdout()) as Pin<Box<dyn AsyncWrite + Send>>, |pipe| Box::pin(pipe))
}

/// A wider pipe is faster; any will do.
fn widened(pipe: OwnedFd) -> OwnedFd {
    let _ = fcntl_setpipe_size(&pipe, PIPE);
    pipe
}

/// Awaiting a pipe makes it non-blocking for whoever shares it; that is undone at the end.
fn flags(of: &impl AsFd) -> Option<OFlags> {
    fcntl_getfl(of).ok()
}

fn restore(of: &impl AsFd, flags: Option<OFlags>) {
    if let Some(flags) = flags {
        let _ = fcntl_setfl(of, flags);
    }
}
