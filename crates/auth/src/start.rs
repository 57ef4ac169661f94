//! Starting and stopping the service.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mezite_core::audit::EventType;
use mezite_core::audit::chain::ChainKey;
use mezite_core::kind::token::JoinRole;
use mezite_net::clock;
use mezite_net::http;
use mezite_net::listener::{Limits, Listener};
use mezite_net::tls::{ALPN_H2, ClientAuth, LiveIdentity, LiveRoots, Pin, ServerTls};
use mezite_proto::v1::{GenerateHostCertsReply, GenerateHostCertsRequest};
use mezite_ssh::key::PublicKey;
use mezite_store::{AuditKeys, Options, Recordings, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::ca::Authorities;
use crate::ca::seal::Sealer;
use crate::checkpoint::{self, Checkpoints};
use crate::event::Events;
use crate::hub::Hub;
use crate::join::Joining;
use crate::login::password::Passwords;
use crate::{AuthError, bootstrap, issue, join, rpc, sweep};

/// How long calls in progress may take after the stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Connections that read the database.
const READERS: u32 = 4;
/// Shortest audit key, in bytes.
const SHORTEST_KEY: usize = 16;

/// Everything the service needs to know. `Debug` shows no secret.
pub struct AuthConfig {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Directory of key files, `tls/` and `recordings/`; it exists and is private.
    pub data_dir: PathBuf,
    /// The SQLite file.
    pub database: PathBuf,
    /// Where to listen; port 0 chooses one.
    pub listen_addr: SocketAddr,
    /// Names and addresses by which clients reach the listener, besides the local ones.
    pub names: Vec<String>,
    /// Where users reach the proxy's HTTPS, HOST:PORT, for invitations; may be empty.
    pub proxy_addr: String,
    /// Seals the CA keys; without one a key file in `data_dir` does.
    pub ca_key_passphrase: Option<Zeroizing<String>>,
    /// Key of the audit chain, at least 16 bytes; without one it is made once into `data_dir`.
    pub audit_hmac_key: Option<Zeroizing<String>>,
    /// Keys that older segments of the audit chain were made with.
    pub audit_hmac_keys_former: Vec<Zeroizing<String>>,
    /// What to do when there is no user yet.
    pub first_admin: FirstAdmin,
    /// Cost of new bcrypt hashes, 4 to 31; [`AuthConfig::PASSWORD_COST`] unless for tests.
    pub password_cost: u32,
}

impl AuthConfig {
    /// The bcrypt cost of new password hashes.
    pub const PASSWORD_COST: u32 = 12;

    /// What can be known to be wrong before anything is made. [`start`] asks too.
    ///
    /// # Errors
    /// [`AuthError`] saying what to set.
    pub fn check(&self) -> Result<(), AuthError> {
        mezite_core::name::cluster(&self.cluster_name).map_err(|e| AuthError::new(e.to_string()))?;
        if self.database.exists() { Ok(()) } else { bootstrap::check(&self.first_admin) }
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("cluster_name", &self.cluster_name)
            .field("data_dir", &self.data_dir)
            .field("listen_addr", &self.listen_addr)
            .finish_non_exhaustive()
    }
}

/// How the first administrator gets a password.
pub enum FirstAdmin {
    /// This one.
    Password(Zeroizing<String>),
    /// A random one, told by [`Running::first_password`].
    Random,
    /// Not at all: nobody could be told.
    Refuse,
}

/// The service while it runs. Dropping it does not stop it: cancel the token given to [`start`].
pub struct Running {
    /// The address bound.
    pub addr: SocketAddr,
    /// The X.509 bundle of the Host CA, PEM.
    pub tls_ca_pem: String,
    /// The pin of the Host CA, for agents that join.
    pub ca_pin: String,
    /// Password of the administrator made at this start; show it once, on a terminal only.
    pub first_password: Option<Zeroizing<String>>,
    hub: Arc<Hub>,
    tasks: TaskTracker,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// Opens the database and the CA keys, makes what the first start makes, and serves until `stop`.
///
/// # Errors
/// [`AuthError`] saying what is wrong: the database, the passphrase, a key file, the address.
pub async fn start(config: AuthConfig, stop: CancellationToken) -> Result<Running, AuthError> {
    config.check()?;
    let listen_addr = config.listen_addr;
    let listening = |e: std::io::Error| AuthError::new(format!("auth.listen_addr {listen_addr}: {e}"));
    // Before a first administrator is made, whose password nobody would see if the address were taken.
    let listener = Listener::bind(listen_addr, Limits::default()).await.map_err(listening)?;
    let addr = listener.local_addr().map_err(listening)?;
    let events = Events { cluster: config.cluster_name.clone() };
    let audit_keys = audit_keys(&config)?;
    let key_id = audit_keys.current.id().to_owned();
    let store = Store::open(Options { path: config.database.clone(), readers: READERS, audit_keys }).await?;
    begin_segment(&store, &events, &key_id).await?;
    let sealer = Sealer::new(config.ca_key_passphrase.clone(), config.data_dir.join("ca.key"));
    let authorities = Authorities::open(&store, sealer, &events).await?;
    write_bundle(&config.data_dir, &authorities.host.pem())?;
    let in_data_dir = |e| AuthError::new(format!("data_dir {}: {e}", config.data_dir.display()));
    let recordings = Recordings::open(config.data_dir.join("recordings")).await.map_err(in_data_dir)?;
    let parallel = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let passwords = Passwords::new(config.password_cost, parallel)?;
    bootstrap::roles(&store, &events).await?;
    let first_password = bootstrap::first_admin(&store, &events, &passwords, config.first_admin).await?;
    // Tunnels of an earlier life; proxies report anew.
    store.clear_tunnels(None, clock::now()).await?;
    let checkpoints = Checkpoints::new(&authorities.audit.key, &config.data_dir)?;
    let mut hub = Hub::new(store, recordings, authorities, checkpoints, events, passwords);
    hub.stop = stop;
    hub.proxy_addr = config.proxy_addr;
    checkpoint::warn_of_older_database(&hub).await?;
    serve(Arc::new(hub), (listener, addr), config.names, first_password).await
}

async fn serve(
    hub: Arc<Hub>,
    (listener, addr): (Listener, SocketAddr),
    names: Vec<String>,
    first_password: Option<Zeroizing<String>>,
) -> Result<Running, AuthError> {
    let mut all = names;
    if !addr.ip().is_unspecified() {
        all.push(addr.ip().to_string());
    }
    let host = &hub.authorities.host;
    let tls_ca_pem = host.pem();
    let now = clock::now();
    let live = LiveIdentity::new(issue::listener::identity(host, &all, now)?)?;
    let tls = ServerTls {
        identity: Arc::clone(&live),
        clients: ClientAuth::Optional(LiveRoots::from_pem(&tls_ca_pem)?),
        alpn: ALPN_H2,
        tls13_only: true,
    };
    let options = http::Options { tls: Some(tls.build()?), bulk: true, drain: DRAIN };
    let certificate = host.certificate.as_ref().ok_or_else(|| AuthError::new("the host CA has no certificate"))?;
    let ca_pin = Pin::of_cert(certificate)?.to_string();
    let tasks = TaskTracker::new();
    tasks.spawn(issue::listener::renew(Arc::clone(&hub), live, all, now));
    tasks.spawn(sweep::heartbeats(Arc::clone(&hub)));
    tasks.spawn(sweep::run(Arc::clone(&hub)));
    tasks.spawn(checkpoint::run(Arc::clone(&hub)));
    tasks.spawn(http::serve(listener, rpc::router(Arc::clone(&hub)), options, hub.stop.clone()));
    tasks.close();
    Ok(Running { addr, tls_ca_pem, ca_pin, first_password, hub, tasks })
}

impl Running {
    /// What the boot log may say about where the data is (F408).
    #[must_use]
    pub fn database_address(&self) -> String {
        self.hub.store.address()
    }

    /// Whether the database can be written, for `/readyz`.
    ///
    /// # Errors
    /// A sentence saying why not.
    pub async fn ready(&self) -> Result<(), AuthError> {
        Ok(self.hub.store.ping().await?)
    }

    /// Certificates for the proxy of the same process; it renews them over the network like any other. Role, token and name
    /// of the request are not looked at.
    ///
    /// # Errors
    /// When a key or an address cannot be certified.
    pub async fn enroll_proxy(&self, request: GenerateHostCertsRequest) -> Result<GenerateHostCertsReply, AuthError> {
        let ssh_key = PublicKey::from_wire(&request.ssh_public_key)?;
        let joining =
            Joining { name: "proxy", addresses: &request.addresses, ssh_key, tls_key: &request.tls_public_key };
        Ok(join::renew(&self.hub, JoinRole::Proxy, &clock::uuid(), joining).await?)
    }

    /// Waits until everything has ended after the stop, and closes the database.
    pub async fn stopped(self) {
        self.tasks.wait().await;
        if let Err(fault) = self.hub.audit_counts(None).await {
            self.hub.report("stop", &fault);
        }
        if let Err(fault) = checkpoint::advance(&self.hub, true).await {
            self.hub.report("stop", &fault);
        }
        self.hub.store.close().await;
    }
}

/// Says in the log that a new segment begins: the record is the first under the other key.
pub(crate) async fn begin_segment(store: &Store, events: &Events, key_id: &str) -> Result<(), AuthError> {
    match store.audit_end().await? {
        Some((seq, former)) if former != key_id => {
            let event = events.event(EventType::AuditKeyChanged).resource("audit", key_id);
            Ok(store.audit(vec![event.detail("former_key", former).detail("former_records", seq)]).await?)
        }
        _ => Ok(()),
    }
}

/// The keys of the audit chain: the configured ones, and the one made here before a key was configured.
pub(crate) fn audit_keys(config: &AuthConfig) -> Result<AuditKeys, AuthError> {
    let short = || AuthError::new(format!("audit.hmac_key must have at least {SHORTEST_KEY} bytes"));
    let key = |secret: &Zeroizing<String>| ChainKey::new(secret.as_bytes()).ok_or_else(short);
    let path = config.data_dir.join("audit.key");
    let mut former = config.audit_hmac_keys_former.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let current = match &config.audit_hmac_key {
        Some(secret) => {
            if path.exists() {
                former.push(key(&read_or_make(&path)?)?);
            }
            key(secret)?
        }
        None => key(&read_or_make(&path)?)?,
    };
    Ok(AuditKeys { current, former })
}

fn read_or_make(path: &Path) -> Result<Zeroizing<String>, AuthError> {
    let at = |e: std::io::Error| AuthError::new(format!("{}: {e}", path.display()));
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let secret = crate::login::secret();
            file.write_all(secret.as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
            Ok(secret)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(Zeroizing::new(fs::read_to_string(path).map_err(at)?)),
        Err(e) => Err(at(e)),
    }
}

/// Writes `tls/ca.pem`, for whoever is on this machine.
fn write_bundle(data_dir: &Path, pem: &str) -> Result<(), AuthError> {
    let dir = data_dir.join("tls");
    let path = dir.join("ca.pem");
    let new = dir.join("ca.pem.new");
    // Anybody on this machine may know whom to trust, whatever the umask.
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let written = fs::create_dir_all(&dir)
        .and_then(|()| open(&dir, 0o755))
        .and_then(|()| fs::write(&new, pem))
        .and_then(|()| open(&new, 0o644))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|e| AuthError::new(format!("{}: {e}", path.display())))
}
