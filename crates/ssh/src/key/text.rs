//! The one-line text forms of public keys: authorized_keys without options (sshd(8)) and known_hosts authorities.

use super::{KeyError, MAX_KEY_LEN, PublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What OpenSSH's known_hosts puts before the key of an authority that may sign for every host.
const AUTHORITY_MARK: &str = "@cert-authority * ";

impl PublicKey {
    /// Reads a line `TYPE BASE64 [COMMENT]`; the comment is everything after the key, trimmed.
    ///
    /// # Errors
    /// [`KeyError::Text`] for more than one line or a line that is no key, and those of [`PublicKey::from_wire`].
    pub fn from_openssh(line: &str) -> Result<(Self, String), KeyError> {
        let (name, blob, comment) = decode_line(line, MAX_KEY_LEN)?;
        let key = Self::from_wire(&blob)?;
        if key.algorithm() != name {
            return Err(KeyError::Text("the key type before the key is not the type of the key"));
        }
        Ok((key, comment.to_owned()))
    }

    /// The line `TYPE BASE64 COMMENT` without a line end. Control characters of the comment are left out.
    #[must_use]
    pub fn to_openssh(&self, comment: &str) -> String {
        encode_line(self.algorithm(), &self.to_wire(), comment)
    }

    /// The known_hosts line that trusts this key to sign for every host: `@cert-authority * TYPE BASE64`.
    #[must_use]
    pub fn to_known_hosts_authority(&self) -> String {
        format!("{AUTHORITY_MARK}{}", self.to_openssh(""))
    }

    /// Reads a line that [`PublicKey::to_known_hosts_authority`] wrote.
    ///
    /// # Errors
    /// [`KeyError::Text`] for any other kind of line, and those of [`PublicKey::from_openssh`].
    pub fn from_known_hosts_authority(line: &str) -> Result<Self, KeyError> {
        let key = line.strip_prefix(AUTHORITY_MARK).ok_or(KeyError::Text("not a line `@cert-authority * KEY`"))?;
        Ok(Self::from_openssh(key)?.0)
    }
}

/// Splits a key line into type, decoded blob of at most `max_len` bytes, and comment.
pub(crate) fn decode_line(line: &str, max_len: usize) -> Result<(&str, Vec<u8>, &str), KeyError> {
    let line = line.trim();
    if line.contains(['\n', '\r']) {
        return Err(KeyError::Text("more than one line"));
    }
    let (name, rest) = line.split_once([' ', '\t']).ok_or(KeyError::Text("a key line is `TYPE BASE64 [COMMENT]`"))?;
    let rest = rest.trim_start();
    let (encoded, comment) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    if encoded.len() / 4 > max_len / 3 + 1 {
        return Err(KeyError::Text("the key is too long"));
    }
    let blob = STANDARD.decode(encoded).map_err(|_| KeyError::Text("the key is not valid base64"))?;
    Ok((name, blob, comment.trim()))
}

/// Joins type, blob and comment into a key line.
pub(crate) fn encode_line(name: &str, blob: &[u8], comment: &str) -> String {
    let comment: String = comment.chars().filter(|c| !c.is_control()).collect();
    let line = format!("{name} {} {comment}", STANDARD.encode(blob));
    line.trim_end().to_owned()
}
