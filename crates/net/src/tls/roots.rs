//! Trusted CAs that can be exchanged while in use, for either end of a connection.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::identity::certificates_from_pem;
use super::peer::{Peer, PeerRole};
use super::signatures::signatures_of_provider;
use super::{TlsError, provider};

#[derive(Debug, Clone)]
struct Verifiers {
    client: Arc<dyn ClientCertVerifier>,
    server: Arc<WebPkiServerVerifier>,
}

impl Verifiers {
    fn new(pem: &str) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates_from_pem(pem)? {
            roots.add(certificate)?;
        }
        let roots = Arc::new(roots);
        Ok(Self {
            client: WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
                .build()
                .map_err(|_| TlsError::NoRoots)?,
            server: WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|_| TlsError::NoRoots)?,
        })
    }
}

/// The CAs of the cluster, which a rotation replaces without touching connections that exist.
#[derive(Debug)]
pub struct LiveRoots(RwLock<Verifiers>);

impl LiveRoots {
    /// From a PEM bundle.
    ///
    /// # Errors
    /// When it is malformed or empty.
    pub fn from_pem(pem: &str) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(Verifiers::new(pem)?))))
    }

    /// Used by every handshake that begins after the call.
    ///
    /// # Errors
    /// When the bundle is malformed or empty; the former roots stay.
    pub fn replace(&self, pem: &str) -> Result<(), TlsError> {
        let verifiers = Verifiers::new(pem)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = verifiers;
        Ok(())
    }

    fn current(&self) -> Verifiers {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn client_verifier(self: Arc<Self>, mandatory: bool) -> Arc<dyn ClientCertVerifier> {
        Arc::new(OfClients { roots: self, mandatory })
    }

    pub(super) fn server_verifier(self: Arc<Self>, role: Option<PeerRole>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(OfServers { roots: self, role })
    }
}

#[derive(Debug)]
struct OfClients {
    roots: Arc<LiveRoots>,
    mandatory: bool,
}

impl ClientCertVerifier for OfClients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: they would outlive a change of the roots, and our clients have one certificate to choose from.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.roots.current().client.verify_client_cert(leaf, intermediates, now)
    }

    signatures_of_provider!();
}

#[derive(Debug)]
struct OfServers {
    roots: Arc<LiveRoots>,
    role: Option<PeerRole>,
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.roots.current().server.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        match self.role {
            Some(role) if !Peer::from_verified_leaf(leaf).is_ok_and(|peer| peer.role == role) => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(verified),
        }
    }

    signatures_of_provider!();
}

/// The system's roots and those of `extra`. A root of the system that cannot be read is left out.
pub(super) fn system(extra: Option<&str>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in extra.map(certificates_from_pem).transpose()?.unwrap_or_default() {
        roots.add(certificate)?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    Ok(verifier.map_err(|_| TlsError::NoRoots)?)
}
