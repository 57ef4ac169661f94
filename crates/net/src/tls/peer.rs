//! Who is at the other end of a mutual TLS connection.

use std::fmt::{self, Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest cluster name or id in a certificate, in bytes.
const MAX_NAME: usize = 128;

/// What kind of process holds a Host-CA certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// `mezd` on a node.
    Agent,
    /// The Proxy service.
    Proxy,
}

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Proxy => "proxy",
        })
    }
}

/// A process of the cluster, as its certificate names it: URI SAN `mezite://CLUSTER/agent|proxy/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Cluster name.
    pub cluster: String,
    /// Kind of process.
    pub role: PeerRole,
    /// Node id or proxy id.
    pub id: String,
    /// SHA-256 of the leaf certificate, 64 lower-case hexadecimal digits.
    pub fingerprint: String,
}

/// A verified certificate that names no process of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not X.509, or with a malformed or repeated extension.
    #[error("the peer's certificate cannot be parsed")]
    Certificate,
    /// None or several URI names.
    #[error("the peer's certificate must hold exactly one URI name")]
    Uris,
    /// Not `mezite://CLUSTER/agent|proxy/ID`.
    #[error("the peer's certificate does not name an agent or a proxy")]
    Name,
}

impl Peer {
    /// Reads the name out of a leaf. The caller has verified the leaf: nothing is verified here.
    ///
    /// # Errors
    /// When the certificate holds anything but exactly one well-formed URI name.
    pub fn from_verified_leaf(leaf: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| PeerError::Certificate)?;
        if !rest.is_empty() {
            return Err(PeerError::Certificate);
        }
        let names =
            certificate.subject_alternative_name().map_err(|_| PeerError::Certificate)?.ok_or(PeerError::Uris)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(PeerError::Uris) };
        let (cluster, role, id) = parse_uri(uri).ok_or(PeerError::Name)?;
        let fingerprint = hex(digest(&SHA256, leaf).as_ref());
        Ok(Self { cluster: cluster.to_owned(), role, id: id.to_owned(), fingerprint })
    }

    /// The URI SAN of a certificate for this process.
    #[must_use]
    pub fn uri(cluster: &str, role: PeerRole, id: &str) -> String {
        format!("mezite://{cluster}/{role}/{id}")
    }
}

fn parse_uri(uri: &str) -> Option<(&str, PeerRole, &str)> {
    let mut parts = uri.strip_prefix("mezite://")?.split('/');
    let (cluster, role, id) = (parts.next()?, parts.next()?, parts.next()?);
    let role = match role {
        "agent" => PeerRole::Agent,
        "proxy" => PeerRole::Proxy,
        _ => return None,
    };
    (parts.next().is_none() && is_name(cluster) && is_name(id)).then_some((cluster, role, id))
}

/// Letters, digits, `.`, `_` and `-`: no escapes, no user part, no port, nothing to normalise.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_are_read() {
        for (uri, cluster, role, id) in [
            ("mezite://example/agent/0b5f", "example", PeerRole::Agent, "0b5f"),
            ("mezite://a.b-c_d/proxy/P-1.2_3", "a.b-c_d", PeerRole::Proxy, "P-1.2_3"),
        ] {
            assert_eq!(parse_uri(uri), Some((cluster, role, id)));
            assert_eq!(Peer::uri(cluster, role, id), uri);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("mezite://c/agent/{}", "a".repeat(MAX_NAME + 1));
        for uri in [
            "",
            "mezite://",
            "mezite://c",
            "mezite://c/agent",
            "mezite://c/agent/",
            "mezite:///agent/id",
            "mezite://c//id",
            "mezite://c/Agent/id",
            "mezite://c/auth/id",
            "mezite://c/agent/id/",
            "mezite://c/agent/id/more",
            "mezite://c/agent/i%64",
            "mezite://c/agent/id?x=1",
            "mezite://c/agent/id#x",
            "mezite://user@c/agent/id",
            "mezite://c:1/agent/id",
            "mezite://c/agent/ id",
            "mezite://c/agent/i\0d",
            "MEZITE://c/agent/id",
            "spiffe://c/agent/id",
            " mezite://c/agent/id",
            "mezite://c/agent/\u{e9}",
            long.as_str(),
        ] {
            assert_eq!(parse_uri(uri), None, "{uri:?}");
        }
    }
}
