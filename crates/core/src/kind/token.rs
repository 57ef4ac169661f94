//! Join token: lets one machine enrol, once, before a moment. The secret is shown at creation and kept as a hash outside the
//! spec; the object's name is public.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Kind;
use crate::error::Invalid;
use crate::labels::{self, Labels};
use crate::{name, when};

/// Marker of the kind `token`.
#[derive(Clone, Copy, Debug)]
pub enum Token {}

/// What a machine may become with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinRole {
    /// An agent, the sshd of its node.
    Node,
    /// A proxy that runs apart from auth.
    Proxy,
}

impl JoinRole {
    /// The word used in commands and certificates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Proxy => "proxy",
        }
    }
}

/// What an administrator says about a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// What the machine may become; at least one.
    pub roles: Vec<JoinRole>,
    /// First moment at which the token is refused.
    #[serde(with = "when::text")]
    pub expires: OffsetDateTime,
    /// Labels that every node joining with this token gets, over those it claims.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl Kind for Token {
    const KIND: &'static str = "token";
    const PLURAL: &'static str = "tokens";
    const COLUMNS: &'static [&'static str] = &["roles", "expires_at"];
    type Spec = TokenSpec;

    fn validate(name: &str, spec: &TokenSpec) -> Result<(), Invalid> {
        name::object(name)?;
        labels::validate(&spec.labels)?;
        let mut roles = spec.roles.clone();
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() || roles.len() != spec.roles.len() {
            return Err(Invalid::new("roles", "must name node, proxy, or both, each once"));
        }
        Ok(())
    }

    fn columns(_: &str, spec: &TokenSpec) -> Vec<Value> {
        vec![json!(spec.roles), json!(when::seconds(spec.expires))]
    }
}
