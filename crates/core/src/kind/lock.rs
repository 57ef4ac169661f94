//! Lock: the kill switch for an identity (F287..F296). The decision is in [`crate::lock`].

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Kind, free_text};
use crate::error::Invalid;
use crate::{name, when};

/// Marker of the kind `lock`.
#[derive(Clone, Copy, Debug)]
pub enum Lock {}

/// What a lock stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetType {
    /// A user, by name.
    User,
    /// Everyone who holds a role.
    Role,
    /// A machine, by the name or id of its node: it gets no certificate, holds no tunnel, and nobody is let in.
    Agent,
    /// The identity of a machine, by name; that of a node's agent has the name of the node.
    AgentIdentity,
    /// A node, by name or id: nobody is let in, and its agent stays connected.
    Node,
    /// An OS login, on every node.
    Login,
    /// A second factor, as `USER/NAME`: no code of it is taken.
    MfaDevice,
}

impl TargetType {
    /// Every type, in the order in which they are listed.
    pub const ALL: [Self; 7] =
        [Self::User, Self::Role, Self::Agent, Self::AgentIdentity, Self::Node, Self::Login, Self::MfaDevice];

    /// The type of this word.
    ///
    /// # Errors
    /// [`Invalid`] that lists the words.
    pub fn parse(word: &str) -> Result<Self, Invalid> {
        let words = || Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| Invalid::new("target_type", format!("{word:?} is not one of {}", words())))
    }

    /// The word used in commands and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Role => "role",
            Self::Agent => "agent",
            Self::AgentIdentity => "agent_identity",
            Self::Node => "node",
            Self::Login => "login",
            Self::MfaDevice => "mfa_device",
        }
    }
}

/// What an administrator says about a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSpec {
    /// What kind of thing is locked.
    pub target_type: TargetType,
    /// Which one.
    pub target: String,
    /// Shown to whoever is stopped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// First moment at which the lock has no effect; none: until it is deleted.
    #[serde(default, with = "when::option", skip_serializing_if = "Option::is_none")]
    pub expires: Option<OffsetDateTime>,
}

impl Kind for Lock {
    const KIND: &'static str = "lock";
    const PLURAL: &'static str = "locks";
    const COLUMNS: &'static [&'static str] = &["target_type", "target", "expires_at"];
    type Spec = LockSpec;

    fn validate(name: &str, spec: &LockSpec) -> Result<(), Invalid> {
        name::object(name)?;
        let target = match spec.target_type {
            TargetType::User => name::user(&spec.target),
            TargetType::Role => name::role(&spec.target),
            TargetType::Agent | TargetType::AgentIdentity | TargetType::Node if name::is_uuid(&spec.target) => Ok(()),
            TargetType::Agent | TargetType::Node => name::node(&spec.target),
            TargetType::AgentIdentity => name::object(&spec.target),
            TargetType::Login => name::login(&spec.target),
            TargetType::MfaDevice => mfa_device(&spec.target),
        };
        target.map_err(|e| Invalid::new("target", e.message))?;
        free_text("message", &spec.message)
    }

    fn columns(_: &str, spec: &LockSpec) -> Vec<Value> {
        vec![json!(spec.target_type), json!(spec.target), json!(spec.expires.map(when::seconds))]
    }
}

/// `USER/NAME`: what users call their factors is no name of the cluster.
fn mfa_device(target: &str) -> Result<(), Invalid> {
    let (user, device) =
        target.split_once('/').ok_or_else(|| Invalid::new("target", "must be of the form USER/NAME of the factor"))?;
    name::user(user)?;
    name::object(device)
}
