//! The Proxy service: the public edge of a cluster.
//!
//! Three doors: SSH on :3023, agent tunnels on :3024, HTTPS on :3080. Everything it knows comes from Auth over mutual TLS: a
//! live view of roles, locks, nodes and trust ([`mezite_net::watch`]), and calls in a user's name for the web.
//!
//! # Invariants
//! - Nothing but a registered node is ever dialed.
//! - The proxy holds no key but its own host keys: it can neither sign certificates nor read the inner SSH of a session.
//! - A decision takes the live view; without one that is fresh enough everything new is refused.
//!
//! Deliberately absent: the database, certificate authorities, user subsystems, and any state worth backing up.

#![forbid(unsafe_code)]

mod audit;
mod ssh;
mod tunnel;
mod web;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mezite_core::network::Network;
use mezite_net::dial::Dialer;
use mezite_net::host::{HostIdentity, HostRequest};
use mezite_net::http::{self, Options};
use mezite_net::listener::{Limits, Listener};
use mezite_net::rpc;
use mezite_net::tls::{self, ALPN_H2, ALPN_WEB, ClientAuth, LiveIdentity, LiveRoots, ServerTls, Trust};
use mezite_net::watch::Cluster;
use mezite_net::{backoff::Backoff, clock};
use mezite_proto::v1;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_proto::v1::tunnel_server::TunnelServer;
use mezite_ssh::config::HostKey;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;

use crate::audit::Reporter;
use crate::ssh::Front;
use crate::tunnel::{TunnelService, Tunnels};
use crate::web::{About, Web};

/// How long connections may go on after a stop before they are cut.
const DRAIN: Duration = Duration::from_secs(5);
/// How often the set of connected agents is told to Auth when nothing changes.
const PRESENCE_EVERY: Duration = Duration::from_secs(15);
/// Life of the proxy's own certificates, in seconds.
const CERTIFICATE_LIFE: u64 = 24 * 3600;
/// Reports of refused port forwards that may wait.
const FORWARD_REPORTS: usize = 1024;

/// How to run a proxy.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Where HTTPS listens.
    pub https_addr: SocketAddr,
    /// Where SSH listens.
    pub ssh_addr: SocketAddr,
    /// Where agents dial.
    pub tunnel_addr: SocketAddr,
    /// Host that clients use, without a port.
    pub public_host: String,
    /// `host:port` that clients dial for SSH, when it is not the listener's port on the public host.
    pub ssh_public_addr: Option<String>,
    /// The same for agents.
    pub tunnel_public_addr: Option<String>,
    /// Auth, `host:port`.
    pub auth_addr: String,
    /// The operator's own certificate for HTTPS; none: the proxy's, which the Host CA signed.
    pub web_identity: Option<Arc<LiveIdentity>>,
    /// Names and addresses of the proxy's certificates.
    pub names: Vec<String>,
    /// Load balancers in front of the three doors, which send the PROXY protocol.
    pub load_balancers: Vec<Network>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    /// Where HTTPS listens.
    pub https_addr: SocketAddr,
    /// Where SSH listens.
    pub ssh_addr: SocketAddr,
    /// Where agents dial.
    pub tunnel_addr: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Waits until every listener has drained, after the stop.
    pub async fn join(self) {
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("cannot listen on {addr} ({what}): {source}")]
    Listen {
        /// Which door.
        what: &'static str,
        /// Its address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The proxy's own certificate or trust cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The proxy's own certificate cannot be used.
    #[error(transparent)]
    Host(#[from] mezite_net::host::HostError),
    /// Auth cannot be reached.
    #[error("the auth service: {0}")]
    Auth(#[from] mezite_net::dial::DialError),
}

/// Starts a proxy: binds its doors, connects to Auth, and comes back when it serves. It ends by `stop`.
///
/// # Errors
/// [`StartError`]; nothing is left running.
pub async fn start(
    config: ProxyConfig,
    identity: HostIdentity,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let own_tls = LiveIdentity::new(identity.tls()?)?;
    let roots = LiveRoots::from_pem(&identity.trust.tls_ca_pem)?;
    let to_auth =
        tls::client_config(Trust::Roots(Arc::clone(&roots), None), Some(Arc::clone(&own_tls)), ALPN_H2, true)?;
    let channel = rpc::connect(Dialer::new(vec![config.auth_addr.clone()], to_auth)?).await?;
    let auth = AuthClient::new(channel);

    let https = bind("HTTPS", config.https_addr, &config.load_balancers).await?;
    let ssh_door = bind("SSH", config.ssh_addr, &config.load_balancers).await?;
    let tunnel_door = bind("tunnels", config.tunnel_addr, &config.load_balancers).await?;
    let (https_addr, ssh_addr, tunnel_addr) = (https.1, ssh_door.1, tunnel_door.1);

    let cluster = Cluster::watch(auth.clone(), &["role", "lock", "node", "user", "trust", "termination"], stop.clone());
    let (forwards, forward_reports) = mpsc::channel(FORWARD_REPORTS);
    let reporter = Reporter::start(auth.clone());
    let tunnels = Tunnels::new(identity.host_id.clone(), forwards);
    let front = Arc::new(Front {
        cluster_name: identity.cluster_name.clone(),
        cluster: cluster.clone(),
        tunnels: Arc::clone(&tunnels),
        reporter: reporter.clone(),
        host_key: RwLock::new(host_key(&identity)),
    });
    let web =
        Web { auth: auth.clone(), about: Arc::new(about(&config, &identity.cluster_name, ssh_addr, tunnel_addr)) };
    let web_tls = ServerTls {
        identity: config.web_identity.clone().unwrap_or_else(|| Arc::clone(&own_tls)),
        clients: ClientAuth::None,
        alpn: ALPN_WEB,
        tls13_only: false,
    };
    let tunnel_tls = ServerTls {
        identity: Arc::clone(&own_tls),
        clients: ClientAuth::Required(Arc::clone(&roots)),
        alpn: ALPN_H2,
        tls13_only: true,
    };
    let web_options = Options { tls: Some(web_tls.build()?), bulk: false, drain: DRAIN };
    let tunnel_options = Options { tls: Some(tunnel_tls.build()?), bulk: true, drain: DRAIN };
    let tunnel_app = rpc::router(Routes::new(TunnelServer::new(TunnelService {
        tunnels: Arc::clone(&tunnels),
        cluster: cluster.clone(),
    })));

    tokio::spawn(keep_trust(cluster.clone(), Arc::clone(&tunnels), roots));
    tokio::spawn(report_forwards(reporter, forward_reports));
    tokio::spawn(keep_certificates(Arc::clone(&front), auth.clone(), identity, own_tls, config.names.clone()));
    let tasks = vec![
        tokio::spawn(http::serve(https.0, web::router(web), web_options, stop.clone())),
        tokio::spawn(serve_ssh(ssh_door.0, front, stop.clone())),
        // Tunnels go last: sessions drain through them.
        tokio::spawn(serve_tunnels(tunnel_door.0, tunnel_app, tunnel_options, Arc::clone(&tunnels), stop.clone())),
        tokio::spawn(report_presence(auth, tunnels, stop)),
    ];
    Ok(Running { https_addr, ssh_addr, tunnel_addr, tasks })
}

async fn bind(
    what: &'static str,
    addr: SocketAddr,
    balancers: &[Network],
) -> Result<(Listener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { what, addr, source };
    let listener = Listener::bind(addr, Limits::default()).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener.behind(balancers.to_vec()), bound))
}

fn host_key(identity: &HostIdentity) -> HostKey {
    HostKey { key: Arc::clone(&identity.keys.ssh), certificate: Some(Arc::clone(&identity.ssh_certificate)) }
}

fn about(config: &ProxyConfig, cluster_name: &str, ssh: SocketAddr, tunnel: SocketAddr) -> About {
    let public = |explicit: &Option<String>, bound: SocketAddr| {
        explicit.clone().unwrap_or_else(|| format!("{}:{}", config.public_host, bound.port()))
    };
    About {
        cluster_name: cluster_name.to_owned(),
        ssh_addr: public(&config.ssh_public_addr, ssh),
        tunnel_addr: public(&config.tunnel_public_addr, tunnel),
    }
}

async fn serve_ssh(listener: Listener, front: Arc<Front>, stop: CancellationToken) {
    let handle = |conn| ssh::serve(Arc::clone(&front), conn, stop.clone());
    listener.run(stop.clone(), DRAIN, handle).await;
}

/// Agents are asked to go, and their tunnels end when the sessions in them have.
async fn serve_tunnels(
    listener: Listener,
    app: axum::Router,
    options: Options,
    tunnels: Arc<Tunnels>,
    stop: CancellationToken,
) {
    let end = CancellationToken::new();
    let serving = http::serve(listener, app, options, end.clone());
    let stopping = async {
        stop.cancelled().await;
        tunnels.drain(Duration::from_secs(1)).await;
        tokio::time::sleep(ssh::GOODBYE).await;
        tunnels.close();
        end.cancel();
    };
    tokio::join!(serving, stopping);
}

/// Follows the cluster's roots, and ends sessions that an administrator terminates.
async fn keep_trust(mut cluster: Cluster, tunnels: Arc<Tunnels>, roots: Arc<LiveRoots>) {
    let mut terminations = cluster.terminations();
    let mut pem = String::new();
    loop {
        tokio::select! {
            Ok(session_id) = terminations.recv() => tunnels.terminate(&session_id),
            () = cluster.changed() => {
                let Some(view) = cluster.last() else { continue };
                if view.trust.tls_ca_pem != pem {
                    pem.clone_from(&view.trust.tls_ca_pem);
                    if let Err(error) = roots.replace(&pem) {
                        tracing::error!(%error, "the cluster's TLS roots cannot be used");
                    }
                }
            }
        }
    }
}

async fn report_forwards(reporter: Reporter, mut reports: mpsc::Receiver<tunnel::ForwardDenied>) {
    while let Some(report) = reports.recv().await {
        reporter.forward_denied(&report);
    }
}

/// Tells Auth which agents are connected here: at every change and every [`PRESENCE_EVERY`].
async fn report_presence(mut auth: AuthClient<Channel>, tunnels: Arc<Tunnels>, stop: CancellationToken) {
    let mut changes = tunnels.changes();
    loop {
        let online = tunnels.online();
        if let Err(status) = auth.report_presence(v1::ReportPresenceRequest { online }).await {
            tracing::debug!(error = status.message(), "the connected agents could not be reported");
        }
        tokio::select! {
            () = stop.cancelled() => break,
            _ = changes.changed() => {}
            () = tokio::time::sleep(PRESENCE_EVERY) => {}
        }
    }
    let _ = auth.report_presence(v1::ReportPresenceRequest { online: Vec::new() }).await;
}

/// Renews the proxy's own certificates at two thirds of their life.
async fn keep_certificates(
    front: Arc<Front>,
    auth: AuthClient<Channel>,
    mut identity: HostIdentity,
    live: Arc<LiveIdentity>,
    names: Vec<String>,
) {
    loop {
        tokio::time::sleep(Duration::from_secs(identity.renew_in(clock::now_unix(), CERTIFICATE_LIFE))).await;
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        loop {
            match renew(&auth, &identity, &names, &live).await {
                Ok(renewed) => break identity = renewed,
                Err(error) => {
                    tracing::warn!(error, "the proxy's certificates could not be renewed; trying again");
                    tokio::time::sleep(backoff.next(None)).await;
                }
            }
        }
        *front.host_key.write().unwrap_or_else(PoisonError::into_inner) = host_key(&identity);
        tracing::info!("the proxy's certificates are renewed");
    }
}

async fn renew(
    auth: &AuthClient<Channel>,
    identity: &HostIdentity,
    names: &[String],
    live: &LiveIdentity,
) -> Result<HostIdentity, String> {
    let keys = identity.keys.renewed().map_err(|e| e.to_string())?;
    let request = HostRequest { token: String::new(), role: "proxy", name: String::new(), addresses: names.to_vec() };
    let renewed =
        HostIdentity::request(auth.clone(), Arc::new(keys), request).await.map_err(|s| s.message().to_owned())?;
    live.replace(renewed.tls().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    Ok(renewed)
}
