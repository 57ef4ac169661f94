//! Public keys of audit logs, as `mezctl ca export --type=audit` prints them.

use mezite_core::audit::checkpoint::PublicKey as Raw;
use mezite_ssh::key::PublicKey;

use crate::Result;
use crate::error::invalid;

/// Reads OpenSSH public key lines; empty lines and those that begin with `#` are skipped.
///
/// # Errors
/// For a line that is no Ed25519 key, and for a text without any.
pub fn parse(text: &str) -> Result<Vec<Raw>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.map(|line| match PublicKey::from_openssh(line) {
        Ok((PublicKey::Ed25519(key), _)) => Ok(key),
        _ => Err(invalid("key", "is not a line that mezctl ca export --type=audit printed")),
    });
    let keys = keys.collect::<Result<Vec<_>>>()?;
    if keys.is_empty() { Err(invalid("key", "holds no public key")) } else { Ok(keys) }
}

/// The fingerprint as OpenSSH shows it.
pub fn fingerprint(key: &Raw) -> String {
    PublicKey::Ed25519(*key).fingerprint()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_lines_and_nothing_else_is() {
        let line = PublicKey::Ed25519([7; 32]).to_openssh("audit-ca@example");
        assert_eq!(parse(&format!("# the audit key\n\n{line}\n")).unwrap(), [[7; 32]]);
        assert!(fingerprint(&[7; 32]).starts_with("SHA256:"));
        for bad in ["", "# none", "ssh-ed25519 AAAA", "-----BEGIN CERTIFICATE-----"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
