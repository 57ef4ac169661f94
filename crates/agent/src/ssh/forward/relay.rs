//! Bytes between a channel and a socket.

use bytes::BytesMut;
use mezite_net::ssh::{Channel, ChannelEvent, ChannelReader, ChannelWriter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

use crate::ssh::idle::Activity;

/// Most bytes read at once: one packet towards other implementations.
const READ: usize = 32 * 1024;

/// Copies both ways until both are at their end, the client closes the channel, or the socket fails. An end in one direction
/// leaves the other open. Nothing is queued: who does not read stops the one that writes, and nobody else.
pub(super) async fn relay<S: AsyncRead + AsyncWrite>(channel: Channel, socket: S, activity: &Activity) {
    let (reader, writer) = channel.split();
    let (from_socket, to_socket) = split(socket);
    let down = down(from_socket, &writer, activity);
    let up = up(reader, to_socket, activity);
    tokio::pin!(down, up);
    let (mut sent, mut received) = (false, None);
    loop {
        tokio::select! {
            whole = &mut down, if !sent => match whole {
                Ok(()) if received.is_none() => sent = true,
                _ => break,
            },
            ended = &mut up, if received.is_none() => match ended {
                Some(reader) if !sent => received = Some(reader),
                _ => break,
            },
            () = closed(received.as_mut()) => break,
        }
    }
    writer.close();
}

/// Comes back when the client closes the channel after its end of data.
async fn closed(reader: Option<&mut ChannelReader>) {
    let Some(reader) = reader else { return std::future::pending().await };
    while reader.recv().await.is_some() {}
}

/// The socket or the channel is gone.
struct Gone;

/// Socket to client.
async fn down<S: AsyncRead>(mut socket: ReadHalf<S>, writer: &ChannelWriter, activity: &Activity) -> Result<(), Gone> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        match socket.read_buf(&mut buffer).await {
            Ok(0) => break,
            Ok(_) => writer.data(buffer.split().freeze()).await.map_err(|_| Gone)?,
            Err(_) => return Err(Gone),
        }
        activity.note();
    }
    writer.eof();
    Ok(())
}

/// Client to socket, to the client's end of data; `None` when it closed the channel.
async fn up<S: AsyncWrite>(
    mut reader: ChannelReader,
    mut socket: WriteHalf<S>,
    activity: &Activity,
) -> Option<ChannelReader> {
    let mut open = true;
    while let Some(event) = reader.recv().await {
        match event {
            ChannelEvent::Data(data) => {
                activity.note();
                // One that takes no more may still have something to say.
                open = open && socket.write_all(&data).await.is_ok();
            }
            ChannelEvent::Eof => {
                let _ = socket.shutdown().await;
                return Some(reader);
            }
            ChannelEvent::Request(request) => request.reply(false),
            ChannelEvent::Extended(..) => {}
        }
    }
    None
}
