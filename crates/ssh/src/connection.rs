//! One connection of either role: the three protocols put together, as a state machine over byte buffers.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    auth::{AuthAttempt, AuthReply, Challenge, ClientAuth, ClientStep, ServerAuth, ServerStep},
    channel::{ChannelId, ChannelOpen, Channels, HIGH_WATER, Inbound, Notice, OpenFailure, PeerRequest, is_own},
    config::{ClientSettings, Keepalive, ServerConfig},
    error::{CloseReason, DisconnectReason, Fault},
    key::PublicKey,
    msg,
    transport::{Received, Side, Transport},
};

/// Bytes waiting for the wire from which on nothing more is read: a peer that does not read is not answered either.
const READ_STOP: usize = HIGH_WATER + (512 << 10);

/// Messages kept of a client that opens channels along with a login that is not granted yet, and their bytes.
const MAX_EARLY: (usize, usize) = (32, 64 << 10);

/// Something for the application.
#[derive(Debug)]
pub enum Event {
    /// A client wants to log in: answer with [`Connection::authenticate`]. Until then nothing more is read.
    Auth(AuthAttempt),
    /// The user is logged in (either role).
    Authenticated {
        /// The login name.
        user: String,
    },
    /// The server asks the user: answer with [`Connection::answer`].
    Challenge(Challenge),
    /// The peer wants a channel: answer with [`Connection::accept`] or [`Connection::reject`].
    Open {
        /// Its number.
        channel: ChannelId,
        /// What for.
        open: ChannelOpen,
    },
    /// A global request.
    Global {
        /// What to answer to with [`Connection::global_reply`]; `None` if no answer is wanted.
        token: Option<u64>,
        /// Name of the request.
        name: String,
        /// What belongs to it, at most 4 KiB.
        data: Bytes,
    },
}

enum Auth {
    Server(ServerAuth),
    Client(ClientAuth),
    Done,
}

/// A connection without IO: bytes go in with [`Self::receive`], come out with [`Self::take_output`], and time is told.
pub struct Connection {
    transport: Transport,
    auth: Auth,
    channels: Channels,
    user: String,
    banner: String,
    events: VecDeque<Event>,
    /// What a client sent behind a login, for when one is granted (server only).
    early: Vec<Bytes>,
    login_deadline: Option<Instant>,
    keepalive: Option<Keepalive>,
    heard: Instant,
    /// When the login was granted, until the client has said something after it (server only).
    granted: Option<Instant>,
    probed: Instant,
    probes: u32,
    closed: Option<CloseReason>,
}

impl Connection {
    /// The server's end of a connection that begins now.
    #[must_use]
    pub fn server(config: Arc<ServerConfig>, now: Instant) -> Self {
        let (algorithms, limits) = (config.algorithms.clone(), config.limits.clone());
        let auth = Auth::Server(ServerAuth::new(&config));
        let timing = (config.login_grace, config.keepalive);
        let transport = Transport::new(Side::Server(config), algorithms, &limits, now);
        Self::new(transport, auth, Channels::new(limits), timing, now)
    }

    /// The client's end of a connection that begins now.
    #[must_use]
    pub fn client(settings: ClientSettings, now: Instant) -> Self {
        let auth = Auth::Client(ClientAuth::new(&settings));
        let timing = (settings.login_grace, settings.keepalive);
        let side = Side::Client { trust: settings.trust, now_unix: settings.now_unix };
        let transport = Transport::new(side, settings.algorithms, &settings.limits, now);
        let mut connection = Self::new(transport, auth, Channels::new(settings.limits), timing, now);
        connection.user = settings.user;
        connection
    }

    fn new(
        transport: Transport,
        auth: Auth,
        channels: Channels,
        (grace, keepalive): (Duration, Option<Keepalive>),
        now: Instant,
    ) -> Self {
        let mut connection = Self {
            transport,
            auth,
            channels,
            user: String::new(),
            banner: String::new(),
            events: VecDeque::new(),
            early: Vec::new(),
            login_deadline: now.checked_add(grace),
            keepalive,
            heard: now,
            granted: None,
            probed: now,
            probes: 0,
            closed: None,
        };
        let started = connection.transport.start(now);
        connection.guard(started);
        connection
    }

    // ----- bytes and time -----

    /// Takes what can be understood of `input`; the rest stays there for the next call.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) {
        let before = input.len();
        // An upload can be no faster than a window for each round trip. The client goes on at once when it is let in.
        if before > 0
            && let Some(granted) = self.granted.take()
        {
            self.channels.set_round_trip(now.saturating_duration_since(granted));
        }
        while self.reading() {
            match self.step(input, now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => return self.fail(fault),
            }
        }
        // Bytes that are not looked at are no sign of life: a peer that never reads is in the end not read either.
        if input.len() < before {
            (self.heard, self.probes) = (now, 0);
        }
        let refreshed = self.transport.refresh(now);
        self.guard(refreshed);
        self.channels.drained(&self.transport);
    }

    /// Whether bytes of the peer would be looked at now. If not, calling [`Self::authenticate`] or
    /// [`Self::take_output`] changes that.
    #[must_use]
    pub fn reading(&self) -> bool {
        let waiting = matches!(&self.auth, Auth::Server(auth) if auth.waiting());
        self.closed.is_none() && !waiting && self.transport.writer.out.len() < READ_STOP
    }

    /// One message; false if there is none.
    fn step(&mut self, input: &mut BytesMut, now: Instant) -> Result<bool, Fault> {
        let received = self.transport.next(input, now)?;
        self.start_login()?;
        match received {
            None => return Ok(false),
            Some(Received::Disconnect(reason, message)) => {
                self.transport.end();
                self.closed = Some(CloseReason::Peer { reason, message });
            }
            Some(Received::Message(mut payload)) => {
                self.message(&payload)?;
                // Answers of people are secrets; what was made of them wipes itself.
                if payload.first() == Some(&msg::USERAUTH_61) {
                    payload.as_mut().zeroize();
                }
            }
        }
        Ok(true)
    }

    fn message(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let number = payload.first().copied().unwrap_or_default();
        let own = self.transport.remote_ident().is_some_and(is_own);
        match &mut self.auth {
            Auth::Server(auth) if own && auth.tried() && (msg::GLOBAL_REQUEST..128).contains(&number) => {
                let bytes: usize = self.early.iter().map(Bytes::len).sum();
                if self.early.len() >= MAX_EARLY.0 || bytes + payload.len() > MAX_EARLY.1 {
                    return Err(Fault::protocol("too many messages before authentication"));
                }
                self.early.push(Bytes::copy_from_slice(payload));
                Ok(())
            }
            Auth::Server(auth) => {
                let session_id = self.transport.session_id().cloned().unwrap_or_default();
                let step = auth.message(payload, &session_id)?;
                if number == msg::USERAUTH_REQUEST
                    && let Some(banner) = auth.take_banner()
                {
                    self.transport.send(&banner, b"")?;
                }
                self.server_step(step)
            }
            Auth::Client(auth) => {
                let step = auth.message(payload)?;
                self.client_step(step)
            }
            // RFC 4252 section 5.1: requests after success are ignored.
            Auth::Done if number == msg::USERAUTH_REQUEST && self.transport.role() == crate::Role::Server => Ok(()),
            Auth::Done if (msg::GLOBAL_REQUEST..128).contains(&number) => {
                if self.channels.message(payload, &mut self.transport)? {
                    Ok(())
                } else {
                    self.transport.unimplemented()
                }
            }
            Auth::Done if number < msg::GLOBAL_REQUEST => {
                Err(Fault::protocol(format!("message {number} out of place after authentication")))
            }
            Auth::Done => self.transport.unimplemented(),
        }
    }

    /// The client logs in as soon as it can send encrypted.
    fn start_login(&mut self) -> Result<(), Fault> {
        if let Auth::Client(auth) = &mut self.auth
            && !auth.started()
            && let Some(session_id) = self.transport.session_id().cloned()
        {
            for message in auth.start(&session_id) {
                self.transport.send(&message, b"")?;
            }
            // A server of ours keeps what follows a login until it is granted.
            if auth.pipelined() && self.transport.remote_ident().is_some_and(is_own) {
                self.channels.activate(true, &mut self.transport)?;
            }
        }
        Ok(())
    }

    fn server_step(&mut self, step: ServerStep) -> Result<(), Fault> {
        match step {
            ServerStep::Nothing => Ok(()),
            ServerStep::Send(message) => self.transport.send(&message, b""),
            ServerStep::Ask(attempt) => {
                self.events.push_back(Event::Auth(attempt));
                Ok(())
            }
        }
    }

    fn client_step(&mut self, step: ClientStep) -> Result<(), Fault> {
        match step {
            ClientStep::Nothing => {}
            ClientStep::Send(message) => self.transport.send(&message, b"")?,
            ClientStep::Ask(challenge) => self.events.push_back(Event::Challenge(challenge)),
            ClientStep::Success => {
                if let Auth::Client(auth) = &self.auth {
                    auth.banner().clone_into(&mut self.banner);
                }
                self.logged_in(self.user.clone())?;
            }
            ClientStep::Denied(methods) => {
                self.transport.disconnect(DisconnectReason::NoMoreAuthMethods, "no more authentication methods");
                self.closed = Some(CloseReason::Denied { methods });
            }
        }
        Ok(())
    }

    fn logged_in(&mut self, user: String) -> Result<(), Fault> {
        self.auth = Auth::Done;
        self.login_deadline = None;
        let own = self.transport.remote_ident().is_some_and(is_own);
        self.channels.activate(own, &mut self.transport)?;
        self.transport.authenticated(self.channels.max_packet() as usize);
        self.user.clone_from(&user);
        self.events.push_back(Event::Authenticated { user });
        std::mem::take(&mut self.early).iter().try_for_each(|payload| self.message(payload))
    }

    /// The earliest time at which [`Self::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        [self.login_deadline, self.next_probe(), self.transport.deadline()].into_iter().flatten().min()
    }

    fn next_probe(&self) -> Option<Instant> {
        let keepalive = self.keepalive.filter(|_| matches!(self.auth, Auth::Done))?;
        self.heard.max(self.probed).checked_add(keepalive.interval)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        if self.login_deadline.is_some_and(|deadline| now >= deadline) {
            return self.time_out("login took too long");
        }
        if self.next_probe().is_some_and(|probe| now >= probe) {
            if self.probes >= self.keepalive.map_or(0, |keepalive| keepalive.count) {
                return self.time_out("the peer does not answer");
            }
            (self.probes, self.probed) = (self.probes + 1, now);
            let sent = self.channels.keepalive(&mut self.transport);
            self.guard(sent);
        }
        let refreshed = self.transport.refresh(now);
        self.guard(refreshed);
    }

    fn time_out(&mut self, what: &'static str) {
        self.transport.disconnect(DisconnectReason::ByApplication, what);
        self.closed = Some(CloseReason::TimedOut(what));
    }

    /// Whether bytes wait for the wire.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.transport.writer.out.is_empty()
    }

    /// The bytes to be written; `spare`, emptied, is the buffer for the next ones.
    pub fn take_output(&mut self, mut spare: BytesMut) -> BytesMut {
        spare.clear();
        let out = std::mem::replace(&mut self.transport.writer.out, spare);
        self.channels.drained(&self.transport);
        out
    }

    /// Why the connection is over, if it is. What is left of the output is to be written all the same.
    #[must_use]
    pub fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// The byte stream ended or failed.
    pub fn lost(&mut self, why: &str) {
        self.transport.end();
        self.closed.get_or_insert_with(|| CloseReason::Lost(why.to_owned()));
    }

    /// Says goodbye.
    pub fn disconnect(&mut self, reason: DisconnectReason, message: &str) {
        if self.closed.is_none() {
            self.transport.disconnect(reason, message);
            self.closed = Some(CloseReason::Local { reason, message: message.to_owned() });
        }
    }

    fn fail(&mut self, fault: Fault) {
        if self.closed.is_none() {
            self.transport.disconnect(fault.reason(), fault.message());
            self.closed = Some(CloseReason::Fault(fault));
        }
    }

    /// A fault ends the connection; the value of a fault is the type's default.
    fn guard<T: Default>(&mut self, result: Result<T, Fault>) -> T {
        result.unwrap_or_else(|fault| {
            self.fail(fault);
            T::default()
        })
    }

    // ----- what happened -----

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| {
            Some(match self.channels.next_request()? {
                PeerRequest::Open { id, open } => Event::Open { channel: id, open },
                PeerRequest::Global { token, name, data, .. } => Event::Global { token, name, data },
            })
        })
    }

    /// Whether [`Self::poll_event`] has one.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty() || self.channels.has_request()
    }

    /// The next notice about channels.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.channels.next_notice()
    }

    /// The exchange hash of the first key exchange (RFC 4253 section 7.2).
    #[must_use]
    pub fn session_id(&self) -> Option<Bytes> {
        self.transport.session_id().cloned()
    }

    /// The peer's identification line.
    #[must_use]
    pub fn remote_ident(&self) -> Option<&str> {
        self.transport.remote_ident()
    }

    /// The host key that was believed (client only).
    #[must_use]
    pub fn host_key(&self) -> Option<&PublicKey> {
        self.transport.host_key()
    }

    /// What the server said before login (client only). Its own words: escape them.
    #[must_use]
    pub fn banner(&self) -> &str {
        if let Auth::Client(auth) = &self.auth { auth.banner() } else { &self.banner }
    }

    /// Channels held.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    // ----- authentication -----

    /// Answers [`Event::Auth`].
    pub fn authenticate(&mut self, reply: AuthReply) {
        let Auth::Server(auth) = &mut self.auth else { return };
        let result = auth.reply(reply).and_then(|(step, user)| {
            self.server_step(step)?;
            let Some(user) = user else { return Ok(()) };
            self.granted = Some(self.heard);
            self.logged_in(user)
        });
        self.guard(result);
    }

    /// Answers [`Event::Challenge`]; `None`, or answers that do not fit, give up.
    pub fn answer(&mut self, answers: Option<&[Zeroizing<String>]>) {
        let Auth::Client(auth) = &mut self.auth else { return };
        match answers.and_then(|answers| auth.answer(answers)) {
            Some(message) => {
                let sent = self.transport.send(&message, b"");
                self.guard(sent);
            }
            None => self.disconnect(DisconnectReason::ByApplication, "login cancelled"),
        }
    }

    // ----- channels: see `Channels` -----

    /// Asks the peer for a channel; [`Notice::Opened`] or [`Notice::OpenFailed`] follows. Before authentication the
    /// request waits; towards a server that runs this engine it is sent along with the login. `None` if there are too many channels or the connection is over.
    pub fn open(&mut self, open: ChannelOpen) -> Option<ChannelId> {
        if self.closed.is_some() {
            return None;
        }
        let opened = self.channels.open(open, &mut self.transport);
        self.guard(opened)
    }

    /// Accepts a channel the peer wants.
    pub fn accept(&mut self, channel: ChannelId) {
        let done = self.channels.accept(channel, &mut self.transport);
        self.guard(done);
    }

    /// Refuses a channel the peer wants.
    pub fn reject(&mut self, channel: ChannelId, why: OpenFailure, message: &str) {
        let done = self.channels.reject(channel, why, message, &mut self.transport);
        self.guard(done);
    }

    /// What came in on a channel; asking says that the data handed out before is consumed, and returns its window.
    /// `None` if nothing is there; a [`Notice::Readable`] follows then.
    pub fn poll_channel(&mut self, channel: ChannelId) -> Option<Inbound> {
        let polled = self.channels.poll(channel, &mut self.transport);
        let item = self.guard(polled);
        if item.is_none() && self.closed.is_some() { Some(Inbound::Closed) } else { item }
    }

    /// Answers a request on a channel.
    pub fn reply(&mut self, channel: ChannelId, token: u64, ok: bool) {
        let done = self.channels.reply(channel, token, ok, &mut self.transport);
        self.guard(done);
    }

    /// Sends as much of `data` as windows and the wire take now, as stderr if asked, and says how many bytes that was:
    /// with fewer than all, a [`Notice::Writable`] or [`Notice::Drained`] tells when to try again. `None` if the channel
    /// takes no data any more.
    pub fn send_data(&mut self, channel: ChannelId, stderr: bool, data: &[u8]) -> Option<usize> {
        let sent = self.channels.data(channel, stderr, data, &mut self.transport);
        self.guard(sent).filter(|_| self.closed.is_none())
    }

    /// No more data will follow on the channel.
    pub fn eof(&mut self, channel: ChannelId) {
        let done = self.channels.eof(channel, &mut self.transport);
        self.guard(done);
    }

    /// Closes the channel.
    pub fn close(&mut self, channel: ChannelId) {
        let done = self.channels.close(channel, &mut self.transport);
        self.guard(done);
    }

    /// Nobody reads the channel any more: what comes is dropped.
    pub fn discard(&mut self, channel: ChannelId) {
        let done = self.channels.discard(channel, &mut self.transport);
        self.guard(done);
    }

    /// The application let go of the channel: it is closed and forgotten.
    pub fn release(&mut self, channel: ChannelId) {
        let done = self.channels.release(channel, &mut self.transport);
        self.guard(done);
    }

    /// Sends a request on a channel; a [`Notice::RequestReply`] follows if an answer is wanted. On a channel that is being
    /// opened it waits for the peer's answer, or goes along with the open where both ends run this engine. False if the
    /// channel is closed.
    pub fn request(&mut self, channel: ChannelId, name: &str, payload: &[u8], want_reply: bool) -> bool {
        let done = self.channels.request(channel, (name, payload), want_reply, &mut self.transport);
        self.guard(done) && self.closed.is_none()
    }

    /// Sends a global request; a [`Notice::GlobalReply`] follows if an answer is wanted.
    pub fn global_request(&mut self, name: &str, data: &[u8], want_reply: bool) {
        let done = self.channels.global(name, data, want_reply, &mut self.transport);
        self.guard(done);
    }

    /// Answers a global request; `None` refuses.
    pub fn global_reply(&mut self, token: u64, answer: Option<Bytes>) {
        let done = self.channels.global_reply(token, answer, &mut self.transport);
        self.guard(done);
    }
}

#[cfg(test)]
mod tests;
