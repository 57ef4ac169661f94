//! What a user certificate says about its holder, as plain pairs of extension name and value.
//!
//! Extensions of ours end in `@mezite` and hold JSON; the standard `permit-*` flags have no value (OpenSSH
//! PROTOCOL.certkeys, "Extensions").

use serde::de::DeserializeOwned;

use crate::kind::user::{Traits, validate_traits};
use crate::name;

/// Stable id of the user.
pub const USER_ID: &str = "user-id@mezite";
/// Names of the roles held.
pub const ROLES: &str = "roles@mezite";
/// Traits of the user.
pub const TRAITS: &str = "traits@mezite";
/// Cluster that issued the certificate.
pub const CLUSTER: &str = "cluster@mezite";

/// Longest value of one extension, in bytes.
pub const MAX_EXTENSION: usize = 16 * 1024;
/// Most roles in a certificate.
pub const MAX_ROLES: usize = 128;

/// A user, as every decision sees one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Stable id: a user made anew under an old name is another user.
    pub user_id: String,
    /// User name; the certificate's key id.
    pub user: String,
    /// Cluster that vouches for the user.
    pub cluster: String,
    /// Names of the roles held.
    pub roles: Vec<String>,
    /// Attributes that role templates refer to.
    pub traits: Traits,
    /// OS logins the certificate is good for.
    pub principals: Vec<String>,
    /// Whether the certificate is bound to the address that it is used from (`source-address`, OpenSSH PROTOCOL.certkeys,
    /// "Critical options"). Whoever verified it says so.
    pub pinned: bool,
    /// First second of the certificate, unix; 0 where there is none.
    pub valid_after: u64,
    /// What the user was given since; no certificate says it, [`crate::rbac::standing`] does.
    pub since: Since,
}

/// What a user was given after a certificate was issued: it can refuse at once, and grants only by a new certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Roles that the certificate does not name.
    pub roles: Vec<String>,
    /// All traits of the user, for the deny rules, where they are others than in the certificate.
    pub traits: Option<Traits>,
}

/// The standard flags of a user certificate (F516).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `permit-pty`
    pub pty: bool,
    /// `permit-port-forwarding`
    pub port_forwarding: bool,
    /// `permit-agent-forwarding`
    pub agent_forwarding: bool,
}

/// Why a certificate's extensions are not an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The extension is absent: the certificate was not issued for a user of Mezite.
    #[error("certificate has no {0}")]
    Missing(&'static str),
    /// The extension is there twice.
    #[error("certificate has {0} twice")]
    Repeated(&'static str),
    /// The extension cannot be read.
    #[error("certificate has an unreadable {0}")]
    Unreadable(&'static str),
}

impl Identity {
    /// The extensions of a certificate for this identity, sorted by name as certificates demand.
    pub fn to_extensions(&self, flags: Flags) -> Vec<(String, String)> {
        let json = |value: serde_json::Value| value.to_string();
        let mut extensions = vec![
            (USER_ID, json(self.user_id.as_str().into())),
            (ROLES, json(self.roles.clone().into())),
            (TRAITS, json(serde_json::to_value(&self.traits).unwrap_or_default())),
            (CLUSTER, json(self.cluster.as_str().into())),
        ];
        let standard = [
            ("permit-pty", flags.pty),
            ("permit-port-forwarding", flags.port_forwarding),
            ("permit-agent-forwarding", flags.agent_forwarding),
        ];
        extensions.extend(standard.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, String::new())));
        extensions.sort_unstable();
        extensions.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The same identity by a certificate that begins at this second: whoever forgets it holds an old one.
    #[must_use]
    pub fn since_unix(self, valid_after: u64) -> Self {
        Self { valid_after, ..self }
    }

    /// Reads the identity out of a certificate whose signature, validity and type were verified before. Extensions that
    /// are not ours are ignored. It is not [`Self::pinned`] so far.
    ///
    /// # Errors
    /// [`IdentityError`] when one of ours is missing, repeated, too long or malformed.
    pub fn from_certificate<'a>(
        key_id: &str,
        principals: &[String],
        extensions: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, IdentityError> {
        let mut found: [(&'static str, Option<&str>); 4] = [USER_ID, ROLES, TRAITS, CLUSTER].map(|name| (name, None));
        for (name, value) in extensions {
            let Some((known, slot)) = found.iter_mut().find(|(known, _)| *known == name) else { continue };
            if slot.replace(value).is_some() {
                return Err(IdentityError::Repeated(known));
            }
        }
        let [user_id, roles, traits, cluster] = found;
        let identity = Self {
            user_id: read(user_id)?,
            user: key_id.to_owned(),
            cluster: read(cluster)?,
            roles: read(roles)?,
            traits: read(traits)?,
            principals: principals.to_vec(),
            pinned: false,
            valid_after: 0,
            since: Since::default(),
        };
        name::user(&identity.user).map_err(|_| IdentityError::Unreadable("key id"))?;
        if identity.user_id.is_empty() || identity.user_id.len() > name::MAX_NAME {
            return Err(IdentityError::Unreadable(USER_ID));
        }
        if identity.roles.len() > MAX_ROLES || identity.roles.iter().any(|role| name::role(role).is_err()) {
            return Err(IdentityError::Unreadable(ROLES));
        }
        validate_traits(&identity.traits).map_err(|_| IdentityError::Unreadable(TRAITS))?;
        Ok(identity)
    }
}

fn read<T: DeserializeOwned>((name, value): (&'static str, Option<&str>)) -> Result<T, IdentityError> {
    let value = value.ok_or(IdentityError::Missing(name))?;
    if value.len() > MAX_EXTENSION {
        return Err(IdentityError::Unreadable(name));
    }
    serde_json::from_str(value).map_err(|_| IdentityError::Unreadable(name))
}
