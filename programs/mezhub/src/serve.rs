//! Running the server: Auth, then the Proxy over it, then the ready line; and the way down.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::IsTerminal;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use mezite_auth::{AuthConfig, FirstAdmin};
use mezite_net::host::{HostIdentity, HostKeys};
use mezite_net::shutdown::{self, Notice};
use mezite_net::tls::{LiveIdentity, TlsIdentity};
use mezite_proto::v1;
use mezite_proxy::ProxyConfig;
use mezite_store::Store;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::config::{Config, Format, Keypair, Secret, secret};
use crate::{Failure, diag, variable};

/// Runs the server until a signal.
pub(crate) fn run(config: Config) -> Result<(), Failure> {
    log_to_stderr(&config);
    // What the server writes is nobody else's business; tls/ca.pem is made readable on purpose.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    mezite_net::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = shutdown::on_signals()?;
        let failed = serve(config, stop.clone()).await;
        stop.cancel();
        failed
    })
}

async fn serve(config: Config, stop: CancellationToken) -> Result<(), Failure> {
    for key in config.ignored() {
        tracing::warn!(key, "this key has no effect in this release");
    }
    let auth = auth_config(&config)?;
    auth.check()?;
    open_data_dir(&config.data_dir)?;
    let _sole = lock(&config.data_dir)?;
    // Auth outlives the proxy, which tells it of the last sessions on its way down.
    let auth_stop = CancellationToken::new();
    let auth = mezite_auth::start(auth, auth_stop.clone()).await?;
    tracing::info!(database = auth.database_address(), "the database is open");
    if let Some(password) = &auth.first_password {
        eprintln!("first administrator: user admin, password {}", password.as_str());
        eprintln!("It is shown this once; change it with `msh passwd`.");
    }
    let identity = enroll(&auth, &config).await?;
    let proxy = mezite_proxy::start(proxy_config(&config, auth.addr)?, identity, stop.clone()).await?;
    let auth_addr = auth.addr;
    let auth = Arc::new(auth);
    let diag = diag::serve(config.diag.listen_addr, Arc::clone(&auth), stop.clone()).await?;
    tracing::info!(address = %diag, "diagnostics");
    // Scripts wait for this line: plain text in every log format.
    let (https, ssh, tunnel) = (proxy.https_addr, proxy.ssh_addr, proxy.tunnel_addr);
    // In one write, for whoever waits for the line and reads it at once.
    let line = format!("ready https={https} ssh={ssh} tunnel={tunnel} auth={auth_addr}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    notify(Notice::Ready);
    stop.cancelled().await;
    notify(Notice::Stopping);
    tracing::info!("stopping");
    proxy.join().await;
    auth_stop.cancel();
    if let Some(auth) = Arc::into_inner(auth) {
        auth.stopped().await;
    }
    Ok(())
}

/// Lists the schema versions and whether the database has them.
pub(crate) async fn plan(config: &Config) -> Result<(), Failure> {
    for step in Store::plan(&config.sqlite_path()).await? {
        let state = step.applied_at.map_or_else(|| "would be applied".to_owned(), |at| format!("applied {at}"));
        println!("{:03} {}: {state}", step.version, step.description);
    }
    Ok(())
}

/// Undoes the last migrations.
pub(crate) async fn undo(config: &Config, steps: u32) -> Result<(), Failure> {
    let _sole = lock(&config.data_dir)?;
    let undone = Store::migrate_down(&config.sqlite_path(), usize::try_from(steps)?).await?;
    println!("undone: {undone}");
    Ok(())
}

/// Gives an administrator a new password, and removes what stops that user.
pub(crate) async fn recover(config: &Config, user: &str) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err("run this on a terminal: the new password is shown there once, and nowhere else".into());
    }
    log_to_stderr(config);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    mezite_net::tls::install_provider();
    same_owner(&config.sqlite_path())?;
    let auth = auth_config(config)?;
    let _sole = lock(&config.data_dir)?;
    let recovered = mezite_auth::recover(&auth, user).await?;
    for lock in &recovered.locks {
        println!("removed the lock {}", mezite_core::text::escape_control(lock));
    }
    if recovered.factors > 0 {
        println!("removed {} second factor(s)", recovered.factors);
    }
    let made = if recovered.created { "made" } else { "let in again" };
    println!("user {user} is {made} as an administrator, password {}", recovered.password.as_str());
    println!("It is shown this once; start the server, log in, and change it with `msh passwd`.");
    Ok(())
}

/// What another user writes here, the hub could not open any more.
fn same_owner(database: &Path) -> Result<(), Failure> {
    let owner = |path: &Path| std::fs::metadata(path).map(|found| found.uid());
    let owned = owner(database).map_err(|e| format!("{}: {e}", database.display()))?;
    let me = owner(Path::new("/proc/self")).map_err(|e| format!("/proc/self: {e}"))?;
    if owned == me {
        return Ok(());
    }
    Err(format!("{} belongs to the user {owned}; run this as that user", database.display()).into())
}

fn auth_config(config: &Config) -> Result<AuthConfig, Failure> {
    let read =
        |given: &Option<Secret>, file: &Option<std::path::PathBuf>| -> Result<Option<Zeroizing<String>>, Failure> {
            Ok(secret(given.as_ref(), file.as_deref())?.map(|secret| Zeroizing::new(secret.expose().to_owned())))
        };
    let former = read(&config.audit.previous_hmac_key, &config.audit.previous_hmac_key_file)?;
    Ok(AuthConfig {
        cluster_name: config.cluster_name.clone(),
        data_dir: config.data_dir.clone(),
        database: config.sqlite_path(),
        listen_addr: config.auth.listen_addr,
        names: vec![config.public_host()],
        proxy_addr: config.public_addr().unwrap_or_default(),
        ca_key_passphrase: read(&config.ca_key_passphrase, &config.ca_key_passphrase_file)?,
        audit_hmac_key: read(&config.audit.hmac_key, &config.audit.hmac_key_file)?,
        audit_hmac_keys_former: former.into_iter().collect(),
        first_admin: first_admin()?,
        password_cost: AuthConfig::PASSWORD_COST,
    })
}

fn first_admin() -> Result<FirstAdmin, Failure> {
    let file = variable("MEZITE_ADMIN_PASSWORD_FILE").map(std::path::PathBuf::from);
    let given = variable("MEZITE_ADMIN_PASSWORD").map(Secret::from);
    Ok(match secret(given.as_ref(), file.as_deref())? {
        Some(password) => FirstAdmin::Password(Zeroizing::new(password.expose().to_owned())),
        None if std::io::stderr().is_terminal() => FirstAdmin::Random,
        None => FirstAdmin::Refuse,
    })
}

/// The proxy's identity, from the Auth of this process; it renews over the network like any other.
async fn enroll(auth: &mezite_auth::Running, config: &Config) -> Result<HostIdentity, Failure> {
    let keys = Arc::new(HostKeys::generate()?);
    let request = v1::GenerateHostCertsRequest {
        ssh_public_key: keys.ssh.public().to_wire(),
        tls_public_key: keys.tls.public.clone(),
        role: "proxy".to_owned(),
        addresses: names(config),
        ..Default::default()
    };
    let reply = auth.enroll_proxy(request).await?;
    Ok(HostIdentity::from_reply(keys, reply)?)
}

/// Names and addresses of the proxy's certificates.
fn names(config: &Config) -> Vec<String> {
    let mut names = vec![config.public_host(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let proxy = &config.proxy;
    for addr in [proxy.listen_addr, proxy.ssh_listen_addr, proxy.tunnel_listen_addr] {
        if !addr.ip().is_unspecified() {
            names.push(addr.ip().to_string());
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn proxy_config(config: &Config, auth: SocketAddr) -> Result<ProxyConfig, Failure> {
    let proxy = &config.proxy;
    let ip = if auth.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { auth.ip() };
    Ok(ProxyConfig {
        https_addr: proxy.listen_addr,
        ssh_addr: proxy.ssh_listen_addr,
        tunnel_addr: proxy.tunnel_listen_addr,
        public_host: config.public_host(),
        ssh_public_addr: proxy.ssh_public_addr.clone(),
        tunnel_public_addr: proxy.tunnel_public_addr.clone(),
        auth_addr: SocketAddr::new(ip, auth.port()).to_string(),
        web_identity: proxy.keypair.as_ref().map(web_identity).transpose()?,
        names: names(config),
        load_balancers: proxy.proxy_protocol_from.clone(),
    })
}

fn web_identity(keypair: &Keypair) -> Result<Arc<LiveIdentity>, Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| format!("proxy.keypair: {} cannot be read: {e}", path.display()))
    };
    let (chain, key) = (read(&keypair.cert_file)?, Zeroizing::new(read(&keypair.key_file)?));
    let identity = TlsIdentity::from_pem(&chain, &key).map_err(|e| format!("proxy.keypair: {e}"))?;
    Ok(LiveIdentity::new(identity).map_err(|e| format!("proxy.keypair: {e}"))?)
}

/// Makes the data directory, and refuses one that others may write.
fn open_data_dir(path: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| format!("data_dir {}: {e}", path.display());
    if !path.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed)?;
        // tls/ca.pem inside is for everybody; everything else has a mode of its own.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).map_err(failed)?;
    }
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(format!(
            "data_dir {} may be written by others (mode {:o}); chmod go-w it",
            path.display(),
            mode & 0o777
        )
        .into());
    }
    Ok(())
}

/// Keeps a second server away: two would each hold half of the sessions, and a schema would change under one of them.
fn lock(data_dir: &Path) -> Result<File, Failure> {
    let path = data_dir.join("lock");
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(e)) => Err(failed(e).into()),
        Err(TryLockError::WouldBlock) => {
            Err(format!("data_dir {} is in use by another mezhub; stop that one first", data_dir.display()).into())
        }
    }
}

fn notify(notice: Notice) {
    if let Some(socket) = variable("NOTIFY_SOCKET")
        && let Err(error) = shutdown::notify(socket.as_ref(), notice)
    {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

fn log_to_stderr(config: &Config) {
    let level = config.log.level.as_str();
    // Below warn, only what is ours is of interest.
    let filter = EnvFilter::new(format!(
        "warn,{}",
        ["mezhub", "mezite_auth", "mezite_net", "mezite_proxy", "mezite_record", "mezite_store"]
            .map(|name| format!("{name}={level}"))
            .join(",")
    ));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        Format::Json => builder.json().init(),
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_second_server_is_kept_out_of_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = super::lock(dir.path()).unwrap();
        let refused = super::lock(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("in use by another mezhub"), "{refused}");
        drop(first);
        super::lock(dir.path()).unwrap();
    }
}
