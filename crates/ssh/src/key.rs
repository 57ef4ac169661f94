//! Keys: public keys of the three kinds we check, their text and wire forms, signatures, and our own private key.
//!
//! A [`PublicKey`] that exists is well formed: the right length, a point on the curve, a modulus of 2048 to 8192 bits.
//! Equality is equality of the wire form. Signing is Ed25519 only.

mod private;
mod text;

pub use private::PrivateKey;
pub(crate) use text::{decode_line, encode_line};

use crate::wire::{Reader, WireError, put_mpint, put_string, put_utf8};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::fmt;
use thiserror::Error;

/// Name of Ed25519 keys and signatures (RFC 8709).
pub const ED25519_NAME: &str = "ssh-ed25519";
/// Name of ECDSA keys and signatures on the curve P-256 (RFC 5656).
pub const ECDSA_P256_NAME: &str = "ecdsa-sha2-nistp256";
/// Name of RSA keys (RFC 4253); never of a signature, which would be SHA-1.
pub const RSA_NAME: &str = "ssh-rsa";
/// Name of RSA signatures with SHA-256 (RFC 8332).
pub const RSA_SHA256_NAME: &str = "rsa-sha2-256";
/// Name of RSA signatures with SHA-512 (RFC 8332).
pub const RSA_SHA512_NAME: &str = "rsa-sha2-512";

/// Longest wire form of a key that is looked at, in bytes; an RSA key of 8192 bits takes about 1100.
pub const MAX_KEY_LEN: usize = 2048;

const P256_CURVE: &str = "nistp256";
const P256_POINT_LEN: usize = 65;
const P256_SCALAR_LEN: usize = 32;
const RSA_MIN_BITS: usize = 2048;
const RSA_MAX_BITS: usize = 8192;
/// AWS-LC refuses public exponents of more than 33 bits; these are also the bytes of one.
const RSA_MAX_EXPONENT_LEN: usize = 5;

/// Why a key or a signature was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The bytes are not a key or signature in SSH form.
    #[error("malformed key: {0}")]
    Wire(#[from] WireError),
    /// The text is not one key line or one key file.
    #[error("malformed key text: {0}")]
    Text(&'static str),
    /// A key type we do not check.
    #[error("unsupported key type {0:?}: use ssh-ed25519, ecdsa-sha2-nistp256 or ssh-rsa")]
    UnsupportedAlgorithm(String),
    /// The numbers of the key are not a valid key.
    #[error("invalid key: {0}")]
    Invalid(&'static str),
    /// The private key file is protected by a passphrase.
    #[error("the private key is encrypted with a passphrase")]
    Encrypted,
    /// The signature is of another type than the key or the protocol asks for.
    #[error("the signature algorithm does not fit the key")]
    SignatureAlgorithm,
    /// The signature does not match.
    #[error("the signature is not valid")]
    BadSignature,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Library,
}

/// A public key.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublicKey {
    /// Ed25519 (RFC 8709): the encoded point.
    Ed25519([u8; 32]),
    /// ECDSA on P-256 (RFC 5656): the uncompressed point, 0x04 first.
    EcdsaP256([u8; P256_POINT_LEN]),
    /// RSA (RFC 4253), for the host keys of other people's machines: big-endian numbers without leading zeros.
    Rsa {
        /// The public exponent: odd, at least 3, at most 5 bytes.
        e: Vec<u8>,
        /// The modulus: 2048 to 8192 bits.
        n: Vec<u8>,
    },
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm(), self.fingerprint())
    }
}

impl PublicKey {
    /// Reads the wire form, at most [`MAX_KEY_LEN`] bytes and nothing after it (RFC 4253 section 6.6).
    ///
    /// # Errors
    /// [`KeyError::Wire`], [`KeyError::UnsupportedAlgorithm`], or [`KeyError::Invalid`] when curve, point or size are
    /// not acceptable. A certificate is no key and is refused.
    pub fn from_wire(blob: &[u8]) -> Result<Self, KeyError> {
        if blob.len() > MAX_KEY_LEN {
            return Err(KeyError::Invalid("longer than 2048 bytes"));
        }
        let mut reader = Reader::new(blob);
        let key = match reader.string()? {
            name if name == ED25519_NAME.as_bytes() => Self::Ed25519(
                reader.string()?.try_into().map_err(|_| KeyError::Invalid("an Ed25519 key has 32 bytes"))?,
            ),
            name if name == ECDSA_P256_NAME.as_bytes() => Self::read_p256(&mut reader)?,
            name if name == RSA_NAME.as_bytes() => Self::read_rsa(&mut reader)?,
            other => return Err(KeyError::UnsupportedAlgorithm(printable(other))),
        };
        reader.end()?;
        Ok(key)
    }

    fn read_p256(reader: &mut Reader<'_>) -> Result<Self, KeyError> {
        if reader.string()? != P256_CURVE.as_bytes() {
            return Err(KeyError::Invalid("the curve does not fit the key type"));
        }
        let point = <[u8; P256_POINT_LEN]>::try_from(reader.string()?)
            .ok()
            .filter(|point| matches!(point, [4, ..]))
            .ok_or(KeyError::Invalid("a P-256 key is an uncompressed point of 65 bytes"))?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .map_err(|_| KeyError::Invalid("the point is not on the curve P-256"))?;
        Ok(Self::EcdsaP256(point))
    }

    fn read_rsa(reader: &mut Reader<'_>) -> Result<Self, KeyError> {
        let (e, n) = (reader.mpint()?, reader.mpint()?);
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        if !odd(e) || e == [1] || e.len() > RSA_MAX_EXPONENT_LEN {
            return Err(KeyError::Invalid("the RSA exponent must be odd, at least 3 and below 2^40"));
        }
        let leading = n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let bits = n.len().saturating_mul(8).saturating_sub(leading);
        if !odd(n) || !(RSA_MIN_BITS..=RSA_MAX_BITS).contains(&bits) {
            return Err(KeyError::Invalid("an RSA key must have 2048 to 8192 bits"));
        }
        Ok(Self::Rsa { e: e.to_vec(), n: n.to_vec() })
    }

    /// The wire form.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_utf8(&mut out, self.algorithm());
        match self {
            Self::Ed25519(key) => put_string(&mut out, key),
            Self::EcdsaP256(point) => {
                put_utf8(&mut out, P256_CURVE);
                put_string(&mut out, point);
            }
            Self::Rsa { e, n } => {
                put_mpint(&mut out, e);
                put_mpint(&mut out, n);
            }
        }
        out
    }

    /// The name of the key type on the wire.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => ED25519_NAME,
            Self::EcdsaP256(_) => ECDSA_P256_NAME,
            Self::Rsa { .. } => RSA_NAME,
        }
    }

    /// The fingerprint as OpenSSH shows it: `SHA256:` and unpadded base64.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, &self.to_wire())))
    }

    /// Checks a signature in SSH form (`string` algorithm, `string` signature, nothing after it) over `message`.
    /// `sig_algorithm` is the one the protocol asks for: the blob must name it, and the key must be able to make it.
    ///
    /// # Errors
    /// [`KeyError::Wire`], [`KeyError::SignatureAlgorithm`] or [`KeyError::BadSignature`].
    pub fn verify(&self, sig_algorithm: &str, message: &[u8], signature_blob: &[u8]) -> Result<(), KeyError> {
        let mut reader = Reader::new(signature_blob);
        if reader.string()? != sig_algorithm.as_bytes() {
            return Err(KeyError::SignatureAlgorithm);
        }
        let signature = reader.string()?;
        reader.end()?;
        let valid = match (self, sig_algorithm) {
            (Self::Ed25519(key), ED25519_NAME) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            (Self::EcdsaP256(point), ECDSA_P256_NAME) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, &fixed_p256(signature)?)
            }
            (Self::Rsa { e, n }, RSA_SHA256_NAME) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Self::Rsa { e, n }, RSA_SHA512_NAME) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA512, message, signature)
            }
            _ => return Err(KeyError::SignatureAlgorithm),
        };
        valid.map_err(|_| KeyError::BadSignature)
    }
}

/// Turns the two `mpint` of an ECDSA signature (RFC 5656 section 3.1.2) into the fixed form r || s.
fn fixed_p256(signature: &[u8]) -> Result<[u8; 2 * P256_SCALAR_LEN], KeyError> {
    let mut reader = Reader::new(signature);
    let (r, s) = (reader.mpint()?, reader.mpint()?);
    reader.end()?;
    let mut fixed = [0; 2 * P256_SCALAR_LEN];
    let (r_half, s_half) = fixed.split_at_mut(P256_SCALAR_LEN);
    for (half, number) in [(r_half, r), (s_half, s)] {
        let start = P256_SCALAR_LEN.checked_sub(number.len()).ok_or(KeyError::BadSignature)?;
        half.get_mut(start..).ok_or(KeyError::BadSignature)?.copy_from_slice(number);
    }
    Ok(fixed)
}

/// A name from outside, cut and made safe to show.
pub(crate) fn printable(name: &[u8]) -> String {
    name.iter().take(64).map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests;
