//! Which host keys are offered, and whether one is believed.

use crate::{
    cert::{self, CertKind, Certificate},
    config::{HostKey, HostTrust, ServerConfig},
    error::{DisconnectReason, Fault},
    key::PublicKey,
};

const ED25519: &str = "ssh-ed25519";
const ED25519_CERT: &str = "ssh-ed25519-cert-v01@openssh.com";

/// Host key types of a server, in the order of its keys, certificates first.
pub(super) fn server_names(config: &ServerConfig) -> Vec<&'static str> {
    let certified = config.host_keys.iter().any(|host| host.certificate.is_some());
    let mut names = if certified { vec![ED25519_CERT] } else { Vec::new() };
    if !config.host_keys.is_empty() {
        names.push(ED25519);
    }
    names
}

/// Host key types a client asks for.
pub(super) fn client_names(trust: &HostTrust) -> Vec<&'static str> {
    let HostTrust::Pinned(keys) = trust else { return vec![ED25519_CERT] };
    let mut names: Vec<&'static str> = Vec::new();
    for key in keys {
        let of_key: &[&'static str] = match key {
            PublicKey::Ed25519(_) => &[ED25519],
            PublicKey::EcdsaP256(_) => &["ecdsa-sha2-nistp256"],
            PublicKey::Rsa { .. } => &["rsa-sha2-512", "rsa-sha2-256"],
        };
        for name in of_key {
            if !names.contains(name) {
                names.push(name);
            }
        }
    }
    names
}

/// The server's first key of the type agreed on.
pub(super) fn select<'a>(config: &'a ServerConfig, name: &str) -> Result<&'a HostKey, Fault> {
    let mut keys = config.host_keys.iter();
    keys.find(|host| name != ED25519_CERT || host.certificate.is_some()).ok_or_else(|| Fault::kex("no such host key"))
}

/// The key blob that goes with it.
pub(super) fn blob(host: &HostKey, name: &str) -> Vec<u8> {
    match &host.certificate {
        Some(certificate) if name == ED25519_CERT => certificate.to_wire(),
        _ => host.key.public().to_wire(),
    }
}

/// A client's view of the host key shown. Whatever goes wrong in here means: not believed.
pub(super) struct Check<'a> {
    pub(super) trust: &'a HostTrust,
    pub(super) now_unix: u64,
    /// The key believed in the first exchange.
    pub(super) known: Option<&'a PublicKey>,
}

impl Check<'_> {
    /// The bare key in `blob`, if it is believed. After the first exchange it must be the same one; its certificate is
    /// not looked at again, because it may run out during a long connection.
    pub(super) fn believe(&self, name: &str, blob: &[u8]) -> Result<PublicKey, Fault> {
        let untrusted = |message: String| Fault::new(DisconnectReason::HostKeyNotVerifiable, message);
        let malformed = || untrusted("the host key is malformed".to_owned());
        let (key, certificate) = if name == ED25519_CERT {
            let certificate = Certificate::from_wire(blob).map_err(|_| malformed())?;
            (certificate.public_key.clone(), Some(certificate))
        } else {
            (PublicKey::from_wire(blob).map_err(|_| malformed())?, None)
        };
        if let Some(known) = self.known {
            return if key == *known { Ok(key) } else { Err(untrusted("host key changed during rekey".to_owned())) };
        }
        match (self.trust, certificate) {
            (HostTrust::Authorities { keys, name }, Some(certificate)) => {
                let policy = cert::Policy {
                    kind: CertKind::Host,
                    authorities: keys,
                    now_unix: self.now_unix,
                    principal: Some(name),
                    source: None,
                };
                cert::verify(&certificate, &policy).map_err(|error| untrusted(format!("host certificate: {error}")))?;
            }
            (HostTrust::Pinned(keys), None) if keys.contains(&key) => {}
            _ => return Err(untrusted("the host key is not the one known for this host".to_owned())),
        }
        Ok(key)
    }
}

/// Whether `signature` over the exchange hash was made by `key` with the algorithm agreed on.
pub(super) fn check_signature(key: &PublicKey, name: &str, hash: &[u8], signature: &[u8]) -> Result<(), Fault> {
    let algorithm = if name == ED25519_CERT { ED25519 } else { name };
    key.verify(algorithm, hash, signature)
        .map_err(|_| Fault::new(DisconnectReason::HostKeyNotVerifiable, "the host key did not sign this key exchange"))
}
