//! Certificates with their keys.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{TlsError, provider};

/// A certificate chain, leaf first, and the leaf's private key.
pub struct TlsIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// From DER. `chain` is leaf first; whoever is pinned against sends its CA as the last.
    #[must_use]
    pub const fn from_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// From PEM texts: every certificate of `certificates`, the first private key of `key`.
    ///
    /// # Errors
    /// When either holds none, or is malformed.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self, TlsError> {
        let chain = certificates_from_pem(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::NoKey)?;
        Ok(Self { chain, key })
    }

    fn certified(self) -> Result<CertifiedKey, TlsError> {
        if self.chain.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        Ok(CertifiedKey::from_der(self.chain, self.key, &provider())?)
    }
}

/// Every certificate of a PEM text, at least one.
pub(super) fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() { Err(TlsError::NoCertificate) } else { Ok(certificates) }
}

/// An identity in use, which a renewal replaces without touching connections that exist.
#[derive(Debug)]
pub struct LiveIdentity(RwLock<Arc<CertifiedKey>>);

impl LiveIdentity {
    /// # Errors
    /// When the key is not the leaf's, or of a kind TLS cannot use.
    pub fn new(identity: TlsIdentity) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(identity.certified()?)))))
    }

    /// Used by every handshake that begins after the call.
    ///
    /// # Errors
    /// As [`LiveIdentity::new`]; the former identity stays.
    pub fn replace(&self, identity: TlsIdentity) -> Result<(), TlsError> {
        let certified = Arc::new(identity.certified()?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A fresh ECDSA P-256 key, for a certificate that somebody else signs.
pub struct TlsKey {
    /// The private key, PKCS #8 DER.
    pub private: PrivatePkcs8KeyDer<'static>,
    /// The public key, SubjectPublicKeyInfo DER.
    pub public: Vec<u8>,
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsKey").finish_non_exhaustive()
    }
}

impl TlsKey {
    /// # Errors
    /// When the cryptographic library fails, which it does for want of memory or randomness only.
    pub fn generate() -> Result<Self, TlsError> {
        let failed = |_| TlsError::NoKey;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(failed)?;
        let private = pair.to_pkcs8v1().map_err(failed)?;
        Ok(Self { private: PrivatePkcs8KeyDer::from(private.as_ref().to_vec()), public: public.as_ref().to_vec() })
    }

    /// Reads a key back from PKCS #8 PEM.
    ///
    /// # Errors
    /// When the text is not such a key.
    pub fn from_pem(text: &str) -> Result<Self, TlsError> {
        let private = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| TlsError::NoKey)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, private.secret_pkcs8_der());
        let pair = pair.map_err(|_| TlsError::NoKey)?;
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(|_| TlsError::NoKey)?;
        Ok(Self { private, public: public.as_ref().to_vec() })
    }
}
