//! Signed statements about the audit log. Whoever has the public key can hold a log, or an export of one, against them; no
//! secret is needed.
//!
//! A signature covers the exact text of the statement under a domain of its own, so that a statement of one sort is never
//! taken for one of the other.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::chain::{Hash, Head, Mac};
use super::event::millis;

/// An Ed25519 public key (RFC 8032).
pub type PublicKey = [u8; 32];

/// What can be signed.
pub trait Statement: Serialize + DeserializeOwned {
    /// Separates the signatures over this sort of statement from all others.
    const DOMAIN: &'static [u8];
}

/// The chain up to one record, as the hub had verified it at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Name of the cluster.
    pub cluster: String,
    /// Id of the key that the record's MAC is made with.
    pub segment: String,
    /// Number of the record.
    pub seq: u64,
    /// Its MAC.
    #[serde(with = "hex")]
    pub mac: Mac,
    /// Its hash, which stands for every record up to it.
    #[serde(with = "hex")]
    pub hash: Hash,
    /// When it was signed, to the millisecond.
    #[serde(with = "millis")]
    pub at: OffsetDateTime,
}

impl Statement for Checkpoint {
    const DOMAIN: &'static [u8] = b"mezite audit checkpoint v1\n";
}

impl Checkpoint {
    /// The place in the chain.
    pub const fn head(&self) -> Head {
        Head { seq: self.seq, mac: self.mac, hash: self.hash }
    }
}

/// What an export holds: the records from `first` to `last`, and no others. `last` is one less than `first` when it holds none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Name of the cluster.
    pub cluster: String,
    /// Number of the first record.
    pub first: u64,
    /// Hash of the record before it.
    #[serde(with = "hex")]
    pub before: Hash,
    /// Number of the last record.
    pub last: u64,
    /// Hash of the last record.
    #[serde(with = "hex")]
    pub hash: Hash,
    /// When the export was made, to the millisecond.
    #[serde(with = "millis")]
    pub at: OffsetDateTime,
}

impl Statement for Extent {
    const DOMAIN: &'static [u8] = b"mezite audit extent v1\n";
}

/// Signs statements. Debug shows nothing of it.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key made from a 32-byte seed (RFC 8032 section 5.1.5); `None` when the library refuses it.
    pub fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        use aws_lc_rs::signature::KeyPair;
        let mut public = PublicKey::default();
        public.iter_mut().zip(self.0.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        public
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// A statement with its signature.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The text that is signed.
    statement: Box<RawValue>,
    /// The key it is signed with.
    #[serde(with = "hex")]
    key: PublicKey,
    /// The signature.
    #[serde(with = "hex")]
    signature: [u8; 64],
}

/// Why a signed statement is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    /// The key is none of those trusted.
    #[error("it is signed with a key that is not known")]
    UnknownKey,
    /// The signature is not of this text and this key.
    #[error("its signature is wrong")]
    WrongSignature,
    /// The signature is right, and the text is none of ours.
    #[error("it cannot be read; perhaps a newer release wrote it")]
    Unreadable,
}

impl Signed {
    /// Signs a statement; `None` when it cannot be written as JSON.
    pub fn new<S: Statement>(statement: &S, key: &SigningKey) -> Option<Self> {
        let statement = serde_json::value::to_raw_value(statement).ok()?;
        let signature = key.0.sign(&message::<S>(&statement));
        let signature = signature.as_ref().try_into().ok()?;
        Some(Self { statement, key: key.public(), signature })
    }

    /// The key it says it is signed with.
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The statement, when one of `trusted` has signed it.
    ///
    /// # Errors
    /// [`Unbelieved`]; the signature is looked at before the text is read.
    pub fn open<S: Statement>(&self, trusted: &[PublicKey]) -> Result<S, Unbelieved> {
        if !trusted.contains(&self.key) {
            return Err(Unbelieved::UnknownKey);
        }
        UnparsedPublicKey::new(&ED25519, &self.key)
            .verify(&message::<S>(&self.statement), &self.signature)
            .map_err(|_| Unbelieved::WrongSignature)?;
        serde_json::from_str(self.statement.get()).map_err(|_| Unbelieved::Unreadable)
    }
}

fn message<S: Statement>(statement: &RawValue) -> Vec<u8> {
    [S::DOMAIN, statement.get().as_bytes()].concat()
}

/// Where a log must pass, as somebody who signed it once says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Number of the record.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// When it was so.
    pub at: OffsetDateTime,
}

impl From<&Checkpoint> for Mark {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { seq: checkpoint.seq, hash: checkpoint.hash, at: checkpoint.at }
    }
}

impl From<&Extent> for Mark {
    fn from(extent: &Extent) -> Self {
        Self { seq: extent.last, hash: extent.hash, at: extent.at }
    }
}

/// The log that is here is not the log that was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Divergence {
    /// It ends before the mark.
    #[error(
        "it ends at record {end}, and record {} existed at {}: an older database was restored, or the end was removed",
        mark.seq, crate::when::seconds(mark.at)
    )]
    Shorter {
        /// The first mark beyond the end.
        mark: Mark,
        /// Number of the last record.
        end: u64,
    },
    /// It passes another point.
    #[error(
        "its records {} to {} are not those that were signed at {}: an older database was restored and written to, or the \
         records were replaced",
        common + 1, mark.seq, crate::when::seconds(mark.at)
    )]
    Different {
        /// The first mark that it does not pass.
        mark: Mark,
        /// Number of the newest record known to be the same.
        common: u64,
    },
}

impl Divergence {
    /// Number of the record of the mark.
    pub const fn seq(&self) -> u64 {
        match self {
            Self::Shorter { mark, .. } | Self::Different { mark, .. } => mark.seq,
        }
    }
}

/// Holds a log against marks, record by record.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Those still ahead, the next one last.
    ahead: Vec<Mark>,
    common: u64,
    different: Option<Mark>,
}

impl Marks {
    /// Marks in any order.
    pub fn new(mut marks: Vec<Mark>) -> Self {
        // What an export of an empty log says is true of every log.
        marks.retain(|mark| mark.seq > 0);
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.seq));
        Self { ahead: marks, common: 0, different: None }
    }

    /// Passes the next record.
    pub fn pass(&mut self, head: &Head) {
        while let Some(mark) = self.ahead.pop_if(|mark| mark.seq <= head.seq) {
            if self.different.is_some() {
                continue;
            }
            if mark.seq == head.seq && mark.hash == head.hash {
                self.common = mark.seq;
            } else {
                self.different = Some(mark);
            }
        }
    }

    /// The answer, when the log ends at record `end`.
    ///
    /// # Errors
    /// [`Divergence`] for the first mark that the log does not pass.
    pub fn verdict(&self, end: u64) -> Result<(), Divergence> {
        match (self.different, self.ahead.last()) {
            (Some(mark), _) => Err(Divergence::Different { mark, common: self.common }),
            (None, Some(mark)) => Err(Divergence::Shorter { mark: *mark, end }),
            (None, None) => Ok(()),
        }
    }
}

/// Serde form of bytes of a fixed length: lower-case hex.
pub(super) mod hex {
    use std::fmt::Write as _;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::text::unhex;

    pub(in crate::audit) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], s: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * N);
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        s.serialize_str(&text)
    }

    pub(in crate::audit) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(d: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(d)?;
        let refuse = || D::Error::custom(format!("is not {N} bytes in lower-case hex"));
        unhex(&text).and_then(|bytes| bytes.try_into().ok()).ok_or_else(refuse)
    }
}
