//! The end of a recording, and what can be wrong with one.

use mezite_proto::v1::RecordingSeal;
use serde::{Deserialize, Serialize};

use crate::chunk::{Chain, Chunk, Hash};

/// Closes a recording. It is also an audit event, so that a check has something outside the recording to compare with;
/// `complete` and `duration_ms` are covered by that event, not by the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// How many chunks there are.
    pub chunks: u64,
    /// The chain's last value.
    pub root: Hash,
    /// Compressed length of all chunks, in bytes.
    pub bytes: u64,
    /// False when the recorder ended before the session did.
    pub complete: bool,
    /// From the start to the last event.
    pub duration_ms: i64,
}

impl From<Seal> for RecordingSeal {
    fn from(seal: Seal) -> Self {
        Self {
            chunks: seal.chunks,
            root: seal.root.as_bytes().to_vec(),
            bytes: seal.bytes,
            complete: seal.complete,
            duration_ms: seal.duration_ms,
        }
    }
}

impl TryFrom<RecordingSeal> for Seal {
    type Error = Corrupt;

    fn try_from(seal: RecordingSeal) -> Result<Self, Corrupt> {
        Ok(Self {
            chunks: seal.chunks,
            root: Hash::from_slice(&seal.root).ok_or(Corrupt::Seal)?,
            bytes: seal.bytes,
            complete: seal.complete,
            duration_ms: seal.duration_ms,
        })
    }
}

/// What is wrong with a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// A chunk is out of order.
    #[error("chunk {expected} is missing: chunk {found} follows the one before it")]
    Gap {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A chunk is too short or too long to be one.
    #[error("chunk {number} has an impossible length")]
    Length {
        /// The first bad chunk.
        number: u64,
    },
    /// A chunk, or one before it, was changed.
    #[error("chunk {number} does not match its hash")]
    Hash {
        /// The first bad chunk.
        number: u64,
    },
    /// A chunk matches its hash and yet cannot be decompressed: it was made so.
    #[error("chunk {number} cannot be decompressed")]
    Content {
        /// The first bad chunk.
        number: u64,
    },
    /// The end is missing.
    #[error("chunks from {first} on are missing; the seal counts {chunks}")]
    Missing {
        /// The first that is missing.
        first: u64,
        /// How many there should be.
        chunks: u64,
    },
    /// Something was added after the seal.
    #[error("chunk {first} comes after the end that the seal names")]
    Surplus {
        /// The first that is too many.
        first: u64,
    },
    /// Every chunk fits the one before it, but the whole is not what was sealed.
    #[error("the recording does not match its seal")]
    Seal,
}

impl Corrupt {
    /// The first chunk that is bad or missing; `None` when only the seal differs.
    #[must_use]
    pub const fn chunk(&self) -> Option<u64> {
        match *self {
            Self::Gap { expected: number, .. }
            | Self::Length { number }
            | Self::Hash { number }
            | Self::Content { number }
            | Self::Missing { first: number, .. }
            | Self::Surplus { first: number } => Some(number),
            Self::Seal => None,
        }
    }
}

/// Whether `chunks` are, whole and unchanged, the recording of this session that `seal` closed.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify<'a>(session_id: &str, chunks: impl IntoIterator<Item = &'a Chunk>, seal: &Seal) -> Result<(), Corrupt> {
    let mut chain = Chain::new(session_id);
    for chunk in chunks {
        chain.check(chunk)?;
    }
    chain.finish(seal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64";

    fn record(texts: &[Vec<u8>]) -> (Vec<Chunk>, Seal) {
        let mut chain = Chain::new(ID);
        let chunks = texts.iter().map(|text| chain.append(text).unwrap()).collect();
        (chunks, chain.seal(true, 1234))
    }

    fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6)
    }

    proptest! {
        #[test]
        fn what_was_recorded_verifies_and_reads_back(texts in texts()) {
            let (chunks, seal) = record(&texts);
            prop_assert_eq!(verify(ID, &chunks, &seal), Ok(()));
            let read: Vec<_> = chunks.iter().map(|chunk| chunk.text().unwrap()).collect();
            prop_assert_eq!(read, texts);
        }

        #[test]
        fn any_flipped_bit_of_a_chunk_is_found_where_it_is(
            texts in texts(), at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let (mut chunks, seal) = record(&texts);
            let number = at.index(chunks.len());
            let mut stored = chunks[number].to_bytes().to_vec();
            let position = byte.index(stored.len());
            stored[position] ^= 1 << bit;
            chunks[number] = Chunk::from_bytes(number as u64, stored.into()).unwrap();
            let found = verify(ID, &chunks, &seal).unwrap_err();
            prop_assert_eq!(found.chunk(), Some(number as u64));
        }

        #[test]
        fn any_flipped_bit_of_the_sealed_values_is_found(texts in texts(), byte in 0..48_usize, bit in 0..8_u8) {
            let (chunks, mut seal) = record(&texts);
            let flip = 1_u64 << ((byte % 8) * 8 + usize::from(bit));
            match byte {
                0..32 => {
                    let mut root = *seal.root.as_bytes();
                    root[byte] ^= 1 << bit;
                    seal.root = Hash::from_slice(&root).unwrap();
                }
                32..40 => seal.chunks ^= flip,
                _ => seal.bytes ^= flip,
            }
            prop_assert!(verify(ID, &chunks, &seal).is_err());
        }

        #[test]
        fn losing_swapping_or_repeating_a_chunk_is_found(texts in texts(), at in any::<prop::sample::Index>()) {
            let (chunks, seal) = record(&texts);
            let number = at.index(chunks.len());
            let mut lost = chunks.clone();
            lost.remove(number);
            prop_assert!(verify(ID, &lost, &seal).is_err());
            let mut repeated = chunks.clone();
            repeated.insert(number, chunks[number].clone());
            prop_assert!(verify(ID, &repeated, &seal).is_err());
            if number > 0 {
                let mut swapped = chunks.clone();
                swapped.swap(number - 1, number);
                prop_assert!(verify(ID, &swapped, &seal).is_err());
            }
        }
    }

    #[test]
    fn a_recording_belongs_to_one_session() {
        let (chunks, seal) = record(&[b"text".to_vec()]);
        let other = "1b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64";
        assert_eq!(verify(other, &chunks, &seal), Err(Corrupt::Hash { number: 0 }));
        assert_eq!(verify(other, &[], &record(&[]).1), Err(Corrupt::Seal), "an empty one too");
    }

    #[test]
    fn a_chunk_that_inflates_beyond_the_bound_is_refused() {
        let bomb = Chunk {
            number: 0,
            hash: Chain::new(ID).seal(true, 0).root,
            data: zstd::bulk::compress(&vec![0; crate::MAX_RAW + 1], 19).unwrap().into(),
        };
        assert_eq!(bomb.text(), Err(Corrupt::Content { number: 0 }));
    }

    #[test]
    fn a_seal_survives_json_and_the_wire() {
        let seal = record(&[b"text".to_vec()]).1;
        assert_eq!(serde_json::from_str::<Seal>(&serde_json::to_string(&seal).unwrap()).unwrap(), seal);
        assert_eq!(Seal::try_from(RecordingSeal::from(seal)), Ok(seal));
        let short = RecordingSeal { root: vec![0; 31], ..RecordingSeal::from(seal) };
        assert_eq!(Seal::try_from(short), Err(Corrupt::Seal));
    }
}
