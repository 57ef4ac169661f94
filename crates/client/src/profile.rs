//! What a login leaves behind: one directory per proxy, and the Host authorities OpenSSH reads.
//!
//! ```text
//! ~/.mezite/active                           host of the proxy used when none is named
//! ~/.mezite/known_hosts                      one `@cert-authority * KEY` line per trusted Host CA key (F058)
//! ~/.mezite/profiles/HOST/profile.json       addresses, names, trust
//! ~/.mezite/profiles/HOST/session            the session token, 0600
//! ~/.mezite/profiles/HOST/keys/ssh_key       private key, 0600 (F057)
//! ~/.mezite/profiles/HOST/keys/ssh_key-cert.pub
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use mezite_ssh::cert::Certificate;
use mezite_ssh::key::{PrivateKey, PublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::address::Address;
use crate::error::{Error, Result};
use crate::home;

/// What is known about one cluster after a login. Holds no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// The proxy's HTTPS address.
    pub proxy: Address,
    /// Mezite user.
    pub user: String,
    /// Name of the cluster.
    pub cluster: String,
    /// The proxy's SSH listener.
    pub ssh_addr: Address,
    /// OS logins that the certificate names.
    pub logins: Vec<String>,
    /// OpenSSH lines of the keys that sign host certificates.
    pub host_authorities: Vec<String>,
    /// PEM of the certificate authorities that this proxy's TLS certificate is checked against, besides the system's.
    pub tls_ca_pem: String,
    /// Pin (`sha256:…`) of the server's TLS key, after a login with `--insecure` to a server that `tls_ca_pem` does not
    /// verify: the stored session is sent to no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_pin: Option<String>,
    /// End of the session token, unix seconds.
    pub session_expires: i64,
}

/// A private key with its certificate, as OpenSSH wants them.
#[derive(Debug)]
pub struct Identity {
    /// Ed25519, made for this login.
    pub key: PrivateKey,
    /// Signed by the User CA.
    pub certificate: Certificate,
}

/// The directory of all profiles.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in `dir` (`MEZITE_HOME`, else `~/.mezite`). Nothing is read or made yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Directory of one proxy's profile.
    pub fn profile_dir(&self, proxy: &Address) -> PathBuf {
        self.dir.join("profiles").join(&proxy.host)
    }

    /// The private key, as `IdentityFile` names it; the certificate lies beside it with `-cert.pub` added.
    pub fn key_path(&self, proxy: &Address) -> PathBuf {
        self.profile_dir(proxy).join("keys/ssh_key")
    }

    /// The file for `UserKnownHostsFile`.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// The profile of `proxy`, or the active one.
    ///
    /// # Errors
    /// "Not logged in" when there is none.
    pub fn load(&self, proxy: Option<&Address>) -> Result<Profile> {
        let Some(proxy) = proxy else {
            let host = self
                .active()?
                .ok_or_else(|| Error::not_logged_in("not logged in; run `msh login --proxy=HOST:PORT --user=NAME`"))?;
            return self.read(&host)?.ok_or_else(|| Error::not_logged_in("not logged in; run `msh login`"));
        };
        let found = self.read(&proxy.host)?.filter(|profile| profile.proxy == *proxy);
        found.ok_or_else(|| {
            Error::not_logged_in(format!("not logged in to {proxy}; run `msh login --proxy={proxy} --user=NAME`"))
        })
    }

    /// The profile of the proxy at `host`, whatever its port.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub fn of_host(&self, host: &str) -> Result<Option<Profile>> {
        self.read(host)
    }

    /// Host of the active profile: the one of the last login, else the only one there is.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn active(&self) -> Result<Option<String>> {
        let hosts = self.hosts()?;
        let named = home::read(&self.dir.join("active"))?.map(|text| text.trim().to_owned());
        if let Some(host) = named.filter(|host| hosts.contains(host)) {
            return Ok(Some(host));
        }
        let mut hosts = hosts.into_iter();
        Ok(hosts.next().filter(|_| hosts.next().is_none()))
    }

    /// The session token of a profile.
    ///
    /// # Errors
    /// "Not logged in" when it is gone.
    pub fn session(&self, profile: &Profile) -> Result<Zeroizing<String>> {
        let text = home::read_secret(&self.profile_dir(&profile.proxy).join("session"))?;
        let text = text.map(|text| Zeroizing::new(text.trim().to_owned())).filter(|text| !text.is_empty());
        text.ok_or_else(|| Error::not_logged_in("the session is gone; run `msh login`"))
    }

    /// Key and certificate of a profile.
    ///
    /// # Errors
    /// "Not logged in" when one is missing or they do not belong together.
    pub fn identity(&self, profile: &Profile) -> Result<Identity> {
        let path = self.key_path(&profile.proxy);
        let gone = || Error::not_logged_in("the key or its certificate is missing; run `msh login`");
        let key = home::read_secret(&path)?.ok_or_else(gone)?;
        let certificate = home::read(&certificate_path(&path))?.ok_or_else(gone)?;
        let damaged = |error: &dyn std::fmt::Display| {
            Error::not_logged_in(format!("{} is damaged ({error}); run `msh login`", path.display()))
        };
        let key = PrivateKey::from_openssh(&key).map_err(|error| damaged(&error))?;
        let (certificate, _) = Certificate::from_openssh(&certificate).map_err(|error| damaged(&error))?;
        if certificate.public_key != key.public() {
            return Err(damaged(&"the certificate is for another key"));
        }
        Ok(Identity { key, certificate })
    }

    /// Stores the outcome of a login and makes it the active profile.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, profile: &Profile, session: &str, identity: &Identity) -> Result<()> {
        let _lock = home::lock(&self.dir)?;
        let dir = self.profile_dir(&profile.proxy);
        write_identity(&self.key_path(&profile.proxy), identity, &profile.user)?;
        home::write(&dir.join("session"), session.as_bytes(), 0o600)?;
        let json = serde_json::to_vec_pretty(profile).map_err(|error| Error::Local(error.to_string()))?;
        home::write(&dir.join("profile.json"), &json, 0o600)?;
        home::write(&self.dir.join("active"), profile.proxy.host.as_bytes(), 0o600)?;
        self.write_known_hosts()
    }

    /// Removes a profile with its key and session.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self, profile: &Profile) -> Result<()> {
        let _lock = home::lock(&self.dir)?;
        let dir = self.profile_dir(&profile.proxy);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &dir, &error)),
            _ => {}
        }
        self.write_known_hosts()
    }

    fn write_known_hosts(&self) -> Result<()> {
        let mut lines = BTreeSet::new();
        for host in self.hosts()? {
            // A profile that cannot be read lends no trust.
            if let Ok(Some(profile)) = self.read(&host) {
                let keys = profile.host_authorities.iter().filter_map(|line| PublicKey::from_openssh(line).ok());
                lines.extend(keys.map(|(key, _)| format!("@cert-authority * {}\n", key.to_openssh("").trim_end())));
            }
        }
        home::write(&self.known_hosts(), lines.into_iter().collect::<String>().as_bytes(), 0o644)
    }

    fn read(&self, host: &str) -> Result<Option<Profile>> {
        let path = self.dir.join("profiles").join(host).join("profile.json");
        let Some(text) = home::read(&path)? else { return Ok(None) };
        let profile = serde_json::from_str(&text);
        profile
            .map(Some)
            .map_err(|error| Error::not_logged_in(format!("{} is damaged ({error}); run `msh login`", path.display())))
    }

    fn hosts(&self) -> Result<BTreeSet<String>> {
        let dir = self.dir.join("profiles");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(Error::io("read", &dir, &error)),
        };
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }
}

/// Writes `path` and `path-cert.pub`, which is the name `ssh -i path` looks for (F488).
///
/// # Errors
/// When a file cannot be written.
pub fn write_identity(path: &Path, identity: &Identity, comment: &str) -> Result<()> {
    home::write(path, identity.key.to_openssh(comment).as_bytes(), 0o600)?;
    let line = format!("{}\n", identity.certificate.to_openssh(comment).trim_end());
    home::write(&certificate_path(path), line.as_bytes(), 0o644)
}

fn certificate_path(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push("-cert.pub");
    name.into()
}
