//! The packet ciphers: AES-GCM (RFC 5647 as amended by OpenSSH) and ChaCha20-Poly1305 (OpenSSH PROTOCOL.chacha20poly1305).
//!
//! Every cipher here authenticates; there is no MAC of its own. A packet is `u32 length || body || 16-byte tag`.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey, chacha20_poly1305_openssh,
};

use crate::error::Fault;

/// Bytes of the authentication tag.
pub(crate) const TAG: usize = 16;

/// A packet cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// `aes128-gcm@openssh.com`
    Aes128Gcm,
    /// `aes256-gcm@openssh.com`
    Aes256Gcm,
    /// `chacha20-poly1305@openssh.com`
    ChaCha20Poly1305,
}

impl Cipher {
    /// Every cipher.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128-gcm@openssh.com",
            Self::Aes256Gcm => "aes256-gcm@openssh.com",
            Self::ChaCha20Poly1305 => "chacha20-poly1305@openssh.com",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name() == name)
    }

    /// Bytes of key material.
    pub(crate) fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
            Self::ChaCha20Poly1305 => chacha20_poly1305_openssh::KEY_LEN,
        }
    }

    /// Bytes of the initial vector.
    pub(crate) fn iv_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => NONCE_LEN,
            Self::ChaCha20Poly1305 => 0,
        }
    }

    fn gcm(self, key: &[u8], iv: &[u8]) -> Result<Gcm, Fault> {
        let algorithm = if self == Self::Aes128Gcm { &AES_128_GCM } else { &AES_256_GCM };
        let key = UnboundKey::new(algorithm, key).map_err(|_| wrong_material())?;
        Ok(Gcm { key: LessSafeKey::new(key), iv: iv.try_into().map_err(|_| wrong_material())? })
    }

    /// The sending half, from key material of [`Self::key_len`] and [`Self::iv_len`] bytes.
    pub(crate) fn sealer(self, key: &[u8], iv: &[u8]) -> Result<Sealer, Fault> {
        Ok(match self {
            Self::Aes128Gcm | Self::Aes256Gcm => Sealer::Gcm(self.gcm(key, iv)?),
            Self::ChaCha20Poly1305 => {
                let key = key.try_into().map_err(|_| wrong_material())?;
                Sealer::ChaCha(chacha20_poly1305_openssh::SealingKey::new(key))
            }
        })
    }

    /// The receiving half, from key material of [`Self::key_len`] and [`Self::iv_len`] bytes.
    pub(crate) fn opener(self, key: &[u8], iv: &[u8]) -> Result<Opener, Fault> {
        Ok(match self {
            Self::Aes128Gcm | Self::Aes256Gcm => Opener::Gcm(self.gcm(key, iv)?),
            Self::ChaCha20Poly1305 => {
                let key = key.try_into().map_err(|_| wrong_material())?;
                Opener::ChaCha(chacha20_poly1305_openssh::OpeningKey::new(key))
            }
        })
    }
}

fn wrong_material() -> Fault {
    Fault::kex("key material of the wrong length")
}

pub(crate) struct Gcm {
    key: LessSafeKey,
    /// 4 fixed bytes, then the invocation counter (RFC 5647 section 7.1).
    iv: [u8; NONCE_LEN],
}

impl Gcm {
    /// The nonce of this packet; the counter moves on. A key never lives for 2^64 packets: rekeying sees to that.
    fn nonce(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.iv);
        let [_, _, _, _, counter @ ..] = &mut self.iv;
        *counter = u64::from_be_bytes(*counter).wrapping_add(1).to_be_bytes();
        nonce
    }
}

/// Protects what is sent.
pub(crate) enum Sealer {
    /// Before the first key exchange.
    Plain,
    Gcm(Gcm),
    ChaCha(chacha20_poly1305_openssh::SealingKey),
}

impl Sealer {
    /// The multiple that padding fills up to.
    pub(crate) fn block(&self) -> usize {
        if matches!(self, Self::Gcm(_)) { 16 } else { 8 }
    }

    /// Whether the length field is outside of what padding aligns (RFC 5647, chacha20-poly1305).
    pub(crate) fn length_apart(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Encrypts `packet` (`length || body`) in place and returns the tag to append; `None` without a cipher.
    pub(crate) fn seal(&mut self, sequence: u32, packet: &mut [u8]) -> Result<Option<[u8; TAG]>, Fault> {
        match self {
            Self::Plain => Ok(None),
            Self::Gcm(gcm) => {
                let (length, body) = packet.split_at_mut_checked(4).ok_or_else(broken)?;
                let nonce = gcm.nonce();
                let tag = gcm.key.seal_in_place_separate_tag(nonce, Aad::from(length), body).map_err(|_| broken())?;
                Ok(Some(tag.as_ref().try_into().map_err(|_| broken())?))
            }
            Self::ChaCha(key) => {
                let mut tag = [0; TAG];
                key.seal_in_place(sequence, packet, &mut tag);
                Ok(Some(tag))
            }
        }
    }
}

fn broken() -> Fault {
    Fault::protocol("packet could not be encrypted")
}

/// Checks and decrypts what is received.
pub(crate) enum Opener {
    /// Before the first key exchange.
    Plain,
    Gcm(Gcm),
    ChaCha(chacha20_poly1305_openssh::OpeningKey),
}

impl Opener {
    pub(crate) fn block(&self) -> usize {
        if matches!(self, Self::Gcm(_)) { 16 } else { 8 }
    }

    pub(crate) fn length_apart(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    pub(crate) fn tag_len(&self) -> usize {
        if matches!(self, Self::Plain) { 0 } else { TAG }
    }

    /// The packet length that `field` says; not authenticated before [`Self::open`].
    pub(crate) fn length(&self, sequence: u32, field: [u8; 4]) -> u32 {
        u32::from_be_bytes(match self {
            Self::Plain | Self::Gcm(_) => field,
            Self::ChaCha(key) => key.decrypt_packet_length(sequence, field),
        })
    }

    /// Checks `tag` and decrypts `packet` (`length || body`) in place; only the body is of use after.
    pub(crate) fn open(&mut self, sequence: u32, packet: &mut [u8], tag: &[u8]) -> Result<(), Fault> {
        let forged = || Fault::new(crate::DisconnectReason::MacError, "corrupted packet");
        match self {
            Self::Plain => Ok(()),
            Self::Gcm(gcm) => {
                let (length, body) = packet.split_at_mut_checked(4).ok_or_else(forged)?;
                let nonce = gcm.nonce();
                let opened = gcm.key.open_in_place_separate_tag(nonce, Aad::from(length), tag, body);
                opened.map(drop).map_err(|_| forged())
            }
            Self::ChaCha(key) => {
                let tag = tag.try_into().map_err(|_| forged())?;
                key.open_in_place(sequence, packet, tag).map(drop).map_err(|_| forged())
            }
        }
    }
}
