//! User: who may log in, with which roles and traits. Password hash and second factors are not part of the spec.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Kind, MAX_LIST, Reference, Role, role_names};
use crate::error::Invalid;
use crate::{name, when};

/// Marker of the kind `user`.
#[derive(Clone, Copy, Debug)]
pub enum User {}

/// Attributes of a user: the trait `logins` gives `{{internal.logins}}`, each trait gives `{{external.NAME}}`.
pub type Traits = BTreeMap<String, Vec<String>>;

/// When a role ends for a user, by the name of the role.
pub type Expires = BTreeMap<String, OffsetDateTime>;

/// What an administrator says about a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// Names of the roles held.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Attributes that role templates refer to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub traits: Traits,
    /// First moment at which a role of [`UserSpec::roles`] is not held any more; one that is not named stays.
    #[serde(default, with = "when::map", skip_serializing_if = "BTreeMap::is_empty")]
    pub expires: Expires,
}

impl UserSpec {
    /// The roles held at `now`: whoever decides by roles asks this.
    pub fn roles_at(&self, now: OffsetDateTime) -> Vec<String> {
        in_force(&self.roles, &self.expires, now).cloned().collect()
    }
}

/// Those of `roles` that have not run out at `now`.
pub(crate) fn in_force<'a>(
    roles: &'a [String],
    expires: &'a Expires,
    now: OffsetDateTime,
) -> impl Iterator<Item = &'a String> {
    roles.iter().filter(move |role| expires.get(*role).is_none_or(|end| *end > now))
}

/// Most traits of one user.
pub const MAX_TRAITS: usize = 64;
/// Longest value of a trait, in bytes.
pub const MAX_TRAIT_VALUE: usize = 256;

impl Kind for User {
    const KIND: &'static str = "user";
    const PLURAL: &'static str = "users";
    const COLUMNS: &'static [&'static str] = &["username", "roles"];
    type Spec = UserSpec;

    fn validate(name: &str, spec: &UserSpec) -> Result<(), Invalid> {
        name::user(name)?;
        role_names("roles", &spec.roles)?;
        if let Some(other) = spec.expires.keys().find(|role| !spec.roles.contains(role)) {
            return Err(Invalid::new(format!("expires.{other}"), "names no role of the user"));
        }
        validate_traits(&spec.traits)?;
        // Of all traits only this one is a list of OS users, and what no system takes would be a login that never works.
        let logins = spec.traits.get("logins").into_iter().flatten();
        logins.enumerate().try_for_each(|(i, login)| {
            name::login(login).map_err(|e| Invalid::new(format!("traits.logins.[{i}]"), e.message))
        })
    }

    fn columns(name: &str, spec: &UserSpec) -> Vec<Value> {
        vec![json!(name), json!(spec.roles)]
    }

    fn references(spec: &UserSpec) -> Vec<Reference> {
        spec.roles.iter().map(|name| Reference { kind: Role::KIND, name: name.clone() }).collect()
    }
}

/// Checks count, names and values of traits. Values may be any text of one line: an identity provider chooses them.
///
/// # Errors
/// [`Invalid`] naming the trait.
pub fn validate_traits(traits: &Traits) -> Result<(), Invalid> {
    if traits.len() > MAX_TRAITS {
        return Err(Invalid::new("traits", format!("more than {MAX_TRAITS} traits")));
    }
    traits.iter().try_for_each(|(key, values)| {
        name::trait_name(key)?;
        let refuse = |message: String| Err(Invalid::new(format!("traits.{key}"), message));
        if values.len() > MAX_LIST {
            return refuse(format!("more than {MAX_LIST} values"));
        }
        if values.iter().any(|value| value.len() > MAX_TRAIT_VALUE) {
            return refuse(format!("a value is longer than {MAX_TRAIT_VALUE} bytes"));
        }
        match values.iter().flat_map(|value| value.chars()).find(|c| c.is_control()) {
            Some(bad) => refuse(format!("must not hold {bad:?}")),
            None => Ok(()),
        }
    })
}
