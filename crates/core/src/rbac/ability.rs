//! Who may call what of the API. Only the built-in roles have power here; a role made by people grants nodes, never
//! administration.

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Lists objects, or reads one.
    Read,
    /// Makes, changes or deletes an object, or acts on it.
    Write,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Users, without their secrets. Own: the caller.
    Users,
    /// Roles. Own: those the caller holds.
    Roles,
    /// Join tokens.
    Tokens,
    /// Nodes. Own: those the caller's roles reach.
    Nodes,
    /// Locks.
    Locks,
    /// Cluster config.
    Config,
    /// Sessions; writing ends them. Own: the caller's.
    Sessions,
    /// Recordings. Own: the caller's.
    Recordings,
    /// The audit log.
    Audit,
    /// Certificate authorities: state and rotation. Public keys are open to everybody and not asked about here.
    Authorities,
    /// User certificates; writing issues one. Own: for the caller.
    Certificates,
    /// Passwords. Own: the caller's.
    Passwords,
}

/// Whether a logged-in caller with these roles may do this. `own` says that the object belongs to the caller; a list is
/// asked about twice, and one that is allowed only as own must be filtered. Reading users and roles is open to everybody
/// over gRPC and shows what is one's own; REST has whole lists only, for administrators (F497, F504).
pub fn may(roles: &[String], verb: Verb, resource: Resource, own: bool) -> bool {
    let holds = |role: &str| roles.iter().any(|held| held == role);
    if holds("admin") {
        return true;
    }
    match (verb, resource) {
        (Verb::Read, Resource::Users | Resource::Roles) => own,
        (Verb::Read, Resource::Nodes) => own || holds("viewer"),
        (Verb::Read, Resource::Sessions | Resource::Recordings) => own || holds("auditor"),
        (Verb::Read, Resource::Audit) => holds("auditor"),
        (Verb::Write, Resource::Certificates | Resource::Passwords) => own,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can(role: &str, verb: Verb, resource: Resource, own: bool) -> bool {
        may(&[role.to_owned()], verb, resource, own)
    }

    #[test]
    fn power_is_what_the_built_in_roles_say() {
        use Resource::*;
        let all = [
            Users,
            Roles,
            Tokens,
            Nodes,
            Locks,
            Config,
            Sessions,
            Recordings,
            Audit,
            Authorities,
            Certificates,
            Passwords,
        ];
        for resource in all {
            assert!(can("admin", Verb::Write, resource, false));
            assert!(!can("access", Verb::Write, resource, false), "{resource:?}");
            assert!(!can("auditor", Verb::Write, resource, false), "{resource:?}");
            assert!(!can("Admin", Verb::Write, resource, false), "{resource:?}");
        }
        for resource in [Sessions, Recordings, Audit] {
            assert!(can("auditor", Verb::Read, resource, false));
            assert!(!can("viewer", Verb::Read, resource, false));
        }
        assert!(can("viewer", Verb::Read, Nodes, false));
        assert!(!can("access", Verb::Read, Nodes, false) && can("access", Verb::Read, Nodes, true));
        assert!(can("access", Verb::Read, Recordings, true) && !can("access", Verb::Read, Recordings, false));
        assert!(!can("access", Verb::Write, Sessions, true));
    }

    #[test]
    fn of_users_and_roles_only_administrators_read_more_than_their_own() {
        for resource in [Resource::Users, Resource::Roles] {
            for role in ["access", "auditor", "viewer"] {
                assert!(can(role, Verb::Read, resource, true) && !can(role, Verb::Read, resource, false), "{role}");
            }
            assert!(can("admin", Verb::Read, resource, false));
        }
    }
}
