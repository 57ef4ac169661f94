//! The configuration of `mezhub`: defaults, then the file, then `MEZITE_*` (spec 1.19).
//!
//! One struct per section. Every key of the file is also a variable: `MEZITE_` and the path in upper case with `_`; a few have
//! documented names of their own. A secret may be given as a file everywhere.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mezite_core::Invalid;
use mezite_core::decode::decode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A secret; shown nowhere.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Secret {
    /// The secret itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// The whole configuration.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of the cluster; part of certificates and host names, so choose it for good.
    pub(crate) cluster_name: String,
    /// CA key file, tls/, recordings/ and mezhub.db.
    #[serde(default = "data_dir")]
    pub(crate) data_dir: PathBuf,
    /// Logging.
    #[serde(default)]
    pub(crate) log: Log,
    /// Seals the CA keys (Argon2id, AES-256-GCM). Without one a key file is made in data_dir.
    pub(crate) ca_key_passphrase: Option<Secret>,
    /// A file that holds it.
    pub(crate) ca_key_passphrase_file: Option<PathBuf>,
    /// Where the state is.
    #[serde(default)]
    pub(crate) database: Database,
    /// The Auth service.
    #[serde(default)]
    pub(crate) auth: Auth,
    /// The Proxy service.
    #[serde(default)]
    pub(crate) proxy: Proxy,
    /// The SSH service.
    #[serde(default)]
    pub(crate) ssh: Ssh,
    /// Where recordings are.
    #[serde(default)]
    pub(crate) recordings: Recordings,
    /// The audit log.
    #[serde(default)]
    pub(crate) audit: Audit,
    /// /livez, /readyz and /metrics.
    #[serde(default)]
    pub(crate) diag: Diag,
}

/// Logging, to standard error.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// debug, info, warn or error.
    pub(crate) level: Level,
    /// json or text.
    pub(crate) format: Format,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Everything.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
}

impl Level {
    /// The word of the configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// How it is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// Lines for people.
    Text,
}

/// Where the state is.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Database {
    /// sqlite or postgres (also written postgresql).
    pub(crate) driver: Driver,
    /// SQLite: the file; data_dir/mezhub.db when missing.
    pub(crate) path: Option<PathBuf>,
    /// PostgreSQL: the whole address; wins over the fields below. SQLite: a path.
    pub(crate) url: Option<Secret>,
    /// PostgreSQL: for migrations and notifications when `url` goes through a pooler.
    pub(crate) direct_url: Option<Secret>,
    /// PostgreSQL: host.
    pub(crate) host: Option<String>,
    /// PostgreSQL: port.
    pub(crate) port: Option<u16>,
    /// PostgreSQL: user.
    pub(crate) user: Option<String>,
    /// PostgreSQL: password.
    pub(crate) password: Option<Secret>,
    /// PostgreSQL: a file that holds it.
    pub(crate) password_file: Option<PathBuf>,
    /// PostgreSQL: name of the database.
    pub(crate) name: Option<String>,
    /// PostgreSQL: disable, require, verify-ca or verify-full.
    pub(crate) sslmode: Option<String>,
}

/// A database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    /// Built in.
    #[default]
    Sqlite,
    /// A server.
    #[serde(alias = "postgresql")]
    Postgres,
}

/// The Auth service.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Auth {
    /// Run it here.
    pub(crate) enabled: bool,
    /// Where gRPC listens.
    pub(crate) listen_addr: SocketAddr,
    /// Accept HTTP/2 without TLS too.
    pub(crate) grpc_allow_http: bool,
}

/// The Proxy service.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Proxy {
    /// Run it here.
    pub(crate) enabled: bool,
    /// Where HTTPS listens.
    pub(crate) listen_addr: SocketAddr,
    /// Where SSH listens.
    pub(crate) ssh_listen_addr: SocketAddr,
    /// Where agents dial.
    pub(crate) tunnel_listen_addr: SocketAddr,
    /// What clients use, host or host:port.
    pub(crate) public_addr: Option<String>,
    /// The same for SSH, when it differs.
    pub(crate) ssh_public_addr: Option<String>,
    /// The same for agents, when it differs.
    pub(crate) tunnel_public_addr: Option<String>,
    /// Auth, when it runs elsewhere.
    pub(crate) auth_addr: Option<String>,
    /// Used once, to join an Auth that runs elsewhere.
    pub(crate) join_token: Option<Secret>,
    /// A file that holds it.
    pub(crate) join_token_file: Option<PathBuf>,
    /// The Host CA expected there.
    pub(crate) ca_pin: Option<String>,
    /// The operator's own certificate for HTTPS; without one, the cluster signs.
    pub(crate) keypair: Option<Keypair>,
    /// off: HTTPS in the clear, behind a load balancer.
    pub(crate) tls_mode: Option<String>,
    /// Issuer of OpenID Connect.
    pub(crate) oidc_issuer_url: Option<String>,
    /// Domain of applications.
    pub(crate) apps_domain: Option<String>,
    /// Certificate of applications.
    pub(crate) apps_keypair: Option<Keypair>,
    /// Connector that guards applications.
    pub(crate) apps_oidc_connector: Option<String>,
}

/// A certificate and its key, PEM files.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keypair {
    /// The chain, leaf first.
    pub(crate) cert_file: PathBuf,
    /// The private key.
    pub(crate) key_file: PathBuf,
}

/// The SSH service.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ssh {
    /// Always true: the proxy's SSH listener is part of it.
    pub(crate) enabled: bool,
}

/// Where recordings are.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recordings {
    /// local or s3.
    pub(crate) backend: Backend,
    /// S3: bucket.
    pub(crate) bucket: Option<String>,
    /// S3: prefix of the objects.
    pub(crate) prefix: Option<String>,
    /// S3: region.
    pub(crate) region: Option<String>,
    /// S3: endpoint, for servers that are not AWS.
    pub(crate) endpoint: Option<String>,
}

/// A store for recordings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// data_dir/recordings.
    #[default]
    Local,
    /// An object store.
    S3,
}

/// The audit log.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Audit {
    /// Key of the HMAC chain; made once in data_dir when missing.
    pub(crate) hmac_key: Option<Secret>,
    /// A file that holds it.
    pub(crate) hmac_key_file: Option<PathBuf>,
    /// The key before a change, so that older events can still be verified.
    pub(crate) previous_hmac_key: Option<Secret>,
    /// A file that holds it.
    pub(crate) previous_hmac_key_file: Option<PathBuf>,
}

/// Diagnostics, plain HTTP.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Diag {
    /// Where it listens; keep it private.
    pub(crate) listen_addr: SocketAddr,
}

fn data_dir() -> PathBuf {
    "/var/lib/mezite".into()
}

const fn any(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port)
}

impl Default for Auth {
    fn default() -> Self {
        Self { enabled: true, listen_addr: any(3025), grpc_allow_http: false }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            enabled: true,
            listen_addr: any(3080),
            ssh_listen_addr: any(3023),
            tunnel_listen_addr: any(3024),
            public_addr: None,
            ssh_public_addr: None,
            tunnel_public_addr: None,
            auth_addr: None,
            join_token: None,
            join_token_file: None,
            ca_pin: None,
            keypair: None,
            tls_mode: None,
            oidc_issuer_url: None,
            apps_domain: None,
            apps_keypair: None,
            apps_oidc_connector: None,
        }
    }
}

impl Default for Ssh {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for Diag {
    fn default() -> Self {
        Self { listen_addr: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 3081) }
    }
}

/// What is wrong with a value, and what to write in its place.
fn advised(Invalid { field, message }: &Invalid) -> String {
    match message.as_str() {
        "is missing" => {
            let variable = variables(field).pop().unwrap_or_default();
            format!("{field}: is missing; set it there or as {variable}")
        }
        "invalid socket address syntax" => format!("{field}: must be an IP address and a port, as 0.0.0.0:3080"),
        _ => format!("{field}: {message}"),
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(String);

/// How a variable's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Bool,
    Number,
}

use Shape::{Bool, Number, Text};

/// Every key that a variable can set; a test compares it with the schema.
const KEYS: &[(&str, Shape)] = &[
    ("cluster_name", Text),
    ("data_dir", Text),
    ("log.level", Text),
    ("log.format", Text),
    ("ca_key_passphrase", Text),
    ("ca_key_passphrase_file", Text),
    ("database.driver", Text),
    ("database.path", Text),
    ("database.url", Text),
    ("database.direct_url", Text),
    ("database.host", Text),
    ("database.port", Number),
    ("database.user", Text),
    ("database.password", Text),
    ("database.password_file", Text),
    ("database.name", Text),
    ("database.sslmode", Text),
    ("auth.enabled", Bool),
    ("auth.listen_addr", Text),
    ("auth.grpc_allow_http", Bool),
    ("proxy.enabled", Bool),
    ("proxy.listen_addr", Text),
    ("proxy.ssh_listen_addr", Text),
    ("proxy.tunnel_listen_addr", Text),
    ("proxy.public_addr", Text),
    ("proxy.ssh_public_addr", Text),
    ("proxy.tunnel_public_addr", Text),
    ("proxy.auth_addr", Text),
    ("proxy.join_token", Text),
    ("proxy.join_token_file", Text),
    ("proxy.ca_pin", Text),
    ("proxy.keypair.cert_file", Text),
    ("proxy.keypair.key_file", Text),
    ("proxy.tls_mode", Text),
    ("proxy.oidc_issuer_url", Text),
    ("proxy.apps_domain", Text),
    ("proxy.apps_keypair.cert_file", Text),
    ("proxy.apps_keypair.key_file", Text),
    ("proxy.apps_oidc_connector", Text),
    ("ssh.enabled", Bool),
    ("recordings.backend", Text),
    ("recordings.bucket", Text),
    ("recordings.prefix", Text),
    ("recordings.region", Text),
    ("recordings.endpoint", Text),
    ("audit.hmac_key", Text),
    ("audit.hmac_key_file", Text),
    ("audit.previous_hmac_key", Text),
    ("audit.previous_hmac_key_file", Text),
    ("diag.listen_addr", Text),
];

/// Variables with documented names of their own.
const ALIASES: &[(&str, &str)] = &[
    ("MEZITE_DB_", "database."),
    ("MEZITE_S3_BUCKET", "recordings.bucket"),
    ("MEZITE_S3_PREFIX", "recordings.prefix"),
    ("MEZITE_S3_REGION", "recordings.region"),
    ("MEZITE_S3_ENDPOINT", "recordings.endpoint"),
    ("MEZITE_GRPC_ALLOW_HTTP", "auth.grpc_allow_http"),
];

impl Config {
    /// Reads the file's text and the variables through `get`.
    ///
    /// # Errors
    /// What is wrong and where: line and column in the file, the key, the nearest known key.
    pub(crate) fn load(file: Option<(&Path, &str)>, get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut value = match file {
            None => Value::Object(Map::new()),
            Some((path, text)) => parse(path, text)?,
        };
        overlay(&mut value, get)?;
        let config: Self = decode(&value).map_err(|invalid| {
            let variable =
                variables(&invalid.field).into_iter().find(|name| get(name).is_some_and(|text| !text.is_empty()));
            let file = || {
                file.map_or_else(
                    || "no --config and no /etc/mezite/mezite.yaml".to_owned(),
                    |(path, _)| path.display().to_string(),
                )
            };
            ConfigError(format!("{}: {}", variable.unwrap_or_else(file), advised(&invalid)))
        })?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let fail = |text: String| Err(ConfigError(format!("configuration: {text}")));
        if let Err(invalid) = mezite_core::name::cluster(&self.cluster_name) {
            return fail(invalid.to_string());
        }
        if !self.ssh.enabled {
            return fail("ssh.enabled: false is not possible; SSH is what this server is for".to_owned());
        }
        for (key, secret, file) in [
            ("ca_key_passphrase", &self.ca_key_passphrase, &self.ca_key_passphrase_file),
            ("database.password", &self.database.password, &self.database.password_file),
            ("proxy.join_token", &self.proxy.join_token, &self.proxy.join_token_file),
            ("audit.hmac_key", &self.audit.hmac_key, &self.audit.hmac_key_file),
            ("audit.previous_hmac_key", &self.audit.previous_hmac_key, &self.audit.previous_hmac_key_file),
        ] {
            if secret.is_some() && file.is_some() {
                return fail(format!("{key} and {key}_file are both set; keep one"));
            }
        }
        self.not_yet().map_or(Ok(()), fail)
    }

    /// What this release cannot do and must not pretend to.
    fn not_yet(&self) -> Option<String> {
        let absent = |key: &str, what: &str| Some(format!("{key}: {what} is not part of this release"));
        if self.database.driver == Driver::Postgres {
            return absent("database.driver", "PostgreSQL");
        }
        if self.recordings.backend == Backend::S3 {
            return absent("recordings.backend", "S3");
        }
        if !self.auth.enabled || !self.proxy.enabled {
            let key = if self.auth.enabled { "proxy.enabled" } else { "auth.enabled" };
            return absent(key, "running Auth and Proxy apart");
        }
        if self.auth.grpc_allow_http {
            return absent("auth.grpc_allow_http", "gRPC without TLS");
        }
        if self.proxy.tls_mode.as_deref().is_some_and(|mode| mode != "on") {
            return absent("proxy.tls_mode", "HTTPS in the clear");
        }
        None
    }

    /// Keys that are set and have no effect yet: a warning each.
    pub(crate) fn ignored(&self) -> Vec<&'static str> {
        let proxy = &self.proxy;
        [
            ("proxy.oidc_issuer_url", proxy.oidc_issuer_url.is_some()),
            ("proxy.apps_domain", proxy.apps_domain.is_some()),
            ("proxy.apps_keypair", proxy.apps_keypair.is_some()),
            ("proxy.apps_oidc_connector", proxy.apps_oidc_connector.is_some()),
            ("proxy.auth_addr", proxy.auth_addr.is_some()),
            ("proxy.join_token", proxy.join_token.is_some() || proxy.join_token_file.is_some()),
            ("proxy.ca_pin", proxy.ca_pin.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, set)| set.then_some(key))
        .collect()
    }

    /// The SQLite file.
    pub(crate) fn sqlite_path(&self) -> PathBuf {
        let url = self.database.url.as_ref().map(|url| PathBuf::from(url.expose()));
        self.database.path.clone().or(url).unwrap_or_else(|| self.data_dir.join("mezhub.db"))
    }

    /// What `msh` is given as `--proxy`, HOST:PORT; none when it was not configured.
    pub(crate) fn public_addr(&self) -> Option<String> {
        let address = self.proxy.public_addr.as_ref()?;
        let host = self.public_host();
        let given = mezite_net::dial::split_address(address).map_or(0, |(_, port)| port);
        let port = [given, self.proxy.listen_addr.port(), 3080].into_iter().find(|port| *port != 0)?;
        Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }

    /// Host and port that clients use, without the default port when none is given.
    pub(crate) fn public_host(&self) -> String {
        let address = self.proxy.public_addr.clone().unwrap_or_else(|| "localhost".to_owned());
        match mezite_net::dial::split_address(&address) {
            Ok((host, _)) => host.to_owned(),
            Err(_) => address,
        }
    }
}

/// A secret given directly or by a file; the file's last line end is not part of it.
///
/// # Errors
/// When the file cannot be read or is empty.
pub(crate) fn secret(given: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>, ConfigError> {
    let Some(path) = file else { return Ok(given.cloned().filter(|secret| !secret.0.is_empty())) };
    let text =
        std::fs::read_to_string(path).map_err(|e| ConfigError(format!("{} cannot be read: {e}", path.display())))?;
    let text = text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r');
    if text.is_empty() {
        return Err(ConfigError(format!("{} is empty; a secret is expected in it", path.display())));
    }
    Ok(Some(Secret(text.to_owned())))
}

fn parse(path: &Path, text: &str) -> Result<Value, ConfigError> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let value: Value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| ConfigError(format!("{}: {e}", path.display())))?;
    match value {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(_) => Ok(value),
        _ => Err(ConfigError(format!("{}: expected keys and values", path.display()))),
    }
}

fn overlay(value: &mut Value, get: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    for (path, shape) in KEYS {
        for variable in variables(path) {
            let Some(text) = get(&variable).filter(|text| !text.is_empty()) else { continue };
            let leaf = match shape {
                Text => Value::String(text),
                Bool => match text.as_str() {
                    "true" | "1" | "yes" => Value::Bool(true),
                    "false" | "0" | "no" => Value::Bool(false),
                    _ => return Err(ConfigError(format!("{variable}: {text:?} is neither true nor false"))),
                },
                Number => text
                    .parse::<u64>()
                    .map(Value::from)
                    .map_err(|_| ConfigError(format!("{variable}: {text:?} is not a number")))?,
            };
            set(value, path, leaf);
            // A variable wins over the file, also when one gives the secret and the other its file.
            match path.strip_suffix("_file") {
                Some(direct) => unset(value, direct),
                None => unset(value, &format!("{path}_file")),
            }
        }
    }
    Ok(())
}

/// The names of the variables for a key; the later one wins.
fn variables(path: &str) -> Vec<String> {
    let plain = format!("MEZITE_{}", path.replace('.', "_").to_ascii_uppercase());
    let alias = ALIASES.iter().find_map(|(variable, key)| match variable.strip_suffix('_') {
        Some(_) => path.strip_prefix(key).map(|rest| format!("{variable}{}", rest.to_ascii_uppercase())),
        None => (*key == path).then(|| (*variable).to_owned()),
    });
    std::iter::once(plain).chain(alias).collect()
}

fn set(value: &mut Value, path: &str, leaf: Value) {
    let mut at = value;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Some(object) = at.as_object_mut() else { return };
        if parts.peek().is_none() {
            object.insert(part.to_owned(), leaf);
            return;
        }
        at = object.entry(part).or_insert_with(|| Value::Object(Map::new()));
    }
}

fn unset(value: &mut Value, path: &str) {
    let (parent, leaf) = path.rsplit_once('.').map_or((None, path), |(parent, leaf)| (Some(parent), leaf));
    let mut at = value;
    for part in parent.into_iter().flat_map(|parent| parent.split('.')) {
        let Some(next) = at.get_mut(part) else { return };
        at = next;
    }
    if let Some(object) = at.as_object_mut() {
        object.remove(leaf);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let env: HashMap<_, _> = env.iter().copied().collect();
        Config::load(Some((Path::new("mezite.yaml"), text)), &|name| env.get(name).map(|v| (*v).to_owned()))
    }

    #[test]
    fn the_least_configuration_is_the_documented_one() {
        let config = load("cluster_name: example\nssh: {enabled: true}\n", &[]).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/mezite"));
        assert_eq!(config.sqlite_path(), PathBuf::from("/var/lib/mezite/mezhub.db"));
        assert_eq!(config.auth.listen_addr.port(), 3025);
        assert_eq!((config.log.level, config.log.format), (Level::Info, Format::Json));
    }

    #[test]
    fn variables_win_over_the_file_by_both_names() {
        let text = "cluster_name: a\nlog: {level: warn}\ndatabase: {path: /x}\nca_key_passphrase_file: /f\n";
        let config = load(
            text,
            &[
                ("MEZITE_LOG_LEVEL", "debug"),
                ("MEZITE_DB_PATH", "/y"),
                ("MEZITE_PROXY_SSH_LISTEN_ADDR", "127.0.0.1:0"),
                ("MEZITE_CA_KEY_PASSPHRASE", "p"),
            ],
        )
        .unwrap();
        assert_eq!(config.log.level, Level::Debug);
        assert_eq!(config.sqlite_path(), PathBuf::from("/y"));
        assert_eq!(config.proxy.ssh_listen_addr.port(), 0);
        assert_eq!(config.ca_key_passphrase_file, None);
        assert!(!format!("{config:?}").contains("\"p\""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("log: {}\n", "mezite.yaml: cluster_name: is missing; set it there or as MEZITE_CLUSTER_NAME"),
            ("cluster_name: a\ndiag: {listen_addr: x}\n", "diag.listen_addr: must be an IP address and a port"),
            ("cluster_name: A\n", "configuration: cluster_name: must not hold 'A'; only"),
            ("cluster_name: a\nproxy: {public_adr: x}\n", "public_addr"),
            ("cluster_name: a\nlog: {level: loud}\n", "level"),
            ("cluster_name: a\n  b: [\n", "line"),
            ("cluster_name: a\ncluster_name: b\n", "cluster_name"),
            ("cluster_name: a\ndatabase: {driver: postgres}\n", "not part of this release"),
            ("cluster_name: a\nca_key_passphrase: x\nca_key_passphrase_file: y\n", "both set"),
        ] {
            let error = load(text, &[]).unwrap_err().to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        let error = load("cluster_name: a\n", &[("MEZITE_LOG_LEVEL", "loud")]).unwrap_err().to_string();
        assert!(error.starts_with("MEZITE_LOG_LEVEL: log.level: "), "{error}");
    }

    #[test]
    fn invitations_name_the_address_that_users_dial() {
        let address = |proxy: &str| load(&format!("cluster_name: a\nproxy: {{{proxy}}}\n"), &[]).unwrap().public_addr();
        assert_eq!(address("public_addr: 'h.example:443'").unwrap(), "h.example:443");
        assert_eq!(address("public_addr: h.example").unwrap(), "h.example:3080");
        assert_eq!(address("public_addr: h.example, listen_addr: '0.0.0.0:8443'").unwrap(), "h.example:8443");
        assert_eq!(address("public_addr: '[::1]:0'").unwrap(), "[::1]:3080");
        assert_eq!(address("listen_addr: '0.0.0.0:8443'"), None);
    }

    #[test]
    fn every_key_of_the_schema_has_a_variable() {
        fn leaves(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
            let schema = match schema.get("$ref").or_else(|| schema.pointer("/anyOf/0/$ref")).and_then(Value::as_str) {
                Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
                None => schema,
            };
            match schema.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    for (name, property) in properties {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        leaves(property, root, &path, found);
                    }
                }
                None => drop(found.insert(path.to_owned())),
            }
        }
        let root = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
        let mut found = BTreeSet::new();
        leaves(&root, &root, "", &mut found);
        let known: BTreeSet<_> = KEYS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn reference_config_schema_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.schema.json");
        let text = serde_json::to_string_pretty(&schemars::schema_for!(Config)).unwrap() + "\n";
        if option_env!("MEZITE_UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap_or_default() == text, "run `make docs`");
    }
}
