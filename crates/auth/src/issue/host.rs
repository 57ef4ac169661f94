//! Certificates of agents and proxies: one for SSH, one for TLS, both of the Host CA and of the same validity.

use mezite_core::identity::CLUSTER;
use mezite_core::kind::token::JoinRole;
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_proto::v1::GenerateHostCertsReply;
use mezite_ssh::cert::{CertKind, CertificateBuilder};
use mezite_ssh::key::PublicKey;
use mezite_store::HostCert;
use time::OffsetDateTime;

use crate::AuthError;
use crate::ca::x509::{self, BACKDATE, Leaf};
use crate::hub::Hub;

/// Most names a proxy may be dialed by.
const MAX_NAMES: usize = 32;
/// What every listener of ours is also called.
pub(crate) const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A host that is to get certificates.
pub(crate) struct Host<'a> {
    pub(crate) id: &'a str,
    pub(crate) role: JoinRole,
    /// Name of the node; for a proxy only what its certificate is called in logs.
    pub(crate) name: &'a str,
    /// Names and addresses that clients dial; proxies only.
    pub(crate) addresses: &'a [String],
    pub(crate) ssh_key: PublicKey,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) tls_key: &'a [u8],
}

/// Least life of the X.509 certificate by which a machine is known to Auth and proxies.
const MACHINE_LIFE: time::Duration = time::Duration::days(30);

/// Certificates for a host, and what the database notes about them.
pub(crate) struct HostCerts {
    pub(crate) reply: GenerateHostCertsReply,
    pub(crate) note: HostCert,
}

/// Issues both certificates. Nothing is written.
///
/// # Errors
/// [`Fault::Invalid`] for a key or a name that cannot be certified.
pub(crate) async fn issue(hub: &Hub, host: Host<'_>) -> Result<HostCerts, Fault> {
    if !matches!(host.ssh_key, PublicKey::Ed25519(_)) {
        return Err(Invalid::new("ssh_public_key", "must be an Ed25519 key").into());
    }
    let now = clock::now_unix();
    let valid_before = now.saturating_add(hub.setting("host_cert_ttl").await?.as_secs());
    let expires_at = OffsetDateTime::from_unix_timestamp(valid_before.cast_signed())
        .map_err(|e| Fault::Bug(format!("end of a host certificate: {e}")))?;
    let fingerprint = host.ssh_key.fingerprint();
    let names = match host.role {
        JoinRole::Node => Vec::new(),
        JoinRole::Proxy => proxy_names(host.addresses)?,
    };
    let certificate = CertificateBuilder {
        public_key: host.ssh_key,
        serial: u64::from_be_bytes(clock::random()),
        kind: CertKind::Host,
        key_id: host.name.to_owned(),
        principals: match host.role {
            JoinRole::Node => node_principals(host.name, hub.cluster(), host.id),
            JoinRole::Proxy => names.clone(),
        },
        valid_after: now.saturating_sub(BACKDATE.whole_seconds().unsigned_abs()),
        valid_before,
        critical_options: Vec::new(),
        extensions: vec![(CLUSTER.to_owned(), serde_json::json!(hub.cluster()).to_string().into_bytes())],
    }
    .sign(&hub.authorities.host.key)
    .map_err(|e| Fault::Bug(format!("signing a host certificate: {e}")))?;

    let refused = |error: AuthError| Invalid::new("tls_public_key", error.to_string());
    let sans = names.iter().map(|name| x509::san(name)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let leaf = match host.role {
        JoinRole::Node => Leaf::Agent { id: host.id },
        JoinRole::Proxy => Leaf::Proxy { id: host.id, names: &sans },
    };
    // A machine that was off for a weekend comes back by this certificate; what it may do is decided by the inventory at
    // each call, so a removed or locked one is refused all the same (docs/adr/0005).
    let tls_end = expires_at.max(clock::now() + MACHINE_LIFE);
    let chain = x509::issue(&hub.authorities.host, &leaf, host.tls_key, clock::now(), tls_end).map_err(refused)?;
    metrics::counter!("mezite_certificates_issued_total", "kind" => "host").increment(1);
    Ok(HostCerts {
        note: HostCert { fingerprint, signer_fingerprint: hub.authorities.host.key.public().fingerprint(), expires_at },
        reply: GenerateHostCertsReply {
            host_id: host.id.to_owned(),
            cluster_name: hub.cluster().to_owned(),
            ssh_certificate: certificate.to_openssh(host.name),
            tls_certificate_pem: chain.iter().map(x509::pem).collect(),
            valid_before_unix: valid_before.cast_signed(),
            trust: Some(hub.authorities.trust()),
        },
    })
}

/// What a node is called: the very names under which clients may check its certificate, no other.
fn node_principals(name: &str, cluster: &str, id: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{name}.{cluster}"),
        format!("{name}.mezite"),
        format!("{name}.{cluster}.mezite"),
        id.to_owned(),
    ]
}

/// The addresses of a proxy and the local names, each once.
fn proxy_names(addresses: &[String]) -> Result<Vec<String>, Fault> {
    if addresses.len() > MAX_NAMES {
        return Err(Invalid::new("addresses", format!("more than {MAX_NAMES} names")).into());
    }
    let mut names: Vec<String> = LOCAL_NAMES.map(str::to_owned).to_vec();
    for address in addresses {
        let address = address.to_ascii_lowercase();
        x509::san(&address).map_err(|e| Invalid::new("addresses", e.to_string()))?;
        if address.ends_with(".mezite") {
            return Err(Invalid::new("addresses", format!("{address} is a name of nodes")).into());
        }
        if !names.contains(&address) {
            names.push(address);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_cannot_be_called_like_a_node_or_by_a_pattern() {
        let names = proxy_names(&["Hub.Example.com".into(), "10.0.0.7".into(), "localhost".into()]).unwrap();
        assert_eq!(names, ["localhost", "127.0.0.1", "::1", "hub.example.com", "10.0.0.7"]);
        for bad in ["web.mezite", "*.example.com", "*", "", "a b", "x\ny", "a,b"] {
            assert!(proxy_names(&[bad.into()]).is_err(), "{bad:?}");
        }
        assert!(proxy_names(&vec!["a.example".to_owned(); MAX_NAMES + 1]).is_err());
    }
}
