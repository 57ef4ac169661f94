//! Chunks and the hash chain that ties them together.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use mezite_proto::v1::RecordingChunk;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::seal::{Corrupt, Seal};

/// Most bytes of a chunk as stored and sent, compressed.
pub const MAX_CHUNK: usize = 1 << 20;
/// Most bytes of a chunk's text.
pub const MAX_RAW: usize = 1 << 20;

/// Separates this use of SHA-256 from every other.
const DOMAIN: &[u8] = b"mezite recording v1\0";
/// Fast: recording must not cost more than the session.
const LEVEL: i32 = 1;

/// A value of the chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From exactly 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    fn finish(context: Context) -> Self {
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash must be 64 hexadecimal digits")]
pub struct BadHash;

impl FromStr for Hash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        if text.len() != 64 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| BadHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadHash)?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A piece of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// From 0, without gaps.
    pub number: u64,
    /// The chain's value after this chunk.
    pub hash: Hash,
    /// Compressed text, at most [`MAX_CHUNK`] bytes.
    pub data: Bytes,
}

impl Chunk {
    /// The form in files: the hash, then the data.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(32 + self.data.len());
        bytes.extend_from_slice(&self.hash.0);
        bytes.extend_from_slice(&self.data);
        bytes.freeze()
    }

    /// Reads [`Chunk::to_bytes`]. Nothing is verified.
    ///
    /// # Errors
    /// When it is too short or too long to be a chunk.
    pub fn from_bytes(number: u64, mut bytes: Bytes) -> Result<Self, Corrupt> {
        if bytes.len() < 32 || bytes.len() > 32 + MAX_CHUNK {
            return Err(Corrupt::Length { number });
        }
        let hash = Hash::from_slice(&bytes.split_to(32)).ok_or(Corrupt::Length { number })?;
        Ok(Self { number, hash, data: bytes })
    }

    /// The text, decompressed into at most [`MAX_RAW`] bytes.
    ///
    /// # Errors
    /// When the data is no zstd frame, or one of more text.
    pub fn text(&self) -> Result<Vec<u8>, Corrupt> {
        zstd::bulk::decompress(&self.data, MAX_RAW).map_err(|_| Corrupt::Content { number: self.number })
    }
}

impl From<Chunk> for RecordingChunk {
    fn from(chunk: Chunk) -> Self {
        Self { number: chunk.number, hash: chunk.hash.0.to_vec(), data: chunk.data }
    }
}

impl TryFrom<RecordingChunk> for Chunk {
    type Error = Corrupt;

    fn try_from(chunk: RecordingChunk) -> Result<Self, Corrupt> {
        let number = chunk.number;
        let hash = Hash::from_slice(&chunk.hash).ok_or(Corrupt::Hash { number })?;
        Ok(Self { number, hash, data: chunk.data })
    }
}

/// The state after some chunks: `hash_n = SHA-256(hash_(n-1) || number as u64 || data)`, and before the first chunk
/// `SHA-256("mezite recording v1\0" || session id)`.
#[derive(Debug, Clone)]
pub struct Chain {
    hash: Hash,
    next: u64,
    bytes: u64,
}

impl Chain {
    /// The start of a session's recording.
    #[must_use]
    pub fn new(session_id: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(DOMAIN);
        context.update(session_id.as_bytes());
        Self { hash: Hash::finish(context), next: 0, bytes: 0 }
    }

    /// The number that the next chunk has; how many there are.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Compresses `text`, at most [`MAX_RAW`] bytes, into the next chunk.
    ///
    /// # Errors
    /// When zstd fails, which it does for want of memory only.
    pub fn append(&mut self, text: &[u8]) -> std::io::Result<Chunk> {
        let data = Bytes::from(zstd::bulk::compress(text, LEVEL)?);
        let chunk = Chunk { number: self.next, hash: self.after(&data), data };
        self.advance(&chunk);
        Ok(chunk)
    }

    /// Takes the next chunk if it is one: its number, its length and its hash.
    ///
    /// # Errors
    /// What is wrong with it; the chain stays as it was.
    pub fn check(&mut self, chunk: &Chunk) -> Result<(), Corrupt> {
        if chunk.number != self.next {
            return Err(Corrupt::Gap { expected: self.next, found: chunk.number });
        }
        if chunk.data.len() > MAX_CHUNK {
            return Err(Corrupt::Length { number: chunk.number });
        }
        if chunk.hash != self.after(&chunk.data) {
            return Err(Corrupt::Hash { number: chunk.number });
        }
        self.advance(chunk);
        Ok(())
    }

    /// The seal of a recording that ends here.
    #[must_use]
    pub const fn seal(&self, complete: bool, duration_ms: i64) -> Seal {
        Seal { chunks: self.next, root: self.hash, bytes: self.bytes, complete, duration_ms }
    }

    /// Whether the recording that `seal` closes ends here.
    ///
    /// # Errors
    /// When chunks are missing or left over, or the last value or the length differ.
    pub fn finish(&self, seal: &Seal) -> Result<(), Corrupt> {
        if self.next < seal.chunks {
            return Err(Corrupt::Missing { first: self.next, chunks: seal.chunks });
        }
        if self.next > seal.chunks {
            return Err(Corrupt::Surplus { first: seal.chunks });
        }
        if self.hash != seal.root || self.bytes != seal.bytes {
            return Err(Corrupt::Seal);
        }
        Ok(())
    }

    fn after(&self, data: &[u8]) -> Hash {
        let mut context = Context::new(&SHA256);
        context.update(&self.hash.0);
        context.update(&self.next.to_be_bytes());
        context.update(data);
        Hash::finish(context)
    }

    fn advance(&mut self, chunk: &Chunk) {
        self.hash = chunk.hash;
        self.next += 1;
        self.bytes += chunk.data.len() as u64;
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
