//! SSH_MSG_KEXINIT and the choice of algorithms (RFC 4253 section 7.1).

use crate::{
    cipher::Cipher,
    config::Algorithms,
    error::Fault,
    kex::KexAlgorithm,
    msg,
    transport::Role,
    wire::{Reader, put_bool, put_name_list, put_u8, put_u32},
};

/// Marks of strict key exchange (OpenSSH PROTOCOL section 1.10) and of extension negotiation (RFC 8308).
const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";
const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";
const EXT_INFO_CLIENT: &str = "ext-info-c";

/// Never used, every cipher authenticates by itself; named for peers that want the list filled.
const MACS: [&str; 2] = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"];

/// The lists of one SSH_MSG_KEXINIT that matter here.
#[derive(Debug)]
pub(crate) struct KexInit {
    kex: Vec<String>,
    host_key: Vec<String>,
    cipher_c2s: Vec<String>,
    cipher_s2c: Vec<String>,
    first_kex_follows: bool,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) kex: KexAlgorithm,
    pub(crate) host_key: &'static str,
    pub(crate) cipher_c2s: Cipher,
    pub(crate) cipher_s2c: Cipher,
    /// The client announced a guess, and it does not hold: its next packet is to be dropped.
    pub(crate) wrong_guess: bool,
}

/// Our own SSH_MSG_KEXINIT.
#[derive(Debug)]
pub(crate) struct Offer<'a> {
    pub(crate) role: Role,
    pub(crate) algorithms: &'a Algorithms,
    pub(crate) host_keys: &'a [&'static str],
    /// The first key exchange of the connection carries the marks.
    pub(crate) first: bool,
    /// A guessed packet comes right behind.
    pub(crate) guess: bool,
    pub(crate) cookie: [u8; 16],
}

impl Offer<'_> {
    /// The payload.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut kex: Vec<&str> = self.algorithms.kex.iter().map(|kex| kex.name()).collect();
        if self.first {
            match self.role {
                Role::Client => kex.extend([EXT_INFO_CLIENT, STRICT_CLIENT]),
                Role::Server => kex.push(STRICT_SERVER),
            }
        }
        let ciphers: Vec<&str> = self.algorithms.ciphers.iter().map(|cipher| cipher.name()).collect();

        let mut out = Vec::with_capacity(1024);
        put_u8(&mut out, msg::KEXINIT);
        out.extend_from_slice(&self.cookie);
        put_name_list(&mut out, &kex);
        put_name_list(&mut out, self.host_keys);
        for _ in 0..2 {
            put_name_list(&mut out, &ciphers);
        }
        for _ in 0..2 {
            put_name_list(&mut out, &MACS);
        }
        for _ in 0..2 {
            put_name_list(&mut out, &["none"]);
        }
        for _ in 0..2 {
            put_name_list(&mut out, &[]);
        }
        put_bool(&mut out, self.guess);
        put_u32(&mut out, 0);
        out
    }
}

impl KexInit {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(payload);
        let r = &mut reader;
        r.bytes(1 + 16)?;
        let (kex, host_key, cipher_c2s, cipher_s2c) = (names(r)?, names(r)?, names(r)?, names(r)?);
        let (_mac_c2s, _mac_s2c) = (r.name_list()?, r.name_list()?);
        for compression in [r.name_list()?, r.name_list()?] {
            if !compression.contains(&"none") {
                return Err(Fault::kex("no matching compression: only \"none\" is spoken here"));
            }
        }
        let (_language_c2s, _language_s2c) = (r.string()?, r.string()?);
        let first_kex_follows = r.bool()?;
        r.u32()?;
        reader.end()?;
        Ok(Self { kex, host_key, cipher_c2s, cipher_s2c, first_kex_follows })
    }

    /// Whether the peer, of the other role than `role`, asks for strict key exchange.
    pub(crate) fn strict(&self, role: Role) -> bool {
        let mark = if role == Role::Server { STRICT_CLIENT } else { STRICT_SERVER };
        self.kex.iter().any(|name| name == mark)
    }

    /// Whether the client wants SSH_MSG_EXT_INFO.
    pub(crate) fn wants_ext_info(&self) -> bool {
        self.kex.iter().any(|name| name == EXT_INFO_CLIENT)
    }

    /// The choice: the client's first name that the server has too. `self` is the peer's message.
    pub(crate) fn negotiate(&self, offer: &Offer<'_>) -> Result<Negotiated, Fault> {
        let our_kex: Vec<&str> = offer.algorithms.kex.iter().map(|kex| kex.name()).collect();
        let our_ciphers: Vec<&str> = offer.algorithms.ciphers.iter().map(|cipher| cipher.name()).collect();
        let role = offer.role;

        let kex = choose("key exchange method", role, &our_kex, &self.kex)?;
        let host_key = choose("host key type", role, offer.host_keys, &self.host_key)?;
        let cipher_c2s = choose("cipher from client to server", role, &our_ciphers, &self.cipher_c2s)?;
        let cipher_s2c = choose("cipher from server to client", role, &our_ciphers, &self.cipher_s2c)?;

        let guess_holds = our_kex.first().copied() == self.kex.first().map(String::as_str)
            && offer.host_keys.first().copied() == self.host_key.first().map(String::as_str);
        let unknown = || Fault::kex("unknown algorithm chosen");
        Ok(Negotiated {
            kex: offer.algorithms.kex.iter().copied().find(|known| known.name() == kex).ok_or_else(unknown)?,
            host_key,
            cipher_c2s: Cipher::from_name(cipher_c2s).ok_or_else(unknown)?,
            cipher_s2c: Cipher::from_name(cipher_s2c).ok_or_else(unknown)?,
            wrong_guess: !guess_holds && if role == Role::Server { self.first_kex_follows } else { offer.guess },
        })
    }
}

fn names(r: &mut Reader<'_>) -> Result<Vec<String>, Fault> {
    Ok(r.name_list()?.into_iter().map(str::to_owned).collect())
}

fn choose(what: &str, role: Role, ours: &[&'static str], theirs: &[String]) -> Result<&'static str, Fault> {
    let chosen = match role {
        Role::Client => ours.iter().find(|name| theirs.iter().any(|other| other == *name)),
        Role::Server => theirs.iter().find_map(|other| ours.iter().find(|name| **name == other.as_str())),
    };
    chosen.copied().ok_or_else(|| Fault::kex(format!("no matching {what}: offered here are {}", ours.join(", "))))
}
