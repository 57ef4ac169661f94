//! What the peer says about channels: every message is checked against the state before it changes anything.

use bytes::Bytes;

use super::{
    ChannelId, ChannelOpen, Inbound, OpenFailure, SessionRequest,
    table::{ASKED, Channel, Channels, GlobalWaiter, Notice, PeerRequest, STDERR, State},
};
use crate::{
    error::Fault,
    msg,
    transport::{Role, Transport},
    wire::Reader,
};

/// Data of a global request, at most; the ones in use are far smaller.
const MAX_GLOBAL: usize = 4096;
/// A packet size below this is not worth serving.
const MIN_PACKET: u32 = 64;
/// What a waiting request costs beside its bytes.
const REQUEST_COST: usize = 128;

impl Channels {
    /// A message of the connection protocol; false if its number is unknown.
    pub(crate) fn message(&mut self, payload: &[u8], t: &mut Transport) -> Result<bool, Fault> {
        let mut reader = Reader::new(payload);
        let number = reader.u8()?;
        match number {
            msg::GLOBAL_REQUEST => self.on_global(reader, t)?,
            msg::REQUEST_SUCCESS => self.on_global_reply(Some(Bytes::copy_from_slice(reader.rest())))?,
            msg::REQUEST_FAILURE => self.on_global_reply(None)?,
            msg::CHANNEL_OPEN => self.on_open(reader, t)?,
            msg::CHANNEL_OPEN_CONFIRMATION => self.on_confirmation(reader, t)?,
            msg::CHANNEL_OPEN_FAILURE => self.on_failure(reader)?,
            msg::CHANNEL_WINDOW_ADJUST => self.on_adjust(reader)?,
            msg::CHANNEL_DATA => self.on_data(reader, false, t)?,
            msg::CHANNEL_EXTENDED_DATA => self.on_data(reader, true, t)?,
            msg::CHANNEL_EOF => self.on_eof(reader)?,
            msg::CHANNEL_CLOSE => self.on_close(reader, t)?,
            msg::CHANNEL_REQUEST => self.on_request(reader, t)?,
            msg::CHANNEL_SUCCESS => self.on_reply(reader, true)?,
            msg::CHANNEL_FAILURE => self.on_reply(reader, false)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn on_global(&mut self, mut reader: Reader<'_>, t: &mut Transport) -> Result<(), Fault> {
        let (name, want_reply, data) = (reader.utf8()?, reader.bool()?, reader.rest());
        let token = want_reply.then(|| self.globals_in.expect());
        if self.globals_in.len() > self.limits.requests {
            return Err(Fault::protocol("too many requests outstanding"));
        }
        let answer = match (name, t.role()) {
            ("keepalive@openssh.com", _) => Some(Some(Bytes::new())),
            ("no-more-sessions@openssh.com", Role::Server) => {
                self.no_more_sessions = true;
                Some(Some(Bytes::new()))
            }
            // Host keys are vouched for by an authority or pinned: there is nothing to learn.
            ("hostkeys-00@openssh.com", Role::Client) => Some(None),
            _ if data.len() > MAX_GLOBAL => Some(None),
            _ => None,
        };
        match (answer, token) {
            (Some(answer), Some(token)) => self.global_reply(token, answer, t),
            (Some(_), None) => Ok(()),
            (None, token) => {
                let cost = REQUEST_COST + name.len() + data.len();
                self.waiting.add(cost, &self.limits)?;
                let (name, data) = (name.to_owned(), Bytes::copy_from_slice(data));
                self.requests.push_back(PeerRequest::Global { token, name, data, cost });
                Ok(())
            }
        }
    }

    fn on_global_reply(&mut self, answer: Option<Bytes>) -> Result<(), Fault> {
        match self.globals_out.pop_front() {
            Some(GlobalWaiter::Keepalive) => {}
            Some(GlobalWaiter::Application) => self.notices.push_back(Notice::GlobalReply(answer)),
            None => return Err(Fault::protocol("answer to a request that was not made")),
        }
        Ok(())
    }

    fn on_open(&mut self, mut reader: Reader<'_>, t: &mut Transport) -> Result<(), Fault> {
        let (kind, remote, window, packet) = (reader.string()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let open = match ChannelOpen::read(kind, &mut reader) {
            Ok(Some(open)) => open,
            Ok(None) => return self.refuse(remote, OpenFailure::UnknownChannelType, "unknown channel type", t),
            Err(_) => return self.refuse(remote, OpenFailure::ConnectFailed, "malformed open request", t),
        };
        let refusal = if open.opener() == t.role() || (self.no_more_sessions && open == ChannelOpen::Session) {
            Some((OpenFailure::AdministrativelyProhibited, "not for you to open"))
        } else if self.channels.len() >= self.limits.channels {
            Some((OpenFailure::ResourceShortage, "too many channels"))
        } else if packet < MIN_PACKET {
            Some((OpenFailure::ResourceShortage, "maximum packet size too small"))
        } else {
            None
        };
        if let Some((why, text)) = refusal {
            return self.refuse(remote, why, text, t);
        }
        let Some(id) = self.number(remote)? else {
            return self.refuse(remote, OpenFailure::ResourceShortage, "a channel of this number is open", t);
        };
        let packet = packet.min(self.max_packet());
        self.insert(id, State::Offered, remote, window, packet);
        self.requests.push_back(PeerRequest::Open { id, open });
        Ok(())
    }

    fn on_confirmation(&mut self, mut reader: Reader<'_>, t: &mut Transport) -> Result<(), Fault> {
        let id = reader.u32()?;
        let (remote, window, packet) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if packet < MIN_PACKET {
            return Err(Fault::protocol("maximum packet size too small"));
        }
        let packet = packet.min(self.max_packet());
        let foretold = self.is_own_peer().then_some(id | ASKED);
        let channel = self.opening(id)?;
        if foretold.is_some_and(|number| number != remote) {
            return Err(Fault::protocol("a channel with another number than foretold"));
        }
        channel.state = State::Open;
        (channel.remote, channel.send_window, channel.send_packet) = (remote, window, packet);
        if channel.released {
            return self.close(id, t);
        }
        channel.flush_requests(t)?;
        self.notices.push_back(Notice::Opened(id));
        Ok(())
    }

    fn on_failure(&mut self, mut reader: Reader<'_>) -> Result<(), Fault> {
        let (id, code, text) = (reader.u32()?, reader.u32()?, reader.string()?);
        let released = self.opening(id)?.released;
        self.remove(id);
        if !released {
            let text = text.get(..text.len().min(1024)).unwrap_or_default();
            let text = String::from_utf8_lossy(text).into_owned();
            self.notices.push_back(Notice::OpenFailed(id, OpenFailure::from_code(code), text));
        }
        Ok(())
    }

    fn on_adjust(&mut self, mut reader: Reader<'_>) -> Result<(), Fault> {
        let id = reader.u32()?;
        let bytes = reader.u32()?;
        let channel = self.live(id)?;
        let before = channel.send_window;
        channel.send_window = before.checked_add(bytes).ok_or_else(|| Fault::protocol("channel window overflow"))?;
        if before == 0 {
            self.notices.push_back(Notice::Writable(id));
        }
        Ok(())
    }

    fn on_data(&mut self, mut reader: Reader<'_>, extended: bool, t: &mut Transport) -> Result<(), Fault> {
        let id = reader.u32()?;
        let stderr = if extended { reader.u32()? == STDERR } else { false };
        let data = reader.string()?;
        reader.end()?;
        let channel = self.live(id)?;
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if length > channel.recv_packet {
            return Err(Fault::protocol("more data in a packet than the channel takes"));
        }
        channel.recv_window =
            channel.recv_window.checked_sub(length).ok_or_else(|| Fault::protocol("channel window overrun"))?;
        // OpenSSH may send stderr after the end of stdout.
        if channel.got_eof && !extended {
            return Err(Fault::protocol("data after end of file"));
        }
        if length == 0 {
            return Ok(());
        }
        if channel.discard || extended != stderr {
            channel.consumed += length;
            return channel.return_window(t);
        }
        let was_empty = channel.inbox.is_empty();
        channel.inbox.push_data(stderr, data);
        self.readable(id, was_empty);
        Ok(())
    }

    fn on_eof(&mut self, mut reader: Reader<'_>) -> Result<(), Fault> {
        let id = reader.u32()?;
        let channel = self.live(id)?;
        if std::mem::replace(&mut channel.got_eof, true) || channel.discard {
            return Ok(());
        }
        let was_empty = channel.inbox.is_empty();
        channel.inbox.push(Inbound::Eof, 0);
        self.readable(id, was_empty);
        Ok(())
    }

    fn on_close(&mut self, mut reader: Reader<'_>, t: &mut Transport) -> Result<(), Fault> {
        let id = reader.u32()?;
        let channel = self.live(id)?;
        channel.got_close = true;
        let released = channel.released;
        self.close(id, t)?;
        if released {
            self.remove(id);
        } else {
            self.notices.extend([Notice::Readable(id), Notice::Writable(id), Notice::Closed(id)]);
        }
        Ok(())
    }

    fn on_request(&mut self, mut reader: Reader<'_>, t: &mut Transport) -> Result<(), Fault> {
        let id = reader.u32()?;
        let (name, want_reply, payload) = (reader.utf8()?, reader.bool()?, reader.rest());
        let max = self.limits.requests;
        if self.is_refused(id) && !self.channels.contains_key(&id) {
            return Ok(());
        }
        let channel = self.asked(id)?;
        let token = want_reply.then(|| channel.replies_in.expect());
        if channel.replies_in.len() > max {
            return Err(Fault::protocol("too many requests outstanding"));
        }
        let request = SessionRequest::parse(name, payload).ok();
        let request = request.filter(|_| !channel.discard && name != "keepalive@openssh.com");
        match (request, token) {
            (None, None) => Ok(()),
            (None, Some(token)) => self.reply(id, token, false, t),
            (Some(request), token) => {
                let was_empty = channel.inbox.is_empty();
                let cost = REQUEST_COST + name.len() + payload.len();
                channel.inbox.push(Inbound::Request { request, token }, cost);
                self.waiting.add(cost, &self.limits)?;
                self.readable(id, was_empty);
                Ok(())
            }
        }
    }

    fn on_reply(&mut self, mut reader: Reader<'_>, ok: bool) -> Result<(), Fault> {
        let id = reader.u32()?;
        let channel = self.live(id)?;
        channel.replies_out = channel
            .replies_out
            .checked_sub(1)
            .ok_or_else(|| Fault::protocol("answer to a request that was not made"))?;
        self.notices.push_back(Notice::RequestReply(id, ok));
        Ok(())
    }

    /// Readers drain a channel before they wait, so only the first item wakes them.
    fn readable(&mut self, id: ChannelId, was_empty: bool) {
        if was_empty {
            self.notices.push_back(Notice::Readable(id));
        }
    }

    /// A channel for which requests may come: a live one, or one of a peer that foretells its number.
    fn asked(&mut self, id: ChannelId) -> Result<&mut Channel, Fault> {
        if !self.is_own_peer() {
            return self.live(id);
        }
        let channel = self.channels.get_mut(&id);
        channel.filter(|channel| channel.state != State::Opening && !channel.got_close).ok_or_else(unknown)
    }

    fn opening(&mut self, id: ChannelId) -> Result<&mut Channel, Fault> {
        self.channels.get_mut(&id).filter(|channel| channel.state == State::Opening).ok_or_else(unknown)
    }

    /// A channel that both sides confirmed and the peer did not close.
    fn live(&mut self, id: ChannelId) -> Result<&mut Channel, Fault> {
        let channel = self.channels.get_mut(&id);
        channel.filter(|channel| channel.state == State::Open && !channel.got_close).ok_or_else(unknown)
    }
}

fn unknown() -> Fault {
    Fault::protocol("message for a channel that is not open")
}
