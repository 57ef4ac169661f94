//! Questions about many users at once: who can, and what a change of a role would change. Each single answer is one of
//! [`Policy::decide`], the decision itself.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::check::{Policy, Question, Roles, Target};
use super::outcome::Proof;
use super::principals::logins_for;
use super::standing::Standing;
use crate::identity::{Identity, Since};
use crate::lock::Lock;

/// The cluster at one moment, as a survey asks about it.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// All roles.
    pub roles: &'a Roles,
    /// All locks.
    pub locks: &'a [Lock],
    /// The moment.
    pub now: OffsetDateTime,
}

/// An access: node and login.
pub type Access = (String, String);

impl Survey<'_> {
    /// The identity of a certificate that the user would get at the moment. With roles that give no certificate it names no
    /// login.
    pub fn identity(&self, name: &str, user: &Standing) -> Identity {
        let roles = user.roles_at(self.now);
        Identity {
            user_id: user.user_id.clone(),
            user: name.to_owned(),
            cluster: String::new(),
            principals: logins_for(name, &user.traits, &roles, self.roles).unwrap_or_default(),
            roles,
            traits: user.traits.clone(),
            // It would be where a role asks for it.
            pinned: true,
            valid_after: 0,
            since: Since::default(),
        }
    }

    /// The accesses that the user has among `targets`. A second factor counts as one that the node will ask for.
    pub fn accesses<'t>(
        &self,
        name: &str,
        user: &Standing,
        targets: impl IntoIterator<Item = Target<'t>>,
    ) -> BTreeSet<Access> {
        let identity = self.identity(name, user);
        let policy = Policy::new(&identity, self.roles);
        let mut found = BTreeSet::new();
        for target in targets {
            for login in &identity.principals {
                let question = Question {
                    identity: &identity,
                    roles: self.roles,
                    target,
                    login: Some(login),
                    locks: self.locks,
                    proof: Proof::AskedLater,
                    now: self.now,
                };
                if policy.decide(&question).answer.is_ok() {
                    found.insert((target.name.to_owned(), login.clone()));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{UserSpec, parse_role};
    use crate::labels::Labels;

    fn roles(list: &[(&str, serde_json::Value)]) -> Roles {
        let role = |(name, spec): &(&str, serde_json::Value)| {
            parse_role(&serde_json::json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        list.iter().map(role).collect()
    }

    #[test]
    fn a_change_of_a_role_takes_and_gives_what_the_decision_says() {
        let wide = serde_json::json!({"allow": {"node_labels": {"*": "*"}, "logins": ["root", "dev"]}});
        let narrow = serde_json::json!({
            "allow": {"node_labels": {"env": "prod"}, "logins": ["dev", "{{user.name}}"]}, "deny": {"logins": ["root"]}
        });
        let spec = UserSpec { roles: vec!["ops".into()], ..UserSpec::default() };
        let user = Standing::new("u", spec);
        let (prod, test) = (Labels::from([("env".into(), "prod".into())]), Labels::new());
        let targets = [("prod-1", &prod), ("test-1", &test)];
        let accesses = |spec: &serde_json::Value| {
            let roles = roles(&[("ops", spec.clone())]);
            let survey = Survey { roles: &roles, locks: &[], now: OffsetDateTime::UNIX_EPOCH };
            let targets = targets.map(|(name, labels)| Target { node_id: name, name, labels });
            survey.accesses("alice", &user, targets)
        };
        let set = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(node, login)| ((*node).to_owned(), (*login).to_owned())).collect::<BTreeSet<_>>()
        };
        let (before, after) = (accesses(&wide), accesses(&narrow));
        let lost = set(&[("prod-1", "root"), ("test-1", "dev"), ("test-1", "root")]);
        assert_eq!(before.difference(&after).cloned().collect::<BTreeSet<_>>(), lost);
        assert_eq!(after.difference(&before).cloned().collect::<BTreeSet<_>>(), set(&[("prod-1", "alice")]));
    }
}
