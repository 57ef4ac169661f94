//! What a decision says: a permit, or the reasons of a refusal.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::forward::Forwarding;
use super::moderation::Requirement;
use crate::audit::EventType;
use crate::error::Fault;
use crate::kind::role::{JoinMode, RecordExec};
use crate::lock::Lock;

/// Proof that [`super::check`] allowed an access. What needs the check takes this as an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub(super) user: String,
    pub(super) node_id: String,
    pub(super) login: Option<String>,
    pub(super) roles: Vec<String>,
    pub(super) max_session_ttl: Duration,
    pub(super) client_idle_timeout: Option<Duration>,
    pub(super) max_sessions: Option<u32>,
    pub(super) max_connections: Option<u32>,
    pub(super) forwarding: Forwarding,
    pub(super) file_copy: bool,
    pub(super) agent_forwarding: bool,
    pub(super) recording: Recording,
    pub(super) moderation: Arc<[Requirement]>,
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Whether the session is recorded.
    pub on: bool,
    /// Whether a session that cannot be recorded must not run.
    pub strict: bool,
    /// How much output of commands without a terminal.
    pub exec: RecordExec,
    /// Whether input is recorded as well.
    pub input: bool,
}

impl Permit {
    /// User name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Id of the node.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// OS login; `None` when the question left it open, and then no session may start on this permit.
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The roles that grant the access.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// Longest session.
    pub fn max_session_ttl(&self) -> Duration {
        self.max_session_ttl
    }

    /// Longest idle time of a connection.
    pub fn client_idle_timeout(&self) -> Option<Duration> {
        self.client_idle_timeout
    }

    /// Most sessions of the user, on all nodes.
    pub fn max_sessions(&self) -> Option<u32> {
        self.max_sessions
    }

    /// Most connections of the user.
    pub fn max_connections(&self) -> Option<u32> {
        self.max_connections
    }

    /// Whether anything may be forwarded.
    pub fn port_forwarding(&self) -> bool {
        self.forwarding.any()
    }

    /// What may be forwarded.
    pub fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    /// Whether SCP and SFTP may run.
    pub fn file_copy(&self) -> bool {
        self.file_copy
    }

    /// Whether the key agent may be forwarded.
    pub fn agent_forwarding(&self) -> bool {
        self.agent_forwarding
    }

    /// What must be recorded.
    pub fn recording(&self) -> Recording {
        self.recording
    }

    /// Who must be present in each session, of every role that matches the node; empty: nobody.
    pub fn moderation(&self) -> &Arc<[Requirement]> {
        &self.moderation
    }

    /// The same permit under a proxy's grant, which can take port forwarding away and never add it.
    #[must_use]
    pub fn narrowed(mut self, port_forwarding: bool) -> Self {
        if !port_forwarding {
            self.forwarding = Forwarding::default();
        }
        self
    }
}

/// A refusal. Displays as one line for the user; serializes as the list of reasons for the audit record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Denied {
    pub(super) reasons: Vec<Reason>,
}

/// One reason of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// A lock stops the user, one of the roles, or the node.
    Locked {
        /// Name of the lock.
        lock: String,
        /// Its message.
        message: String,
    },
    /// The user holds no role.
    NoRoles,
    /// A role of the user is not defined, or cannot be read.
    RoleMissing {
        /// Its name.
        role: String,
    },
    /// The user has as many connections as the roles allow.
    TooManyConnections {
        /// The most.
        most: u32,
    },
    /// The user has as many sessions as the roles allow.
    TooManySessions {
        /// The most.
        most: u32,
    },
    /// A deny rule of the role matches the node.
    DeniedNode {
        /// Name of the role.
        role: String,
    },
    /// A deny rule of the role names the login.
    DeniedLogin {
        /// Name of the role.
        role: String,
    },
    /// A deny rule of the role cannot be evaluated.
    DenyFailed {
        /// Name of the role.
        role: String,
        /// What is wrong with it.
        error: String,
    },
    /// The role asks for a second factor that was not proven.
    FactorNeeded {
        /// Name of the role.
        role: String,
        /// The factor.
        factor: Factor,
        /// How long an earlier proof from the same source may serve.
        #[serde(skip)]
        reuse: Duration,
    },
    /// The role asks for something this release cannot do.
    Unsupported {
        /// Name of the role.
        role: String,
        /// What it asks for.
        demand: Demand,
    },
    /// The role asks for a certificate pinned to the client's address, and this one is not: it is older than the rule.
    NotPinned {
        /// Name of the role.
        role: String,
    },
    /// An entry of the role's `require_session_join` cannot be evaluated.
    ModerationFailed {
        /// Name of the role.
        role: String,
        /// What is wrong with it.
        error: String,
    },
    /// No role allows joining the session, and none of its requirements asks for the user.
    JoinNotAllowed {
        /// How it was to be joined.
        mode: JoinMode,
    },
    /// A deny rule of the role keeps its holders out of the session.
    DeniedJoin {
        /// Name of the role.
        role: String,
    },
    /// No role allows the node.
    NodeNotAllowed,
    /// Roles allow the node, none of them with this login.
    LoginNotAllowed {
        /// The login.
        login: String,
    },
    /// Roles allow the node, but no login remains.
    NoLogin,
    /// The roles give more logins than a certificate can name.
    TooManyLogins,
    /// The user was deleted; one made anew under the name is somebody else.
    UserGone,
    /// The user does not hold a role of the certificate any more.
    RoleWithdrawn {
        /// Name of the role.
        role: String,
    },
    /// The user's password was changed after the certificate was issued.
    PasswordChanged,
    /// A role of the certificate was given to the user for a time, which is over.
    RoleExpired {
        /// Name of the role.
        role: String,
    },
    /// The user does not have a value of a trait of the certificate any more.
    TraitWithdrawn {
        /// Name of the trait.
        name: String,
    },
    /// The certificate was issued before the login was granted.
    NotInCertificate {
        /// The login.
        login: String,
    },
}

impl Reason {
    fn is_about_a_factor(&self) -> bool {
        matches!(
            self,
            Self::FactorNeeded { .. } | Self::Unsupported { demand: Demand::Webauthn | Demand::HardwareKey, .. }
        )
    }
}

/// A second factor that a session may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Factor {
    /// A code of an authenticator app.
    Totp,
}

impl Factor {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "a code of an authenticator app",
        }
    }
}

/// What [`Denied::needs`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// The factor.
    pub factor: Factor,
    /// How long an earlier proof of the same user from the same source may serve; zero: not at all.
    pub reuse: Duration,
}

/// What is known of a second factor, for this user, this node, this login, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    #[default]
    Nothing,
    /// Nothing so far, and the node asks before it lets anybody in. For an early answer only, never for the last word.
    AskedLater,
    /// This factor was proven.
    Proven(Factor),
}

impl Proof {
    pub(super) fn satisfies(self, wanted: Factor) -> bool {
        match self {
            Self::Nothing => false,
            Self::AskedLater => true,
            Self::Proven(factor) => factor == wanted,
        }
    }
}

/// What a role may ask for beyond roles and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// `require_session_mfa: webauthn`
    Webauthn,
    /// `require_session_mfa: hardware_key`
    HardwareKey,
    /// `device_trust_mode: required`
    Device,
}

impl Demand {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Webauthn => "a security key for each session, which this release cannot do",
            // The documented message.
            Self::HardwareKey => {
                "a hardware key: no hardware key implementation available; real PIV support not yet built"
            }
            Self::Device => "an enrolled device, which this release cannot do",
        }
    }
}

impl Denied {
    /// The refusal of a connection that the permit allows and that is one too many.
    pub fn too_many_connections(most: u32) -> Self {
        Self { reasons: vec![Reason::TooManyConnections { most }] }
    }

    /// The refusal of a session that the permit allows and that is one too many.
    pub fn too_many_sessions(most: u32) -> Self {
        Self { reasons: vec![Reason::TooManySessions { most }] }
    }

    /// The refusal by a lock.
    pub fn locked(lock: &Lock) -> Self {
        Self { reasons: vec![Reason::Locked { lock: lock.name.clone(), message: lock.message().to_owned() }] }
    }

    /// All reasons, at least one.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// What is to be proven, when nothing else stands in the way: ask for it, and ask [`super::check`] again with the proof.
    pub fn needs(&self) -> Option<Needed> {
        let needed = self.reasons.iter().map(|reason| match *reason {
            Reason::FactorNeeded { factor, reuse, .. } => Some(Needed { factor, reuse }),
            _ => None,
        });
        let needed: Vec<Needed> = needed.collect::<Option<_>>()?;
        needed.into_iter().min_by_key(|needed| needed.reuse)
    }

    /// Whether the node is none of the user's business: no role shows it, or one hides it. Such a node is answered like one that
    /// does not exist. A lock is said all the same, since it stops the user everywhere.
    pub fn hides_node(&self) -> bool {
        let any = |wanted: fn(&Reason) -> bool| self.reasons.iter().any(wanted);
        any(|r| matches!(r, Reason::DeniedNode { .. } | Reason::NodeNotAllowed))
            && !any(|r| matches!(r, Reason::Locked { .. }))
    }

    /// The audit event of this refusal: a lock counts most, then a missing second factor or a pinned address.
    pub fn event_type(&self) -> EventType {
        let any = |wanted: fn(&Reason) -> bool| self.reasons.iter().any(wanted);
        if any(|r| matches!(r, Reason::Locked { .. })) {
            EventType::AccessDeniedLocked
        } else if any(Reason::is_about_a_factor) {
            EventType::AccessDeniedMfa
        } else if any(|r| matches!(r, Reason::NotPinned { .. })) {
            EventType::AccessDeniedSourceIp
        } else {
            EventType::AccessDenied
        }
    }
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied.to_string())
    }
}

impl std::error::Error for Denied {}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("access denied")?;
        for (i, reason) in self.reasons.iter().enumerate() {
            write!(f, "{} {reason}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { lock, message } if message.is_empty() => write!(f, "locked ({lock})"),
            Self::Locked { lock, message } => write!(f, "locked ({lock}): {message}"),
            Self::NoRoles => f.write_str("the user has no role"),
            Self::RoleMissing { role } => write!(f, "role {role} is not defined or cannot be read"),
            Self::TooManyConnections { most } => write!(
                f,
                "your roles allow {most} connection{} at a time; close one first",
                if *most == 1 { "" } else { "s" }
            ),
            Self::TooManySessions { most } => write!(
                f,
                "your roles allow {most} session{} at a time; end one first",
                if *most == 1 { "" } else { "s" }
            ),
            Self::DeniedNode { role } => write!(f, "role {role} denies this node"),
            Self::DeniedLogin { role } => write!(f, "role {role} denies this login"),
            Self::DenyFailed { role, error } => write!(f, "a deny rule of role {role} cannot be evaluated ({error})"),
            Self::Unsupported { role, demand } => {
                write!(f, "role {role} requires {}", demand.as_str())
            }
            Self::FactorNeeded { role, factor, .. } => {
                write!(f, "role {role} requires {} for each session", factor.as_str())
            }
            Self::NotPinned { role } => {
                write!(f, "role {role} requires a certificate pinned to your address; run msh login")
            }
            Self::ModerationFailed { role, error } => {
                write!(f, "who must join the sessions of role {role} cannot be evaluated ({error})")
            }
            Self::JoinNotAllowed { mode } => write!(f, "no role allows joining this session as {}", mode.as_str()),
            Self::DeniedJoin { role } => write!(f, "role {role} denies joining this session"),
            Self::NodeNotAllowed => f.write_str("no role allows this node"),
            Self::LoginNotAllowed { login } => write!(f, "no role allows the login {login} on this node"),
            Self::NoLogin => f.write_str("no role allows any login on this node"),
            Self::TooManyLogins => f.write_str("the roles give more logins than a certificate can name"),
            Self::UserGone => f.write_str("the user of the certificate does not exist any more"),
            Self::RoleWithdrawn { role } => {
                write!(f, "the user does not hold role {role} of the certificate any more; run msh login")
            }
            Self::PasswordChanged => {
                f.write_str("the password was changed after the certificate was issued; run msh login")
            }
            Self::RoleExpired { role } => write!(f, "the user held role {role} until now, and that time is over"),
            Self::TraitWithdrawn { name } => {
                write!(f, "the user does not have all {name} of the certificate any more; run msh login")
            }
            Self::NotInCertificate { login } => {
                write!(f, "the certificate does not name the login {login}; run msh login")
            }
        }
    }
}

/// The whole evaluation: what each rule said, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// What each rule said, in the order in which it was asked.
    pub findings: Vec<Finding<'a>>,
    /// The answer, the same as [`super::check`] gives.
    pub answer: Result<Permit, Denied>,
}

/// What one rule said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding<'a> {
    /// Name of the role.
    pub role: &'a str,
    /// Which rule of the role.
    pub rule: Rule,
    /// What it said.
    pub outcome: Outcome,
}

/// A rule of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Rule {
    /// The role's definition.
    #[serde(rename = "definition")]
    Definition,
    /// `deny.node_labels`
    #[serde(rename = "deny.node_labels")]
    DenyNodeLabels,
    /// `deny.logins`
    #[serde(rename = "deny.logins")]
    DenyLogins,
    /// `allow.node_labels`
    #[serde(rename = "allow.node_labels")]
    AllowNodeLabels,
    /// `allow.logins`
    #[serde(rename = "allow.logins")]
    AllowLogins,
}

impl Rule {
    /// The rule as documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Definition => "definition",
            Self::DenyNodeLabels => "deny.node_labels",
            Self::DenyLogins => "deny.logins",
            Self::AllowNodeLabels => "allow.node_labels",
            Self::AllowLogins => "allow.logins",
        }
    }
}

/// What a rule said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It matches.
    Match,
    /// It does not match.
    NoMatch,
    /// It cannot be evaluated, or is missing.
    Error(String),
}
