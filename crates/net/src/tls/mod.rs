//! TLS and mutual TLS: configurations built from identities and roots that can be exchanged while in use.
//!
//! TLS 1.2 is offered on the public HTTPS port only; everything between our own programs is TLS 1.3.

mod identity;
mod peer;
mod pin;
mod roots;
mod signatures;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ReadAhead;

pub use identity::{LiveIdentity, TlsIdentity, TlsKey};
pub use peer::{Peer, PeerError, PeerRole};
pub use pin::{Observed, Pin, PinMismatch};
pub use roots::LiveRoots;
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// gRPC only.
pub const ALPN_H2: &[&[u8]] = &[b"h2"];
/// Web clients of either version.
pub const ALPN_WEB: &[&[u8]] = &[b"h2", b"http/1.1"];

/// How long a handshake may take from the first byte to the last, however the peer spreads them.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why TLS could not be set up, or an identity not be read.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text holds no certificate.
    #[error("no certificate found in the PEM text")]
    NoCertificate,
    /// The text holds no private key, or one of an unknown kind.
    #[error("no usable private key found in the PEM text")]
    NoKey,
    /// The PEM armour is broken.
    #[error("malformed PEM text: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// A certificate is not X.509.
    #[error("a certificate cannot be parsed")]
    Certificate,
    /// A set of trusted roots would be empty, which would refuse everybody.
    #[error("no trusted certificate authority is left; give a CA file")]
    NoRoots,
    /// A pin is not `sha256:` and 64 hexadecimal digits.
    #[error("a CA pin must read sha256: followed by 64 hexadecimal digits")]
    Pin,
    /// A verified client certificate names none of ours.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// rustls refused the parts or the handshake.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The connection failed.
    #[error("TLS handshake: {0}")]
    Io(#[from] std::io::Error),
    /// [`HANDSHAKE_TIMEOUT`] passed.
    #[error("TLS handshake not done in {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
}

/// Makes aws-lc-rs the process's cryptography. To be called first in every `main`; a second call changes nothing.
pub fn install_provider() {
    // Err means that a provider is installed already.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// One provider for every configuration, whether or not [`install_provider`] was called.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Whether a listener asks for client certificates.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Never asked for.
    None,
    /// A client may come without; one that shows a certificate must show a good one.
    Optional(Arc<LiveRoots>),
    /// Nobody without a certificate of these roots completes the handshake.
    Required(Arc<LiveRoots>),
}

/// What a listener's TLS is made of.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Certificate and key; may be exchanged while listening.
    pub identity: Arc<LiveIdentity>,
    /// Client certificates; their roots may be exchanged while listening.
    pub clients: ClientAuth,
    /// Protocols in order of preference.
    pub alpn: &'static [&'static [u8]],
    /// Refuse TLS 1.2.
    pub tls13_only: bool,
}

impl ServerTls {
    /// Builds the configuration.
    ///
    /// Session resumption stays off when client certificates count: a resumed session would skip their verification,
    /// and with it the change of a root.
    ///
    /// # Errors
    /// When rustls refuses the combination.
    pub fn build(self) -> Result<Arc<ServerConfig>, TlsError> {
        let versions: &[_] = if self.tls13_only { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let (builder, resumption) = match self.clients {
            ClientAuth::None => (builder.with_no_client_auth(), true),
            ClientAuth::Optional(roots) => (builder.with_client_cert_verifier(roots.client_verifier(false)), false),
            ClientAuth::Required(roots) => (builder.with_client_cert_verifier(roots.client_verifier(true)), false),
        };
        let mut config = builder.with_cert_resolver(self.identity);
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        if !resumption {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }
}

/// Whom a client believes.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The system's roots and those of a PEM text (`--ca-file`).
    System {
        /// More roots, PEM.
        extra_pem: Option<String>,
    },
    /// These roots only. With a role, the server's certificate must also name a process of that role.
    Roots(Arc<LiveRoots>, Option<PeerRole>),
    /// A CA whose public key has this pin; the server sends that CA in its chain.
    Pin(Pin),
    /// The CA that the server sends last in its chain, at the first connection; the same CA ever after.
    FirstUse(Observed),
    /// Anybody (`--insecure`). What the server showed is observed, so that a stored secret can be held back from a
    /// server that changed.
    Insecure(Observed),
}

/// Builds a client's configuration. `identity` is shown to servers that ask; `tls13_only` refuses TLS 1.2.
///
/// # Errors
/// When the PEM text is malformed or no root is left.
pub fn client_config(
    trust: Trust,
    identity: Option<Arc<LiveIdentity>>,
    alpn: &[&[u8]],
    tls13_only: bool,
) -> Result<Arc<ClientConfig>, TlsError> {
    let versions: &[_] = if tls13_only { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let verifier = match trust {
        Trust::System { extra_pem } => roots::system(extra_pem.as_deref())?,
        Trust::Roots(roots, role) => roots.server_verifier(role),
        Trust::Pin(pin) => pin::pinned(pin),
        Trust::FirstUse(observed) => pin::first_use(observed),
        Trust::Insecure(observed) => pin::insecure(observed),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // The verifier must see every connection: roots change, and an observation must be made.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Does the server's half of a handshake within [`HANDSHAKE_TIMEOUT`] and says who the peer is, if it showed a
/// certificate.
///
/// # Errors
/// Whatever the peer did wrong; a verified certificate that does not name an agent or a proxy is refused too.
pub async fn accept<S>(io: S, config: Arc<ServerConfig>) -> Result<(TlsStream<ReadAhead<S>>, Option<Peer>), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(config).accept(ReadAhead::new(io));
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| TlsError::Timeout)??;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = leaf.map(Peer::from_verified_leaf).transpose()?;
    Ok((stream, peer))
}
