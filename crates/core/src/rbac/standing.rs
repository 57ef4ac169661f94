//! Whether a certificate still speaks for the user it was issued to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::outcome::{Denied, Reason};
use crate::identity::Identity;
use crate::kind::user::Traits;

/// What agents and proxies know of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Stable id: a user made anew under an old name is another user.
    pub user_id: String,
    /// Names of the roles held.
    pub roles: Vec<String>,
    /// Attributes that role templates refer to.
    pub traits: Traits,
}

/// All users by name. One that cannot be read is left out, and so has no access.
pub type Users = BTreeMap<String, Standing>;

/// Checks that the user of the certificate exists still, and has every role and every value of a trait that it names. What
/// was granted since then needs a new certificate; what was taken away ends what the old certificate opened.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn standing(identity: &Identity, users: &Users) -> Result<(), Denied> {
    let Some(user) = users.get(&identity.user).filter(|user| user.user_id == identity.user_id) else {
        return Err(Denied { reasons: vec![Reason::UserGone] });
    };
    let withdrawn = identity.roles.iter().filter(|role| !user.roles.contains(role));
    let mut reasons: Vec<Reason> = withdrawn.map(|role| Reason::RoleWithdrawn { role: role.clone() }).collect();
    let kept = |name: &str, value: &String| user.traits.get(name).is_some_and(|values| values.contains(value));
    let lost = identity.traits.iter().filter(|(name, values)| values.iter().any(|value| !kept(name, value)));
    reasons.extend(lost.map(|(name, _)| Reason::TraitWithdrawn { name: name.clone() }));
    if reasons.is_empty() { Ok(()) } else { Err(Denied { reasons }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_falls_with_its_user_and_with_each_of_its_roles_and_traits() {
        let roles = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let identity = Identity {
            user: "alice".into(),
            user_id: "u1".into(),
            roles: roles(&["access", "dev"]),
            traits: Traits::from([("logins".into(), roles(&["root", "bob"]))]),
            ..Identity::default()
        };
        let with_logins = |id: &str, names: &[&str], logins: &[&str]| {
            let traits = Traits::from([("logins".into(), roles(logins)), ("team".into(), roles(&["x"]))]);
            Users::from([("alice".to_owned(), Standing { user_id: id.into(), roles: roles(names), traits })])
        };
        let users = |id: &str, names: &[&str]| with_logins(id, names, &["bob", "root", "more"]);
        assert_eq!(standing(&identity, &users("u1", &["dev", "access", "more"])), Ok(()));
        let gone = Err(Denied { reasons: vec![Reason::UserGone] });
        assert_eq!(standing(&identity, &users("u2", &["access", "dev"])), gone, "made anew");
        assert_eq!(standing(&identity, &Users::new()), gone);
        let withdrawn = standing(&identity, &users("u1", &["access"])).unwrap_err();
        assert_eq!(withdrawn.reasons(), [Reason::RoleWithdrawn { role: "dev".into() }]);
        let withdrawn = standing(&identity, &with_logins("u1", &["access", "dev"], &["bob"])).unwrap_err();
        assert_eq!(withdrawn.reasons(), [Reason::TraitWithdrawn { name: "logins".into() }]);
    }
}
