//! Node: a machine that can be reached. The name of the object is the host name; heartbeat and tunnel are kept beside the
//! spec by the machines that know them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Kind, MAX_TEXT, free_text};
use crate::error::Invalid;
use crate::labels::{self, Labels};
use crate::name;

/// Marker of the kind `node`.
#[derive(Clone, Copy, Debug)]
pub enum Node {}

/// How a node is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// An agent holds a tunnel and is the sshd.
    #[default]
    Node,
    /// The proxy dials the node's own sshd.
    OpenSsh,
}

impl NodeKind {
    /// The word in the column TYPE of `nodes ls` and ROLE of `msh ls` (F028, F032).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::OpenSsh => "openssh",
        }
    }
}

/// What is known about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Stable id, a UUID; survives a rename.
    pub node_id: String,
    /// Name people use; equals the name of the object.
    pub hostname: String,
    /// How the node is reached.
    #[serde(default)]
    pub kind: NodeKind,
    /// Address, empty for a node behind a tunnel.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// Labels that roles select by.
    #[serde(default)]
    pub labels: Labels,
    /// Labels of the join token; the agent cannot take them away or change them.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub token_labels: Labels,
    /// Labels the agent claims, as its own word: they count once, when it registers for the first time ([`NodeSpec::claim`]).
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub claimed_labels: Labels,
    /// Version the agent reported.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

impl NodeSpec {
    /// The node when its agent registers and claims these labels.
    ///
    /// The first registration follows from a join that an administrator's token admitted: what it claims is added to the labels
    /// that are there, and changes none of them. Every later claim is kept to be shown, and changes nothing: an agent that could
    /// change its labels could gain users, or lose a deny rule.
    #[must_use]
    pub fn claim(&self, version: &str, claimed: Labels) -> Self {
        let mut labels = self.labels.clone();
        // Every registration names a version, so one without has never been.
        if self.version.is_empty() {
            for (key, value) in &claimed {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Self { labels, claimed_labels: claimed, version: version.to_owned(), ..self.clone() }
    }
}

impl Kind for Node {
    const KIND: &'static str = "node";
    const PLURAL: &'static str = "nodes";
    const COLUMNS: &'static [&'static str] = &["hostname", "addr", "labels"];
    type Spec = NodeSpec;

    fn validate(name: &str, spec: &NodeSpec) -> Result<(), Invalid> {
        name::node(name)?;
        if spec.hostname != name {
            return Err(Invalid::new("hostname", "must be the name of the node"));
        }
        if !name::is_uuid(&spec.node_id) {
            return Err(Invalid::new("node_id", "must be a lower-case UUID"));
        }
        if spec.addr.len() > MAX_TEXT || !spec.addr.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Invalid::new("addr", "must be host:port"));
        }
        free_text("version", &spec.version)?;
        [&spec.labels, &spec.token_labels, &spec.claimed_labels].into_iter().try_for_each(labels::validate)
    }

    fn columns(name: &str, spec: &NodeSpec) -> Vec<Value> {
        vec![json!(name), json!(spec.addr), json!(spec.labels)]
    }
}
