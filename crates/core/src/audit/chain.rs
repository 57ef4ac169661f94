//! The chain that makes a change of the audit log visible.
//!
//! Every record is authenticated together with the MAC of the one before it, so that a record cannot be changed, removed,
//! added or moved without all later MACs being wrong. A segment is a run of records under one key; the first record of
//! a new segment continues from the last MAC of the old one. Whoever holds no key cannot make a MAC that verifies.
//! Cutting off the end is not visible from the chain alone; compare the [`Head`] with one kept elsewhere.
//!
//! A second chain, of plain hashes ([`link`]), runs over the same records and their MACs. It needs no secret, so anybody can
//! follow it; what makes it worth something is a signature over one of its values ([`super::checkpoint`]).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

use super::{Columns, Event};

/// A MAC.
pub type Mac = [u8; 32];

/// A value of the chain of hashes.
pub type Hash = [u8; 32];

/// What the first record continues from, in both chains.
pub const GENESIS: Mac = [0; 32];

/// Separates these MACs from any other use of the same key.
const DOMAIN: &[u8] = b"mezite audit chain v1";
/// Separates the hashes from any other use of SHA-256.
const LINK_DOMAIN: &[u8] = b"mezite audit link v1";

/// A key of the chain. Debug shows the id only.
#[derive(Clone)]
pub struct ChainKey {
    id: String,
    key: hmac::Key,
}

impl ChainKey {
    /// The key with this secret, of any length; fewer than 16 bytes are refused by giving `None`. Its id is 16 hex digits of
    /// a hash, and tells nothing about the secret to anyone who cannot guess it.
    pub fn new(secret: &[u8]) -> Option<Self> {
        const SHORTEST: usize = 16;
        let labelled = [b"mezite audit key id".as_slice(), secret].concat();
        let id = digest(&SHA256, &labelled).as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
        (secret.len() >= SHORTEST).then(|| Self { id, key: hmac::Key::new(hmac::HMAC_SHA256, secret) })
    }

    /// Names the key in each record.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChainKey").field(&self.id).finish()
    }
}

/// The MAC of the record number `seq` (from 1) with this text, after the record with the MAC `previous`.
pub fn chain_mac(key: &ChainKey, seq: u64, previous: &Mac, canonical: &[u8]) -> Mac {
    let mut context = hmac::Context::with_key(&key.key);
    // Every part before the text has a fixed length, so that no two inputs read the same.
    context.update(DOMAIN);
    context.update(key.id.as_bytes());
    context.update(&seq.to_be_bytes());
    context.update(previous);
    context.update(canonical);
    let mut mac = GENESIS;
    mac.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
    mac
}

/// The hash of the record number `seq`, with its MAC and the id of its key, after the record with the hash `previous`.
pub fn link(seq: u64, previous: &Hash, key_id: &str, mac: &[u8], canonical: &[u8]) -> Hash {
    let mut context = aws_lc_rs::digest::Context::new(&SHA256);
    context.update(LINK_DOMAIN);
    context.update(&seq.to_be_bytes());
    context.update(previous);
    // With their lengths, so that no byte can pass from one part to the next.
    for part in [key_id.as_bytes(), mac] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    context.update(canonical);
    let mut hash = GENESIS;
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// A record as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Number in the chain, from 1, without gaps.
    pub seq: u64,
    /// [`ChainKey::id`] of the key.
    pub key_id: String,
    /// Stored MAC.
    pub mac: Vec<u8>,
    /// Stored text.
    pub canonical: Vec<u8>,
    /// Stored columns; `None` where there are none, as in an export.
    pub columns: Option<Columns>,
}

/// The end of a chain, or a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last record, 0 for an empty chain.
    pub seq: u64,
    /// Its MAC, [`GENESIS`] for an empty chain.
    pub mac: Mac,
    /// Its hash, [`GENESIS`] for an empty chain.
    pub hash: Hash,
}

impl Head {
    /// Before the first record.
    pub const START: Self = Self { seq: 0, mac: GENESIS, hash: GENESIS };
}

/// The first record that does not verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit record {seq} does not verify: {why}")]
pub struct BadRecord {
    /// Its number; for a missing record, the number that is missing.
    pub seq: u64,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Its number does not follow the last one.
    #[error("a record is missing, added or out of order")]
    OutOfOrder,
    /// No key with its id was given.
    #[error("its key is not known; give the former key as well")]
    UnknownKey,
    /// It, or its place in the chain, was changed.
    #[error("its content or place in the chain was changed")]
    Changed,
    /// The text is authentic and cannot be read.
    #[error("its text cannot be read")]
    Unreadable,
    /// The text is authentic, and a column says something else.
    #[error("a column differs from the record")]
    Columns,
}

/// Verifies a chain record by record, in constant memory.
#[derive(Clone, Debug)]
pub struct Verifier<'a> {
    keys: &'a [ChainKey],
    head: Head,
}

impl<'a> Verifier<'a> {
    /// A verifier for a whole chain, with all the keys its segments were made under.
    pub const fn new(keys: &'a [ChainKey]) -> Self {
        Self::after(keys, Head::START)
    }

    /// A verifier for what follows a head that is trusted.
    pub const fn after(keys: &'a [ChainKey], head: Head) -> Self {
        Self { keys, head }
    }

    /// Verifies the next record.
    ///
    /// # Errors
    /// [`BadRecord`] for the first record that does not verify; the verifier stays where it was.
    pub fn push(&mut self, record: &Record) -> Result<(), BadRecord> {
        let next = self.head.seq + 1;
        let bad = |why| Err(BadRecord { seq: if why == Why::OutOfOrder { next } else { record.seq }, why });
        if record.seq != next {
            return bad(Why::OutOfOrder);
        }
        let Some(key) = self.keys.iter().find(|key| key.id == record.key_id) else { return bad(Why::UnknownKey) };
        let mac = chain_mac(key, record.seq, &self.head.mac, &record.canonical);
        if aws_lc_rs::constant_time::verify_slices_are_equal(&mac, &record.mac).is_err() {
            return bad(Why::Changed);
        }
        if let Some(columns) = &record.columns {
            let Ok(event) = serde_json::from_slice::<Event>(&record.canonical) else { return bad(Why::Unreadable) };
            if event.columns() != *columns {
                return bad(Why::Columns);
            }
        }
        let hash = link(record.seq, &self.head.hash, &record.key_id, &mac, &record.canonical);
        self.head = Head { seq: record.seq, mac, hash };
        Ok(())
    }

    /// The end of what was verified.
    pub const fn head(&self) -> Head {
        self.head
    }
}
