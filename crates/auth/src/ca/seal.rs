//! Sealing of CA private keys, and of the secrets of second factors, at rest: AES-256-GCM under a key that Argon2id makes of the passphrase (F417), or under a
//! random key in a file when there is no passphrase. The seal is bound to the row's type and id, so that two rows cannot be
//! exchanged.
//!
//! A sealed key is `1 || salt[16] || nonce[12] || ciphertext` under a passphrase and `2 || nonce[12] || ciphertext` under the
//! key file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use mezite_net::clock;
use zeroize::Zeroizing;

use crate::AuthError;

const UNDER_PASSPHRASE: u8 = 1;
const UNDER_FILE: u8 = 2;
const SALT_LEN: usize = 16;
/// Argon2id: 64 MiB, 3 passes, 1 lane.
const ARGON2: (u32, u32, u32) = (64 * 1024, 3, 1);

type Key = Zeroizing<[u8; 32]>;
type Salt = [u8; SALT_LEN];

/// Seals and opens private keys.
pub(crate) struct Sealer {
    passphrase: Option<Zeroizing<String>>,
    key_file: PathBuf,
    /// The key last derived: all rows made at one start share a salt, so that a start derives once.
    derived: Mutex<Option<(Salt, Key)>>,
}

impl Sealer {
    /// Under `passphrase`, else under the key in `key_file`, which is made when the first key is sealed.
    pub(crate) fn new(passphrase: Option<Zeroizing<String>>, key_file: PathBuf) -> Self {
        Self { passphrase, key_file, derived: Mutex::new(None) }
    }

    /// Whether keys lie sealed under a file beside them only.
    pub(crate) fn is_without_passphrase(&self) -> bool {
        self.passphrase.is_none()
    }

    /// Seals `secret` for the row `kind`/`id`.
    pub(crate) fn seal(&self, kind: &str, id: &str, secret: &[u8]) -> Result<Vec<u8>, AuthError> {
        let nonce: [u8; NONCE_LEN] = clock::random();
        let (mut sealed, key) = match &self.passphrase {
            Some(passphrase) => {
                let salt = self.salt();
                let key = self.derive(passphrase, salt)?;
                ([[UNDER_PASSPHRASE].as_slice(), &salt].concat(), key)
            }
            None => (vec![UNDER_FILE], self.file_key()?),
        };
        sealed.extend_from_slice(&nonce);
        let mut body = secret.to_vec();
        cipher(&key)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), binding(kind, id), &mut body)
            .map_err(|_| AuthError::new(format!("sealing a key of {kind} failed")))?;
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    /// Opens what [`Sealer::seal`] made for the same row.
    pub(crate) fn open(&self, kind: &str, id: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, AuthError> {
        let damaged =
            || AuthError::new(format!("the sealed key of {kind} is damaged; restore the database from a backup"));
        let (form, rest) = sealed.split_first().ok_or_else(damaged)?;
        let (key, rest, hint) = match (*form, &self.passphrase) {
            (UNDER_PASSPHRASE, Some(passphrase)) => {
                let (salt, rest) = rest.split_first_chunk::<SALT_LEN>().ok_or_else(damaged)?;
                (self.derive(passphrase, *salt)?, rest, "the passphrase is wrong")
            }
            (UNDER_PASSPHRASE, None) => {
                return Err(AuthError::new(
                    "the CA keys are sealed with a passphrase; set ca_key_passphrase_file or MEZITE_CA_KEY_PASSPHRASE",
                ));
            }
            (UNDER_FILE, _) => (read_key(&self.key_file)?, rest, "the key file is not the one it was sealed with"),
            _ => return Err(damaged()),
        };
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(damaged)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = cipher(&key)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), binding(kind, id), &mut body)
            .map_err(|_| {
                AuthError::new(format!("the key of {kind} cannot be opened: {hint}, or the database was altered"))
            })?
            .len();
        body.truncate(length);
        Ok(body)
    }

    /// A new seal of `secret` when `sealed` is under the key file although there is a passphrase by now.
    pub(crate) fn reseal(
        &self,
        kind: &str,
        id: &str,
        sealed: &[u8],
        secret: &[u8],
    ) -> Result<Option<Vec<u8>>, AuthError> {
        let stale = self.passphrase.is_some() && sealed.first() == Some(&UNDER_FILE);
        stale.then(|| self.seal(kind, id, secret)).transpose()
    }

    fn salt(&self) -> Salt {
        let derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        derived.as_ref().map_or_else(clock::random, |(salt, _)| *salt)
    }

    fn derive(&self, passphrase: &str, salt: Salt) -> Result<Key, AuthError> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, key)) = derived.as_ref()
            && *known == salt
        {
            return Ok(key.clone());
        }
        let mut key = Key::default();
        let (memory, passes, lanes) = ARGON2;
        let failed = |e: argon2::Error| AuthError::new(format!("deriving the key of the CA keys: {e}"));
        let params = Params::new(memory, passes, lanes, Some(key.len())).map_err(failed)?;
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &salt, key.as_mut_slice())
            .map_err(failed)?;
        *derived = Some((salt, key.clone()));
        Ok(key)
    }

    fn file_key(&self) -> Result<Key, AuthError> {
        let key: Key = Zeroizing::new(clock::random());
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.key_file);
        match made {
            Ok(mut file) => {
                let written = file.write_all(key.as_slice()).and_then(|()| file.sync_all());
                written.map_err(|e| AuthError::new(format!("{}: {e}", self.key_file.display())))?;
                Ok(key)
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => read_key(&self.key_file),
            Err(e) => Err(AuthError::new(format!("{}: {e}", self.key_file.display()))),
        }
    }
}

fn read_key(path: &Path) -> Result<Key, AuthError> {
    let at = |what: String| AuthError::new(format!("CA key file {}: {what}", path.display()));
    let mut file = OpenOptions::new()
        .read(true)
        .open(path)
        .map_err(|e| at(format!("{e}; it belongs to the backup of the database")))?;
    let mode = file.metadata().map_err(|e| at(e.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(at("others can read it; chmod it to 0600".into()));
    }
    let mut key = Key::default();
    file.read_exact(key.as_mut_slice()).map_err(|_| at("is not 32 bytes long".into()))?;
    Ok(key)
}

fn cipher(key: &Key) -> Result<LessSafeKey, AuthError> {
    let key =
        UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| AuthError::new("AES-256-GCM refused its key"))?;
    Ok(LessSafeKey::new(key))
}

fn binding(kind: &str, id: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("ca:{kind}:{id}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(dir: &Path, passphrase: Option<&str>) -> Sealer {
        Sealer::new(passphrase.map(|p| Zeroizing::new(p.to_owned())), dir.join("ca.key"))
    }

    #[test]
    fn a_passphrase_opens_its_own_seal_only() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = sealer(dir.path(), Some("correct horse")).seal("user", "1", b"seed").unwrap();
        assert!(!sealed.windows(4).any(|part| part == b"seed"));
        assert_eq!(sealer(dir.path(), Some("correct horse")).open("user", "1", &sealed).unwrap().as_slice(), b"seed");
        let wrong = sealer(dir.path(), Some("wrong")).open("user", "1", &sealed).unwrap_err().to_string();
        assert!(wrong.contains("passphrase is wrong"), "{wrong}");
        let none = sealer(dir.path(), None).open("user", "1", &sealed).unwrap_err().to_string();
        assert!(none.contains("set ca_key_passphrase"), "{none}");
        assert!(!dir.path().join("ca.key").exists());
    }

    #[test]
    fn a_seal_is_bound_to_its_row_and_to_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = sealer(dir.path(), None);
        let sealed = sealer.seal("user", "1", b"seed").unwrap();
        assert!(sealer.open("host", "1", &sealed).is_err());
        assert!(sealer.open("user", "2", &sealed).is_err());
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(sealer.open("user", "1", &changed).is_err(), "byte {index}");
            assert!(sealer.open("user", "1", &sealed[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn the_key_file_is_private_kept_and_needed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.key");
        let sealed = sealer(dir.path(), None).seal("user", "1", b"seed").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        sealer(dir.path(), None).seal("host", "2", b"seed").unwrap();
        // A passphrase set later still opens what the file sealed.
        assert_eq!(sealer(dir.path(), Some("later")).open("user", "1", &sealed).unwrap().as_slice(), b"seed");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(sealer(dir.path(), None).open("user", "1", &sealed).unwrap_err().to_string().contains("0600"));
        std::fs::remove_file(&path).unwrap();
        assert!(sealer(dir.path(), None).open("user", "1", &sealed).is_err());
        assert!(!path.exists());
    }
}
