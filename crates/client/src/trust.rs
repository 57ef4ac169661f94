//! Which TLS certificates of a hub are believed.
//!
//! The system's authorities, those of `--ca-file`, and those a login pinned. `--insecure` accepts anything; where such a
//! login could not be verified afterwards, the profile remembers the server's key, and the stored session is sent to no
//! other.

use std::path::Path;
use std::sync::Arc;

use mezite_net::tls::{self, Observed, Pin};
use tokio_rustls::rustls::ClientConfig;

use crate::address::Address;
use crate::error::{Error, Result};
use crate::home;

/// gRPC needs HTTP/2, the REST client speaks HTTP/1.1.
pub const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// What is believed. The system's authorities are unless a pin or `insecure` replaces them.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// PEM of further authorities; may be empty.
    pub authorities: String,
    /// Believe the server with this key, and no other.
    pub pin: Option<Pin>,
    /// Believe everybody. Never with a stored credential.
    pub insecure: bool,
}

/// A TLS configuration, and what it has seen.
#[derive(Debug)]
pub struct Tls {
    /// For the connector. Every connection made with it is to be passed to [`Tls::check`] before anything is sent.
    pub config: Arc<ClientConfig>,
    observed: Observed,
    pin: Option<Pin>,
}

impl Trust {
    /// Adds the authorities of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no certificate.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let odd = |what: &str| Error::Local(format!("{} {what}; look at --ca-file and MEZITE_CA_FILE", path.display()));
        let text = home::read(path)?.ok_or_else(|| odd("does not exist"))?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err(odd("holds no certificate in PEM form"));
        }
        self.add(&text);
        Ok(())
    }

    /// Adds the authorities of a PEM text that are not there yet: a profile is read and written again at every login.
    pub fn add(&mut self, pem: &str) {
        const END: &str = "-----END CERTIFICATE-----";
        for certificate in pem.split_inclusive(END).map(str::trim).filter(|text| !text.is_empty()) {
            if !self.authorities.contains(certificate) {
                self.authorities.push_str(certificate);
                self.authorities.push('\n');
            }
        }
    }

    /// The TLS configuration for connections that speak one of the protocols `alpn`.
    ///
    /// # Errors
    /// When an authority is malformed, or there is none at all.
    pub fn tls(&self, alpn: &[&[u8]]) -> Result<Tls> {
        let observed = Observed::default();
        let trust = if self.insecure || self.pin.is_some() {
            tls::Trust::Insecure(observed.clone())
        } else {
            let extra = Some(self.authorities.clone()).filter(|pem| !pem.trim().is_empty());
            tls::Trust::System { extra_pem: extra }
        };
        let config = tls::client_config(trust, None, alpn, false)
            .map_err(|error| Error::Local(format!("cannot set up TLS: {error}; look at --ca-file")))?;
        Ok(Tls { config, observed, pin: self.pin })
    }
}

impl Tls {
    /// Refuses a server that has another key than the one pinned.
    ///
    /// # Errors
    /// "Unavailable" with the next step.
    pub fn check(&self, address: &Address) -> Result<()> {
        match self.pin {
            Some(pin) if self.observed.pin() != Some(pin) => Err(Error::unavailable(format!(
                "{address} shows another certificate than at login, so the stored session was not sent; run `msh login`"
            ))),
            _ => Ok(()),
        }
    }

    /// The key the server showed; only known when it was not verified.
    pub fn seen(&self) -> Option<Pin> {
        self.observed.pin()
    }
}
