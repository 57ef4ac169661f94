//! What the application sends on its channels, and what is owed to the peer for what was consumed.

use bytes::Bytes;

use super::{
    ChannelId,
    table::{Channel, Channels, HIGH_WATER, Notice, STDERR, State},
};
use crate::{
    error::Fault,
    msg,
    transport::Transport,
    wire::{put_bool, put_u8, put_u32, put_utf8},
};

impl Channels {
    /// Sends as much of `data` as windows and the wire take now, and says how much; `None` on a closed channel.
    pub(crate) fn data(
        &mut self,
        id: ChannelId,
        stderr: bool,
        data: &[u8],
        t: &mut Transport,
    ) -> Result<Option<usize>, Fault> {
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| channel.writable()) else { return Ok(None) };
        let mut rest = data;
        while !rest.is_empty() {
            if !t.can_send() || t.writer.out.len() >= HIGH_WATER {
                self.blocked = true;
                break;
            }
            let room = channel.send_window.min(channel.send_packet);
            let length = u32::try_from(rest.len()).unwrap_or(u32::MAX).min(room);
            let Some((chunk, after)) = rest.split_at_checked(length as usize).filter(|_| length > 0) else { break };
            rest = after;
            channel.send_window -= length;
            let mut head = Vec::with_capacity(13);
            put_u8(&mut head, if stderr { msg::CHANNEL_EXTENDED_DATA } else { msg::CHANNEL_DATA });
            put_u32(&mut head, channel.remote);
            if stderr {
                put_u32(&mut head, STDERR);
            }
            put_u32(&mut head, length);
            t.send(&head, chunk)?;
        }
        Ok(Some(data.len() - rest.len()))
    }

    /// Says that no more data will follow.
    pub(crate) fn eof(&mut self, id: ChannelId, t: &mut Transport) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| channel.writable()) else { return Ok(()) };
        channel.sent_eof = true;
        t.send(&short(msg::CHANNEL_EOF, channel.remote), b"")
    }

    /// Closes the channel; what the peer still sends is dropped by whoever reads.
    pub(crate) fn close(&mut self, id: ChannelId, t: &mut Transport) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        if channel.state != State::Open || channel.sent_close {
            return Ok(());
        }
        channel.sent_close = true;
        t.send(&short(msg::CHANNEL_CLOSE, channel.remote), b"")
    }

    /// Sends a request, or keeps it until the channel has a number at the peer; false if the channel takes none any more.
    pub(crate) fn request(
        &mut self,
        id: ChannelId,
        (name, payload): (&str, &[u8]),
        want_reply: bool,
        t: &mut Transport,
    ) -> Result<bool, Fault> {
        let is_numbered = self.own_peer && self.active;
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(false) };
        if channel.state == State::Offered || channel.released || channel.sent_close || channel.got_close {
            return Ok(false);
        }
        channel.queued.push((name.to_owned(), Bytes::copy_from_slice(payload), want_reply));
        if channel.state == State::Open || is_numbered {
            channel.flush_requests(t)?;
        }
        Ok(true)
    }

    /// The wire has room again.
    pub(crate) fn drained(&mut self, t: &Transport) {
        if self.blocked && t.can_send() && t.writer.out.len() < HIGH_WATER {
            self.blocked = false;
            self.notices.push_back(Notice::Drained);
        }
    }
}

impl Channel {
    fn writable(&self) -> bool {
        self.state == State::Open && !self.sent_eof && !self.sent_close && !self.got_close
    }

    /// Returns consumed window to the peer, in steps worth a message.
    pub(super) fn return_window(&mut self, t: &mut Transport) -> Result<(), Fault> {
        if self.consumed == 0 || self.consumed < self.recv_max / 8 || self.sent_close || self.got_close {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.consumed);
        self.recv_window += bytes;
        let mut message = short(msg::CHANNEL_WINDOW_ADJUST, self.remote);
        put_u32(&mut message, bytes);
        t.send(&message, b"")
    }

    pub(super) fn flush_requests(&mut self, t: &mut Transport) -> Result<(), Fault> {
        for (name, payload, want_reply) in std::mem::take(&mut self.queued) {
            self.replies_out += u32::from(want_reply);
            let mut message = short(msg::CHANNEL_REQUEST, self.remote);
            put_utf8(&mut message, &name);
            put_bool(&mut message, want_reply);
            t.send(&message, &payload)?;
        }
        Ok(())
    }

    /// Answers wait for the channel itself to be accepted.
    pub(super) fn flush_replies(&mut self, t: &mut Transport) -> Result<(), Fault> {
        if self.state == State::Offered {
            return Ok(());
        }
        while let Some(ok) = self.replies_in.pop() {
            if !self.sent_close {
                let number = if ok { msg::CHANNEL_SUCCESS } else { msg::CHANNEL_FAILURE };
                t.send(&short(number, self.remote), b"")?;
            }
        }
        Ok(())
    }
}

pub(super) fn short(number: u8, channel: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(9);
    put_u8(&mut message, number);
    put_u32(&mut message, channel);
    message
}
