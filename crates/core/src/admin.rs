//! Whether somebody is left to administer the cluster.

use time::OffsetDateTime;

use crate::kind::UserSpec;
use crate::lock::{self, Lock, Subject};

/// The role that administers.
pub const ADMIN: &str = "admin";

/// A user who may be the last administrator.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Name of the user.
    pub name: String,
    /// What the user holds.
    pub spec: UserSpec,
    /// Names of the second factors that count; a login shows one of them.
    pub factors: Vec<String>,
    /// Whether the user has a password. Whoever was only invited may never come.
    pub password: bool,
}

impl Candidate {
    /// Whether this user administers and goes on to: the role has no end, and no lock stops the user, one of the roles, or
    /// every factor.
    fn administers(&self, locks: &[Lock], now: OffsetDateTime) -> bool {
        let roles = self.spec.roles_at(now);
        let stays = roles.iter().any(|role| role == ADMIN) && !self.spec.expires.contains_key(ADMIN);
        let stops = |subject: Subject<'_>| lock::first(locks, subject, now).is_some();
        let shows = |factor: &String| {
            let mfa_device = &format!("{}/{factor}", self.name);
            !stops(Subject { mfa_device, ..Subject::default() })
        };
        stays
            && self.password
            && !stops(Subject { user: &self.name, roles: &roles, ..Subject::default() })
            && (self.factors.is_empty() || self.factors.iter().any(shows))
    }
}

/// Whether one of `candidates` administers under these locks.
pub fn remains(candidates: &[Candidate], locks: &[Lock], now: OffsetDateTime) -> bool {
    candidates.iter().any(|candidate| candidate.administers(locks, now))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(name: &str, role: &str, factors: &[&str]) -> Candidate {
        Candidate {
            name: name.into(),
            spec: UserSpec { roles: vec![role.into()], ..UserSpec::default() },
            factors: factors.iter().map(|factor| (*factor).to_owned()).collect(),
            password: true,
        }
    }

    #[test]
    fn one_who_can_log_in_for_good_must_be_left() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let lock = |kind: &str, target: &str| {
            Lock::from_stored("l", &json!({ "target_type": kind, "target": target, "expires": "1970-01-01T01:00:00Z" }))
        };
        let (ada, bob) = (user("ada", ADMIN, &[]), user("bob", ADMIN, &["phone", "desk"]));
        let remains = |users: &[&Candidate], locks: &[Lock]| {
            super::remains(&users.iter().map(|user| (*user).clone()).collect::<Vec<_>>(), locks, now)
        };
        assert!(remains(&[&ada], &[]) && !remains(&[], &[]) && !remains(&[&user("eve", "access", &[])], &[]));
        assert!(!remains(&[&ada], &[lock("user", "ada")]), "also a lock that ends");
        assert!(remains(&[&ada, &bob], &[lock("user", "ada")]));
        assert!(!remains(&[&ada, &bob], &[lock("role", ADMIN)]));
        assert!(remains(&[&bob], &[lock("mfa_device", "bob/phone")]));
        assert!(!remains(&[&bob], &[lock("mfa_device", "bob/phone"), lock("mfa_device", "bob/desk")]));
        assert!(remains(&[&ada], &[lock("login", "root"), lock("node", "web-1")]));
        assert!(!remains(&[&Candidate { password: false, ..ada.clone() }], &[]), "only invited");
        let mut passing = ada.clone();
        passing.spec.expires.insert(ADMIN.into(), now + time::Duration::hours(1));
        assert!(!remains(&[&passing], &[]), "the role has an end");
        assert!(!remains(&[&ada], &[Lock::from_stored("l", &json!(null))]), "a lock that cannot be read");
    }
}
