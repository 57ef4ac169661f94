//! Outgoing connections: TCP and TLS to one of several addresses.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, ClientConfig, OtherError};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ReadAhead;
use crate::clock;
use crate::tls::HANDSHAKE_TIMEOUT;

/// How long name lookup and TCP connect to one address may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Io for S {}

/// A TLS connection to a server.
pub type Stream = TlsStream<ReadAhead<Box<dyn Io>>>;

/// Why a server was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not `HOST:PORT`, with a host that certificates can name.
    #[error("{0:?} is not an address of the form HOST:PORT")]
    Address(String),
    /// There is no address to try.
    #[error("no address to connect to is known")]
    NoAddress,
    /// Name lookup or TCP failed.
    #[error("cannot connect to {address}: {source}")]
    Tcp {
        /// `HOST:PORT` as configured.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The TLS handshake failed: mostly, the certificate is not trusted.
    #[error("TLS with {address}: {}", reason(source))]
    Tls {
        /// `HOST:PORT` as configured.
        address: String,
        /// The reason; its inner error is a [`rustls::Error`] when TLS itself refused.
        source: io::Error,
    },
    /// The server does not offer HTTP/2, so it is none of ours.
    #[error("{address} does not speak HTTP/2; check the port")]
    NotHttp2 {
        /// `HOST:PORT` as configured.
        address: String,
    },
}

impl DialError {
    /// True when the server's certificate is of another authority or name: waiting does not help, as it does for a clock.
    pub fn is_distrust(&self) -> bool {
        use CertificateError as C;
        let Self::Tls { source, .. } = self else { return false };
        let Some(rustls::Error::InvalidCertificate(reason)) = tls_error(source) else { return false };
        !matches!(reason, C::NotValidYet | C::NotValidYetContext { .. } | C::Expired | C::ExpiredContext { .. })
    }
}

/// Connects over TCP with TCP_NODELAY set, within [`CONNECT_TIMEOUT`].
///
/// # Errors
/// [`DialError::Address`] or [`DialError::Tcp`].
pub async fn tcp(address: &str) -> Result<TcpStream, DialError> {
    let (host, port) = split_address(address)?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    connected.map_err(|source| DialError::Tcp { address: address.to_owned(), source })
}

/// `HOST:PORT` or `[IPV6]:PORT`.
///
/// # Errors
/// [`DialError::Address`].
pub fn split_address(address: &str) -> Result<(&str, u16), DialError> {
    let parse = || {
        let (host, port) = address.rsplit_once(':')?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(host) => host,
            None if host.contains(':') => return None,
            None => host,
        };
        if host.is_empty() { None } else { Some((host, port.parse().ok()?)) }
    };
    parse().ok_or_else(|| DialError::Address(address.to_owned()))
}

/// Makes TLS connections to one service at any of several addresses.
#[derive(Debug, Clone)]
pub struct Dialer {
    addresses: Arc<[String]>,
    tls: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    outer: Option<Arc<ClientConfig>>,
}

impl Dialer {
    /// Each address is `HOST:PORT`. The server's certificate must name the host, unless
    /// [`Dialer::with_server_name`] says otherwise.
    ///
    /// # Errors
    /// [`DialError::NoAddress`] or [`DialError::Address`].
    pub fn new(addresses: Vec<String>, tls: Arc<ClientConfig>) -> Result<Self, DialError> {
        if addresses.is_empty() {
            return Err(DialError::NoAddress);
        }
        for address in &addresses {
            server_name(address)?;
        }
        Ok(Self { addresses: addresses.into(), tls, server_name: None, outer: None })
    }

    /// Has the server's certificate verified for `name` whatever address was dialed.
    #[must_use]
    pub fn with_server_name(mut self, name: ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// Puts the connection into another TLS connection to the same host (`MEZITE_TLS_WRAP`), for load balancers that
    /// end TLS.
    #[must_use]
    pub fn wrapped_in(mut self, outer: Arc<ClientConfig>) -> Self {
        self.outer = Some(outer);
        self
    }

    /// Connects to the first address that answers, beginning with one by chance so that load spreads.
    ///
    /// # Errors
    /// The last address's, when none answers.
    pub async fn connect(&self) -> Result<Stream, DialError> {
        self.dial().await.map(|(_, stream)| stream)
    }

    /// Whether the service takes no connection without a client certificate: of a hub's doors only the tunnel's does. For a
    /// caller that has none yet.
    ///
    /// # Errors
    /// Those of [`Dialer::connect`].
    pub async fn demands_certificate(&self) -> Result<bool, DialError> {
        let mut stream = self.connect().await?;
        // In TLS 1.3 the server says so after the client's own handshake is done.
        let Ok(Err(error)) = tokio::time::timeout(CONNECT_TIMEOUT, stream.read_u8()).await else { return Ok(false) };
        Ok(matches!(tls_error(&error), Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired))))
    }

    /// Like [`Dialer::connect`], and refuses a server that did not choose HTTP/2.
    pub(crate) async fn connect_http2(&self) -> Result<Stream, DialError> {
        let (address, stream) = self.dial().await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            return Ok(stream);
        }
        Err(DialError::NotHttp2 { address: address.to_owned() })
    }

    async fn dial(&self) -> Result<(&str, Stream), DialError> {
        let start = usize::from(u16::from_be_bytes(clock::random())) % self.addresses.len().max(1);
        let mut failure = DialError::NoAddress;
        for address in self.addresses.iter().cycle().skip(start).take(self.addresses.len()) {
            match self.dial_one(address).await {
                Ok(stream) => return Ok((address, stream)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn dial_one(&self, address: &str) -> Result<Stream, DialError> {
        let host = server_name(address)?;
        let mut io: Box<dyn Io> = Box::new(tcp(address).await?);
        if let Some(outer) = &self.outer {
            io = Box::new(handshake(io, outer, host.clone(), address).await?);
        }
        handshake(io, &self.tls, self.server_name.clone().unwrap_or(host), address).await
    }
}

async fn handshake(
    io: Box<dyn Io>,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    address: &str,
) -> Result<Stream, DialError> {
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, ReadAhead::new(io));
    tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| DialError::Tls { address: address.to_owned(), source })
}

/// The reason in words of ours where TLS has none that help.
fn reason(source: &io::Error) -> String {
    use CertificateError as C;
    match tls_error(source) {
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS; check the port".to_owned(),
        Some(rustls::Error::InvalidCertificate(C::Other(OtherError(other)))) => other.to_string(),
        Some(rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. })) => {
            "its certificate is not valid yet: this machine's clock is slow, or the server's is fast".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. })) => {
            "its certificate has expired, or this machine's clock is fast".to_owned()
        }
        _ => source.to_string(),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn server_name(address: &str) -> Result<ServerName<'static>, DialError> {
    let (host, _) = split_address(address)?;
    ServerName::try_from(host.to_owned()).map_err(|_| DialError::Address(address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_failures_are_said_in_words() {
        let said = |error: rustls::Error| reason(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert!(said(rustls::InvalidMessage::InvalidContentType.into()).contains("check the port"));
        assert!(said(CertificateError::NotValidYet.into()).contains("clock is slow"));
        assert!(said(CertificateError::Expired.into()).contains("clock is fast"));
        let pin = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let other = OtherError(Arc::new(crate::tls::PinMismatch { expected: pin }));
        let mismatch = said(CertificateError::Other(other).into());
        assert!(mismatch.contains("does not match the pin sha256:0000") && !mismatch.contains("Other"), "{mismatch}");
    }

    #[test]
    fn a_wrong_authority_is_told_from_a_wrong_clock() {
        let failed = |error: rustls::Error| {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            DialError::Tls { address: "hub:3025".to_owned(), source }.is_distrust()
        };
        assert!(failed(CertificateError::UnknownIssuer.into()));
        assert!(!failed(CertificateError::NotValidYet.into()) && !failed(CertificateError::Expired.into()));
        assert!(!failed(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)));
    }

    #[test]
    fn addresses_are_split_at_the_port() {
        assert_eq!(split_address("example.com:3024").unwrap(), ("example.com", 3024));
        assert_eq!(split_address("[::1]:22").unwrap(), ("::1", 22));
        for bad in ["", ":1", "host", "host:", "host:x", "host:65536", "::1", "::1:22", "[::1]", "[]:1"] {
            assert!(split_address(bad).is_err(), "{bad}");
        }
    }
}
