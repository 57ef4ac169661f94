//! What agents and proxies have in common: a key pair for SSH and one for TLS, and certificates of the Host CA for both.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mezite_proto::v1;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_ssh::cert::Certificate;
use mezite_ssh::key::PrivateKey;
use tonic::Status;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::tls::{TlsIdentity, TlsKey};
use crate::watch::Trust;

/// The private halves; made on the host and never sent.
pub struct HostKeys {
    /// The SSH host key, Ed25519.
    pub ssh: Arc<PrivateKey>,
    /// The TLS key.
    pub tls: TlsKey,
}

impl std::fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKeys").field("ssh", &self.ssh.public().fingerprint()).finish_non_exhaustive()
    }
}

impl HostKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, HostError> {
        let ssh = PrivateKey::generate().map_err(|e| HostError(format!("making the SSH host key: {e}")))?;
        let tls = TlsKey::generate().map_err(|e| HostError(format!("making the TLS key: {e}")))?;
        Ok(Self { ssh: Arc::new(ssh), tls })
    }

    /// Reads keys back: the SSH key in OpenSSH's form, the TLS key as PKCS #8 PEM.
    ///
    /// # Errors
    /// Which of the two cannot be read.
    pub fn from_text(ssh: &str, tls_pem: &str) -> Result<Self, HostError> {
        let ssh =
            PrivateKey::from_openssh(ssh).map_err(|e| HostError(format!("the SSH host key cannot be read: {e}")))?;
        let tls = TlsKey::from_pem(tls_pem).map_err(|e| HostError(format!("the TLS key cannot be read: {e}")))?;
        Ok(Self { ssh: Arc::new(ssh), tls })
    }

    /// The same SSH key with a fresh TLS key, for a renewal.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn renewed(&self) -> Result<Self, HostError> {
        let tls = TlsKey::generate().map_err(|e| HostError(format!("making the TLS key: {e}")))?;
        Ok(Self { ssh: Arc::clone(&self.ssh), tls })
    }

    /// The TLS key as PKCS #8 PEM.
    pub fn tls_pem(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(STANDARD.encode(self.tls.private.secret_pkcs8_der()));
        let mut pem = Zeroizing::new("-----BEGIN PRIVATE KEY-----\n".to_owned());
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }
}

/// Keys or certificates of this host that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(String);

/// What a host asks Auth for.
#[derive(Debug, Clone)]
pub struct HostRequest {
    /// A join token; empty to renew over the certificate in use.
    pub token: String,
    /// `node` or `proxy`.
    pub role: &'static str,
    /// The node's name.
    pub name: String,
    /// Names and addresses that clients dial; proxies only.
    pub addresses: Vec<String>,
}

/// A host with certificates.
#[derive(Debug)]
pub struct HostIdentity {
    /// Stable id.
    pub host_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The keys.
    pub keys: Arc<HostKeys>,
    /// The SSH host certificate.
    pub ssh_certificate: Arc<Certificate>,
    /// The same as one OpenSSH line.
    pub ssh_certificate_line: String,
    /// The X.509 certificate, PEM.
    pub tls_certificate_pem: String,
    /// End of both certificates, unix seconds.
    pub valid_before_unix: i64,
    /// Whom the cluster trusts.
    pub trust: Trust,
}

impl HostIdentity {
    /// Asks Auth for certificates: the first time with a join token, later to renew.
    ///
    /// # Errors
    /// Auth's refusal, or `Internal` when its answer cannot be used.
    pub async fn request(
        mut auth: AuthClient<Channel>,
        keys: Arc<HostKeys>,
        wanted: HostRequest,
    ) -> Result<Self, Status> {
        let HostRequest { token, role, name, addresses } = wanted;
        let request = v1::GenerateHostCertsRequest {
            token,
            role: role.to_owned(),
            name,
            ssh_public_key: keys.ssh.public().to_wire(),
            tls_public_key: keys.tls.public.clone(),
            addresses,
        };
        let reply = auth.generate_host_certs(request).await?.into_inner();
        Self::from_reply(keys, reply)
            .map_err(|e| Status::internal(format!("the auth service's answer cannot be used: {e}")))
    }

    /// Puts keys and Auth's answer together.
    ///
    /// # Errors
    /// What in the answer cannot be used.
    pub fn from_reply(keys: Arc<HostKeys>, reply: v1::GenerateHostCertsReply) -> Result<Self, HostError> {
        let v1::GenerateHostCertsReply {
            host_id,
            cluster_name,
            ssh_certificate,
            tls_certificate_pem,
            valid_before_unix,
            trust,
        } = reply;
        let (certificate, _comment) =
            Certificate::from_openssh(&ssh_certificate).map_err(|e| HostError(format!("SSH host certificate: {e}")))?;
        if certificate.public_key != keys.ssh.public() {
            return Err(HostError("the SSH host certificate is for another key".to_owned()));
        }
        let trust = trust.ok_or_else(|| HostError("no trust bundle".to_owned()))?;
        Ok(Self {
            host_id,
            cluster_name,
            keys,
            ssh_certificate: Arc::new(certificate),
            ssh_certificate_line: ssh_certificate,
            tls_certificate_pem,
            valid_before_unix,
            trust: Trust::from_bundle(&trust).map_err(HostError)?,
        })
    }

    /// The TLS side, to dial and to serve with.
    ///
    /// # Errors
    /// When certificate and key cannot be put together.
    pub fn tls(&self) -> Result<TlsIdentity, HostError> {
        TlsIdentity::from_pem(&self.tls_certificate_pem, &self.keys.tls_pem())
            .map_err(|e| HostError(format!("TLS certificate: {e}")))
    }

    /// Seconds from `now` until two thirds of the certificates' life are over (at least 1): of `life` seconds, or of the life
    /// they were given when the cluster's setting is shorter.
    pub fn renew_in(&self, now_unix: u64, life: u64) -> u64 {
        let given = self.ssh_certificate.valid_before.saturating_sub(self.ssh_certificate.valid_after);
        let life = life.min(given);
        u64::try_from(self.valid_before_unix)
            .unwrap_or_default()
            .saturating_sub(life / 3)
            .saturating_sub(now_unix)
            .max(1)
    }
}
