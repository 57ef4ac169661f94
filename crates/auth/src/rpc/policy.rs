//! Who may call what. The one table; a call without a row is refused.

use crate::caller::Who;

/// Who may call an RPC. What a user may do to which object is decided in the handler, by `core::rbac::may`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Anybody, without a credential; the credential is in the request.
    Anybody,
    /// Any logged-in user.
    User,
    /// A user with the role `admin`.
    Admin,
    /// A user with the role `admin` or `auditor`.
    Auditor,
    /// An agent.
    Agent,
    /// A proxy, for itself.
    Proxy,
    /// An agent or a proxy.
    Machine,
}

/// Every RPC of the service `mezite.v1.Auth`.
pub(crate) const POLICY: &[(&str, Allowed)] = &[
    ("Ping", Allowed::Anybody),
    ("AuthenticateLocal", Allowed::Anybody),
    ("RedeemInvite", Allowed::Anybody),
    ("Logout", Allowed::User),
    ("WhoAmI", Allowed::User),
    ("IssueUserCerts", Allowed::User),
    ("ChangePassword", Allowed::User),
    ("BeginMfa", Allowed::User),
    ("FinishMfa", Allowed::User),
    ("ListMfa", Allowed::User),
    ("RemoveMfa", Allowed::User),
    ("ProveSessionMfa", Allowed::Agent),
    // A join token inside, or the certificate that is to be renewed.
    ("GenerateHostCerts", Allowed::Anybody),
    ("RegisterAgent", Allowed::Agent),
    ("AgentHeartbeat", Allowed::Agent),
    ("Watch", Allowed::Machine),
    ("ConfirmRevision", Allowed::Machine),
    ("ReportPresence", Allowed::Proxy),
    ("StartSession", Allowed::Agent),
    ("EndSession", Allowed::Agent),
    ("EmitAuditEvents", Allowed::Machine),
    ("UploadRecording", Allowed::Agent),
    ("GetObject", Allowed::User),
    ("ListObjects", Allowed::User),
    ("PutObject", Allowed::User),
    ("DeleteObject", Allowed::User),
    ("AwaitRevision", Allowed::Admin),
    ("CreateUser", Allowed::Admin),
    ("ResetPassword", Allowed::Admin),
    ("ResetMfa", Allowed::Admin),
    ("CreateToken", Allowed::Admin),
    ("ListSessions", Allowed::User),
    ("TerminateSession", Allowed::Admin),
    ("ListRecordings", Allowed::User),
    ("DownloadRecording", Allowed::User),
    ("VerifyRecording", Allowed::Auditor),
    ("ListAudit", Allowed::Auditor),
    ("VerifyAudit", Allowed::Auditor),
    ("ExportAudit", Allowed::Auditor),
    ("ExplainAccess", Allowed::Auditor),
    ("WhoCan", Allowed::Auditor),
    ("PreviewRole", Allowed::Admin),
    ("CaStatus", Allowed::User),
    ("CaExport", Allowed::User),
];

const SERVICE: &str = "/mezite.v1.Auth/";

/// The row of a path such as `/mezite.v1.Auth/Ping`.
pub(crate) fn row(path: &str) -> Option<(&'static str, Allowed)> {
    let rpc = path.strip_prefix(SERVICE)?;
    POLICY.iter().find(|(name, _)| *name == rpc).copied()
}

impl Allowed {
    /// Whether this caller may make the call.
    pub(crate) fn admits(self, who: &Who) -> bool {
        match (self, who) {
            (Self::Anybody, _) | (Self::User, Who::User(_)) | (Self::Agent, Who::Agent(_)) => true,
            (Self::Proxy, Who::Proxy(_)) | (Self::Machine, Who::Agent(_) | Who::Proxy(_)) => true,
            (Self::Admin, Who::User(user)) => user.is_admin(),
            (Self::Auditor, Who::User(user)) => user.is_admin() || user.is_auditor(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_one_row_and_every_row_an_rpc() {
        let rpcs: Vec<&str> = mezite_proto::RPCS.iter().filter_map(|path| path.strip_prefix(SERVICE)).collect();
        assert!(rpcs.len() > 25);
        let mut rows: Vec<&str> = POLICY.iter().map(|(name, _)| *name).collect();
        rows.sort_unstable();
        assert!(rows.windows(2).all(|pair| pair[0] != pair[1]), "a row is there twice");
        for rpc in &rpcs {
            assert!(rows.contains(rpc), "{rpc} has no row");
        }
        assert_eq!(rpcs.len(), rows.len());
        assert_eq!(row("/mezite.v1.Auth/Nothing"), None);
        assert_eq!(row("/mezite.v1.Tunnel/Ping"), None);
        assert_eq!(row("Ping"), None);
    }
}
