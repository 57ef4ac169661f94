//! Our private keys: Ed25519, wiped from memory when dropped, stored as an unencrypted openssh-key-v1 file.
//!
//! Encryption at rest is the business of whoever stores the file; `ssh` and `msh` need it readable, mode 0600.

use super::{ED25519_NAME, KeyError, PublicKey};
use crate::wire::{Reader, put_string, put_u32, put_utf8};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use zeroize::{Zeroize as _, Zeroizing};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// Characters on a line of the file, as ssh-keygen writes them.
const LINE_LEN: usize = 70;
/// Longest key file that is looked at, in bytes.
const MAX_FILE_LEN: usize = 16 * 1024;
/// Longest comment written, in bytes.
const MAX_COMMENT_LEN: usize = 1024;
/// Padding unit of an unencrypted key (OpenSSH PROTOCOL.key).
const BLOCK: usize = 8;

/// An Ed25519 private key.
pub struct PrivateKey {
    seed: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    // The library wipes its own copy when it frees it.
    pair: Ed25519KeyPair,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().fingerprint())
    }
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Library`] when the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(seed.as_mut_slice()).map_err(|_| KeyError::Library)?;
        Self::from_seed(*seed)
    }

    /// The key made from a 32-byte seed (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// [`KeyError::Library`] when the library refuses to expand it.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        let seed = Zeroizing::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| KeyError::Library)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Library)?;
        Ok(Self { seed, public, pair })
    }

    /// The seed: the whole secret.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::Ed25519(self.public)
    }

    /// Signs `message`; the result is a signature in SSH form, named `ssh-ed25519`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut blob = Vec::new();
        put_utf8(&mut blob, ED25519_NAME);
        put_string(&mut blob, self.pair.sign(message).as_ref());
        blob
    }

    /// The key as an openssh-key-v1 file without passphrase (OpenSSH PROTOCOL.key). Control characters of the comment
    /// are left out, and what is beyond 1 KiB.
    #[must_use]
    pub fn to_openssh(&self, comment: &str) -> Zeroizing<String> {
        // Room first: a growing buffer would leave unwiped copies behind.
        let mut blob = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN / 4));
        blob.extend_from_slice(MAGIC);
        put_utf8(&mut blob, "none");
        put_utf8(&mut blob, "none");
        put_utf8(&mut blob, "");
        put_u32(&mut blob, 1);
        put_string(&mut blob, &self.public().to_wire());
        put_string(&mut blob, &self.private_section(comment));

        let encoded = Zeroizing::new(STANDARD.encode(&*blob));
        let mut file = Zeroizing::new(String::with_capacity(MAX_FILE_LEN / 2));
        file.push_str(BEGIN);
        for (index, character) in encoded.chars().enumerate() {
            if index % LINE_LEN == 0 {
                file.push('\n');
            }
            file.push(character);
        }
        file.push('\n');
        file.push_str(END);
        file.push('\n');
        file
    }

    fn private_section(&self, comment: &str) -> Zeroizing<Vec<u8>> {
        let mut section = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN / 4));
        // The two check numbers detect a wrong passphrase; without one, any pair of equal numbers will do.
        section.extend_from_slice(&[0; 8]);
        put_utf8(&mut section, ED25519_NAME);
        put_string(&mut section, &self.public);
        put_u32(&mut section, 64);
        section.extend_from_slice(self.seed.as_slice());
        section.extend_from_slice(&self.public);
        let mut text = String::new();
        for character in comment.chars().filter(|c| !c.is_control()) {
            if text.len() + character.len_utf8() > MAX_COMMENT_LEN {
                break;
            }
            text.push(character);
        }
        put_utf8(&mut section, &text);
        for pad in 1..=u8::MAX {
            if section.len().is_multiple_of(BLOCK) {
                break;
            }
            section.push(pad);
        }
        section
    }

    /// Reads an openssh-key-v1 file with one Ed25519 key and no passphrase, at most 16 KiB.
    ///
    /// # Errors
    /// [`KeyError::Encrypted`] when it has a passphrase, [`KeyError::UnsupportedAlgorithm`] for another type of key,
    /// [`KeyError::Text`] or [`KeyError::Wire`] when it is malformed, [`KeyError::Invalid`] when its parts disagree.
    pub fn from_openssh(file: &str) -> Result<Self, KeyError> {
        if file.len() > MAX_FILE_LEN {
            return Err(KeyError::Text("the private key file is longer than 16 KiB"));
        }
        let body = file
            .trim()
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(END))
            .ok_or(KeyError::Text("not an OpenSSH private key file"))?;
        let mut encoded = Zeroizing::new(String::with_capacity(body.len()));
        encoded.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
        let blob = Zeroizing::new(
            STANDARD.decode(encoded.as_bytes()).map_err(|_| KeyError::Text("the private key is not valid base64"))?,
        );
        let section = private_part(&blob)?;
        read_section(section.0, &section.1)
    }
}

/// The public key and the unencrypted private section of a file.
fn private_part(blob: &[u8]) -> Result<(&[u8], PublicKey), KeyError> {
    let mut reader = Reader::new(blob);
    if reader.bytes(MAGIC.len())? != MAGIC {
        return Err(KeyError::Text("not an OpenSSH private key file"));
    }
    let (cipher, kdf, options) = (reader.string()?, reader.string()?, reader.string()?);
    if cipher != b"none" || kdf != b"none" || !options.is_empty() {
        return Err(KeyError::Encrypted);
    }
    if reader.u32()? != 1 {
        return Err(KeyError::Text("the file must have exactly one private key"));
    }
    let public = PublicKey::from_wire(reader.string()?)?;
    let section = reader.string()?;
    reader.end()?;
    Ok((section, public))
}

fn read_section(section: &[u8], public: &PublicKey) -> Result<PrivateKey, KeyError> {
    let mut reader = Reader::new(section);
    if !section.len().is_multiple_of(BLOCK) || reader.u32()? != reader.u32()? {
        return Err(KeyError::Text("the private key is damaged"));
    }
    let name = reader.string()?;
    if name != ED25519_NAME.as_bytes() {
        return Err(KeyError::UnsupportedAlgorithm(super::printable(name)));
    }
    let inner_public = reader.string()?;
    let mut private = Reader::new(reader.string()?);
    let mut seed = private.array::<32>()?;
    let key = PrivateKey::from_seed(seed);
    seed.zeroize();
    let key = key?;
    let private_public = private.bytes(32)?;
    private.end()?;
    if key.public() != *public || key.public != inner_public || key.public != private_public {
        return Err(KeyError::Invalid("the public half is not that of the private key"));
    }
    let _comment = reader.utf8()?;
    let padding = reader.rest();
    if padding.len() >= BLOCK || !padding.iter().copied().eq((1..=u8::MAX).take(padding.len())) {
        return Err(KeyError::Text("the private key has wrong padding"));
    }
    Ok(key)
}
