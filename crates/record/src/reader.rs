//! Plain asciicast v2 out of stored chunks, verified as it is read.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use mezite_core::asciicast::{BREAKS_OFF, Writer};

use crate::chunk::{Chain, Chunk};
use crate::seal::{Corrupt, Seal};

/// Why reading a recording stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The chunks could not be had.
    #[error("reading the recording: {0}")]
    Source(E),
    /// The recording is damaged from here on.
    #[error("the recording is damaged: {0}")]
    Corrupt(#[from] Corrupt),
}

/// The text of a recording, one piece for each chunk. Nothing of a bad chunk is given out, and whatever is wrong, a missing
/// end included, is an error at its place. `seal` is absent only while the recording is being made; one that says that the
/// recorder ended early puts the marker [`BREAKS_OFF`] at the end.
pub fn cast<S, E>(
    session_id: &str,
    chunks: S,
    seal: Option<Seal>,
) -> impl Stream<Item = Result<Bytes, ReadError<E>>> + use<S, E>
where
    S: Stream<Item = Result<Chunk, E>> + Unpin,
{
    let state = Some((Chain::new(session_id), chunks));
    stream::unfold(state, move |state| async move {
        let (mut chain, mut chunks) = state?;
        match chunks.next().await {
            Some(Ok(chunk)) => match chain.check(&chunk).and_then(|()| chunk.text()) {
                Ok(text) => Some((Ok(Bytes::from(text)), Some((chain, chunks)))),
                Err(corrupt) => Some((Err(corrupt.into()), None)),
            },
            Some(Err(error)) => Some((Err(ReadError::Source(error)), None)),
            None => {
                let seal = seal?;
                match chain.finish(&seal) {
                    Err(corrupt) => Some((Err(corrupt.into()), None)),
                    Ok(()) if seal.complete => None,
                    Ok(()) => Some((Ok(breaks_off(&seal)), None)),
                }
            }
        }
    })
}

fn breaks_off(seal: &Seal) -> Bytes {
    let mut line = Vec::new();
    let end = Duration::from_millis(seal.duration_ms.try_into().unwrap_or_default());
    Writer::marker(end, BREAKS_OFF, &mut line);
    line.into()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const ID: &str = "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64";

    async fn read(chunks: Vec<Chunk>, seal: Option<Seal>) -> (Vec<u8>, Option<Corrupt>) {
        let (mut text, mut wrong) = (Vec::new(), None);
        let chunks = stream::iter(chunks.into_iter().map(Ok::<_, Infallible>));
        let mut pieces = std::pin::pin!(cast(ID, chunks, seal));
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => text.extend_from_slice(&piece),
                Err(ReadError::Corrupt(corrupt)) => wrong = Some(corrupt),
                Err(ReadError::Source(never)) => match never {},
            }
        }
        (text, wrong)
    }

    #[tokio::test]
    async fn reading_stops_at_the_first_bad_chunk_and_says_which() {
        let mut chain = Chain::new(ID);
        let mut chunks: Vec<_> = [b"one\n", b"two\n", b"six\n"].map(|text| chain.append(text).unwrap()).into();
        let seal = chain.seal(true, 0);
        assert_eq!(read(chunks.clone(), Some(seal)).await, (b"one\ntwo\nsix\n".to_vec(), None));

        let early = chain.seal(false, 1500);
        let marked = format!("one\ntwo\nsix\n[1.500, \"m\", \"{BREAKS_OFF}\"]\n");
        assert_eq!(read(chunks.clone(), Some(early)).await, (marked.into_bytes(), None));

        let cut = chunks[..2].to_vec();
        let missing = Corrupt::Missing { first: 2, chunks: 3 };
        assert_eq!(read(cut.clone(), Some(seal)).await, (b"one\ntwo\n".to_vec(), Some(missing)));
        assert_eq!(read(cut, None).await, (b"one\ntwo\n".to_vec(), None), "live");

        chunks[1].data = chunks[0].data.clone();
        assert_eq!(read(chunks, Some(seal)).await, (b"one\n".to_vec(), Some(Corrupt::Hash { number: 1 })));
    }
}
