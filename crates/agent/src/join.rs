//! Becoming a node of the cluster: the first registration with a join token, and every start after it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mezite_core::labels::{self, Labels};
use mezite_net::backoff::Backoff;
use mezite_net::clock;
use mezite_net::dial::{DialError, Dialer};
use mezite_net::host::{HostError, HostIdentity, HostKeys, HostRequest};
use mezite_net::rpc;
use mezite_net::tls::{self, ALPN_H2, LiveIdentity, LiveRoots, Observed, Pin, TlsError, Trust};
use mezite_proto::v1;
use mezite_proto::v1::auth_client::AuthClient;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::config::AgentConfig;
use crate::place::{Place, PlaceError};
use crate::tunnel;

/// Life of a host certificate, in seconds (F163).
const CERTIFICATE_LIFE: u64 = 24 * 3600;

/// A node that belongs to the cluster, with its connection to Auth.
#[derive(Debug)]
pub(crate) struct Member {
    /// Keys and certificates.
    pub(crate) identity: HostIdentity,
    /// The same for TLS, replaced at each renewal.
    pub(crate) tls: Arc<LiveIdentity>,
    /// The cluster's X.509 roots, replaced when they change.
    pub(crate) roots: Arc<LiveRoots>,
    /// Auth, over mutual TLS.
    pub(crate) auth: AuthClient<Channel>,
}

/// Why a node does not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Neither joined before nor given a token.
    #[error(
        "this node has not joined a cluster and MEZITE_JOIN_TOKEN is not set; make one with `mezctl tokens create --roles=node`"
    )]
    NoToken,
    /// The name in the configuration is not the one in the certificate.
    #[error(
        "this node joined as {joined} and MEZITE_NODE_NAME says {asked}; set it back, or remove {dir} and join with a fresh token"
    )]
    Renamed {
        /// The agent's directory.
        dir: PathBuf,
        /// The name in the certificate.
        joined: String,
        /// The name asked for.
        asked: String,
    },
    /// Auth said no.
    #[error("the cluster refused this node: {0}")]
    Refused(String),
    /// Auth knows this node no more. A new token in the environment is not looked at, so the way back is said.
    #[error("the cluster refused this node: {reason}; to join anew, remove {dir} and start with a fresh token")]
    Expelled {
        /// The agent's directory.
        dir: PathBuf,
        /// What Auth said.
        reason: String,
    },
    /// Auth cannot be reached.
    #[error("the auth service cannot be reached: {0}")]
    Dial(#[from] DialError),
    /// The tunnel cannot be reached.
    #[error("the proxy cannot be reached: MEZITE_PROXY_ADDR: {0}")]
    Tunnel(#[source] DialError),
    /// Something else of the hub listens there.
    #[error("MEZITE_PROXY_ADDR: no tunnel ends at {0}; give the hub's proxy.tunnel_listen_addr, port 3024 by default")]
    NotTunnel(String),
    /// Auth could be reached and did not answer.
    #[error("the auth service is unavailable: {0}")]
    Unavailable(String),
    /// Its answer is not signed by the CA that was pinned.
    #[error("the auth service showed one certificate authority and sent another; nothing was kept")]
    OtherAuthority,
    /// Our own files.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Certificates that cannot be used.
    #[error(transparent)]
    Host(#[from] HostError),
    /// TLS that cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl JoinError {
    /// True when the same attempt may work later.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Dial(error) | Self::Tunnel(error) => matches!(error, DialError::Tcp { .. }),
            _ => false,
        }
    }

    /// True when a node that has joined may be taken back later: a clock that is off makes every certificate look wrong.
    pub(crate) fn may_heal(&self) -> bool {
        matches!(self, Self::Dial(error @ DialError::Tls { .. }) if !error.is_distrust())
    }
}

impl From<Status> for JoinError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Self::Unavailable(status.message().to_owned())
            }
            _ => Self::Refused(status.message().to_owned()),
        }
    }
}

/// Loads the identity of an earlier registration, or joins with the token; then registers.
///
/// # Errors
/// [`JoinError`]. A spent token is never looked at again once the node has joined (F022).
pub(crate) async fn join(config: &AgentConfig, place: &Place) -> Result<Member, JoinError> {
    let identity = match place.load()? {
        Some((identity, joined)) if joined == config.node_name => identity,
        Some((_, joined)) => {
            return Err(JoinError::Renamed { dir: place.agent(), joined, asked: config.node_name.clone() });
        }
        None => first_time(config, place).await?,
    };
    let tls = LiveIdentity::new(identity.tls()?)?;
    let roots = LiveRoots::from_pem(&identity.trust.tls_ca_pem)?;
    let to_auth = tls::client_config(Trust::Roots(Arc::clone(&roots), None), Some(Arc::clone(&tls)), ALPN_H2, true)?;
    let channel = rpc::connect(Dialer::new(vec![config.auth_addr.clone()], to_auth)?).await?;
    let mut auth = AuthClient::new(channel);
    register(&mut auth, config).await.map_err(|status| match status.code() {
        Code::PermissionDenied => JoinError::Expelled { dir: place.agent(), reason: status.message().to_owned() },
        _ => status.into(),
    })?;
    Ok(Member { identity, tls, roots, auth })
}

async fn first_time(config: &AgentConfig, place: &Place) -> Result<HostIdentity, JoinError> {
    if config.join_token.0.is_empty() {
        return Err(JoinError::NoToken);
    }
    let observed = Observed::default();
    let trust = || config.ca_pin.map_or_else(|| Trust::FirstUse(observed.clone()), Trust::Pin);
    if config.ca_pin.is_none() {
        tracing::warn!("MEZITE_CA_PIN is not set: the certificate authority shown now is trusted and kept");
    }
    let to_auth = tls::client_config(trust(), None, ALPN_H2, true)?;
    let channel = rpc::connect(Dialer::new(vec![config.auth_addr.clone()], to_auth)?).await?;
    // A node without a tunnel is of no use, and the token is good for one attempt.
    let tunnel = tunnel::dialer(config, trust(), None)?;
    if !tunnel.demands_certificate().await.map_err(JoinError::Tunnel)? {
        return Err(JoinError::NotTunnel(config.proxy_addr.clone()));
    }
    let request = HostRequest {
        token: config.join_token.0.clone(),
        role: "node",
        name: config.node_name.clone(),
        addresses: Vec::new(),
    };
    let keys = Arc::new(HostKeys::generate()?);
    let identity = HostIdentity::request(AuthClient::new(channel), keys, request).await?;
    let pin = config.ca_pin.or_else(|| observed.pin());
    let sent = Pin::all_of_pem(&identity.trust.tls_ca_pem)?;
    if pin.is_none_or(|pin| !sent.contains(&pin)) {
        return Err(JoinError::OtherAuthority);
    }
    place.save(&identity, &config.node_name)?;
    tracing::info!(node_id = identity.host_id, cluster = identity.cluster_name, "joined the cluster");
    Ok(identity)
}

async fn register(auth: &mut AuthClient<Channel>, config: &AgentConfig) -> Result<(), Status> {
    let request = v1::RegisterAgentRequest {
        name: config.node_name.clone(),
        labels: config.labels.clone().into_iter().collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recording_mode: config.recording_mode.as_str().to_owned(),
    };
    let reply = auth.register_agent(request).await?.into_inner();
    let in_force: Labels = reply.labels.into_iter().collect();
    let claimed = config.labels.iter().filter(|(key, value)| in_force.get(*key) != Some(*value));
    let claimed: Labels = claimed.map(|(key, value)| (key.clone(), value.clone())).collect();
    if !claimed.is_empty() {
        tracing::warn!(
            without_effect = labels::print(&claimed),
            in_force = labels::print(&in_force),
            "MEZITE_NODE_LABELS counts at the first registration only; an administrator changes labels with mezctl nodes update"
        );
    }
    Ok(())
}

/// Heartbeats, as often as Auth asks for them.
pub(crate) async fn heartbeat(mut auth: AuthClient<Channel>, sessions: TaskTracker, stop: CancellationToken) {
    let mut every = Duration::from_secs(1);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let live_sessions = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        match auth.agent_heartbeat(v1::AgentHeartbeatRequest { live_sessions }).await {
            Ok(reply) => every = Duration::from_secs(u64::from(reply.into_inner().next_seconds.clamp(1, 300))),
            Err(status) => tracing::debug!(error = status.message(), "a heartbeat was not taken"),
        }
    }
}

/// Renews the certificates at two thirds of their life, hands each renewal to `renewed`, and keeps it on disk.
pub(crate) async fn keep_certificates(
    place: Place,
    node_name: String,
    auth: AuthClient<Channel>,
    tls: Arc<LiveIdentity>,
    renewed: tokio::sync::watch::Sender<Arc<HostIdentity>>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
    loop {
        let current = Arc::clone(&renewed.borrow());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(current.renew_in(clock::now_unix(), CERTIFICATE_LIFE))) => {}
        }
        match renew(&place, &node_name, &auth, &tls, &current).await {
            Ok(identity) => {
                backoff.reset();
                tracing::info!("the host certificates are renewed");
                renewed.send_replace(Arc::new(identity));
            }
            Err(error) => {
                tracing::warn!(%error, "the host certificates could not be renewed; trying again");
                tokio::time::sleep(backoff.next(None)).await;
            }
        }
    }
}

async fn renew(
    place: &Place,
    node_name: &str,
    auth: &AuthClient<Channel>,
    tls: &LiveIdentity,
    current: &HostIdentity,
) -> Result<HostIdentity, JoinError> {
    let keys = Arc::new(current.keys.renewed()?);
    let request = HostRequest { token: String::new(), role: "node", name: node_name.to_owned(), addresses: Vec::new() };
    let identity = HostIdentity::request(auth.clone(), keys, request).await?;
    place.save(&identity, node_name)?;
    tls.replace(identity.tls()?)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_wrong_clock_sends_away_whoever_has_not_joined_and_nobody_else() {
        let (address, source) = ("hub:3025".to_owned(), io::ErrorKind::InvalidData.into());
        let tls = JoinError::Dial(DialError::Tls { address: address.clone(), source });
        assert!(!tls.is_temporary() && tls.may_heal());
        let away = || DialError::Tcp { address: address.clone(), source: io::ErrorKind::ConnectionRefused.into() };
        assert!(JoinError::Dial(away()).is_temporary() && JoinError::Tunnel(away()).is_temporary());
        let revoked = JoinError::from(Status::permission_denied("this node was deleted"));
        assert!(!revoked.is_temporary() && !revoked.may_heal());
    }
}
