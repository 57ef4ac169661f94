//! OpenSSH certificates (OpenSSH PROTOCOL.certkeys), type `ssh-ed25519-cert-v01@openssh.com`.
//!
//! [`Certificate::from_wire`] accepts one encoding only: a certificate that parses encodes to the very bytes it came
//! from, so the signature that [`verify`] checks covers exactly the fields the caller sees. Subject keys are Ed25519;
//! signing keys are plain Ed25519 or ECDSA P-256 keys. A certificate as signing key is refused while parsing.
//!
//! Deliberately absent: trust in an authority because of anything but its key, wildcard principals, `force-command`
//! and `verify-required` (refused as unknown critical options), and certificates without an end.

mod build;
mod parse;
mod source;
mod verify;

pub use build::CertificateBuilder;
pub use verify::{CLOCK_ALLOWANCE, Policy, verify};

use crate::key::{KeyError, PublicKey, decode_line, encode_line, printable};
use crate::wire::{WireError, put_string, put_u32, put_u64, put_utf8};
use std::fmt;
use std::net::IpAddr;
use thiserror::Error;

/// Name of the certificate type on the wire.
pub const CERTIFICATE_NAME: &str = "ssh-ed25519-cert-v01@openssh.com";
/// Longest certificate, in bytes of wire form; it has to fit into one authentication packet of a stock peer.
pub const MAX_CERTIFICATE_LEN: usize = 32 * 1024;
/// Most principals in a certificate; OpenSSH has the same bound.
pub const MAX_PRINCIPALS: usize = 256;
/// Longest principal, in bytes.
pub const MAX_PRINCIPAL_LEN: usize = 512;
/// Most critical options, and most extensions, in a certificate.
pub const MAX_OPTIONS: usize = 64;
/// Longest name of an option, in bytes.
pub const MAX_OPTION_NAME_LEN: usize = 128;
/// Longest key id, in bytes.
pub const MAX_KEY_ID_LEN: usize = 1024;
/// The critical option that binds a user certificate to client addresses: a comma-separated list of CIDR blocks.
pub const SOURCE_ADDRESS: &str = "source-address";
/// End of validity of a certificate that never ends.
const FOREVER: u64 = u64::MAX;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertKind {
    /// Logs a user in.
    User,
    /// Names a host.
    Host,
}

impl CertKind {
    fn to_wire(self) -> u32 {
        match self {
            Self::User => 1,
            Self::Host => 2,
        }
    }
}

impl fmt::Display for CertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Host => "host",
        })
    }
}

/// A certificate, parsed but not yet trusted: nothing it says counts before [`verify`] has accepted it.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The key it certifies; always Ed25519.
    pub public_key: PublicKey,
    /// Number given by the authority.
    pub serial: u64,
    /// User or host.
    pub kind: CertKind,
    /// Name for logs: no control characters, at most [`MAX_KEY_ID_LEN`] bytes.
    pub key_id: String,
    /// OS logins of a user, names of a host; compared as whole strings.
    pub principals: Vec<String>,
    /// First second of validity, unix time.
    pub valid_after: u64,
    /// First second after validity, unix time.
    pub valid_before: u64,
    /// Restrictions, by name in ascending order; a value is the text inside the option, empty for a flag.
    pub critical_options: Vec<(String, Vec<u8>)>,
    /// Permissions and data, in the form of [`Certificate::critical_options`].
    pub extensions: Vec<(String, Vec<u8>)>,
    /// The key that signed it: a plain Ed25519 or P-256 key.
    pub authority: PublicKey,
    nonce: Vec<u8>,
    signature: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("kind", &self.kind)
            .field("key_id", &self.key_id)
            .field("serial", &self.serial)
            .field("principals", &self.principals)
            .field("public_key", &self.public_key)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// The wire form.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = self.signed_part();
        put_string(&mut out, &self.signature);
        out
    }

    /// What the authority signs: everything but the signature.
    fn signed_part(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_utf8(&mut out, CERTIFICATE_NAME);
        put_string(&mut out, &self.nonce);
        if let PublicKey::Ed25519(key) = &self.public_key {
            put_string(&mut out, key);
        }
        put_u64(&mut out, self.serial);
        put_u32(&mut out, self.kind.to_wire());
        put_utf8(&mut out, &self.key_id);
        let mut principals = Vec::new();
        for principal in &self.principals {
            put_utf8(&mut principals, principal);
        }
        put_string(&mut out, &principals);
        put_u64(&mut out, self.valid_after);
        put_u64(&mut out, self.valid_before);
        put_string(&mut out, &encode_options(&self.critical_options));
        put_string(&mut out, &encode_options(&self.extensions));
        put_string(&mut out, &[]);
        put_string(&mut out, &self.authority.to_wire());
        out
    }

    /// Reads a line `TYPE BASE64 [COMMENT]`, as in `*-cert.pub` files.
    ///
    /// # Errors
    /// [`CertError::Text`] when it is no such line, and those of [`Certificate::from_wire`].
    pub fn from_openssh(line: &str) -> Result<(Self, String), CertError> {
        let (name, blob, comment) = decode_line(line, MAX_CERTIFICATE_LEN).map_err(CertError::Text)?;
        if name != CERTIFICATE_NAME {
            return Err(CertError::UnsupportedType(printable(name.as_bytes())));
        }
        Ok((Self::from_wire(&blob)?, comment.to_owned()))
    }

    /// The line `TYPE BASE64 COMMENT` without a line end. Control characters of the comment are left out.
    #[must_use]
    pub fn to_openssh(&self, comment: &str) -> String {
        encode_line(CERTIFICATE_NAME, &self.to_wire(), comment)
    }

    /// The value of an extension; empty for a flag, `None` when it is absent.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<String> {
        lookup(&self.extensions, name).map(str::to_owned)
    }

    /// The extensions whose values are text, which is all of them in a certificate that was parsed.
    pub fn extension_texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.extensions.iter().filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value).ok()?)))
    }

    /// The addresses that it may be used from: the value of `source-address`, if it has one.
    #[must_use]
    pub fn source_addresses(&self) -> Option<&str> {
        lookup(&self.critical_options, SOURCE_ADDRESS)
    }

    /// The fingerprint of the key it certifies, as of [`PublicKey::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.public_key.fingerprint()
    }
}

fn lookup<'a>(options: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    let (_, value) = options.iter().find(|(key, _)| key == name)?;
    std::str::from_utf8(value).ok()
}

/// Options as ssh-keygen writes them: a value is a string inside the option's string, a flag has no bytes at all.
fn encode_options(options: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in options {
        put_utf8(&mut out, name);
        let mut data = Vec::new();
        if !value.is_empty() {
            put_string(&mut data, value);
        }
        put_string(&mut out, &data);
    }
    out
}

/// Why a certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertError {
    /// The bytes end early, go on too long, or hold a text that is not UTF-8.
    #[error("malformed certificate: {0}")]
    Wire(#[from] WireError),
    /// The text is not a certificate line.
    #[error("malformed certificate line: {0}")]
    Text(KeyError),
    /// A field is out of its bounds or not in its one form.
    #[error("malformed certificate: {0}")]
    Malformed(&'static str),
    /// Another type of certificate, or no certificate.
    #[error("unsupported certificate type {0:?}: only ssh-ed25519-cert-v01@openssh.com is accepted")]
    UnsupportedType(String),
    /// The signing key is not a plain key we check; a certificate as signing key is one of these.
    #[error("unacceptable signing key in the certificate: {0}")]
    SigningKey(KeyError),
    /// No trusted authority has the signing key.
    #[error("the certificate is signed by an unknown authority ({0})")]
    UnknownAuthority(String),
    /// The authority did not sign this.
    #[error("the signature of the certificate is not valid")]
    BadSignature,
    /// A user certificate where a host certificate is needed, or the other way round.
    #[error("a {wanted} certificate is needed, this is a {found} certificate")]
    WrongKind {
        /// What is needed.
        wanted: CertKind,
        /// What it is.
        found: CertKind,
    },
    /// It has ended, more than [`CLOCK_ALLOWANCE`] ago.
    #[error(
        "certificate expired: it ended at {}, and the clock here says {}; get a new one, or set the clocks right",
        Utc(*valid_before), Utc(*now)
    )]
    Expired {
        /// The time given to the verifier, unix seconds.
        now: u64,
        /// The end in the certificate, unix seconds.
        valid_before: u64,
    },
    /// It starts more than [`CLOCK_ALLOWANCE`] from now.
    #[error(
        "certificate not yet valid: it starts at {}, and the clock here says {}; set the clocks right",
        Utc(*valid_after), Utc(*now)
    )]
    NotYetValid {
        /// The time given to the verifier, unix seconds.
        now: u64,
        /// The start in the certificate, unix seconds.
        valid_after: u64,
    },
    /// It never ends.
    #[error("the certificate has no end of validity")]
    NeverExpires,
    /// It has no principals; an empty list matches nothing.
    #[error("the certificate has no principals")]
    NoPrincipals,
    /// The login or host name asked for is not among the principals.
    #[error("the certificate is not valid for {0:?}")]
    PrincipalMismatch(String),
    /// A restriction that we do not enforce.
    #[error("the certificate has the unknown critical option {0:?}")]
    UnknownCriticalOption(String),
    /// The client's address is unknown or not in the `source-address` list, or the list is malformed.
    #[error("the certificate is pinned to {allowed}, and this connection comes from {}", Source(*found))]
    SourceAddress {
        /// The list in the certificate.
        allowed: String,
        /// The client's address.
        found: Option<IpAddr>,
    },
    /// The system gives no randomness for the nonce.
    #[error("cannot make a nonce for the certificate")]
    Nonce,
}

impl CertError {
    /// True when a trusted authority signed the certificate and it is refused for what it says or for the time: its holder
    /// may be told why. Anybody else is told nothing.
    pub const fn is_from_known_authority(&self) -> bool {
        matches!(
            self,
            Self::Expired { .. }
                | Self::NotYetValid { .. }
                | Self::NeverExpires
                | Self::NoPrincipals
                | Self::PrincipalMismatch(_)
                | Self::UnknownCriticalOption(_)
                | Self::SourceAddress { .. }
        )
    }
}

/// Shows where somebody comes from.
struct Source(Option<IpAddr>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.to_canonical().fmt(f),
            None => f.write_str("an unknown address"),
        }
    }
}

/// Shows unix seconds as a UTC date and time.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        // Days to date in the Gregorian calendar, in years that begin in March, so that the leap day comes last.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests;
