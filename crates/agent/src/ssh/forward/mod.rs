//! Forwarding on one connection: `-L`, `-D` and `-W` to ports and Unix sockets, `-R`, and the user's key agent.
//!
//! Everything is decided when it begins, with the roles of that moment, and again at every change: what is not granted any
//! more ends. Before the first of them the login is looked at as a session's is, PAM included. Ports and Unix sockets are
//! opened by a process of the login user ([`helper`]); TCP connections by the agent.
//!
//! A connection holds at most [`MAX_FORWARDS`] forwarded streams and [`MAX_LISTENERS`] listeners; both end with it.

mod helper;
mod local;
mod relay;
mod remote;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mezite_core::rbac::Permit;
use mezite_net::ssh::{ChannelRequest, Connection, DisconnectReason, GlobalRequest};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::ssh::forward::helper::Helpers;
use crate::ssh::forward::remote::Remotes;
use crate::ssh::idle::Activity;
use crate::ssh::verdict::Verdict;
use crate::ssh::{Admitted, authenticate};

/// Forwarded streams of one connection.
const MAX_FORWARDS: usize = 128;
/// Ports and sockets that one connection listens on, each in both address families.
const MAX_LISTENERS: usize = 32;
/// Refused targets of one connection that are told of: whoever floods does not push out the reports of others.
const MAX_REPORTS: usize = 128;
/// Global requests that wait for their turn.
const MAX_WAITING: usize = 64;

/// What the agent's user is told when forwarding is refused as such.
const NOT_GRANTED: &str = "no role allows port forwarding";

/// What those are told whose sessions must not go unwatched: a way past the watchers is none.
const UNWATCHED: &str = "a role requires others in each session, and nobody can watch what is forwarded";

/// Whether anything at all may be forwarded by ports and sockets.
fn offered(permit: &Permit) -> Result<(), String> {
    match permit {
        permit if !permit.moderation().is_empty() => Err(UNWATCHED.to_owned()),
        permit if !permit.port_forwarding() => Err(NOT_GRANTED.to_owned()),
        _ => Ok(()),
    }
}

/// The forwarding of one connection.
pub(super) struct Forwards {
    admitted: Arc<Admitted>,
    connection: Connection,
    /// One permit for each session that may still begin; all of them when none runs.
    sessions: Arc<Semaphore>,
    max_sessions: usize,
    slots: Arc<Semaphore>,
    helpers: Helpers,
    remotes: Remotes,
    requests: mpsc::Sender<GlobalRequest>,
    /// Global requests that came, and how many of them are answered.
    asked: AtomicU64,
    answered: watch::Sender<u64>,
    reported: Mutex<HashSet<String>>,
    activity: Activity,
    /// The connection is over.
    closed: CancellationToken,
}

/// One thing that is forwarded.
#[derive(Debug, Clone)]
enum What {
    /// A connection to an address that the client named so.
    Tcp { host: String, address: IpAddr, port: u16 },
    /// A connection to a Unix socket.
    Socket(String),
    /// Connections to a port of the node.
    Port(u16),
    /// Connections to a Unix socket of the node.
    Path(String),
    /// The user's key agent.
    Keys,
}

impl Forwards {
    /// For a connection that has just been admitted. `sessions` holds a permit for each of `max_sessions`.
    pub(super) fn new(
        admitted: Arc<Admitted>,
        connection: Connection,
        sessions: Arc<Semaphore>,
        max_sessions: usize,
    ) -> Arc<Self> {
        let (requests, queue) = mpsc::channel(MAX_WAITING);
        let forwards = Arc::new(Self {
            helpers: Helpers::new(Arc::clone(&admitted)),
            admitted,
            connection,
            sessions,
            max_sessions,
            slots: Arc::new(Semaphore::new(MAX_FORWARDS)),
            remotes: Remotes::default(),
            requests,
            asked: AtomicU64::new(0),
            answered: watch::Sender::new(0),
            reported: Mutex::default(),
            activity: Activity::new(),
            closed: CancellationToken::new(),
        });
        tokio::spawn(remote::answer(Arc::downgrade(&forwards), queue));
        tokio::spawn(Arc::clone(&forwards).watch());
        forwards
    }

    /// The connection is over: everything ends, and what was made is removed.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// A session has ended: from now on the connection counts as idle.
    pub(super) fn session_ended(&self) {
        self.activity.note();
    }

    /// The client wants a connection from the node.
    pub(super) fn open(self: &Arc<Self>, request: ChannelRequest) {
        local::open(self, request);
    }

    /// The client wants the node to listen, or to listen no more. Answered in the order of the requests.
    pub(super) fn global(&self, request: GlobalRequest) {
        // A request that is dropped is refused.
        if self.requests.try_send(request).is_ok() {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Comes back when the requests that came before now are answered: what a client starts after it asked for a listener
    /// finds that listener, as with sshd, which does one thing after the other.
    pub(super) fn settled(&self) -> impl Future<Output = ()> + Send + use<> {
        let (before, mut answered) = (self.asked.load(Ordering::Relaxed), self.answered.subscribe());
        async move {
            // Without a sender the connection is over.
            let _ = answered.wait_for(|answered| *answered >= before).await;
        }
    }

    /// Makes the user's key agent reachable for the programs of this connection; the path of its socket.
    ///
    /// # Errors
    /// A sentence for the log.
    pub(super) async fn keys(self: &Arc<Self>) -> Result<String, String> {
        remote::keys(self).await
    }

    /// Whether it is granted, with the roles of now.
    ///
    /// # Errors
    /// Why not, for the user.
    fn may(&self, what: &What) -> Result<(), String> {
        let permit = self.admitted.permit_now()?;
        let forwarding = permit.forwarding();
        let granted = match what {
            What::Tcp { host, address, port } => forwarding.reaches(host, *address, *port),
            What::Socket(path) => forwarding.reaches_socket(path),
            What::Port(port) => forwarding.listens(*port),
            What::Path(path) => forwarding.listens_at(path),
            What::Keys if permit.agent_forwarding() => return Ok(()),
            What::Keys => return Err("no role allows agent forwarding".to_owned()),
        };
        offered(&permit)?;
        if granted { Ok(()) } else { Err(format!("no role allows forwarding {what}")) }
    }

    /// Does `work` for as long as it is granted and the connection lives.
    async fn guard(&self, what: &What, work: impl Future<Output = ()>) {
        tokio::select! {
            // The decision comes first: it may be another by now.
            biased;
            () = self.closed.cancelled() => {}
            reason = self.revoked(what) => {
                tracing::info!(user = self.admitted.identity.user, %what, reason, "forwarding ends");
                // Its user hears why, unless sessions go on over this connection.
                if !matches!(what, What::Keys) && self.may(what).is_err_and(|reason| reason == NOT_GRANTED) && !self.has_sessions() {
                    self.connection.disconnect(DisconnectReason::ByApplication, &reason);
                }
            }
            () = work => {}
        }
    }

    async fn revoked(&self, what: &What) -> String {
        let mut cluster = self.admitted.agent.cluster.clone();
        let held = cluster.hold();
        loop {
            let revision = cluster.last().map(|view| view.revision);
            if let Err(reason) = self.may(what) {
                return reason;
            }
            held.settle(revision.unwrap_or_default());
            cluster.changed().await;
        }
    }

    /// A refusal: the proxy writes the event (F071), once for each target.
    fn refused(&self, what: &What, reason: &str) {
        let target = what.to_string();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() < MAX_REPORTS && reported.insert(target.clone()) {
            self.admitted.report_forward(target, reason);
        }
    }

    /// A forward begins: without a session on the connection nothing else would be told of.
    fn began(&self, what: &What) {
        authenticate::report_forward(&self.admitted, &what.to_string());
    }

    fn has_sessions(&self) -> bool {
        self.sessions.available_permits() < self.max_sessions
    }

    /// Ends a connection on which no session runs when its user may not be here any more, or when nothing moves. Sessions end
    /// by themselves, on record, and the connection with them.
    async fn watch(self: Arc<Self>) {
        // Until the connection is over: a change is in force when what it forbids has ended.
        let held = self.admitted.agent.cluster.hold();
        let verdict = async {
            let verdict = self.admitted.verdict("", &held).await;
            // A connection without sessions, now or when the last one has ended.
            let all = u32::try_from(self.max_sessions).unwrap_or(u32::MAX);
            let _none = self.sessions.acquire_many(all).await;
            verdict
        };
        let idle = async {
            loop {
                let most = self.activity.idle(self.admitted.permit.client_idle_timeout()).await;
                if !self.has_sessions() {
                    return Verdict::idle(most);
                }
                self.activity.note();
            }
        };
        let verdict = tokio::select! {
            () = self.closed.cancelled() => return,
            verdict = verdict => verdict,
            verdict = idle => verdict,
        };
        self.connection.disconnect(DisconnectReason::ByApplication, &verdict.message);
    }
}

impl std::fmt::Display for What {
    /// As events and refusals show it. Names are the client's own words: escape them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Socket(path) => f.write_str(path),
            Self::Port(port) => write!(f, "listen:{port}"),
            Self::Path(path) => write!(f, "listen:{path}"),
            Self::Keys => f.write_str("the key agent"),
        }
    }
}
