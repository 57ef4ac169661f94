//! The key exchange (RFC 4253 sections 7 and 8, RFC 8731): a state that each message consumes.

use std::time::Instant;

use aws_lc_rs::rand;
use bytes::Bytes;

use super::{Side, Transport, host_key};
use crate::{
    cipher::{Opener, Sealer},
    error::Fault,
    kex::{self, ClientKex, KexAlgorithm, SharedSecret},
    msg,
    negotiate::{KexInit, Negotiated, Offer},
    transport::Role,
    wire::{Reader, put_string, put_u8, put_u32, put_utf8},
};

/// Packets under one key after which new keys are fetched, well below the end of sequence numbers.
pub(super) const MAX_PACKETS: u64 = 1 << 31;
/// Exchanges a peer may start in a row.
pub(super) const CREDIT: u64 = 128;
/// Traffic that earns the peer one more exchange.
const BYTES_PER_EXCHANGE: u64 = 16 << 10;

/// Where the key exchange stands.
pub(super) enum Exchange {
    /// None is under way.
    Idle,
    /// Our SSH_MSG_KEXINIT is out, the peer's is not here.
    Offered { ours: Vec<u8>, guess: Option<Guess> },
    /// Server: both offers are here, the client's share is not.
    AwaitsInit { agreed: Agreed, skip: bool },
    /// Client: our share is out.
    AwaitsReply { agreed: Agreed, guess: Guess },
    /// We use the new keys for sending; the peer's SSH_MSG_NEWKEYS is not here.
    AwaitsNewKeys(Opener),
}

/// A client's share of the secret.
pub(super) struct Guess {
    algorithm: KexAlgorithm,
    kex: ClientKex,
    share: Vec<u8>,
}

/// Both offers, as they enter the hash, and what follows from them.
pub(super) struct Agreed {
    negotiated: Negotiated,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

impl Exchange {
    pub(super) fn idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Whether messages of the layers above may be sent.
    pub(super) fn may_send(&self) -> bool {
        matches!(self, Self::Idle | Self::AwaitsNewKeys(_))
    }

    /// Whether the peer's SSH_MSG_KEXINIT came and its SSH_MSG_NEWKEYS did not.
    pub(super) fn peer_committed(&self) -> bool {
        !matches!(self, Self::Idle | Self::Offered { .. })
    }
}

impl Guess {
    fn new(algorithm: KexAlgorithm) -> Result<Self, Fault> {
        let (kex, share) = ClientKex::start(algorithm).map_err(kex_fault)?;
        Ok(Self { algorithm, kex, share })
    }

    fn message(&self) -> Vec<u8> {
        let mut message = vec![msg::KEX_INIT];
        put_string(&mut message, &self.share);
        message
    }
}

impl Transport {
    /// Sends our SSH_MSG_KEXINIT. A client adds its share for the method it likes best in the first exchange.
    pub(crate) fn start_exchange(&mut self, now: Instant) -> Result<(), Fault> {
        let first = self.session_id.is_none();
        let guess = match self.algorithms.kex.first() {
            Some(best) if first && self.role == Role::Client => Some(Guess::new(*best)?),
            _ => None,
        };
        let ours = self.offer(first, guess.is_some())?.encode();
        self.writer.write(&ours, b"")?;
        if let Some(guess) = &guess {
            self.writer.write(&guess.message(), b"")?;
        }
        self.exchange = Exchange::Offered { ours, guess };
        self.exchange_since = Some(now);
        Ok(())
    }

    fn offer(&self, first: bool, guess: bool) -> Result<Offer<'_>, Fault> {
        let mut cookie = [0; 16];
        rand::fill(&mut cookie).map_err(|_| Fault::kex("no random numbers"))?;
        let (role, algorithms, host_keys) = (self.role, &self.algorithms, self.host_key_names.as_slice());
        Ok(Offer { role, algorithms, host_keys, first, guess, cookie })
    }

    /// A message of the key exchange.
    pub(super) fn exchange_message(&mut self, number: u8, payload: &[u8], now: Instant) -> Result<(), Fault> {
        match (std::mem::replace(&mut self.exchange, Exchange::Idle), number) {
            (Exchange::Idle, msg::KEXINIT) if self.settled => {
                self.spend_credit(now)?;
                self.start_exchange(now)?;
                self.exchange_message(number, payload, now)
            }
            (Exchange::Offered { ours, guess }, msg::KEXINIT) => self.on_offer(ours, guess, payload),
            (Exchange::AwaitsInit { agreed, skip: true }, msg::KEX_INIT..50) => {
                self.exchange = Exchange::AwaitsInit { agreed, skip: false };
                Ok(())
            }
            (Exchange::AwaitsInit { agreed, skip: false }, msg::KEX_INIT) => self.on_init(&agreed, payload),
            (Exchange::AwaitsReply { agreed, guess }, msg::KEX_REPLY) => self.on_reply(&agreed, guess, payload),
            (Exchange::AwaitsNewKeys(opener), msg::NEWKEYS) => {
                if payload.len() != 1 {
                    return Err(Fault::kex("malformed new keys message"));
                }
                self.reader.rekey(opener, self.strict);
                self.settled = true;
                self.keyed_at = now;
                self.exchange_since = None;
                Ok(())
            }
            _ => Err(Fault::protocol(format!("message {number} out of place in a key exchange"))),
        }
    }

    /// A peer may start exchanges at will, but not for nothing: each costs this side a signature.
    fn spend_credit(&mut self, now: Instant) -> Result<(), Fault> {
        let traffic = self.reader.usage().bytes + self.writer.usage().bytes;
        let earned = traffic / BYTES_PER_EXCHANGE + now.duration_since(self.keyed_at).as_secs();
        let credit = self.exchange_credit.saturating_add(earned).min(CREDIT);
        self.exchange_credit = credit.checked_sub(1).ok_or_else(|| Fault::kex("too many key exchanges"))?;
        Ok(())
    }

    /// The peer's offer: both are known from here.
    fn on_offer(&mut self, ours: Vec<u8>, guess: Option<Guess>, payload: &[u8]) -> Result<(), Fault> {
        let theirs = KexInit::parse(payload)?;
        let first = self.session_id.is_none();
        if first {
            self.strict = theirs.strict(self.role);
            self.ext_info_wanted = theirs.wants_ext_info();
            if self.strict && self.reader.sequence() != 1 {
                return Err(Fault::protocol("strict key exchange: a message came before the offer"));
            }
        }
        let negotiated = theirs.negotiate(&self.offer(first, guess.is_some())?)?;
        let agreed = Agreed { negotiated, ours, theirs: payload.to_vec() };
        self.exchange = match self.role {
            Role::Server => Exchange::AwaitsInit { agreed, skip: negotiated.wrong_guess },
            Role::Client => {
                let held = guess.filter(|guess| !negotiated.wrong_guess && guess.algorithm == negotiated.kex);
                let guess = match held {
                    Some(guess) => guess,
                    None => {
                        let guess = Guess::new(negotiated.kex)?;
                        self.writer.write(&guess.message(), b"")?;
                        guess
                    }
                };
                Exchange::AwaitsReply { agreed, guess }
            }
        };
        Ok(())
    }

    /// Server: the client's share. Answers with ours, the host key and its signature.
    fn on_init(&mut self, agreed: &Agreed, payload: &[u8]) -> Result<(), Fault> {
        let Side::Server(config) = &self.side else { return Err(Fault::protocol("a server's message")) };
        let client_share = single_string(payload)?;
        let (server_share, secret) = kex::server_reply(agreed.negotiated.kex, client_share).map_err(kex_fault)?;
        let host_key = host_key::select(config, agreed.negotiated.host_key)?;
        let key_blob = host_key::blob(host_key, agreed.negotiated.host_key);
        let hash = self.hash(agreed, &key_blob, client_share, &server_share, &secret);
        let signature = host_key.key.sign(&hash);

        let mut reply = vec![msg::KEX_REPLY];
        put_string(&mut reply, &key_blob);
        put_string(&mut reply, &server_share);
        put_string(&mut reply, &signature);
        self.writer.write(&reply, b"")?;
        self.switch(agreed.negotiated, &secret, &hash)
    }

    /// Client: the server's share and proof.
    fn on_reply(&mut self, agreed: &Agreed, guess: Guess, payload: &[u8]) -> Result<(), Fault> {
        let Side::Client { trust, now_unix } = &self.side else { return Err(Fault::protocol("a client's message")) };
        let mut reader = Reader::new(payload);
        reader.u8()?;
        let (key_blob, server_share, signature) = (reader.string()?, reader.string()?, reader.string()?);
        reader.end()?;

        let check = host_key::Check { trust, now_unix: *now_unix, known: self.host_key.as_ref() };
        let host_key = check.believe(agreed.negotiated.host_key, key_blob)?;
        let Guess { kex, share, .. } = guess;
        let secret = kex.finish(server_share).map_err(kex_fault)?;
        let hash = self.hash(agreed, key_blob, &share, server_share, &secret);
        host_key::check_signature(&host_key, agreed.negotiated.host_key, &hash, signature)?;
        self.host_key = Some(host_key);
        self.switch(agreed.negotiated, &secret, &hash)
    }

    /// The exchange hash (RFC 8731 section 3.1).
    fn hash(&self, agreed: &Agreed, key: &[u8], client: &[u8], server: &[u8], secret: &SharedSecret) -> [u8; 32] {
        let ours = crate::config::IDENT;
        let theirs = self.remote_ident.as_deref().unwrap_or_default();
        let ((v_c, v_s), (i_c, i_s)) = match self.role {
            Role::Client => ((ours, theirs), (&agreed.ours, &agreed.theirs)),
            Role::Server => ((theirs, ours), (&agreed.theirs, &agreed.ours)),
        };
        let exchange = kex::Exchange {
            client_version: v_c.as_bytes(),
            server_version: v_s.as_bytes(),
            client_kexinit: i_c,
            server_kexinit: i_s,
            host_key: key,
            client_init: client,
            server_reply: server,
        };
        kex::exchange_hash(&exchange, secret)
    }

    /// Sends SSH_MSG_NEWKEYS and uses the new keys for sending; the receiving half waits for the peer's.
    fn switch(&mut self, negotiated: Negotiated, secret: &SharedSecret, hash: &[u8; 32]) -> Result<(), Fault> {
        let first = self.session_id.is_none();
        let session_id = self.session_id.get_or_insert_with(|| Bytes::copy_from_slice(hash)).clone();
        let derive = |letter: u8, len: usize| kex::derive_key(secret, hash, &session_id, letter, len);
        let (c2s, s2c) = (negotiated.cipher_c2s, negotiated.cipher_s2c);
        let (iv_c2s, key_c2s) = (derive(b'A', c2s.iv_len()), derive(b'C', c2s.key_len()));
        let (iv_s2c, key_s2c) = (derive(b'B', s2c.iv_len()), derive(b'D', s2c.key_len()));
        let (sealer, opener): (Sealer, Opener) = match self.role {
            Role::Client => (c2s.sealer(&key_c2s, &iv_c2s)?, s2c.opener(&key_s2c, &iv_s2c)?),
            Role::Server => (s2c.sealer(&key_s2c, &iv_s2c)?, c2s.opener(&key_c2s, &iv_c2s)?),
        };
        self.writer.write(&[msg::NEWKEYS], b"")?;
        self.writer.rekey(sealer, self.strict);
        self.exchange = Exchange::AwaitsNewKeys(opener);
        if first && self.role == Role::Server && self.ext_info_wanted {
            self.writer.write(&ext_info(), b"")?;
        }
        self.flush_deferred()
    }
}

/// SSH_MSG_EXT_INFO of a server (RFC 8308 section 3.1, OpenSSH PROTOCOL section 1.9).
fn ext_info() -> Vec<u8> {
    let mut message = Vec::new();
    put_u8(&mut message, msg::EXT_INFO);
    put_u32(&mut message, 2);
    put_utf8(&mut message, "server-sig-algs");
    put_utf8(&mut message, "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256");
    put_utf8(&mut message, "ping@openssh.com");
    put_utf8(&mut message, "0");
    message
}

fn kex_fault(error: kex::KexError) -> Fault {
    Fault::kex(error.to_string())
}

fn single_string(payload: &[u8]) -> Result<&[u8], Fault> {
    let mut reader = Reader::new(payload);
    reader.u8()?;
    let string = reader.string()?;
    reader.end()?;
    Ok(string)
}
