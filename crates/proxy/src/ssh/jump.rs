//! One jump: from a `direct-tcpip` channel to a node's agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mezite_core::audit::refusal;
use mezite_core::rbac::{self, Denied, Permit, Proof, Question, Target};
use mezite_core::route::{self, Candidate, Route};
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{Channel, ChannelEvent, ChannelReader, ChannelRequest, OpenFailure};
use mezite_net::watch::{Held, View};
use mezite_proto::v1;
use tokio::sync::Semaphore;

use crate::ssh::{Front, User};
use crate::tunnel::{DialInfo, DialStream, LiveDial};

/// When the answer turns to no, the agent ends its sessions with a reason at once; the proxy cuts what is left after this.
const CUT_AFTER: Duration = Duration::from_secs(2);

/// Characters of an unknown name that are said back.
const MAX_SHOWN: usize = 255;

/// Everything about one jump.
pub(super) struct Jump {
    pub(super) front: Arc<Front>,
    pub(super) user: Arc<User>,
    pub(super) peer: SocketAddr,
    pub(super) target: String,
    pub(super) login: Option<String>,
    /// One permit for each refusal that is still told of.
    pub(super) reports: Arc<Semaphore>,
}

/// A node that was found, and what was decided about it.
struct Decided {
    node: Named,
    permit: Permit,
    revision: u64,
}

/// A node by name and id.
#[derive(Clone)]
struct Named {
    name: String,
    id: String,
}

/// Why a jump does not happen.
enum Refused {
    /// The decision about a node that the user may know of.
    Denied(Named, Denied),
    /// A node that no role shows to the user, or none at all: the user cannot tell which.
    Unknown(Option<(Named, Denied)>),
    /// A name that several nodes of the user's answer to.
    Ambiguous(String),
    Unreachable(String),
}

impl Jump {
    /// Decides, dials and relays to the end.
    pub(super) async fn run(self, request: ChannelRequest) {
        // Before the view is read: what comes of an older one is waited for.
        let held = self.front.cluster.hold();
        let decided = match self.decide_now() {
            Ok(decided) => decided,
            Err(refused) => return self.refuse(request, refused),
        };
        let dial_id = clock::uuid();
        let about = DialInfo {
            user: self.user.identity.user.clone(),
            identity: Arc::clone(&self.user.identity),
            login: self.login.clone(),
            node_id: decided.node.id.clone(),
            node_name: decided.node.name.clone(),
            client: self.peer,
        };
        let most = decided.permit.max_connections();
        let Some(live) = self.front.tunnels.track(&dial_id, about, most) else {
            let denied = Denied::too_many_connections(most.unwrap_or_default());
            return self.refuse(request, Refused::Denied(decided.node, denied));
        };
        held.settle(decided.revision);
        let carry = async {
            match self.front.tunnels.dial(&decided.node.id, dial_id, self.grant(&decided)).await {
                Ok(stream) => relay(request.accept(), stream).await,
                Err(error) => request.reject(OpenFailure::ConnectFailed, &format!("{}: {error}", decided.node.name)),
            }
        };
        tokio::select! {
            () = carry => {}
            () = cut(&self.front, &self.user, live, &held, |view| self.decide(view).is_ok()) => {}
        }
    }

    /// Tells the client, and the audit log unless this connection has been told of often enough.
    fn refuse(&self, request: ChannelRequest, refused: Refused) {
        let (what, node, denied) = match refused {
            Refused::Unreachable(reason) => return request.reject(OpenFailure::ConnectFailed, &reason),
            Refused::Ambiguous(reason) => return request.reject(OpenFailure::AdministrativelyProhibited, &reason),
            Refused::Denied(node, denied) => (denied.to_string(), node, Some(denied)),
            Refused::Unknown(hidden) => {
                let shown = self.shown();
                let what = format!("access denied: no role of yours opens a node named {shown}; see `msh ls`");
                match hidden {
                    Some((node, denied)) => (what, node, Some(denied)),
                    None => (what, Named { name: shown, id: String::new() }, None),
                }
            }
        };
        let Ok(report) = self.reports.try_acquire() else {
            return request.reject(OpenFailure::AdministrativelyProhibited, &what);
        };
        report.forget();
        let node = (node.name.as_str(), node.id.as_str());
        let id =
            self.front.reporter.denied(&self.user.identity, self.peer, node, self.login.as_deref(), denied.as_ref());
        request.reject(OpenFailure::AdministrativelyProhibited, &refusal(&what, &id));
    }

    fn decide_now(&self) -> Result<Decided, Refused> {
        let view = self.front.cluster.current().map_err(|e| Refused::Unreachable(e.to_string()))?;
        self.decide(&view)
    }

    /// The name asked for, fit to be said back.
    fn shown(&self) -> String {
        let shown: String = self.target.chars().take(MAX_SHOWN).collect();
        escape_control(&shown).into_owned()
    }

    fn decide(&self, view: &View) -> Result<Decided, Refused> {
        let nodes = view.nodes.iter().map(|(name, node)| Candidate { id: &node.node_id, name });
        match route::resolve(&self.target, &self.front.cluster_name, nodes) {
            Route::Found(found) => self.decide_for(view, found),
            Route::NotFound => Err(Refused::Unknown(None)),
            Route::Ambiguous(nodes) => Err(self.ambiguous(view, &nodes)),
        }
    }

    /// Only ids that the user may know of are shown.
    fn ambiguous(&self, view: &View, nodes: &[Candidate<'_>]) -> Refused {
        let known = |node: &&Candidate<'_>| !matches!(self.decide_for(view, **node), Err(Refused::Unknown(_)));
        let ids: Vec<&str> = nodes.iter().filter(known).map(|node| node.id).collect();
        if ids.is_empty() {
            return Refused::Unknown(None);
        }
        let shown = self.shown();
        Refused::Ambiguous(format!("{shown} means several nodes; name one by its id: {}", ids.join(", ")))
    }

    fn decide_for(&self, view: &View, node: Candidate<'_>) -> Result<Decided, Refused> {
        let now = clock::now();
        let Some(listed) = view.nodes.get(node.name) else { return Err(Refused::Unknown(None)) };
        let question = Question {
            identity: &self.user.identity,
            roles: &view.roles,
            target: Target { node_id: node.id, name: node.name, labels: &listed.labels },
            login: self.login.as_deref(),
            locks: &view.locks,
            // The node asks for a second factor before it lets anybody in.
            proof: Proof::AskedLater,
            now,
        };
        let named = Named { name: node.name.to_owned(), id: node.id.to_owned() };
        let bound = rbac::standing(&self.user.identity, &view.users, now);
        match bound.and_then(|identity| rbac::check(&Question { identity: &identity, ..question })) {
            Ok(permit) => Ok(Decided { node: named, permit, revision: view.revision }),
            Err(denied) if denied.hides_node() => Err(Refused::Unknown(Some((named, denied)))),
            Err(denied) => Err(Refused::Denied(named, denied)),
        }
    }

    fn grant(&self, decided: &Decided) -> v1::Grant {
        let identity = &self.user.identity;
        v1::Grant {
            user: identity.user.clone(),
            user_id: identity.user_id.clone(),
            client_addr: self.peer.to_string(),
            not_after_unix: i64::try_from(self.user.valid_before).unwrap_or(i64::MAX),
            port_forwarding: decided.permit.port_forwarding(),
            record: decided.permit.recording().on,
            login: self.login.clone().unwrap_or_default(),
            revision: decided.revision,
            certificate_fingerprint: self.user.key.fingerprint(),
            join_session: String::new(),
        }
    }
}

/// Comes back when a connection to a node must end: the answer is no now, the certificate ran out, or an administrator ended
/// its session.
pub(super) async fn cut(front: &Front, user: &User, live: LiveDial, held: &Held, is_allowed: impl Fn(&View) -> bool) {
    let mut cluster = front.cluster.clone();
    let left = user.valid_before.saturating_sub(clock::now_unix());
    let expiry = tokio::time::sleep(Duration::from_secs(left));
    tokio::pin!(expiry);
    loop {
        // What the view says by itself: a role of the user runs out.
        let next_end = |view: &View| view.users.get(&user.identity.user).and_then(|user| user.next_end(clock::now()));
        let end = cluster.last().and_then(|view| next_end(&view));
        tokio::select! {
            () = &mut expiry => break,
            () = live.terminated() => break,
            () = cluster.changed() => {}
            () = clock::sleep_until(end) => {}
        }
        let Some(view) = cluster.last() else { continue };
        if !is_allowed(&view) {
            break;
        }
        held.settle(view.revision);
    }
    tokio::time::sleep(CUT_AFTER).await;
}

/// Copies both ways until either side ends. Chunks are handed on without a copy; windows on both sides are the only queue.
pub(super) async fn relay(channel: Channel, stream: DialStream) {
    let (reader, writer) = channel.split();
    let DialStream { mut from_agent, to_agent } = stream;
    let down = async {
        while let Ok(Some(chunk)) = from_agent.message().await {
            if writer.data(chunk.data).await.is_err() {
                return;
            }
        }
        writer.eof();
    };
    tokio::select! {
        () = up(reader, to_agent) => {}
        () = down => {}
    }
    writer.close();
}

/// Client to agent. Returns when the channel is closed; an EOF only ends the stream to the agent.
async fn up(mut reader: ChannelReader, to_agent: tokio::sync::mpsc::Sender<Result<v1::TunnelChunk, tonic::Status>>) {
    let mut to_agent = Some(to_agent);
    while let Some(event) = reader.recv().await {
        match (event, &to_agent) {
            (ChannelEvent::Data(data), Some(sender)) => {
                if sender.send(Ok(v1::TunnelChunk { data })).await.is_err() {
                    // The agent has ended the stream; what it sent before still goes to the client.
                    to_agent = None;
                }
            }
            (ChannelEvent::Eof, _) => to_agent = None,
            (ChannelEvent::Request(request), _) => request.reply(false),
            (ChannelEvent::Data(_) | ChannelEvent::Extended(..), _) => {}
        }
    }
}
