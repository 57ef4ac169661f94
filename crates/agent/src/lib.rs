//! The agent of a node: it joins the cluster, keeps one tunnel to the proxy, and is the node's sshd.
//!
//! # Invariants
//! - It opens no listening port; every connection comes through the tunnel that it dialed.
//! - The final word on an access is said here, with roles and locks that came from Auth over the agent's own mutual TLS. What
//!   the proxy grants can only narrow it.
//! - A session starts only after its recorder is open and its start is on disk; output is recorded before it is sent.
//! - A session that others must be present in runs nothing before they are, and stops before it is told that one left.
//! - A session ends within a moment when a lock, a role or an administrator says so, with a reason that its user sees.
//!
//! Deliberately absent: the hub's database, certificate authorities, and running programs in this process: that is the
//! session starter's, one process per session.

#![forbid(unsafe_code)]

mod config;
mod join;
mod outbox;
mod place;
mod ssh;
mod tunnel;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mezite_net::backoff::Backoff;
use mezite_net::host::HostIdentity;
use mezite_net::report::Reports;
use mezite_net::tls::{LiveRoots, PeerRole, Trust};
use mezite_net::watch::Cluster;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_record::{Spool, Uploader};
use mezite_session::Starters;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

pub use config::{AgentConfig, ConfigError, RecordingMode};
pub use join::JoinError;
pub use place::PlaceError;

use join::Member;
use outbox::Outbox;
use place::Place;

/// How long running sessions may go on after a stop.
const DRAIN: Duration = Duration::from_secs(2);

/// What every connection of an agent shares.
#[derive(Debug)]
struct Agent {
    node_id: String,
    node_name: String,
    cluster_name: String,
    starters: Arc<Starters>,
    identity: watch::Receiver<Arc<HostIdentity>>,
    cluster: Cluster,
    auth: AuthClient<Channel>,
    recording_mode: RecordingMode,
    spool: Arc<Spool>,
    outbox: Arc<Outbox>,
    /// Refusals and forwards that Auth is told of.
    reports: Reports,
    /// Sessions that live, for those who join them.
    rooms: ssh::Rooms,
    /// Sessions that live; each holds a token of it.
    sessions: TaskTracker,
    /// Sessions end with it.
    stop: CancellationToken,
}

/// Why an agent ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Its files cannot be used.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The spool or the outbox cannot be used.
    #[error("the agent's data directory cannot be used: {0}")]
    Storage(#[from] std::io::Error),
}

/// Runs an agent until `stop`. `starter` is the program that starts sessions; `ready` is called once, when the node has joined.
///
/// # Errors
/// [`RunError`] when it cannot start; once it runs it comes back from every break by itself.
pub async fn run(
    config: AgentConfig,
    starter: PathBuf,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let place = Place::open(&config.data_dir)?;
    let spool = Spool::open(&config.data_dir)?;
    let outbox = Outbox::open(place.outbox())?;
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        tracing::warn!(%uid, "mezd does not run as root: it can start sessions of its own user only");
    }
    let starters = Arc::new(Starters::new(starter));
    if let Err(error) = starters.prepare() {
        tracing::error!(%error, "sessions cannot be started yet");
    }
    let Some(member) = join_patiently(&config, &place, &stop).await? else { return Ok(()) };
    let Member { identity, tls: own_tls, roots, auth } = member;
    let trust = Trust::Roots(Arc::clone(&roots), Some(PeerRole::Proxy));
    let proxy = tunnel::dialer(&config, trust, Some(Arc::clone(&own_tls)))?;
    let cluster = Cluster::watch(auth.clone(), &["role", "lock", "node", "user", "trust", "termination"], stop.clone());
    let (renewed, current) = watch::channel(Arc::new(identity));
    let first = Arc::clone(&current.borrow());
    match mezite_session::session_groups(&groups(&first.host_id)) {
        Some(parent) => mezite_session::sweep_groups(&parent),
        None => tracing::warn!("no control groups (v2) can be made: sessions are ended process by process"),
    }
    let sessions = TaskTracker::new();
    let agent = Arc::new(Agent {
        node_id: first.host_id.clone(),
        node_name: config.node_name.clone(),
        cluster_name: first.cluster_name.clone(),
        starters,
        identity: current,
        cluster: cluster.clone(),
        auth: auth.clone(),
        recording_mode: config.recording_mode,
        spool: Arc::clone(&spool),
        outbox: Arc::clone(&outbox),
        reports: Reports::start(auth.clone()),
        rooms: ssh::Rooms::default(),
        sessions: sessions.clone(),
        stop: stop.clone(),
    });
    ready();
    let uploader = Uploader::new(spool, auth.clone());
    tokio::spawn(uploader.run(stop.clone().cancelled_owned()));
    tokio::spawn(outbox.deliver(auth.clone(), stop.clone()));
    tokio::spawn(keep_trust(cluster, roots));
    tokio::spawn(join::heartbeat(auth.clone(), sessions.clone(), stop.clone()));
    tokio::spawn(join::keep_certificates(place, config.node_name.clone(), auth, own_tls, renewed, stop.clone()));
    tunnel::run(Arc::clone(&agent), proxy, stop).await;
    // Sessions that end now still write their recording and their end.
    sessions.close();
    let _ = tokio::time::timeout(DRAIN, sessions.wait()).await;
    Ok(())
}

/// Name of the directory of this agent's control groups.
fn groups(node_id: &str) -> String {
    format!("mezite-{node_id}")
}

/// Tries until it has joined, is refused, or is stopped. A hub that is away is waited for; a node that has joined also waits
/// until clocks and certificates are in order again.
async fn join_patiently(
    config: &AgentConfig,
    place: &Place,
    stop: &CancellationToken,
) -> Result<Option<Member>, RunError> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        match join::join(config, place).await {
            Ok(member) => return Ok(Some(member)),
            Err(error) if place.is_joined() && error.may_heal() => {
                tracing::warn!(%error, "the cluster does not take this node back yet; trying again");
            }
            Err(error) if error.is_temporary() => tracing::warn!(%error, "cannot join yet; trying again"),
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next(None)) => {}
        }
    }
}

/// Follows the cluster's roots.
async fn keep_trust(mut cluster: Cluster, roots: Arc<LiveRoots>) {
    let mut pem = String::new();
    loop {
        cluster.changed().await;
        let Some(view) = cluster.last() else { continue };
        if view.trust.tls_ca_pem != pem {
            pem.clone_from(&view.trust.tls_ca_pem);
            if let Err(error) = roots.replace(&pem) {
                tracing::error!(%error, "the cluster's TLS roots cannot be used");
            }
        }
    }
}
