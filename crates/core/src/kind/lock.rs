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
    /// A node, by name or id.
    Agent,
    /// The identity of a machine, by name.
    AgentIdentity,
}

impl TargetType {
    /// The word used in commands and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Role => "role",
            Self::Agent => "agent",
            Self::AgentIdentity => "agent_identity",
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
            TargetType::Agent if name::is_uuid(&spec.target) => Ok(()),
            TargetType::Agent => name::node(&spec.target),
            TargetType::AgentIdentity => name::object(&spec.target),
        };
        target.map_err(|e| Invalid::new("target", e.message))?;
        free_text("message", &spec.message)
    }

    fn columns(_: &str, spec: &LockSpec) -> Vec<Value> {
        vec![json!(spec.target_type), json!(spec.target), json!(spec.expires.map(when::seconds))]
    }
}
