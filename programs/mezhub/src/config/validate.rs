//! What a configuration that can be read must still keep, and what this release cannot do yet.

use mezite_core::{Invalid, name};

use super::sections::{Backend, Config, Driver};

impl Config {
    /// Refuses what cannot be meant.
    ///
    /// # Errors
    /// The first key that cannot be used, and why.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        name::cluster(&self.cluster_name)?;
        if !self.ssh.enabled {
            return Err(Invalid::new("ssh.enabled", "false is not possible; SSH is what this server is for"));
        }
        for (key, secret, file) in [
            ("ca_key_passphrase", &self.ca_key_passphrase, &self.ca_key_passphrase_file),
            ("database.password", &self.database.password, &self.database.password_file),
            ("proxy.join_token", &self.proxy.join_token, &self.proxy.join_token_file),
            ("audit.hmac_key", &self.audit.hmac_key, &self.audit.hmac_key_file),
            ("audit.previous_hmac_key", &self.audit.previous_hmac_key, &self.audit.previous_hmac_key_file),
        ] {
            if secret.is_some() && file.is_some() {
                return Err(Invalid::new(key, format!("is set, and {key}_file too; keep one")));
            }
        }
        self.not_yet().map_or(Ok(()), Err)
    }

    /// What this release cannot do and must not pretend to.
    fn not_yet(&self) -> Option<Invalid> {
        let absent = |key: &str, what: &str| Some(Invalid::new(key, format!("{what} is not part of this release")));
        if self.database.driver == Driver::Postgres {
            return absent("database.driver", "PostgreSQL");
        }
        if self.recordings.backend == Backend::S3 {
            return absent("recordings.backend", "S3");
        }
        if !self.auth.enabled || !self.proxy.enabled {
            let key = if self.auth.enabled { "proxy.enabled" } else { "auth.enabled" };
            return absent(key, "running Auth and Proxy apart");
        }
        if self.auth.grpc_allow_http {
            return absent("auth.grpc_allow_http", "gRPC without TLS");
        }
        if self.proxy.tls_mode.as_deref().is_some_and(|mode| mode != "on") {
            return absent("proxy.tls_mode", "HTTPS in the clear");
        }
        None
    }

    /// Keys that are set and have no effect yet: a warning each.
    pub(crate) fn ignored(&self) -> Vec<&'static str> {
        let proxy = &self.proxy;
        [
            ("proxy.oidc_issuer_url", proxy.oidc_issuer_url.is_some()),
            ("proxy.apps_domain", proxy.apps_domain.is_some()),
            ("proxy.apps_keypair", proxy.apps_keypair.is_some()),
            ("proxy.apps_oidc_connector", proxy.apps_oidc_connector.is_some()),
            ("proxy.auth_addr", proxy.auth_addr.is_some()),
            ("proxy.join_token", proxy.join_token.is_some() || proxy.join_token_file.is_some()),
            ("proxy.ca_pin", proxy.ca_pin.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, set)| set.then_some(key))
        .collect()
    }
}
