//! Trust in a CA by the hash of its public key, and trust on first use.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::peer::hex;
use super::signatures::signatures_of_provider;
use super::{TlsError, provider};

/// The SHA-256 of a certificate's SubjectPublicKeyInfo, written `sha256:` and 64 hexadecimal digits. It survives a
/// re-issue of the certificate for the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate.
    ///
    /// # Errors
    /// When it is not X.509.
    pub fn of_cert(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| TlsError::Certificate)?;
        let hash = digest(&SHA256, parsed.tbs_certificate.subject_pki.raw);
        hash.as_ref().try_into().map(Self).map_err(|_| TlsError::Certificate)
    }

    /// The pins of every certificate in a PEM text.
    ///
    /// # Errors
    /// When the text holds none, or one cannot be read.
    pub fn all_of_pem(text: &str) -> Result<Vec<Self>, TlsError> {
        super::identity::certificates_from_pem(text)?.iter().map(Self::of_cert).collect()
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        let digits = text.trim().strip_prefix("sha256:").ok_or(TlsError::Pin)?;
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(TlsError::Pin);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| TlsError::Pin)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| TlsError::Pin)?;
        }
        Ok(Self(hash))
    }
}

/// The server's CA is another than the one pinned.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server's certificate authority does not match the pin {expected}; check the address, and take the pin anew from the cluster"
)]
pub struct PinMismatch {
    /// What was asked for.
    pub expected: Pin,
}

/// What a server showed: set by the first handshake that is accepted, and kept.
#[derive(Debug, Clone, Default)]
pub struct Observed(Arc<OnceLock<CertificateDer<'static>>>);

impl Observed {
    /// The certificate: the CA for [`super::Trust::FirstUse`], the leaf for [`super::Trust::Insecure`].
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.0.get()
    }

    /// The pin of [`Self::certificate`].
    #[must_use]
    pub fn pin(&self) -> Option<Pin> {
        self.0.get().and_then(|certificate| Pin::of_cert(certificate).ok())
    }
}

/// Accepts a server whose chain holds a CA with `pin` that the leaf descends from.
pub(super) fn pinned(pin: Pin) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Rule::Pinned(pin))
}

/// Accepts a server whose chain ends in its CA, and from then on servers of that CA only.
pub(super) fn first_use(observed: Observed) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Rule::FirstUse(observed))
}

/// Accepts any server that holds the key of the certificate it shows.
pub(super) fn insecure(observed: Observed) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Rule::Insecure(observed))
}

#[derive(Debug)]
enum Rule {
    Pinned(Pin),
    FirstUse(Observed),
    Insecure(Observed),
}

/// Verifies the leaf, name and validity included, against this one CA.
fn verify_under(
    authority: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|_| CertificateError::BadEncoding)?
        .verify_server_cert(leaf, intermediates, name, &[], now)
}

impl ServerCertVerifier for Rule {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self {
            Self::Pinned(pin) => {
                let authority = intermediates
                    .iter()
                    .find(|certificate| Pin::of_cert(certificate).is_ok_and(|found| found == *pin))
                    .ok_or_else(|| mismatch(*pin))?;
                verify_under(authority, leaf, intermediates, name, now)
            }
            Self::FirstUse(observed) => {
                let authority = intermediates.last().ok_or(CertificateError::UnknownIssuer)?;
                let verified = verify_under(authority, leaf, intermediates, name, now)?;
                let shown = Pin::of_cert(authority).map_err(|_| CertificateError::BadEncoding)?;
                let kept = observed.0.get_or_init(|| authority.clone().into_owned());
                let kept = Pin::of_cert(kept).map_err(|_| CertificateError::BadEncoding)?;
                if shown == kept { Ok(verified) } else { Err(mismatch(kept)) }
            }
            Self::Insecure(observed) => {
                observed.0.get_or_init(|| leaf.clone().into_owned());
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    signatures_of_provider!();
}

fn mismatch(expected: Pin) -> Error {
    CertificateError::Other(OtherError(Arc::new(PinMismatch { expected }))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_back_what_it_prints() {
        let text = format!("sha256:{}", "0f".repeat(32));
        let pin: Pin = text.parse().unwrap();
        assert_eq!(pin.to_string(), text);
        assert_eq!(text.replace('f', "F").parse::<Pin>().unwrap(), pin);
    }

    #[test]
    fn malformed_pins_are_refused() {
        let digits = "0".repeat(64);
        for text in [
            String::new(),
            "sha256:".into(),
            digits.clone(),
            format!("sha1:{digits}"),
            format!("sha256:{digits}0"),
            format!("sha256:+{}", "0".repeat(63)),
            format!("sha256:{}", "g".repeat(64)),
            format!("sha256:{}", "\u{e9}".repeat(32)),
        ] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
