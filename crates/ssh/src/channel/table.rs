//! The channels of one connection, as the application sees them. What the peer sends is dealt with in `incoming`, what the
//! application sends in `outgoing`.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{ChannelId, ChannelOpen, Inbound, OpenFailure, inbox::Inbox, outgoing::short, replies::Replies};
use crate::{
    config::Limits,
    error::Fault,
    msg,
    transport::Transport,
    wire::{put_bool, put_string, put_u32, put_utf8},
};

/// Bytes waiting for the wire from which on channels have to wait with theirs.
pub(crate) const HIGH_WATER: usize = 256 << 10;
/// Largest data of a packet towards other implementations, either way.
const PACKET: u32 = 32 << 10;
/// Where both ends run this engine, a channel has the same number at both, with this bit set at the end that was asked: what
/// follows the open needs not wait for the answer.
pub(super) const ASKED: u32 = 1 << 31;
/// Channels refused lately, for which requests may be on their way.
const REFUSED: usize = 64;
/// Window that every channel gets, however many there are.
const MIN_WINDOW: u32 = 64 << 10;

/// SSH_EXTENDED_DATA_STDERR, the only type of extended data there is.
pub(super) const STDERR: u32 = 1;

/// What the driver has to pass on to whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// [`Channels::poll`] has something again.
    Readable(ChannelId),
    /// The peer's window opened.
    Writable(ChannelId),
    /// The wire took what waited for it: every channel may send again.
    Drained,
    /// The peer confirmed a channel.
    Opened(ChannelId),
    /// The peer refused a channel. The text is the peer's.
    OpenFailed(ChannelId, OpenFailure, String),
    /// The answer to the oldest request of this side on the channel.
    RequestReply(ChannelId, bool),
    /// The channel is closed; nobody will answer what was asked.
    Closed(ChannelId),
    /// The answer to the oldest global request of this side; `None` is a refusal.
    GlobalReply(Option<Bytes>),
}

/// What the peer wants the application to decide.
#[derive(Debug)]
pub(crate) enum PeerRequest {
    Open { id: ChannelId, open: ChannelOpen },
    Global { token: Option<u64>, name: String, data: Bytes, cost: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// This side asked, the peer did not answer.
    Opening,
    /// The peer asked, the application did not answer.
    Offered,
    Open,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) state: State,
    pub(super) remote: u32,
    /// Bytes this side may send.
    pub(super) send_window: u32,
    pub(super) send_packet: u32,
    /// Bytes the peer may send.
    pub(super) recv_window: u32,
    pub(super) recv_max: u32,
    pub(super) recv_packet: u32,
    /// Handed to the application; consumed when it asks for more.
    delivered: u32,
    /// Consumed, not yet returned to the peer.
    pub(super) consumed: u32,
    pub(super) inbox: Inbox,
    /// Nobody reads: what comes counts as consumed.
    pub(super) discard: bool,
    pub(super) replies_in: Replies<bool>,
    pub(super) replies_out: u32,
    pub(super) sent_eof: bool,
    pub(super) sent_close: bool,
    pub(super) got_eof: bool,
    pub(super) got_close: bool,
    /// The application let go.
    pub(super) released: bool,
    /// Requests that wait for the peer's number of the channel.
    pub(super) queued: Vec<Request>,
}

/// A request of ours: name, payload, and whether an answer is wanted.
pub(super) type Request = (String, Bytes, bool);

/// What waits for authentication.
enum Early {
    Open(ChannelId, ChannelOpen),
    Global(Request),
}

/// Who waits for the answer to a global request of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GlobalWaiter {
    Keepalive,
    Application,
}

pub(crate) struct Channels {
    pub(super) limits: Limits,
    /// Both ends run this engine.
    pub(super) own_peer: bool,
    round_trip: Duration,
    /// Authentication is over.
    pub(super) active: bool,
    pub(super) channels: HashMap<ChannelId, Channel>,
    next_id: ChannelId,
    /// Windows of all channels together.
    granted: u32,
    pub(super) waiting: Waiting,
    pub(super) requests: VecDeque<PeerRequest>,
    /// `None`: the peer wants no answer.
    pub(super) globals_in: Replies<Option<Bytes>>,
    pub(super) globals_out: VecDeque<GlobalWaiter>,
    early: Vec<Early>,
    refused: VecDeque<ChannelId>,
    pub(super) no_more_sessions: bool,
    /// Somebody waits for the wire.
    pub(super) blocked: bool,
    pub(super) notices: VecDeque<Notice>,
}

/// Requests of the peer that the application has not seen yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    count: usize,
    bytes: usize,
}

/// Bytes all waiting requests may take.
const MAX_WAITING: usize = 1 << 20;

impl Waiting {
    pub(super) fn add(&mut self, cost: usize, limits: &Limits) -> Result<(), Fault> {
        self.count += 1;
        self.bytes += cost;
        if self.count > limits.requests || self.bytes > MAX_WAITING {
            return Err(Fault::protocol("too many requests outstanding"));
        }
        Ok(())
    }

    fn remove(&mut self, cost: usize) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(cost);
    }
}

impl Channels {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            own_peer: false,
            round_trip: Duration::ZERO,
            active: false,
            channels: HashMap::new(),
            next_id: 0,
            granted: 0,
            waiting: Waiting::default(),
            requests: VecDeque::new(),
            globals_in: Replies::new(),
            globals_out: VecDeque::new(),
            early: Vec::new(),
            refused: VecDeque::new(),
            no_more_sessions: false,
            blocked: false,
            notices: VecDeque::new(),
        }
    }

    /// Largest data of one packet this side takes.
    pub(crate) fn max_packet(&self) -> u32 {
        if self.own_peer { self.limits.packet_own.clamp(PACKET, 256 << 10) } else { PACKET }
    }

    /// Authentication is over, or on its way to a server that runs this engine: what waited for it goes out.
    pub(crate) fn activate(&mut self, own_peer: bool, transport: &mut Transport) -> Result<(), Fault> {
        self.active = true;
        self.own_peer = own_peer;
        for early in std::mem::take(&mut self.early) {
            match early {
                Early::Open(id, open) => self.send_open(id, &open, transport)?,
                Early::Global((name, data, want_reply)) => send_global(&name, &data, want_reply, transport)?,
            }
        }
        Ok(())
    }

    /// How far away the peer is, for the windows of channels from here on.
    pub(crate) fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    #[cfg(test)]
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    pub(super) fn is_own_peer(&self) -> bool {
        self.own_peer
    }

    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Channels held, whatever their state.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    // ----- opening -----

    /// Asks the peer for a channel; `None` if there are too many.
    pub(crate) fn open(&mut self, open: ChannelOpen, t: &mut Transport) -> Result<Option<ChannelId>, Fault> {
        if self.channels.len() >= self.limits.channels {
            return Ok(None);
        }
        while self.channels.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1) & !ASKED;
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1) & !ASKED;
        self.insert(id, State::Opening, 0, 0, 0);
        if self.active {
            self.send_open(id, &open, t)?;
        } else {
            self.early.push(Early::Open(id, open));
        }
        Ok(Some(id))
    }

    fn send_open(&mut self, id: ChannelId, open: &ChannelOpen, t: &mut Transport) -> Result<(), Fault> {
        let (window, packet) = self.grant(id);
        let mut message = vec![msg::CHANNEL_OPEN];
        put_utf8(&mut message, open.name());
        put_u32(&mut message, id);
        put_u32(&mut message, window);
        put_u32(&mut message, packet);
        open.write(&mut message);
        t.send(&message, b"")?;
        match self.channels.get_mut(&id) {
            Some(channel) if self.own_peer => {
                channel.remote = id | ASKED;
                channel.flush_requests(t)
            }
            _ => Ok(()),
        }
    }

    /// The number of a channel that the peer calls `remote` in its request to open it; `None` if it is taken.
    pub(super) fn number(&mut self, remote: u32) -> Result<Option<ChannelId>, Fault> {
        let id = if self.own_peer {
            if remote & ASKED != 0 {
                return Err(Fault::protocol("a channel with a number of the other side"));
            }
            remote | ASKED
        } else {
            while self.channels.contains_key(&self.next_id) {
                self.next_id = self.next_id.wrapping_add(1);
            }
            let id = self.next_id;
            self.next_id = id.wrapping_add(1);
            id
        };
        Ok(Some(id).filter(|id| !self.channels.contains_key(id)))
    }

    /// Requests of the peer for a channel that it was just refused are nothing.
    pub(super) fn is_refused(&self, id: ChannelId) -> bool {
        self.refused.contains(&id)
    }

    pub(super) fn refuse(&mut self, remote: u32, why: OpenFailure, text: &str, t: &mut Transport) -> Result<(), Fault> {
        if self.own_peer {
            if self.refused.len() >= REFUSED {
                self.refused.pop_front();
            }
            self.refused.push_back(remote | ASKED);
        }
        send_open_failure(remote, why, text, t)
    }

    pub(super) fn insert(&mut self, id: ChannelId, state: State, remote: u32, window: u32, packet: u32) {
        let channel = Channel {
            state,
            remote,
            send_window: window,
            send_packet: packet,
            recv_window: 0,
            recv_max: 0,
            recv_packet: 0,
            delivered: 0,
            consumed: 0,
            inbox: Inbox::default(),
            discard: false,
            replies_in: Replies::new(),
            replies_out: 0,
            sent_eof: false,
            sent_close: false,
            got_eof: false,
            got_close: false,
            released: false,
            queued: Vec::new(),
        };
        self.channels.insert(id, channel);
    }

    /// Gives a channel its window: the more is granted already, the less.
    fn grant(&mut self, id: ChannelId) -> (u32, u32) {
        let wanted = self.limits.window_towards(self.own_peer, self.round_trip);
        let share = self.limits.buffered.saturating_sub(self.granted) / 4;
        let window = wanted.min(share).max(MIN_WINDOW);
        let packet = self.max_packet().min(window);
        if let Some(channel) = self.channels.get_mut(&id) {
            (channel.recv_window, channel.recv_max, channel.recv_packet) = (window, window, packet);
            self.granted = self.granted.saturating_add(window);
        }
        (window, packet)
    }

    /// Accepts a channel the peer asked for.
    pub(crate) fn accept(&mut self, id: ChannelId, t: &mut Transport) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| channel.state == State::Offered) else {
            return Ok(());
        };
        channel.state = State::Open;
        let remote = channel.remote;
        let (window, packet) = self.grant(id);
        let mut message = vec![msg::CHANNEL_OPEN_CONFIRMATION];
        for field in [remote, id, window, packet] {
            put_u32(&mut message, field);
        }
        t.send(&message, b"")?;
        self.channels.get_mut(&id).map_or(Ok(()), |channel| channel.flush_replies(t))
    }

    /// Refuses a channel the peer asked for.
    pub(crate) fn reject(
        &mut self,
        id: ChannelId,
        why: OpenFailure,
        text: &str,
        t: &mut Transport,
    ) -> Result<(), Fault> {
        let Some(channel) = self.channels.get(&id).filter(|channel| channel.state == State::Offered) else {
            return Ok(());
        };
        let remote = channel.remote;
        // What was asked on it counts no more.
        self.discard(id, t)?;
        self.remove(id);
        self.refuse(remote, why, text, t)
    }

    pub(super) fn remove(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.remove(&id) {
            self.granted = self.granted.saturating_sub(channel.recv_max);
        }
        self.early.retain(|early| !matches!(early, Early::Open(queued, _) if *queued == id));
    }

    // ----- receiving -----

    /// The next thing that came in on a channel; asking for it says that the one before is consumed.
    pub(crate) fn poll(&mut self, id: ChannelId, t: &mut Transport) -> Result<Option<Inbound>, Fault> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(Some(Inbound::Closed)) };
        channel.consumed += std::mem::take(&mut channel.delivered);
        let item = match channel.inbox.pop() {
            Some((item @ (Inbound::Data(_) | Inbound::Stderr(_)), _)) => {
                let (Inbound::Data(data) | Inbound::Stderr(data)) = &item else { return Ok(None) };
                channel.delivered = u32::try_from(data.len()).unwrap_or(u32::MAX);
                Some(item)
            }
            Some((item, cost)) => {
                if matches!(item, Inbound::Request { .. }) {
                    self.waiting.remove(cost);
                }
                Some(item)
            }
            None => channel.got_close.then_some(Inbound::Closed),
        };
        channel.return_window(t)?;
        Ok(item)
    }

    /// Answers a request of the peer on a channel.
    pub(crate) fn reply(&mut self, id: ChannelId, token: u64, ok: bool, t: &mut Transport) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        channel.replies_in.settle(token, ok);
        channel.flush_replies(t)
    }

    /// Nobody reads this channel any more: what came and what will come is dropped, requests are refused.
    pub(crate) fn discard(&mut self, id: ChannelId, t: &mut Transport) -> Result<(), Fault> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        channel.discard = true;
        channel.consumed += std::mem::take(&mut channel.delivered);
        while let Some((item, cost)) = channel.inbox.pop() {
            match item {
                Inbound::Data(data) | Inbound::Stderr(data) => {
                    channel.consumed += u32::try_from(data.len()).unwrap_or(u32::MAX);
                }
                Inbound::Request { token, .. } => {
                    self.waiting.remove(cost);
                    if let Some(token) = token {
                        channel.replies_in.settle(token, false);
                    }
                }
                Inbound::Eof | Inbound::Closed => {}
            }
        }
        channel.flush_replies(t)?;
        channel.return_window(t)
    }

    /// The application let go of the channel: it is closed, and forgotten when the peer closed it too.
    pub(crate) fn release(&mut self, id: ChannelId, t: &mut Transport) -> Result<(), Fault> {
        self.discard(id, t)?;
        self.close(id, t)?;
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        channel.released = true;
        if channel.got_close || (channel.state == State::Opening && !self.active) {
            self.remove(id);
        }
        Ok(())
    }

    // ----- global requests -----

    /// Sends a global request.
    pub(crate) fn global(&mut self, name: &str, data: &[u8], want_reply: bool, t: &mut Transport) -> Result<(), Fault> {
        if want_reply {
            self.globals_out.push_back(GlobalWaiter::Application);
        }
        if self.active {
            return send_global(name, data, want_reply, t);
        }
        self.early.push(Early::Global((name.to_owned(), Bytes::copy_from_slice(data), want_reply)));
        Ok(())
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn keepalive(&mut self, t: &mut Transport) -> Result<(), Fault> {
        self.globals_out.push_back(GlobalWaiter::Keepalive);
        send_global("keepalive@openssh.com", b"", true, t)
    }

    /// Answers a global request of the peer; `None` refuses.
    pub(crate) fn global_reply(&mut self, token: u64, answer: Option<Bytes>, t: &mut Transport) -> Result<(), Fault> {
        self.globals_in.settle(token, answer);
        self.flush_globals(t)
    }

    pub(super) fn flush_globals(&mut self, t: &mut Transport) -> Result<(), Fault> {
        while let Some(answer) = self.globals_in.pop() {
            match answer {
                Some(data) => t.send(&[msg::REQUEST_SUCCESS], &data)?,
                None => t.send(&[msg::REQUEST_FAILURE], b"")?,
            }
        }
        Ok(())
    }

    pub(crate) fn has_request(&self) -> bool {
        !self.requests.is_empty()
    }

    /// What the peer wants decided next.
    pub(crate) fn next_request(&mut self) -> Option<PeerRequest> {
        let request = self.requests.pop_front()?;
        if let PeerRequest::Global { cost, .. } = &request {
            self.waiting.remove(*cost);
        }
        Some(request)
    }
}

fn send_global(name: &str, data: &[u8], want_reply: bool, t: &mut Transport) -> Result<(), Fault> {
    let mut message = vec![msg::GLOBAL_REQUEST];
    put_utf8(&mut message, name);
    put_bool(&mut message, want_reply);
    t.send(&message, data)
}

fn send_open_failure(remote: u32, why: OpenFailure, text: &str, t: &mut Transport) -> Result<(), Fault> {
    let mut message = short(msg::CHANNEL_OPEN_FAILURE, remote);
    put_u32(&mut message, why.code());
    put_utf8(&mut message, text);
    put_string(&mut message, b"");
    t.send(&message, b"")
}
