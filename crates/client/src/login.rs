//! Logging in: a password becomes a session token, and the token a short-lived certificate for a fresh key.

use std::time::Duration;

use mezite_core::name;
use mezite_core::text::escape_control;
use mezite_ssh::cert::Certificate;
use mezite_ssh::key::PrivateKey;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::address::{Address, SSH_PORT};
use crate::api::{CertsReply, CertsRequest, LoginReply, LoginRequest, Ping};
use crate::error::{Error, Result, invalid};
use crate::http::Web;
use crate::profile::{Identity, Profile, Store};
use crate::trust::{HTTP1, Trust};

/// Longest lifetime that may be asked for (F487).
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// A hub to talk to, without or with a session.
#[derive(Debug)]
pub struct Hub {
    /// The REST interface.
    pub web: Web,
    address: Address,
    trust: Trust,
}

/// What a login gave.
pub struct Outcome {
    /// To be stored.
    pub profile: Profile,
    /// To be stored, and shown to nobody.
    pub session: Zeroizing<String>,
    /// The key made here, with its certificate.
    pub identity: Identity,
}

impl Hub {
    /// A hub nobody is logged in to.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn stranger(address: Address, trust: Trust) -> Result<Self> {
        let web = Web::new(address.clone(), trust.tls(HTTP1)?, None);
        Ok(Self { web, address, trust })
    }

    /// The hub of a profile, with its session. Verification is never off here: besides `trust`, the authorities of the
    /// login count, or the one key that was accepted then.
    ///
    /// # Errors
    /// "Not logged in" when the session is gone.
    pub fn session(store: &Store, profile: &Profile, mut trust: Trust) -> Result<Self> {
        let bearer = store.session(profile)?;
        trust.insecure = false;
        trust.add(&profile.tls_ca_pem);
        let damaged = |_| Error::not_logged_in("the stored profile is damaged; run `msh login`");
        trust.pin = profile.tls_pin.as_deref().map(str::parse).transpose().map_err(damaged)?;
        let mut hub = Self::stranger(profile.proxy.clone(), trust)?;
        hub.web.set_bearer(bearer);
        Ok(hub)
    }

    /// Logs in and has a fresh key certified for `ttl`, or as long as the cluster gives by itself (`user_cert_ttl`). `otp`
    /// is a code of the user's second factor, or empty.
    ///
    /// # Errors
    /// What the hub answered: a wrong password is "not logged in", a right one alone "MFA needed" for whoever has a factor.
    pub async fn login(&mut self, user: &str, password: &str, otp: &str, ttl: Option<Duration>) -> Result<Outcome> {
        if ttl.is_some_and(|ttl| ttl > MAX_TTL) {
            return Err(invalid("--ttl", "must be at most 24h"));
        }
        let reply: LoginReply =
            self.web.post("/v1/webapi/login", &LoginRequest { username: user, password, otp }).await?;
        let session = Zeroizing::new(reply.session_id);
        self.web.set_bearer(session.clone());
        let key = PrivateKey::generate().map_err(|error| Error::Local(error.to_string()))?;
        let line = key.public().to_openssh("");
        let request = CertsRequest { ssh_public_key: line.trim_end(), ttl_seconds: ttl.unwrap_or_default().as_secs() };
        let certs: CertsReply = self.web.post("/v1/webapi/certs", &request).await?;
        let certificate = checked(&certs, &key)?;
        // It becomes part of lines that OpenSSH reads and obeys.
        name::cluster(&reply.cluster_name)
            .map_err(|error| Error::unavailable(format!("the hub's answer cannot be used: {error}")))?;
        let mut trust = self.trust.clone();
        trust.add(&certs.tls_ca_pem);
        let authorities = trust.authorities;
        let profile = Profile {
            proxy: self.address.clone(),
            user: reply.username,
            cluster: reply.cluster_name,
            ssh_addr: Address::parse(&reply.ssh_addr, SSH_PORT)?,
            logins: certs.logins,
            host_authorities: certs.host_authorities,
            tls_pin: self.pin(&authorities).await?,
            tls_ca_pem: authorities,
            session_expires: reply.expires_unix,
        };
        Ok(Outcome { profile, session, identity: Identity { key, certificate } })
    }

    /// Ends the session at the hub.
    ///
    /// # Errors
    /// What the hub answered.
    pub async fn logout(&mut self) -> Result<()> {
        self.web.post_only("/v1/webapi/logout", &Value::Object(serde_json::Map::new())).await
    }

    /// After a login that was not verified: the server's key, unless the authorities that the login brought verify it.
    async fn pin(&self, authorities: &str) -> Result<Option<String>> {
        let Some(seen) = self.web.tls().seen() else { return Ok(None) };
        let trust = Trust { authorities: authorities.to_owned(), ..Trust::default() };
        let verified = Self::stranger(self.address.clone(), trust)?.web.get::<Ping>("/v1/webapi/ping").await.is_ok();
        Ok((!verified).then(|| seen.to_string()))
    }
}

/// A certificate for another key, or of another kind, would fail later and without a reason.
fn checked(certs: &CertsReply, key: &PrivateKey) -> Result<Certificate> {
    let odd =
        |what: &str| Error::unavailable(format!("the hub's certificate cannot be used: {}", escape_control(what)));
    let (certificate, _) =
        Certificate::from_openssh(&certs.ssh_certificate).map_err(|error| odd(&error.to_string()))?;
    if certificate.public_key == key.public() { Ok(certificate) } else { Err(odd("it is for another key")) }
}
