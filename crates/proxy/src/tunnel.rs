//! The tunnel server: which agents are connected here, and byte streams to them.
//!
//! One control stream per agent; one `Dial` call per connection, opened by the agent in answer to a [`DialRequest`].
//! A dial id is a random, one-use name that only the agent it was sent to may answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use mezite_core::identity::Identity;
use mezite_core::lock::{self, Subject};
use mezite_core::name::is_uuid;
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::http::Remote;
use mezite_net::rpc::DIAL_ID;
use mezite_net::tls::{Peer, PeerRole};
use mezite_net::watch::{Cluster, Held};
use mezite_proto::v1;
use mezite_proto::v1::control_down::Message as Down;
use mezite_proto::v1::control_up::Message as Up;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// How long an agent has to answer a dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Dials waiting for one agent's answer.
const MAX_PENDING_PER_AGENT: usize = 256;
/// Control messages waiting to be sent to one agent.
const CONTROL_QUEUE: usize = 64;
/// Sessions that are remembered for one dial.
const MAX_SESSIONS_PER_DIAL: usize = 256;
/// Refused forwards of one dial that are told of: whoever floods does not push out the reports of others.
const MAX_REPORTS_PER_DIAL: u32 = 128;
/// Chunks (of at most 64 KiB) waiting to be sent on one stream; HTTP/2's window does the rest.
const STREAM_QUEUE: usize = 8;

/// A connection to an agent: chunks in, chunks out.
#[derive(Debug)]
pub(crate) struct DialStream {
    /// Bytes from the agent.
    pub(crate) from_agent: Streaming<v1::TunnelChunk>,
    /// Bytes to the agent; dropping it ends the stream.
    pub(crate) to_agent: mpsc::Sender<Result<v1::TunnelChunk, Status>>,
}

/// Why a node could not be dialed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// No tunnel is held by this proxy.
    #[error("the node is offline: its agent holds no tunnel to this proxy")]
    Offline,
    /// The agent said no.
    #[error("the node's agent refused the connection: {0}")]
    Refused(String),
    /// Too many dials wait for this agent.
    #[error("the node's agent is busy: {MAX_PENDING_PER_AGENT} connections wait for it")]
    Busy,
    /// No answer in time.
    #[error("the node's agent did not answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout,
}

/// Who reached what by a dial.
#[derive(Debug)]
pub(crate) struct DialInfo {
    /// User name.
    pub(crate) user: String,
    /// The user, for whoever wants to join a session of theirs.
    pub(crate) identity: Arc<Identity>,
    /// The OS login, where it is known.
    pub(crate) login: Option<String>,
    /// Stable id of the node.
    pub(crate) node_id: String,
    /// Its name.
    pub(crate) node_name: String,
    /// The client as the proxy sees it.
    pub(crate) client: SocketAddr,
}

/// A refused port forward, reported by an agent so that the proxy writes the event (F071).
#[derive(Debug)]
pub(crate) struct ForwardDenied {
    /// The dial it happened in.
    pub(crate) dial: Arc<DialInfo>,
    /// What the client asked to reach, escaped and bounded.
    pub(crate) target: String,
    /// Why not, escaped and bounded.
    pub(crate) reason: String,
}

/// A dial in use; dropping it ends the tracking.
#[derive(Debug)]
pub(crate) struct LiveDial {
    tunnels: Arc<Tunnels>,
    dial_id: String,
    terminate: CancellationToken,
}

impl LiveDial {
    /// Waits until an administrator ends a session of this dial.
    pub(crate) async fn terminated(&self) {
        self.terminate.cancelled().await;
    }
}

impl Drop for LiveDial {
    fn drop(&mut self) {
        self.tunnels.state().live.remove(&self.dial_id);
    }
}

/// The agents connected to this proxy.
#[derive(Debug)]
pub(crate) struct Tunnels {
    proxy_id: String,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    closed: CancellationToken,
    forwards: mpsc::Sender<ForwardDenied>,
}

#[derive(Debug, Default)]
struct State {
    agents: HashMap<String, Agent>,
    pending: HashMap<String, Pending>,
    live: HashMap<String, Live>,
    next_generation: u64,
}

#[derive(Debug)]
struct Agent {
    generation: u64,
    control: mpsc::Sender<Result<v1::ControlDown, Status>>,
}

#[derive(Debug)]
struct Live {
    about: Arc<DialInfo>,
    sessions: Vec<String>,
    reports: u32,
    terminate: CancellationToken,
}

#[derive(Debug)]
struct Pending {
    node_id: String,
    answer: oneshot::Sender<Result<DialStream, DialError>>,
}

impl Tunnels {
    /// No agents yet. Reports of refused forwards go to `forwards`; when it is full they are dropped with a log line.
    pub(crate) fn new(proxy_id: String, forwards: mpsc::Sender<ForwardDenied>) -> Arc<Self> {
        let (state, changed, closed) = (Mutex::default(), watch::Sender::new(0), CancellationToken::new());
        Arc::new(Self { proxy_id, state, changed, closed, forwards })
    }

    /// The ids of the nodes whose tunnel is held now, sorted.
    pub(crate) fn online(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.state().agents.keys().cloned().collect();
        ids.sort_unstable();
        ids
    }

    /// Changes whenever an agent comes or goes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Opens a stream to a node's agent. `dial_id` is unguessable and fresh.
    ///
    /// # Errors
    /// [`DialError`]; nothing is left behind.
    pub(crate) async fn dial(&self, node_id: &str, dial_id: String, grant: v1::Grant) -> Result<DialStream, DialError> {
        let (answer, answered) = oneshot::channel();
        let control = {
            let mut state = self.state();
            let control = state.agents.get(node_id).ok_or(DialError::Offline)?.control.clone();
            if state.pending.values().filter(|p| p.node_id == node_id).count() >= MAX_PENDING_PER_AGENT {
                return Err(DialError::Busy);
            }
            state.pending.insert(dial_id.clone(), Pending { node_id: node_id.to_owned(), answer });
            control
        };
        let _forget = Forget { tunnels: self, dial_id: &dial_id };
        let request = v1::DialRequest { dial_id: dial_id.clone(), grant: Some(grant) };
        let exchange = async {
            control.send(Ok(down(Down::Dial(request)))).await.map_err(|_| DialError::Offline)?;
            answered.await.unwrap_or(Err(DialError::Offline))
        };
        tokio::time::timeout(DIAL_TIMEOUT, exchange).await.unwrap_or(Err(DialError::Timeout))
    }

    /// Remembers a dial for as long as the returned value lives; `None` when the user has `most` of them already.
    pub(crate) fn track(self: &Arc<Self>, dial_id: &str, about: DialInfo, most: Option<u32>) -> Option<LiveDial> {
        let terminate = CancellationToken::new();
        let mut state = self.state();
        if most.is_some_and(|most| {
            state.live.values().filter(|live| live.about.user == about.user).count() >= most as usize
        }) {
            return None;
        }
        let live = Live { about: Arc::new(about), sessions: Vec::new(), reports: 0, terminate: terminate.clone() };
        state.live.insert(dial_id.to_owned(), live);
        drop(state);
        Some(LiveDial { tunnels: Arc::clone(self), dial_id: dial_id.to_owned(), terminate })
    }

    /// The dial that carries a session, if it is one of ours.
    pub(crate) fn dial_of(&self, session_id: &str) -> Option<Arc<DialInfo>> {
        let state = self.state();
        let live = state.live.values().find(|live| live.sessions.iter().any(|s| s == session_id))?;
        Some(Arc::clone(&live.about))
    }

    /// Ends the dial that carries a session, if it is one of ours.
    pub(crate) fn terminate(&self, session_id: &str) {
        let state = self.state();
        for live in state.live.values().filter(|live| live.sessions.iter().any(|s| s == session_id)) {
            live.terminate.cancel();
        }
    }

    /// Ends every tunnel: a control stream does not end by itself.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Asks every agent to hold its next tunnel elsewhere, or to come back after `retry_after`.
    pub(crate) async fn drain(&self, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        let controls: Vec<_> = self.state().agents.values().map(|agent| agent.control.clone()).collect();
        for control in controls {
            // An agent too slow to take the message sees the connection end, which says the same.
            let _ = control.try_send(Ok(down(Down::Drain(v1::Drain { retry_after_ms }))));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tunnel of the same node replaces the one held: after a network break the old one is the dead one.
    fn attach(&self, node_id: &str, control: mpsc::Sender<Result<v1::ControlDown, Status>>) -> u64 {
        let generation = {
            let mut state = self.state();
            state.next_generation += 1;
            let generation = state.next_generation;
            state.agents.insert(node_id.to_owned(), Agent { generation, control });
            generation
        };
        self.changed.send_modify(|n| *n += 1);
        generation
    }

    fn detach(&self, node_id: &str, generation: u64) {
        {
            let mut state = self.state();
            if state.agents.get(node_id).is_some_and(|agent| agent.generation == generation) {
                state.agents.remove(node_id);
                state.pending.retain(|_, pending| pending.node_id != node_id);
            }
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// Takes the waiting dial, if it was sent to this node.
    fn take(&self, dial_id: &str, node_id: &str) -> Option<Pending> {
        let mut state = self.state();
        if state.pending.get(dial_id)?.node_id != node_id {
            return None;
        }
        state.pending.remove(dial_id)
    }

    /// A dial in use, if it goes to this node.
    fn with_live<T>(&self, dial_id: &str, node_id: &str, act: impl FnOnce(&mut Live) -> T) -> Option<T> {
        let mut state = self.state();
        let live = state.live.get_mut(dial_id)?;
        (live.about.node_id == node_id).then(|| act(live))
    }

    /// An agent's report; one about a dial that is not its own counts for nothing.
    fn forward_denied(&self, node_id: &str, denied: &v1::PortForwardDenied) {
        let about = self.with_live(&denied.dial_id, node_id, |live| {
            live.reports = live.reports.saturating_add(1);
            (live.reports <= MAX_REPORTS_PER_DIAL).then(|| Arc::clone(&live.about))
        });
        let report = about.flatten().map(|dial| ForwardDenied {
            dial,
            target: shown(&denied.target),
            reason: shown(&denied.reason),
        });
        if report.is_some_and(|report| self.forwards.try_send(report).is_err()) {
            tracing::warn!(node_id, "a report of a refused port forward was dropped: too many at once");
        }
    }

    async fn read_control(&self, node_id: &str, mut up: Streaming<v1::ControlUp>) {
        while let Ok(Some(message)) = up.message().await {
            match message.message {
                Some(Up::Refused(refused)) => {
                    if let Some(pending) = self.take(&refused.dial_id, node_id) {
                        let _ = pending.answer.send(Err(DialError::Refused(shown(&refused.reason))));
                    }
                }
                Some(Up::PortForwardDenied(denied)) => self.forward_denied(node_id, &denied),
                Some(Up::SessionStarted(started)) => {
                    self.with_live(&started.dial_id, node_id, |live| {
                        if live.sessions.len() < MAX_SESSIONS_PER_DIAL && is_uuid(&started.session_id) {
                            live.sessions.push(started.session_id);
                        }
                    });
                }
                Some(Up::Hello(_)) | None => {}
            }
        }
    }
}

/// Forgets a dial that ended without an answer.
struct Forget<'a> {
    tunnels: &'a Tunnels,
    dial_id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.tunnels.state().pending.remove(self.dial_id);
    }
}

/// The gRPC face of [`Tunnels`].
#[derive(Debug, Clone)]
pub(crate) struct TunnelService {
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) cluster: Cluster,
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::tunnel_server::Tunnel for TunnelService {
    type ControlStream = Out<v1::ControlDown>;
    type DialStream = Out<v1::TunnelChunk>;

    async fn control(
        &self,
        request: Request<Streaming<v1::ControlUp>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let node_id = agent_id(&request)?;
        let mut up = request.into_inner();
        let hello = match tokio::time::timeout(DIAL_TIMEOUT, up.message()).await {
            Ok(Ok(Some(v1::ControlUp { message: Some(Up::Hello(hello)) }))) => hello,
            _ => return Err(Status::invalid_argument("the first message of a tunnel must be a hello")),
        };
        let held = self.admitted(&node_id).await?;
        let (control, out) = mpsc::channel(CONTROL_QUEUE);
        let welcome = v1::Welcome { proxy_id: self.tunnels.proxy_id.clone() };
        let _ = control.try_send(Ok(down(Down::Welcome(welcome))));
        let generation = self.tunnels.attach(&node_id, control.clone());
        tracing::info!(node_id, name = shown(&hello.name), version = shown(&hello.version), "agent connected");
        let service = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = service.tunnels.read_control(&node_id, up) => {}
                () = service.tunnels.closed.cancelled() => {}
                reason = service.expelled(&node_id, &held) => {
                    tracing::info!(node_id, reason, "the tunnel is cut");
                    let _ = control.try_send(Err(Status::permission_denied(reason)));
                }
            }
            service.tunnels.detach(&node_id, generation);
            tracing::info!(node_id, "agent disconnected");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn dial(&self, request: Request<Streaming<v1::TunnelChunk>>) -> Result<Response<Self::DialStream>, Status> {
        let node_id = agent_id(&request)?;
        let dial_id = request.metadata().get(DIAL_ID).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let pending = self.tunnels.take(&dial_id, &node_id).ok_or_else(|| Status::not_found("no such dial"))?;
        let (to_agent, out) = mpsc::channel(STREAM_QUEUE);
        let stream = DialStream { from_agent: request.into_inner(), to_agent };
        pending.answer.send(Ok(stream)).map_err(|_| Status::cancelled("the client is gone"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

impl TunnelService {
    /// Waits, within [`DIAL_TIMEOUT`], until the node is in the inventory: one that just joined may be ahead of the watch.
    async fn admitted(&self, node_id: &str) -> Result<Held, Status> {
        let mut cluster = self.cluster.clone();
        let known = async {
            loop {
                let held = cluster.hold();
                match self.settled(node_id, &held) {
                    Ok(()) => return held,
                    Err(_) => drop(held),
                }
                cluster.changed().await;
            }
        };
        let known = tokio::time::timeout(DIAL_TIMEOUT, known).await;
        known.map_err(|_| Status::permission_denied(self.refusal(node_id).unwrap_or_default()))
    }

    /// Decides, and notes by which revision.
    fn settled(&self, node_id: &str, held: &Held) -> Result<(), String> {
        let revision = self.cluster.last().map(|view| view.revision);
        self.refusal(node_id).map_or(Ok(()), Err)?;
        held.settle(revision.unwrap_or_default());
        Ok(())
    }

    /// Comes back when a node that was admitted is no longer.
    async fn expelled(&self, node_id: &str, held: &Held) -> String {
        let mut cluster = self.cluster.clone();
        loop {
            cluster.changed().await;
            if let Err(reason) = self.settled(node_id, held) {
                return reason;
            }
        }
    }

    /// Why this node may hold no tunnel. While Auth is away the last view counts.
    fn refusal(&self, node_id: &str) -> Option<String> {
        let Some(view) = self.cluster.last() else {
            return Some("the proxy does not know the inventory yet".to_owned());
        };
        let Some((name, _)) = view.nodes.iter().find(|(_, node)| node.node_id == node_id) else {
            return Some(
                "this node is not in the cluster's inventory; to join it anew, remove agent/ in its data directory and \
                 start it with a fresh token"
                    .to_owned(),
            );
        };
        let agent = [name.as_str(), node_id];
        let lock = lock::first(&view.locks, Subject::machine(&agent), clock::now())?;
        Some(format!("this node is locked ({}): {}", lock.name, lock.message()))
    }
}

/// The node id of the calling agent; anybody else is refused.
fn agent_id<T>(request: &Request<T>) -> Result<String, Status> {
    match request.extensions().get::<Remote>().and_then(|remote| remote.peer.as_deref()) {
        Some(Peer { role: PeerRole::Agent, id, .. }) => Ok(id.clone()),
        _ => Err(Status::unauthenticated("tunnels are for agents with a host certificate of this cluster")),
    }
}

fn down(message: Down) -> v1::ControlDown {
    v1::ControlDown { message: Some(message) }
}

/// Text of an agent, bounded and escaped, for logs and messages.
fn shown(text: &str) -> String {
    escape_control(&text.chars().take(200).collect::<String>()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dial_leaves_room_for_the_reports_of_others() {
        let (forwards, mut reports) = mpsc::channel(1024);
        let tunnels = Tunnels::new("proxy".into(), forwards);
        let about = |user: &str| DialInfo {
            identity: Arc::default(),
            login: None,
            user: user.into(),
            node_id: "n".into(),
            node_name: "web-1".into(),
            client: ([127, 0, 0, 1], 1).into(),
        };
        let _dials = [tunnels.track("mallory", about("mallory"), None), tunnels.track("bob", about("bob"), None)];
        let denied = |dial: &str| v1::PortForwardDenied {
            dial_id: dial.into(),
            target: "db:5432".into(),
            reason: "no role allows port forwarding".into(),
        };
        for _ in 0..5000 {
            tunnels.forward_denied("n", &denied("mallory"));
        }
        tunnels.forward_denied("other", &denied("bob"));
        tunnels.forward_denied("n", &denied("bob"));
        let users: Vec<String> =
            std::iter::from_fn(|| reports.try_recv().ok()).map(|report| report.dial.user.clone()).collect();
        assert_eq!((users.len(), users.last().map(String::as_str)), (129, Some("bob")));
    }

    #[test]
    fn a_user_has_as_many_dials_at_once_as_the_roles_allow() {
        let (forwards, _reports) = mpsc::channel(1);
        let tunnels = Tunnels::new("proxy".into(), forwards);
        let dial = |id: &str, user: &str| {
            let client = ([127, 0, 0, 1], 1).into();
            let (identity, login) = (Arc::default(), None);
            let about =
                DialInfo { user: user.into(), identity, login, node_id: "n".into(), node_name: "web-1".into(), client };
            tunnels.track(id, about, Some(2))
        };
        let held = [dial("1", "alice"), dial("2", "alice")];
        assert!(held.iter().all(Option::is_some) && dial("3", "alice").is_none());
        assert!(dial("4", "bob").is_some(), "of one user, not of all");
        drop(held);
        assert!(dial("5", "alice").is_some());
    }
}
