//! The file's sections: one struct each, with its defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use mezite_core::network::Network;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;

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
    /// Load balancers in front of the three listeners, addresses or blocks such as 10.0.0.0/8. They must send the PROXY
    /// protocol, version 1 or 2, and it is believed of nobody else.
    #[schemars(with = "Vec<String>")]
    pub(crate) proxy_protocol_from: Vec<Network>,
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
            proxy_protocol_from: Vec::new(),
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

impl Config {
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
