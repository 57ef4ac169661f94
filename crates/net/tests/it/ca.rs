//! A certificate authority for tests.

use mezite_net::tls::{ALPN_H2, ClientAuth, LiveIdentity, LiveRoots, ServerTls, TlsIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::ServerConfig;
use std::sync::Arc;

pub(crate) const AGENT: &str = "mezite://example/agent/node-1";
pub(crate) const PROXY: &str = "mezite://example/proxy/proxy-1";

pub(crate) struct Ca(pub(crate) CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test host CA");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn roots(&self) -> Arc<LiveRoots> {
        LiveRoots::from_pem(&self.pem()).unwrap()
    }

    pub(crate) fn params(uris: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    /// A certificate for `localhost` and these URIs, with the CA behind it.
    pub(crate) fn issue(&self, uris: &[&str]) -> TlsIdentity {
        let key = KeyPair::generate().unwrap();
        let leaf = Self::params(uris).signed_by(&key, &self.0).unwrap();
        TlsIdentity::from_pem(&(leaf.pem() + &self.pem()), &key.serialize_pem()).unwrap()
    }

    pub(crate) fn identity(&self, uri: &str) -> Arc<LiveIdentity> {
        LiveIdentity::new(self.issue(&[uri])).unwrap()
    }

    /// A server of this CA, TLS 1.3 and gRPC only.
    pub(crate) fn server(&self, clients: ClientAuth) -> Arc<ServerConfig> {
        let identity = self.identity(PROXY);
        ServerTls { identity, clients, alpn: ALPN_H2, tls13_only: true }.build().unwrap()
    }
}
