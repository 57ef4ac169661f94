//! One jump: from a `direct-tcpip` channel to a node's agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mezite_core::rbac::{self, Denied, Permit, Proof, Question, Target};
use mezite_core::route::{self, Candidate, Route};
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{Channel, ChannelEvent, ChannelReader, ChannelRequest, OpenFailure};
use mezite_net::watch::View;
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
    node_id: String,
    name: String,
    permit: Permit,
    revision: u64,
}

/// Why a jump does not happen.
enum Refused {
    Denied { name: String, node_id: String, denied: Denied },
    Unreachable(String),
}

impl Jump {
    /// Decides, dials and relays to the end.
    pub(super) async fn run(self, request: ChannelRequest) {
        let decided = match self.decide_now() {
            Ok(decided) => decided,
            Err(Refused::Unreachable(reason)) => return request.reject(OpenFailure::ConnectFailed, &reason),
            Err(Refused::Denied { name, node_id, denied }) => return self.deny(request, (&name, &node_id), &denied),
        };
        let dial_id = clock::uuid();
        let about = DialInfo {
            user: self.user.identity.user.clone(),
            node_id: decided.node_id.clone(),
            node_name: decided.name.clone(),
            client: self.peer,
        };
        let most = decided.permit.max_connections();
        let Some(live) = self.front.tunnels.track(&dial_id, about, most) else {
            let denied = Denied::too_many_connections(most.unwrap_or_default());
            return self.deny(request, (&decided.name, &decided.node_id), &denied);
        };
        match self.front.tunnels.dial(&decided.node_id, dial_id, self.grant(&decided)).await {
            Ok(stream) => {
                let channel = request.accept();
                tokio::select! {
                    () = relay(channel, stream) => {}
                    () = self.cut(live) => {}
                }
            }
            Err(error) => request.reject(OpenFailure::ConnectFailed, &format!("{}: {error}", decided.name)),
        }
    }

    fn deny(&self, request: ChannelRequest, node: (&str, &str), denied: &Denied) {
        if let Ok(report) = self.reports.try_acquire() {
            report.forget();
            self.front.reporter.denied(&self.user.identity, self.peer, node, self.login.as_deref(), denied);
        }
        request.reject(OpenFailure::AdministrativelyProhibited, &denied.to_string());
    }

    fn decide_now(&self) -> Result<Decided, Refused> {
        let view = self.front.cluster.current().map_err(|e| Refused::Unreachable(e.to_string()))?;
        self.decide(&view)
    }

    fn decide(&self, view: &View) -> Result<Decided, Refused> {
        let shown: String = self.target.chars().take(MAX_SHOWN).collect();
        let shown = escape_control(&shown);
        let nodes = view.nodes.iter().map(|(name, node)| Candidate { id: &node.node_id, name });
        let found = match route::resolve(&self.target, &self.front.cluster_name, nodes) {
            Route::Found(found) => found,
            Route::NotFound => return Err(Refused::Unreachable(format!("no node is named {shown}; see `msh ls`"))),
            Route::Ambiguous(ids) => {
                let ids = ids.join(", ");
                return Err(Refused::Unreachable(format!("{shown} means several nodes; name one by its id: {ids}")));
            }
        };
        let labels = view.nodes.get(found.name).map(|node| &node.labels);
        let unreachable = || Refused::Unreachable(format!("no node is named {shown}; see `msh ls`"));
        let question = Question {
            identity: &self.user.identity,
            roles: &view.roles,
            target: Target { node_id: found.id, name: found.name, labels: labels.ok_or_else(unreachable)? },
            login: self.login.as_deref(),
            locks: &view.locks,
            proof: Proof::Nothing,
            now: clock::now(),
        };
        let (name, node_id) = (found.name.to_owned(), found.id.to_owned());
        match rbac::standing(&self.user.identity, &view.users).and_then(|()| rbac::check(&question)) {
            Ok(permit) => Ok(Decided { node_id, name, permit, revision: view.revision }),
            Err(denied) => Err(Refused::Denied { name, node_id, denied }),
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
        }
    }

    /// Comes back when the jump must end: the answer is no now, the certificate ran out, or an administrator ended its session.
    async fn cut(&self, live: LiveDial) {
        let mut cluster = self.front.cluster.clone();
        let left = self.user.valid_before.saturating_sub(clock::now_unix());
        let expiry = tokio::time::sleep(Duration::from_secs(left));
        tokio::pin!(expiry);
        loop {
            tokio::select! {
                () = &mut expiry => break,
                () = live.terminated() => break,
                () = cluster.changed() => {
                    let view = cluster.last();
                    if view.is_some_and(|view| self.decide(&view).is_err()) {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(CUT_AFTER).await;
    }
}

/// Copies both ways until either side ends. Chunks are handed on without a copy; windows on both sides are the only queue.
async fn relay(channel: Channel, stream: DialStream) {
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
