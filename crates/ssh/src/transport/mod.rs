//! The transport protocol (RFC 4253): identification, key exchange, keys in use, and which message may come when.

mod exchange;
mod host_key;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use exchange::Exchange;

use crate::{
    config::{Algorithms, HostTrust, IDENT, Limits, ServerConfig},
    error::{DisconnectReason, Fault},
    ident::IdentReader,
    key::PublicKey,
    msg,
    packet::{PacketReader, PacketWriter},
    wire::{Reader, put_string, put_u8, put_u32, put_utf8},
};

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects and logs in.
    Client,
    /// Accepts and decides.
    Server,
}

/// Bytes of messages that may wait for the end of a key exchange.
const MAX_DEFERRED: usize = 1 << 20;
/// Ignore, debug and the like accepted before authentication.
const MAX_NOISE: u32 = 64;
/// SSH_MSG_EXT_INFO accepted in all (RFC 8308 section 2.4 allows a server two).
const MAX_EXT_INFO: u8 = 2;
/// Time for a key exchange after the first.
const EXCHANGE_TIME: Duration = Duration::from_secs(120);

/// What proves or checks the host key.
pub(crate) enum Side {
    Server(Arc<ServerConfig>),
    Client { trust: HostTrust, now_unix: u64 },
}

/// What the transport hands up.
pub(crate) enum Received {
    /// A message of the layers above.
    Message(BytesMut),
    /// The peer said goodbye.
    Disconnect(DisconnectReason, String),
}

pub(crate) struct Transport {
    role: Role,
    pub(crate) side: Side,
    algorithms: Algorithms,
    host_key_names: Vec<&'static str>,
    rekey_bytes: u64,
    rekey_interval: Duration,
    pub(crate) writer: PacketWriter,
    reader: PacketReader,
    ident: IdentReader,
    remote_ident: Option<String>,
    exchange: Exchange,
    session_id: Option<Bytes>,
    strict: bool,
    /// The peer's first SSH_MSG_NEWKEYS came.
    settled: bool,
    /// The client asked for SSH_MSG_EXT_INFO in its first SSH_MSG_KEXINIT.
    ext_info_wanted: bool,
    ext_info_seen: u8,
    noise: u32,
    authenticated: bool,
    /// The connection is over: nothing more is sent.
    ended: bool,
    /// The server's key of the first exchange; it must not change.
    host_key: Option<PublicKey>,
    /// Messages of the layers above that wait for new keys.
    deferred: VecDeque<Vec<u8>>,
    deferred_bytes: usize,
    /// End of the last key exchange.
    keyed_at: Instant,
    /// Begin of the running one.
    exchange_since: Option<Instant>,
    /// Exchanges the peer may start before it has earned more, see `exchange`.
    exchange_credit: u64,
}

impl Transport {
    /// A connection of which nothing was sent.
    pub(crate) fn new(side: Side, algorithms: Algorithms, limits: &Limits, now: Instant) -> Self {
        let role = if matches!(side, Side::Server(_)) { Role::Server } else { Role::Client };
        let host_key_names = match &side {
            Side::Server(config) => host_key::server_names(config),
            Side::Client { trust, .. } => host_key::client_names(trust),
        };
        Self {
            role,
            side,
            algorithms,
            host_key_names,
            rekey_bytes: limits.rekey_bytes,
            rekey_interval: limits.rekey_interval,
            writer: PacketWriter::new(),
            reader: PacketReader::new(),
            ident: IdentReader::new(),
            remote_ident: None,
            exchange: Exchange::Idle,
            session_id: None,
            strict: false,
            settled: false,
            ext_info_wanted: false,
            ext_info_seen: 0,
            noise: 0,
            authenticated: false,
            ended: false,
            host_key: None,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            keyed_at: now,
            exchange_since: None,
            exchange_credit: exchange::CREDIT,
        }
    }

    /// Sends the identification line and, without waiting for the peer's, the offer of algorithms.
    pub(crate) fn start(&mut self, now: Instant) -> Result<(), Fault> {
        self.writer.out.extend_from_slice(IDENT.as_bytes());
        self.writer.out.extend_from_slice(b"\r\n");
        self.start_exchange(now)
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Whether no key exchange is under way.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> bool {
        self.exchange.idle()
    }

    /// Sequence number of the next packet received.
    #[cfg(test)]
    pub(crate) fn sequence_in(&self) -> u32 {
        self.reader.sequence()
    }

    /// The peer's identification line, once it came.
    pub(crate) fn remote_ident(&self) -> Option<&str> {
        self.remote_ident.as_deref()
    }

    /// The exchange hash of the first key exchange, once this side uses its keys.
    pub(crate) fn session_id(&self) -> Option<&Bytes> {
        self.session_id.as_ref()
    }

    /// The server's key that was believed (client only).
    pub(crate) fn host_key(&self) -> Option<&PublicKey> {
        self.host_key.as_ref()
    }

    /// Authentication is over: larger packets of up to `data` bytes are accepted, rekeying by volume begins.
    pub(crate) fn authenticated(&mut self, data: usize) {
        self.authenticated = true;
        self.reader.allow(data);
    }

    /// The next message for the layers above; transport messages are dealt with on the way.
    pub(crate) fn next(&mut self, input: &mut BytesMut, now: Instant) -> Result<Option<Received>, Fault> {
        if self.remote_ident.is_none() {
            self.remote_ident = self.ident.next(self.role, input)?;
            if self.remote_ident.is_none() {
                return Ok(None);
            }
        }
        while let Some(payload) = self.reader.next(input)? {
            let number = payload.first().copied().unwrap_or_default();
            self.gate(number)?;
            match number {
                msg::DISCONNECT => return read_disconnect(&payload).map(Some),
                msg::IGNORE | msg::DEBUG | msg::UNIMPLEMENTED => self.noise()?,
                msg::KEXINIT..50 => self.exchange_message(number, &payload, now)?,
                msg::EXT_INFO => self.ext_info(&payload)?,
                msg::PING => self.ping(&payload)?,
                msg::PONG => {}
                _ => return Ok(Some(Received::Message(payload))),
            }
        }
        Ok(None)
    }

    /// What may come in the present state of the key exchange.
    fn gate(&self, number: u8) -> Result<(), Fault> {
        let kex_message = matches!(number, msg::DISCONNECT | msg::KEXINIT..50);
        let chatter = matches!(number, msg::IGNORE | msg::DEBUG | msg::UNIMPLEMENTED);
        let allowed = if self.settled {
            // RFC 4253 section 7.1: from SSH_MSG_KEXINIT to SSH_MSG_NEWKEYS no message of the layers above.
            !self.exchange.peer_committed() || kex_message || chatter
        } else {
            kex_message || (chatter && !self.strict)
        };
        if allowed { Ok(()) } else { Err(Fault::protocol(format!("message {number} out of place in a key exchange"))) }
    }

    /// Messages without meaning are not endless before the peer is known.
    fn noise(&mut self) -> Result<(), Fault> {
        self.noise += u32::from(!self.authenticated);
        if self.noise > MAX_NOISE { Err(Fault::protocol("too many messages without meaning")) } else { Ok(()) }
    }

    /// Nothing a peer can announce changes what this side does; only the form and the count are checked.
    fn ext_info(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.ext_info_seen += 1;
        if self.ext_info_seen > MAX_EXT_INFO || self.authenticated {
            return Err(Fault::protocol("extension information out of place"));
        }
        let mut reader = Reader::new(payload);
        reader.u8()?;
        for _ in 0..reader.u32()? {
            reader.string()?;
            reader.string()?;
        }
        Ok(reader.end()?)
    }

    /// OpenSSH PROTOCOL section 1.9.
    fn ping(&mut self, payload: &[u8]) -> Result<(), Fault> {
        if !self.authenticated {
            return Err(Fault::protocol("ping before authentication"));
        }
        let mut reader = Reader::new(payload);
        reader.u8()?;
        let mut pong = vec![msg::PONG];
        put_string(&mut pong, reader.string()?);
        reader.end()?;
        self.send(&pong, b"")
    }

    /// Answers the message that was received last with SSH_MSG_UNIMPLEMENTED.
    pub(crate) fn unimplemented(&mut self) -> Result<(), Fault> {
        self.noise()?;
        let mut reply = vec![msg::UNIMPLEMENTED];
        put_u32(&mut reply, self.reader.sequence().wrapping_sub(1));
        self.send(&reply, b"")
    }

    /// Whether messages of the layers above go out at once: no key exchange of ours is under way.
    pub(crate) fn can_send(&self) -> bool {
        self.exchange.may_send()
    }

    /// Sends a message of the layers above (`head` followed by `body`), after the running key exchange if there is one.
    pub(crate) fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        if self.can_send() {
            return self.writer.write(head, body);
        }
        let message = [head, body].concat();
        self.deferred_bytes += message.len() + size_of::<Vec<u8>>();
        if self.deferred_bytes > MAX_DEFERRED {
            return Err(Fault::protocol("too many messages during a key exchange"));
        }
        self.deferred.push_back(message);
        Ok(())
    }

    fn flush_deferred(&mut self) -> Result<(), Fault> {
        self.deferred_bytes = 0;
        std::mem::take(&mut self.deferred).iter().try_for_each(|message| self.writer.write(message, b""))
    }

    /// Nothing more is to be sent.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Writes SSH_MSG_DISCONNECT, whatever the state, as the last message.
    pub(crate) fn disconnect(&mut self, reason: DisconnectReason, message: &str) {
        let mut out = Vec::new();
        put_u8(&mut out, msg::DISCONNECT);
        put_u32(&mut out, reason.code());
        put_utf8(&mut out, message);
        put_utf8(&mut out, "");
        // It fails only when the key is used up; then there is nothing left to say.
        let _ = self.writer.write(&out, b"");
        self.end();
    }

    /// Starts a key exchange if the present keys are used enough.
    pub(crate) fn refresh(&mut self, now: Instant) -> Result<(), Fault> {
        if self.exchange_deadline().is_some_and(|deadline| now >= deadline) {
            return Err(Fault::kex("the key exchange took too long"));
        }
        let (sent, received) = (self.writer.usage(), self.reader.usage());
        let used = sent.bytes.max(received.bytes) >= self.rekey_bytes
            || sent.packets.max(received.packets) >= exchange::MAX_PACKETS
            || now.duration_since(self.keyed_at) >= self.rekey_interval;
        if used && self.authenticated && self.exchange.idle() {
            self.start_exchange(now)?;
        }
        Ok(())
    }

    /// When [`Self::refresh`] is to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.exchange.idle() && self.authenticated {
            return self.keyed_at.checked_add(self.rekey_interval);
        }
        self.exchange_deadline()
    }

    /// The end of the running exchange; the first one is bounded by the time to log in.
    fn exchange_deadline(&self) -> Option<Instant> {
        self.exchange_since.filter(|_| self.settled)?.checked_add(EXCHANGE_TIME)
    }
}

fn read_disconnect(payload: &[u8]) -> Result<Received, Fault> {
    let mut reader = Reader::new(payload);
    reader.u8()?;
    let reason = DisconnectReason::from_code(reader.u32()?);
    let text = reader.string()?;
    let text = text.get(..text.len().min(1024)).unwrap_or_default();
    Ok(Received::Disconnect(reason, String::from_utf8_lossy(text).into_owned()))
}
