//! What an agent is told, by its environment (F020..F024, F082, F367..F371).

use std::path::PathBuf;

use mezite_core::labels::{self, Labels};
use mezite_core::name;
use mezite_net::dial::split_address;
use mezite_net::tls::Pin;

/// Default port of Auth.
const AUTH_PORT: u16 = 3025;
/// Default port of the tunnels.
const TUNNEL_PORT: u16 = 3024;
/// Where an agent keeps its state unless told otherwise.
const DATA_DIR: &str = "/var/lib/mezite";

/// How sessions are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordingMode {
    /// To a spool on this node; uploaded after the session.
    #[default]
    Node,
    /// Streamed to Auth while it happens; a broken stream ends the session.
    NodeSync,
}

impl RecordingMode {
    /// The documented word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::NodeSync => "node-sync",
        }
    }
}

/// A secret that is not shown.
#[derive(Clone, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Auth, `host:port`.
    pub auth_addr: String,
    /// Where to dial the tunnel, `host:port`.
    pub proxy_addr: String,
    /// Used once, for the first registration.
    pub join_token: Secret,
    /// The node's name.
    pub node_name: String,
    /// The node's labels.
    pub labels: Labels,
    /// How sessions are recorded.
    pub recording_mode: RecordingMode,
    /// Identity and spool.
    pub data_dir: PathBuf,
    /// The Host CA expected at the first registration.
    pub ca_pin: Option<Pin>,
    /// Put the tunnel into one more TLS, for load balancers that end TLS.
    pub tls_wrap: bool,
    /// More roots for the outer TLS of `tls_wrap`, PEM.
    pub outer_roots_pem: Option<String>,
}

/// A variable that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

impl AgentConfig {
    /// Reads the variables through `get`; `hostname` is the name used when none is given.
    ///
    /// # Errors
    /// The first variable that is missing or cannot be used.
    pub fn from_env(get: &dyn Fn(&str) -> Option<String>, hostname: &str) -> Result<Self, ConfigError> {
        let fail = |variable, problem: String| ConfigError { variable, problem };
        let given = |variable: &'static str| get(variable).filter(|value| !value.is_empty());
        let address = |variable, port| {
            let value = given(variable).ok_or_else(|| fail(variable, format!("is not set; give it as host:{port}")))?;
            with_port(&value, port).ok_or_else(|| fail(variable, format!("{value:?} is not host:port")))
        };
        let flag = |variable| match given(variable).as_deref() {
            None | Some("false" | "0" | "no") => Ok(false),
            Some("true" | "1" | "yes") => Ok(true),
            Some(other) => Err(fail(variable, format!("{other:?} is neither true nor false"))),
        };
        let node_name = given("MEZITE_NODE_NAME").unwrap_or_else(|| hostname.to_ascii_lowercase());
        name::node(&node_name).map_err(|e| fail("MEZITE_NODE_NAME", format!("{node_name:?} {}", e.message)))?;
        let labels = labels::parse(&given("MEZITE_NODE_LABELS").unwrap_or_default())
            .map_err(|e| fail("MEZITE_NODE_LABELS", e.message))?;
        let recording_mode = match given("MEZITE_RECORDING_MODE").as_deref() {
            None | Some("node") => RecordingMode::Node,
            Some("node-sync") => RecordingMode::NodeSync,
            Some(other) => {
                return Err(fail("MEZITE_RECORDING_MODE", format!("{other:?} is unknown; use node or node-sync")));
            }
        };
        let ca_pin = given("MEZITE_CA_PIN").map(|pin| pin.parse::<Pin>()).transpose();
        if flag("MEZITE_BPF_ENABLED")? {
            return Err(fail("MEZITE_BPF_ENABLED", "command capture is not part of this release; unset it".to_owned()));
        }
        let outer_roots_pem = match given("MEZITE_CA_FILE") {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(&path)
                    .map_err(|e| fail("MEZITE_CA_FILE", format!("{path} cannot be read: {e}")))?,
            ),
        };
        Ok(Self {
            auth_addr: address("MEZITE_AUTH_ADDR", AUTH_PORT)?,
            proxy_addr: address("MEZITE_PROXY_ADDR", TUNNEL_PORT)?,
            join_token: Secret(given("MEZITE_JOIN_TOKEN").unwrap_or_default()),
            node_name,
            labels,
            recording_mode,
            data_dir: given("MEZITE_DATA_DIR").unwrap_or_else(|| DATA_DIR.to_owned()).into(),
            ca_pin: ca_pin.map_err(|e| fail("MEZITE_CA_PIN", e.to_string()))?,
            tls_wrap: flag("MEZITE_TLS_WRAP")?,
            outer_roots_pem,
        })
    }
}

fn with_port(value: &str, port: u16) -> Option<String> {
    let bare = !value.contains(':') || value.ends_with(']');
    let full = if bare { format!("{value}:{port}") } else { value.to_owned() };
    split_address(&full).is_ok().then_some(full)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<AgentConfig, ConfigError> {
        let mut env: HashMap<_, _> =
            [("MEZITE_AUTH_ADDR", "hub"), ("MEZITE_PROXY_ADDR", "hub:13024")].into_iter().collect();
        env.extend(pairs.iter().copied());
        AgentConfig::from_env(&|name| env.get(name).map(|v| (*v).to_owned()), "Web-1")
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = read(&[]).unwrap();
        assert_eq!((config.auth_addr.as_str(), config.proxy_addr.as_str()), ("hub:3025", "hub:13024"));
        assert_eq!(config.node_name, "web-1");
        assert_eq!(config.recording_mode, RecordingMode::Node);
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/mezite"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (variable, value) in [
            ("MEZITE_AUTH_ADDR", ""),
            ("MEZITE_PROXY_ADDR", "hub:port"),
            ("MEZITE_NODE_NAME", "a b"),
            ("MEZITE_NODE_LABELS", "env=a,env=b"),
            ("MEZITE_RECORDING_MODE", "sync"),
            ("MEZITE_TLS_WRAP", "maybe"),
            ("MEZITE_CA_PIN", "sha256:12"),
            ("MEZITE_BPF_ENABLED", "true"),
        ] {
            assert_eq!(read(&[(variable, value)]).unwrap_err().variable, variable);
        }
    }

    #[test]
    fn the_join_token_is_not_shown() {
        let config = read(&[("MEZITE_JOIN_TOKEN", "s3cret")]).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
