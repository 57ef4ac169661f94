//! What is known about a session when its recording begins.

use serde::{Deserialize, Serialize};

/// Most bytes of metadata as JSON.
pub const MAX_METADATA: usize = 64 * 1024;

/// Describes a recording; `RecordingOpen.metadata` and `meta.json` hold it as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// UUID of the session.
    pub session_id: String,
    /// `shell`, `exec` or `subsystem`.
    pub kind: String,
    /// Cluster name.
    pub cluster: String,
    /// The user's name.
    pub user: String,
    /// The user's stable id.
    pub user_id: String,
    /// The node's id.
    pub node_id: String,
    /// The node's name.
    pub node_name: String,
    /// Login on the node.
    pub login: String,
    /// The command of an exec, or the subsystem's name; empty for a shell.
    pub command: String,
    /// The client's address as the proxy saw it.
    pub client_ip: String,
    /// When the session began, in milliseconds since 1970.
    pub started_unix_ms: i64,
    /// Columns of the terminal; 0 without one.
    pub width: u16,
    /// Rows of the terminal; 0 without one.
    pub height: u16,
    /// `TERM`; empty without a terminal.
    pub term: String,
}

/// Whether `id` is a UUID in lower-case text form, which is safe as a file name.
pub(crate) fn is_session_id(id: &str) -> bool {
    id.len() == 36
        && id.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_may_become_a_path() {
        assert!(is_session_id("0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64"));
        for bad in [
            "",
            "..",
            "../../../../../../../../../../etc/ab",
            "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a6",
            "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a644",
            "0B5F6C1E-9A3D-4A51-8D0E-2F1F0C9B7A64",
            "0b5f6c1e_9a3d-4a51-8d0e-2f1f0c9b7a64",
            "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a6\0",
            "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a/4",
        ] {
            assert!(!is_session_id(bad), "{bad:?}");
        }
    }
}
