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
    /// Users, without their secrets.
    Users,
    /// Roles.
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

/// Which door the call came through: reads of users and roles are open to every user over gRPC and closed to all but
/// administrators over REST (F497, F504).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// gRPC.
    Rpc,
    /// REST.
    Web,
}

/// Whether a logged-in caller with these roles may do this. `own` says that the object belongs to the caller; a list is
/// asked about twice, and one that is allowed only as own must be filtered.
pub fn may(roles: &[String], face: Face, verb: Verb, resource: Resource, own: bool) -> bool {
    let holds = |role: &str| roles.iter().any(|held| held == role);
    if holds("admin") {
        return true;
    }
    match (verb, resource) {
        (Verb::Read, Resource::Users | Resource::Roles) => face == Face::Rpc,
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
        may(&[role.to_owned()], Face::Rpc, verb, resource, own)
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
    fn users_and_roles_are_open_to_read_over_grpc_only() {
        for resource in [Resource::Users, Resource::Roles] {
            assert!(may(&[], Face::Rpc, Verb::Read, resource, false));
            assert!(!may(&["access".into()], Face::Web, Verb::Read, resource, false));
            assert!(may(&["admin".into()], Face::Web, Verb::Read, resource, false));
        }
    }
}
