//! Types and codes of events. A code never changes its meaning; I is information, W a warning.

macro_rules! event_types {
    ($($variant:ident $name:literal $code:literal $meaning:literal,)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $(#[doc = $meaning] $variant,)*
        }

        impl EventType {
            /// Every type, in the order of the reference page.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The `event_type` of the record. Several types may share it; the code tells them apart.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The `event_code` of the record.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What it means, for the reference page.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

event_types! {
    UserLogin "user.login" "T1000I" "a user logged in",
    UserLoginFailed "user.login.failed" "T1000W" "a login was refused",
    UserLogout "user.logout" "T1002I" "a session token was given back",
    UserCertIssued "user.cert.issued" "T1001I" "a user certificate was issued",
    UserCreated "user.created" "T1010I" "a user was made",
    UserUpdated "user.update" "T1011I" "a user was changed",
    UserDeleted "user.deleted" "T1012I" "a user was deleted",
    UserPasswordChanged "user.password.changed" "T1013I" "a password was set",
    UserMfaAdded "user.mfa.added" "T1014I" "a second factor was enrolled",
    UserMfaFailed "user.mfa.failed" "T1014W" "a code was refused when a second factor was to be changed",
    UserMfaRemoved "user.mfa.removed" "T1015I" "a second factor was removed",
    UserRecovered "user.recovered" "T1016I" "an administrator was restored on the hub's own machine",
    AuthzDenied "authz.denied" "T1020W" "a call to the API was refused",
    SessionStart "session.start" "T2000I" "an SSH session began",
    SessionJoin "session.join" "T2001I" "somebody joined a session",
    SessionLeave "session.leave" "T2003I" "somebody left a session that was joined",
    SessionEnd "session.end" "T2004I" "an SSH session ended",
    SessionRecordingUploaded "session.recording.uploaded" "T2005I" "a recording is complete and sealed",
    SessionRecordingDamaged "session.recording.damaged" "T2005W" "a recording has a gap, an edit or no end",
    SessionTerminated "session.terminated" "T2006I" "a session was ended by an administrator or a rule",
    SessionFileTransfer "session.file_transfer" "T2007I" "a session that copied files by scp, sftp or rsync ended",
    SessionPortForward "session.port_forward" "T2008I" "a connection was forwarded from a node",
    SessionMfaProven "session.mfa" "T2020I" "a second factor was proven to a node, or an earlier proof served again",
    NodeJoined "node.joined" "T3000I" "a node joined the cluster",
    NodeJoinFailed "node.join.failed" "T3000W" "a machine was refused to join",
    NodeLeft "node.left" "T3001I" "a node has had no tunnel for 90 s",
    NodeReplaced "node.replaced" "T3002I" "a node took the name of an offline one, whose identity is revoked",
    NodeUpdated "node.update" "T3003I" "a node was changed",
    NodeDeleted "node.deleted" "T3004I" "a node was deleted",
    HostCertIssued "host.cert.issued" "T3010I" "a host certificate was issued",
    AccessDenied "access.denied" "T4000W" "no rule allows the access, or one denies it",
    AccessDeniedSourceIp "access.denied" "T4001W" "the certificate is pinned to another address",
    AccessDeniedPortForwarding "access.denied.port_forwarding" "T4002W" "no role allows port forwarding",
    AccessDeniedMfa "access.denied" "T4003W" "a second factor is missing",
    AccessDeniedLocked "access.denied" "T4004W" "a lock stops the user, a role or the node",
    AccessDeniedCertificate "access.denied" "T4005W" "the certificate or the handshake was refused",
    RoleCreated "role.create" "T6000I" "a role was made",
    RoleUpdated "role.update" "T6001I" "a role was changed",
    RoleDeleted "role.delete" "T6002I" "a role was deleted",
    TokenCreated "token.create" "T6010I" "a join token was made",
    TokenDeleted "token.delete" "T6011I" "a join token was deleted",
    TokenUsed "token.used" "T6012I" "a join token was spent",
    LockCreated "lock.create" "T6020I" "a lock was set",
    LockDeleted "lock.delete" "T6021I" "a lock was lifted",
    ConfigSet "config.set" "T6030I" "a cluster setting was changed",
    AuthorityCreated "ca.created" "T7000I" "a certificate authority was made",
    AuditKeyChanged "audit.key.changed" "T8000I" "a new segment of the audit chain begins under another key",
    AuditExported "audit.exported" "T8001I" "the audit log, or a part of it, was exported",
    AuditRestored "audit.restored" "T8002W" "the database is older than a checkpoint kept beside it: a backup was restored",
}

/// Older names, and the sister form of each pair the documents mix (C24).
const ALIASES: [(&str, &[&str]); 20] = [
    ("user.create", &["user.created"]),
    ("user.updated", &["user.update"]),
    ("user.delete", &["user.deleted"]),
    ("user.user.cert.issued", &["user.cert.issued", "host.cert.issued"]),
    ("user.user.login", &["user.login"]),
    ("node.join", &["node.joined"]),
    ("node.leave", &["node.left"]),
    ("node.updated", &["node.update"]),
    ("node.delete", &["node.deleted"]),
    ("session.terminate", &["session.terminated"]),
    ("session.upload", &["session.recording.uploaded"]),
    ("role.created", &["role.create"]),
    ("role.updated", &["role.update"]),
    ("role.deleted", &["role.delete"]),
    ("token.created", &["token.create"]),
    ("token.deleted", &["token.delete"]),
    ("lock.created", &["lock.create"]),
    ("lock.deleted", &["lock.delete"]),
    ("config.update", &["config.set"]),
    ("ca.create", &["ca.created"]),
];

impl EventType {
    /// Whether the event tells of something that worked: the code ends in I.
    pub fn is_success(self) -> bool {
        self.code().ends_with('I')
    }

    /// The type with this code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

/// The stored type names that the filter `--type=NAME` means: the name itself, or the names it is an older form of.
/// An unknown name gives itself, as records of another release may have it.
pub fn types_matching(filter: &str) -> Vec<&str> {
    match ALIASES.iter().find(|(alias, _)| *alias == filter) {
        Some((_, names)) => names.to_vec(),
        None => vec![filter],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_well_formed() {
        let codes: BTreeSet<_> = EventType::ALL.iter().map(|kind| kind.code()).collect();
        let variants: BTreeSet<_> = EventType::ALL.iter().collect();
        assert_eq!((codes.len(), variants.len()), (EventType::ALL.len(), EventType::ALL.len()));
        for code in codes {
            let (digits, severity) = code.strip_prefix('T').unwrap().split_at(4);
            assert!(digits.bytes().all(|b| b.is_ascii_digit()) && matches!(severity, "I" | "W"), "{code}");
            assert_eq!(EventType::from_code(code).unwrap().code(), code);
        }
    }

    #[test]
    fn documented_codes_stand() {
        for (kind, name, code) in [
            (EventType::SessionStart, "session.start", "T2000I"),
            (EventType::AccessDeniedSourceIp, "access.denied", "T4001W"),
            (EventType::AccessDeniedPortForwarding, "access.denied.port_forwarding", "T4002W"),
            (EventType::UserLogin, "user.login", "T1000I"),
            (EventType::UserLoginFailed, "user.login.failed", "T1000W"),
        ] {
            assert_eq!((kind.name(), kind.code()), (name, code));
        }
    }

    #[test]
    fn aliases_lead_to_types_that_exist_and_hide_none() {
        let names: BTreeSet<_> = EventType::ALL.iter().map(|kind| kind.name()).collect();
        for (alias, meant) in ALIASES {
            assert!(!names.contains(alias), "{alias}");
            assert!(meant.iter().all(|name| names.contains(name)), "{alias}");
        }
        assert_eq!(types_matching("user.create"), ["user.created"]);
        assert_eq!(types_matching("access.denied"), ["access.denied"]);
        assert_eq!(types_matching("from.the.future"), ["from.the.future"]);
    }
}
