//! JSON values, one a line, out of a byte stream cut anywhere.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::spec::{Control, Message};

/// Longest line of a [`Message`] or [`Control`], in bytes.
const LINE_MAX: usize = 64 << 10;

/// The other side broke the protocol; the stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A line is longer than 64 KiB.
    #[error("the session starter's line is longer than 64 KiB")]
    TooLong,
    /// A line is not the JSON expected.
    #[error("unreadable line between agent and session starter: {0}")]
    Json(#[from] serde_json::Error),
}

/// Incremental decoder without IO: push bytes as they come, take values out.
#[derive(Debug)]
pub struct Decoder<T> {
    buffer: Vec<u8>,
    value: PhantomData<fn() -> T>,
}

impl Decoder<Message> {
    /// For the agent.
    pub fn messages() -> Self {
        Self { buffer: Vec::new(), value: PhantomData }
    }
}

impl Decoder<Control> {
    /// For the starter.
    pub fn controls() -> Self {
        Self { buffer: Vec::new(), value: PhantomData }
    }
}

impl<T: DeserializeOwned> Decoder<T> {
    /// Adds bytes read from the control socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next value, or `None` until more bytes are pushed.
    pub fn next_value(&mut self) -> Result<Option<T>, DecodeError> {
        let Some(end) = self.buffer.iter().take(LINE_MAX).position(|&b| b == b'\n') else {
            return if self.buffer.len() < LINE_MAX { Ok(None) } else { Err(DecodeError::TooLong) };
        };
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_whole_wherever_the_stream_is_cut() {
        let stream = [
            Message::Started { pid: 7, tty: Some("/dev/pts/1".into()) }.to_line(),
            Message::Signal { name: "TERM".into(), core: false }.to_line(),
        ]
        .concat();
        for cut in 0..=stream.len() {
            let (mut decoder, mut seen) = (Decoder::messages(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part);
                while let Some(message) = decoder.next_value().expect("valid") {
                    seen.push(message);
                }
            }
            assert!(matches!(&seen[..], [Message::Started { pid: 7, .. }, Message::Signal { .. }]), "cut at {cut}");
        }
    }

    #[test]
    fn nonsense_and_endless_lines_are_errors() {
        let mut decoder = Decoder::controls();
        decoder.push(b"\"fly\"\n");
        assert!(matches!(decoder.next_value(), Err(DecodeError::Json(_))));
        let mut decoder = Decoder::controls();
        decoder.push(&[b' '; LINE_MAX]);
        assert!(matches!(decoder.next_value(), Err(DecodeError::TooLong)));
    }
}
