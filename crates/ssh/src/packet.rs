//! The binary packet protocol (RFC 4253 section 6): payloads to packets and back.

use bytes::{Buf, BytesMut};

use crate::{
    cipher::{Opener, Sealer},
    error::Fault,
};

/// Largest packet accepted from a peer that was told nothing else (RFC 4253 section 6.1).
pub(crate) const MAX_PACKET: usize = 35_000;

/// Room for headers and padding around the data of a packet.
pub(crate) const OVERHEAD: usize = 1024;

/// Packets under one key after which nothing more may be sent or accepted: sequence numbers would repeat.
const KEY_EXHAUSTED: u64 = 1 << 32;

/// Counters of one direction under the present key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Usage {
    fn add(&mut self, bytes: usize) -> Result<(), Fault> {
        self.packets += 1;
        self.bytes += bytes as u64;
        if self.packets >= KEY_EXHAUSTED { Err(Fault::protocol("no new keys after 2^32 packets")) } else { Ok(()) }
    }
}

/// Frames, encrypts and collects packets to be sent.
pub(crate) struct PacketWriter {
    sealer: Sealer,
    sequence: u32,
    usage: Usage,
    /// Bytes ready for the wire.
    pub(crate) out: BytesMut,
}

impl PacketWriter {
    pub(crate) fn new() -> Self {
        Self { sealer: Sealer::Plain, sequence: 0, usage: Usage::default(), out: BytesMut::new() }
    }

    /// Takes new keys into use; with strict key exchange the sequence number starts over.
    pub(crate) fn rekey(&mut self, sealer: Sealer, strict: bool) {
        self.sealer = sealer;
        self.usage = Usage::default();
        if strict {
            self.sequence = 0;
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Appends one packet whose payload is `head` followed by `body`.
    pub(crate) fn write(&mut self, head: &[u8], body: &[u8]) -> Result<(), Fault> {
        let payload = head.len() + body.len();
        let aligned = 1 + payload + if self.sealer.length_apart() { 0 } else { 4 };
        let block = self.sealer.block();
        // At least four bytes, at most block + 3: always fits the one-byte field.
        let padding = block - aligned % block + if block - aligned % block < 4 { block } else { 0 };
        let length = 1 + payload + padding;
        let (Ok(length_field), Ok(padding_field)) = (u32::try_from(length), u8::try_from(padding)) else {
            return Err(Fault::protocol("packet too long to send"));
        };

        let start = self.out.len();
        self.out.reserve(4 + length + crate::cipher::TAG);
        self.out.extend_from_slice(&length_field.to_be_bytes());
        self.out.extend_from_slice(&[padding_field]);
        self.out.extend_from_slice(head);
        self.out.extend_from_slice(body);
        // Under authenticated encryption the content of padding is of no consequence.
        self.out.resize(start + 4 + length, 0);
        let packet = self.out.get_mut(start..).unwrap_or_default();
        if let Some(tag) = self.sealer.seal(self.sequence, packet)? {
            self.out.extend_from_slice(&tag);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.usage.add(4 + length)
    }
}

/// Cuts, checks and decrypts packets received.
pub(crate) struct PacketReader {
    opener: Opener,
    sequence: u32,
    usage: Usage,
    max: usize,
    /// Length of the packet that is coming in, once its field was read.
    pending: Option<usize>,
}

impl PacketReader {
    pub(crate) fn new() -> Self {
        Self { opener: Opener::Plain, sequence: 0, usage: Usage::default(), max: MAX_PACKET, pending: None }
    }

    /// Takes new keys into use; with strict key exchange the sequence number starts over.
    pub(crate) fn rekey(&mut self, opener: Opener, strict: bool) {
        self.opener = opener;
        self.usage = Usage::default();
        if strict {
            self.sequence = 0;
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Accepts packets with data of up to `data` bytes.
    pub(crate) fn allow(&mut self, data: usize) {
        self.max = self.max.max(data + OVERHEAD);
    }

    /// Sequence number of the next packet.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The payload of the next packet in `input`, decrypted in place; `None` until all of it is there.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<BytesMut>, Fault> {
        let length = match self.pending {
            Some(length) => length,
            None => {
                let Some(field) = input.first_chunk::<4>() else { return Ok(None) };
                let length = self.opener.length(self.sequence, *field) as usize;
                self.check_length(length)?;
                self.pending = Some(length);
                length
            }
        };
        let total = 4 + length + self.opener.tag_len();
        if input.len() < total {
            return Ok(None);
        }
        self.pending = None;

        let mut packet = input.split_to(total);
        let tag = packet.split_off(4 + length);
        self.opener.open(self.sequence, &mut packet, &tag)?;
        self.sequence = self.sequence.wrapping_add(1);
        self.usage.add(total)?;

        packet.advance(4);
        let padding = usize::from(packet.first().copied().unwrap_or_default());
        if padding < 4 || padding + 1 >= length {
            return Err(Fault::protocol("bad padding"));
        }
        packet.advance(1);
        packet.truncate(length - 1 - padding);
        Ok(Some(packet))
    }

    /// The length is believed only within bounds, before anything is reserved for it.
    fn check_length(&self, length: usize) -> Result<(), Fault> {
        let aligned = length + if self.opener.length_apart() { 0 } else { 4 };
        if length < 8 || length > self.max || !aligned.is_multiple_of(self.opener.block()) {
            return Err(Fault::protocol("bad packet length"));
        }
        Ok(())
    }
}
