//! Reading certificates, and the bounds that also hold for the ones we sign.

use super::{
    CERTIFICATE_NAME, CertError, CertKind, Certificate, MAX_CERTIFICATE_LEN, MAX_KEY_ID_LEN, MAX_OPTION_NAME_LEN,
    MAX_OPTIONS, MAX_PRINCIPAL_LEN, MAX_PRINCIPALS,
};
use crate::key::{PublicKey, printable};
use crate::wire::Reader;

/// Bounds of the nonce in bytes; ssh-keygen writes 32.
const NONCE_LEN: std::ops::RangeInclusive<usize> = 16..=64;

impl Certificate {
    /// Reads the wire form, at most [`MAX_CERTIFICATE_LEN`] bytes and nothing after it.
    ///
    /// # Errors
    /// [`CertError::Wire`], [`CertError::Malformed`], [`CertError::UnsupportedType`] or [`CertError::SigningKey`].
    pub fn from_wire(blob: &[u8]) -> Result<Self, CertError> {
        if blob.len() > MAX_CERTIFICATE_LEN {
            return Err(CertError::Malformed("longer than 32 KiB"));
        }
        let mut reader = Reader::new(blob);
        let name = reader.string()?;
        if name != CERTIFICATE_NAME.as_bytes() {
            return Err(CertError::UnsupportedType(printable(name)));
        }
        let nonce = reader.string()?.to_vec();
        let key = reader.string()?.try_into().map_err(|_| CertError::Malformed("an Ed25519 key has 32 bytes"))?;
        let certificate = Self {
            nonce,
            public_key: PublicKey::Ed25519(key),
            serial: reader.u64()?,
            kind: read_kind(&mut reader)?,
            key_id: reader.utf8()?.to_owned(),
            principals: read_principals(reader.string()?)?,
            valid_after: reader.u64()?,
            valid_before: reader.u64()?,
            critical_options: read_options(reader.string()?)?,
            extensions: read_options(reader.string()?)?,
            authority: read_authority(&mut reader)?,
            signature: reader.string()?.to_vec(),
        };
        reader.end()?;
        certificate.check_form()?;
        if certificate.to_wire() != blob {
            return Err(CertError::Malformed("not in the one canonical form"));
        }
        Ok(certificate)
    }

    /// The bounds of every field that the types do not keep by themselves.
    pub(super) fn check_form(&self) -> Result<(), CertError> {
        let malformed = |reason| Err(CertError::Malformed(reason));
        if !matches!(self.public_key, PublicKey::Ed25519(_)) {
            return malformed("the certified key must be Ed25519");
        }
        if !matches!(self.authority, PublicKey::Ed25519(_) | PublicKey::EcdsaP256(_)) {
            return malformed("the signing key must be Ed25519 or ECDSA P-256");
        }
        if !NONCE_LEN.contains(&self.nonce.len()) {
            return malformed("the nonce must have 16 to 64 bytes");
        }
        if self.key_id.len() > MAX_KEY_ID_LEN || self.key_id.chars().any(char::is_control) {
            return malformed("the key id has control characters or more than 1024 bytes");
        }
        if self.principals.len() > MAX_PRINCIPALS || !self.principals.iter().all(|name| is_principal(name)) {
            return malformed("a principal is empty, too long, or has a character that no principal may have");
        }
        if self.valid_after >= self.valid_before {
            return malformed("the validity ends before it starts");
        }
        check_options(&self.critical_options)?;
        check_options(&self.extensions)
    }
}

/// Whether a principal can mean only itself: printable ASCII without the separators and wildcards that some verifier
/// gives a meaning to.
fn is_principal(name: &str) -> bool {
    (1..=MAX_PRINCIPAL_LEN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b",*?!".contains(&byte))
}

fn check_options(options: &[(String, Vec<u8>)]) -> Result<(), CertError> {
    if options.len() > MAX_OPTIONS {
        return Err(CertError::Malformed("too many options"));
    }
    let well_named = |name: &str| {
        (1..=MAX_OPTION_NAME_LEN).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !options.iter().all(|(name, value)| well_named(name) && std::str::from_utf8(value).is_ok()) {
        return Err(CertError::Malformed("an option has an unacceptable name or a value that is not UTF-8"));
    }
    if !options.is_sorted_by(|(left, _), (right, _)| left < right) {
        return Err(CertError::Malformed("options are doubled or not in ascending order"));
    }
    Ok(())
}

fn read_kind(reader: &mut Reader<'_>) -> Result<CertKind, CertError> {
    match reader.u32()? {
        1 => Ok(CertKind::User),
        2 => Ok(CertKind::Host),
        _ => Err(CertError::Malformed("neither a user nor a host certificate")),
    }
}

fn read_principals(list: &[u8]) -> Result<Vec<String>, CertError> {
    let mut reader = Reader::new(list);
    let mut principals = Vec::new();
    while !reader.is_empty() {
        if principals.len() == MAX_PRINCIPALS {
            return Err(CertError::Malformed("too many principals"));
        }
        principals.push(reader.utf8()?.to_owned());
    }
    Ok(principals)
}

fn read_options(list: &[u8]) -> Result<Vec<(String, Vec<u8>)>, CertError> {
    let mut reader = Reader::new(list);
    let mut options = Vec::new();
    while !reader.is_empty() {
        if options.len() == MAX_OPTIONS {
            return Err(CertError::Malformed("too many options"));
        }
        let name = reader.utf8()?.to_owned();
        let data = reader.string()?;
        let value = if data.is_empty() {
            Vec::new()
        } else {
            let mut inner = Reader::new(data);
            let value = inner.string()?.to_vec();
            inner.end()?;
            value
        };
        options.push((name, value));
    }
    Ok(options)
}

/// Skips the reserved field, which must be empty, and reads the signing key.
fn read_authority(reader: &mut Reader<'_>) -> Result<PublicKey, CertError> {
    if !reader.string()?.is_empty() {
        return Err(CertError::Malformed("the reserved field is not empty"));
    }
    PublicKey::from_wire(reader.string()?).map_err(CertError::SigningKey)
}
