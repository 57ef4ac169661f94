//! Key exchange: `mlkem768x25519-sha256` (draft-ietf-sshm-mlkem-hybrid-kex) and `curve25519-sha256` (RFC 8731), both
//! ends, with the exchange hash (RFC 4253 section 8) and key derivation (section 7.2).
//!
//! Every exchange uses fresh keys, consumed when it finishes. The hash is SHA-256 throughout. A shared secret of
//! zeros, which a peer forces by a point of small order, fails the exchange.

use crate::wire::{put_mpint, put_string};
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use aws_lc_rs::rand::SystemRandom;
use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of an X25519 public key.
const X25519_LEN: usize = 32;
/// Bytes of an ML-KEM-768 encapsulation key.
const MLKEM_KEY_LEN: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext.
const MLKEM_CIPHERTEXT_LEN: usize = 1088;
/// Bytes of the exchange hash.
const HASH_LEN: usize = 32;

/// Why a key exchange failed. It never says which secret or share was at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KexError {
    /// The peer's share has the wrong length.
    #[error("the peer's key exchange share has the wrong length")]
    ShareLength,
    /// The peer's share is no valid public value, or forces a secret of zeros.
    #[error("the peer's key exchange share is not valid")]
    BadShare,
    /// The cryptographic library failed to make a key.
    #[error("cannot make a key for the key exchange")]
    Library,
}

/// A key exchange method we run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KexAlgorithm {
    /// ML-KEM-768 combined with X25519: safe while either holds.
    MlKem768X25519Sha256,
    /// X25519, by its registered name.
    Curve25519Sha256,
    /// X25519, by the name it had before RFC 8731.
    Curve25519Sha256LibSsh,
}

impl KexAlgorithm {
    /// All methods, best first: the order in which they are offered.
    pub const ALL: [Self; 3] = [Self::MlKem768X25519Sha256, Self::Curve25519Sha256, Self::Curve25519Sha256LibSsh];

    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MlKem768X25519Sha256 => "mlkem768x25519-sha256",
            Self::Curve25519Sha256 => "curve25519-sha256",
            Self::Curve25519Sha256LibSsh => "curve25519-sha256@libssh.org",
        }
    }

    /// The method with this name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// The client's half of an exchange, between its share and the server's reply.
pub struct ClientKex {
    x25519: EphemeralPrivateKey,
    mlkem: Option<DecapsulationKey>,
}

impl fmt::Debug for ClientKex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKex").finish_non_exhaustive()
    }
}

impl ClientKex {
    /// Makes fresh keys and the client's share: Q_C (RFC 8731), or C_INIT = ML-KEM key || X25519 key, as raw bytes
    /// that the caller puts into a `string`.
    ///
    /// # Errors
    /// [`KexError::Library`] when no key can be made.
    pub fn start(algorithm: KexAlgorithm) -> Result<(Self, Vec<u8>), KexError> {
        let mut init = Vec::new();
        let mlkem = match algorithm {
            KexAlgorithm::MlKem768X25519Sha256 => {
                let key = DecapsulationKey::generate(&ML_KEM_768).map_err(library)?;
                let public = key.encapsulation_key().and_then(|public| public.key_bytes()).map_err(library)?;
                init.extend_from_slice(public.as_ref());
                Some(key)
            }
            KexAlgorithm::Curve25519Sha256 | KexAlgorithm::Curve25519Sha256LibSsh => None,
        };
        let (x25519, public) = x25519_key()?;
        init.extend_from_slice(&public);
        Ok((Self { x25519, mlkem }, init))
    }

    /// Ends the exchange with the server's share: Q_S, or S_REPLY = ML-KEM ciphertext || X25519 key.
    ///
    /// # Errors
    /// [`KexError::ShareLength`] or [`KexError::BadShare`].
    pub fn finish(self, server_reply: &[u8]) -> Result<SharedSecret, KexError> {
        let Some(mlkem) = self.mlkem else {
            return Ok(SharedSecret::classic(x25519_agree(self.x25519, server_reply)?));
        };
        let (ciphertext, x25519) = split(server_reply, MLKEM_CIPHERTEXT_LEN)?;
        let quantum = mlkem.decapsulate(Ciphertext::from(ciphertext)).map_err(bad_share)?;
        Ok(SharedSecret::hybrid(quantum.as_ref(), &*x25519_agree(self.x25519, x25519)?))
    }
}

/// The server's whole half of an exchange: its share (Q_S or S_REPLY, raw bytes) and the secret.
///
/// # Errors
/// [`KexError::ShareLength`] or [`KexError::BadShare`] for the client's share, [`KexError::Library`].
pub fn server_reply(algorithm: KexAlgorithm, client_init: &[u8]) -> Result<(Vec<u8>, SharedSecret), KexError> {
    match algorithm {
        KexAlgorithm::MlKem768X25519Sha256 => {
            let (key, peer) = split(client_init, MLKEM_KEY_LEN)?;
            let key = EncapsulationKey::new(&ML_KEM_768, key).map_err(|_: KeyRejected| KexError::BadShare)?;
            let (ciphertext, quantum) = key.encapsulate().map_err(bad_share)?;
            let (x25519, public) = x25519_key()?;
            let secret = SharedSecret::hybrid(quantum.as_ref(), &*x25519_agree(x25519, peer)?);
            Ok(([ciphertext.as_ref(), &public].concat(), secret))
        }
        KexAlgorithm::Curve25519Sha256 | KexAlgorithm::Curve25519Sha256LibSsh => {
            let (x25519, public) = x25519_key()?;
            let secret = SharedSecret::classic(x25519_agree(x25519, client_init)?);
            Ok((public.to_vec(), secret))
        }
    }
}

/// The secret K of one exchange; wiped when dropped. It is used through the exchange hash and [`derive_key`].
pub struct SharedSecret {
    bytes: Zeroizing<[u8; HASH_LEN]>,
    encoding: Encoding,
}

/// How K enters hashes.
#[derive(Clone, Copy)]
enum Encoding {
    /// X25519 secrets (RFC 8731 section 3.1).
    Mpint,
    /// Hybrid secrets (draft-ietf-sshm-mlkem-hybrid-kex).
    String,
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecret").finish_non_exhaustive()
    }
}

impl SharedSecret {
    fn classic(secret: Zeroizing<[u8; X25519_LEN]>) -> Self {
        Self { bytes: secret, encoding: Encoding::Mpint }
    }

    /// K = SHA-256(K_PQ || K_CL).
    fn hybrid(quantum: &[u8], classic: &[u8]) -> Self {
        Self { bytes: Zeroizing::new(sha256(&[quantum, classic])), encoding: Encoding::String }
    }

    /// Appends K as it enters hashes. The caller wipes `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        // Room first: a growing vector would leave an unwiped copy behind.
        out.reserve(HASH_LEN + 5);
        match self.encoding {
            Encoding::Mpint => put_mpint(out, self.bytes.as_slice()),
            Encoding::String => put_string(out, self.bytes.as_slice()),
        }
    }

    fn encoded(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        self.write_to(&mut out);
        out
    }
}

/// What the exchange hash H covers besides the secret (RFC 4253 section 8, in this order).
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// V_C: the client's identification line without CR LF.
    pub client_version: &'a [u8],
    /// V_S: the server's identification line without CR LF.
    pub server_version: &'a [u8],
    /// I_C: the payload of the client's SSH_MSG_KEXINIT, from the message number on.
    pub client_kexinit: &'a [u8],
    /// I_S: the payload of the server's SSH_MSG_KEXINIT.
    pub server_kexinit: &'a [u8],
    /// K_S: the server's host key or certificate.
    pub host_key: &'a [u8],
    /// Q_C or C_INIT.
    pub client_init: &'a [u8],
    /// Q_S or S_REPLY.
    pub server_reply: &'a [u8],
}

/// The exchange hash H, which the server signs and which becomes the session id of the first exchange.
#[must_use]
pub fn exchange_hash(exchange: &Exchange<'_>, secret: &SharedSecret) -> [u8; HASH_LEN] {
    let mut public = Vec::new();
    for part in [
        exchange.client_version,
        exchange.server_version,
        exchange.client_kexinit,
        exchange.server_kexinit,
        exchange.host_key,
        exchange.client_init,
        exchange.server_reply,
    ] {
        put_string(&mut public, part);
    }
    sha256(&[&public, &secret.encoded()])
}

/// Derives `len` bytes for the purpose named by `letter`, `b'A'` to `b'F'` (RFC 4253 section 7.2).
#[must_use]
pub fn derive_key(
    secret: &SharedSecret,
    hash: &[u8; HASH_LEN],
    session_id: &[u8],
    letter: u8,
    len: usize,
) -> Zeroizing<Vec<u8>> {
    let encoded = secret.encoded();
    let mut key = Zeroizing::new(Vec::with_capacity(len.saturating_add(HASH_LEN)));
    key.extend_from_slice(&*Zeroizing::new(sha256(&[&encoded, hash, &[letter], session_id])));
    while key.len() < len {
        let next = Zeroizing::new(sha256(&[&encoded, hash, &key]));
        key.extend_from_slice(&*next);
    }
    key.truncate(len);
    key
}

fn sha256(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut context = digest::Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; HASH_LEN];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn x25519_key() -> Result<(EphemeralPrivateKey, [u8; X25519_LEN]), KexError> {
    let key = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(library)?;
    let public = key.compute_public_key().map_err(library)?;
    let public = public.as_ref().try_into().map_err(|_| KexError::Library)?;
    Ok((key, public))
}

fn x25519_agree(key: EphemeralPrivateKey, peer: &[u8]) -> Result<Zeroizing<[u8; X25519_LEN]>, KexError> {
    if peer.len() != X25519_LEN {
        return Err(KexError::ShareLength);
    }
    agree_ephemeral(key, UnparsedPublicKey::new(&X25519, peer), KexError::BadShare, |secret| {
        let secret: Zeroizing<[u8; X25519_LEN]> = Zeroizing::new(secret.try_into().map_err(|_| KexError::BadShare)?);
        // RFC 8731 section 3: abort on the all-zero value. The fold looks at every byte.
        if secret.iter().fold(0, |seen, byte| seen | byte) == 0 { Err(KexError::BadShare) } else { Ok(secret) }
    })
}

/// Splits a hybrid share into its ML-KEM part of `len` bytes and its X25519 part.
fn split(share: &[u8], len: usize) -> Result<(&[u8], &[u8]), KexError> {
    if share.len() != len + X25519_LEN {
        return Err(KexError::ShareLength);
    }
    share.split_at_checked(len).ok_or(KexError::ShareLength)
}

fn library(_: Unspecified) -> KexError {
    KexError::Library
}

fn bad_share(_: Unspecified) -> KexError {
    KexError::BadShare
}

#[cfg(test)]
mod tests;
