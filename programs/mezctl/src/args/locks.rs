//! Command line of `locks`.

use clap::{ArgGroup, Args, Subcommand};
use mezite_core::kind::lock::TargetType;

use super::Ttl;

#[derive(Debug, Subcommand)]
pub(crate) enum Locks {
    Create(CreateLock),
    /// List locks that are in force
    #[command(visible_alias = "ls")]
    List,
    /// Remove the locks of a target
    #[command(visible_alias = "rm")]
    Delete(DeleteLock),
}

/// Lock a target: its sessions end, nothing new of it is let in, and it gets no certificate.
///
/// The answer comes when every agent and proxy that can be reached has the lock in force, or after 5 s with the names of
/// those that have not.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(
    ["user", "role", "agent", "agent_identity", "node", "login", "mfa_device", "kind"]
))]
pub(crate) struct CreateLock {
    #[command(flatten)]
    pub(crate) target: LockTarget,
    /// Type of the target: user, role, agent, agent_identity, node, login or mfa_device
    #[arg(long = "type", value_name = "TYPE", requires = "name")]
    pub(crate) kind: Option<String>,
    /// Name of the target, with --type
    #[arg(long, requires = "kind")]
    pub(crate) name: Option<String>,
    /// Why; shown to the locked
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) message: String,
    /// How long; without it, until it is deleted
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
}

/// What a lock stops.
#[derive(Debug, Args)]
pub(crate) struct LockTarget {
    /// This user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Every holder of this role
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// The machine of this node: no certificate, no tunnel, and nobody gets in
    #[arg(long, value_name = "NODE")]
    agent: Option<String>,
    /// This machine identity; that of a node has the node's name
    #[arg(long, value_name = "NAME")]
    agent_identity: Option<String>,
    /// This node: nobody gets in, and its agent stays connected
    #[arg(long)]
    node: Option<String>,
    /// This OS login, on every node
    #[arg(long)]
    login: Option<String>,
    /// This second factor of a user: no code of it is taken
    #[arg(long, value_name = "USER/NAME")]
    mfa_device: Option<String>,
}

impl LockTarget {
    /// The target, if a flag names one. The groups of the commands see to it that it is the only one.
    pub(crate) fn named(self) -> Option<(TargetType, String)> {
        use TargetType as T;
        let Self { user, role, agent, agent_identity, node, login, mfa_device } = self;
        let flags = [
            (T::User, user),
            (T::Role, role),
            (T::Agent, agent),
            (T::AgentIdentity, agent_identity),
            (T::Node, node),
            (T::Login, login),
            (T::MfaDevice, mfa_device),
        ];
        flags.into_iter().find_map(|(kind, name)| Some((kind, name?)))
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(
    ["lock", "user", "role", "agent", "agent_identity", "node", "login", "mfa_device", "target_type"]
))]
pub(crate) struct DeleteLock {
    /// Name of the lock
    pub(crate) lock: Option<String>,
    #[command(flatten)]
    pub(crate) target: LockTarget,
    /// Type of the target: user, role, agent, agent_identity, node, login or mfa_device
    #[arg(long, requires = "target_name")]
    pub(crate) target_type: Option<String>,
    /// Name of the target
    #[arg(long, requires = "target_type")]
    pub(crate) target_name: Option<String>,
}
