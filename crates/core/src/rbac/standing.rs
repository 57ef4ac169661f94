//! Whether a certificate still speaks for the user it was issued to, and what binds its user by now.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::outcome::{Denied, Reason};
use crate::identity::{Identity, Since};
use crate::kind::UserSpec;
use crate::kind::user::{Expires, Traits, in_force};
use crate::when;

/// What agents and proxies know of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Stable id: a user made anew under an old name is another user.
    pub user_id: String,
    /// Names of the roles, also of those that have run out.
    pub roles: Vec<String>,
    /// Attributes that role templates refer to.
    pub traits: Traits,
    /// When a role ends for the user; one that is not named stays.
    #[serde(default, with = "when::map", skip_serializing_if = "BTreeMap::is_empty")]
    pub expires: Expires,
    /// Certificates that begin at this second (unix) or before are not good: the password was changed since. 0: all are.
    #[serde(default)]
    pub certificates_from: u64,
}

impl Standing {
    /// What a stored user stands for.
    pub fn new(user_id: impl Into<String>, spec: UserSpec) -> Self {
        let UserSpec { roles, traits, expires } = spec;
        Self { user_id: user_id.into(), roles, traits, expires, certificates_from: 0 }
    }

    /// The roles held at `now`.
    pub fn roles_at(&self, now: OffsetDateTime) -> Vec<String> {
        in_force(&self.roles, &self.expires, now).cloned().collect()
    }

    /// The next moment at which a role runs out.
    pub fn next_end(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.expires.values().filter(|end| **end > now).min().copied()
    }
}

/// All users by name. One that cannot be read is left out, and so has no access.
pub type Users = BTreeMap<String, Standing>;

/// Checks that the user of the certificate exists still, and has every role and every value of a trait that it names. What
/// was taken away ends what the old certificate opened. What was granted since needs a new certificate to allow anything,
/// and refuses at once: decide with the identity that is answered.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn standing<'a>(identity: &'a Identity, users: &Users, now: OffsetDateTime) -> Result<Cow<'a, Identity>, Denied> {
    let Some(user) = users.get(&identity.user).filter(|user| user.user_id == identity.user_id) else {
        return Err(Denied { reasons: vec![Reason::UserGone] });
    };
    if user.certificates_from != 0 && identity.valid_after <= user.certificates_from {
        return Err(Denied { reasons: vec![Reason::PasswordChanged] });
    }
    let held = user.roles_at(now);
    let withdrawn = identity.roles.iter().filter(|role| !held.contains(role)).cloned();
    let mut reasons: Vec<Reason> = withdrawn
        .map(|role| match user.roles.contains(&role) {
            true => Reason::RoleExpired { role },
            false => Reason::RoleWithdrawn { role },
        })
        .collect();
    let kept = |name: &str, value: &String| user.traits.get(name).is_some_and(|values| values.contains(value));
    let lost = identity.traits.iter().filter(|(name, values)| values.iter().any(|value| !kept(name, value)));
    reasons.extend(lost.map(|(name, _)| Reason::TraitWithdrawn { name: name.clone() }));
    if !reasons.is_empty() {
        return Err(Denied { reasons });
    }
    let roles: Vec<String> = held.into_iter().filter(|role| !identity.roles.contains(role)).collect();
    let traits = (user.traits != identity.traits).then(|| user.traits.clone());
    Ok(match (roles.is_empty(), &traits) {
        (true, None) => Cow::Borrowed(identity),
        _ => Cow::Owned(Identity { since: Since { roles, traits }, ..identity.clone() }),
    })
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
            let spec = UserSpec { roles: roles(names), traits, ..UserSpec::default() };
            Users::from([("alice".to_owned(), Standing::new(id, spec))])
        };
        let now = OffsetDateTime::UNIX_EPOCH;
        let standing = |identity, users: &Users| super::standing(identity, users, now).map(|bound| bound.since.clone());
        let users = |id: &str, names: &[&str]| with_logins(id, names, &["bob", "root", "more"]);
        let since = standing(&identity, &users("u1", &["dev", "access", "more"])).unwrap();
        assert_eq!((since.roles, since.traits.map(|traits| traits.len())), (roles(&["more"]), Some(2)));
        let gone = Err(Denied { reasons: vec![Reason::UserGone] });
        assert_eq!(standing(&identity, &users("u2", &["access", "dev"])), gone, "made anew");
        assert_eq!(standing(&identity, &Users::new()), gone);
        let withdrawn = standing(&identity, &users("u1", &["access"])).unwrap_err();
        assert_eq!(withdrawn.reasons(), [Reason::RoleWithdrawn { role: "dev".into() }]);
        let withdrawn = standing(&identity, &with_logins("u1", &["access", "dev"], &["bob"])).unwrap_err();
        assert_eq!(withdrawn.reasons(), [Reason::TraitWithdrawn { name: "logins".into() }]);
    }

    #[test]
    fn a_certificate_ends_with_the_password_that_it_came_by() {
        let identity = Identity { user: "alice".into(), user_id: "u1".into(), ..Identity::default() };
        let users = |certificates_from| {
            let user = Standing { certificates_from, ..Standing::new("u1", UserSpec::default()) };
            Users::from([("alice".to_owned(), user)])
        };
        let standing = |valid_after, users: &Users| {
            super::standing(&identity.clone().since_unix(valid_after), users, OffsetDateTime::UNIX_EPOCH).map(drop)
        };
        let denied = Err(Denied { reasons: vec![Reason::PasswordChanged] });
        assert_eq!([standing(0, &users(0)), standing(101, &users(100))], [Ok(()), Ok(())]);
        assert_eq!([standing(100, &users(100)), standing(0, &users(100))], [denied.clone(), denied]);
    }

    #[test]
    fn a_role_ends_for_a_user_at_its_moment_and_not_before() {
        let end = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1);
        let identity =
            Identity { user: "alice".into(), user_id: "u1".into(), roles: vec!["dev".into()], ..Identity::default() };
        let expires = Expires::from([("dev".into(), end), ("old".into(), OffsetDateTime::UNIX_EPOCH)]);
        let spec = UserSpec { roles: vec!["dev".into(), "old".into()], expires, ..UserSpec::default() };
        let user = Standing::new("u1", spec);
        let before = end - time::Duration::seconds(1);
        assert_eq!((user.next_end(before), user.next_end(end)), (Some(end), None));
        let users = Users::from([("alice".to_owned(), user)]);
        let bound = standing(&identity, &users, before).unwrap();
        assert!(matches!(bound, Cow::Borrowed(_)), "a role that has run out binds nobody");
        let denied = standing(&identity, &users, end).unwrap_err();
        assert_eq!(denied.reasons(), [Reason::RoleExpired { role: "dev".into() }]);
    }
}
