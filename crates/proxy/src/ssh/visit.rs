//! What every way to a node has in common: who asks, how a refusal is told, and how bytes go until it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mezite_core::audit::refusal;
use mezite_core::rbac::Denied;
use mezite_net::clock;
use mezite_net::ssh::{Channel, ChannelEvent, ChannelReader, ChannelRequest, OpenFailure};
use mezite_net::watch::{Held, View};
use mezite_proto::v1;
use tokio::sync::Semaphore;

use crate::ssh::{Front, User};
use crate::tunnel::{DialInfo, DialStream, LiveDial};

/// When the answer turns to no, the agent ends its sessions with a reason at once; the proxy cuts what is left after this.
const CUT_AFTER: Duration = Duration::from_secs(2);

/// Who asks for a way to a node.
#[derive(Clone)]
pub(super) struct Visitor {
    pub(super) front: Arc<Front>,
    pub(super) user: Arc<User>,
    pub(super) peer: SocketAddr,
    /// One permit for each refusal that is still told of.
    pub(super) reports: Arc<Semaphore>,
}

/// A node by name and id.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) id: String,
}

/// A connection to a node that counts from here on.
pub(super) struct Way {
    node: Named,
    dial_id: String,
    live: LiveDial,
}

impl Visitor {
    /// Tells the client, and the audit log unless this connection has been told of often enough.
    pub(super) fn refuse(
        &self,
        request: ChannelRequest,
        reason: &str,
        node: &Named,
        login: Option<&str>,
        denied: Option<&Denied>,
    ) {
        let Ok(report) = self.reports.try_acquire() else {
            return request.reject(OpenFailure::AdministrativelyProhibited, reason);
        };
        report.forget();
        let node = (node.name.as_str(), node.id.as_str());
        let id = self.front.reporter.denied(&self.user.identity, self.peer, node, login, denied);
        request.reject(OpenFailure::AdministrativelyProhibited, &refusal(reason, &id));
    }

    /// A way to the node; `None` when the user has `most` already.
    pub(super) fn way(&self, node: Named, login: Option<String>, most: Option<u32>) -> Option<Way> {
        let dial_id = clock::uuid();
        let about = DialInfo {
            user: self.user.identity.user.clone(),
            identity: Arc::clone(&self.user.identity),
            login,
            node_id: node.id.clone(),
            node_name: node.name.clone(),
            client: self.peer,
        };
        let live = self.front.tunnels.track(&dial_id, about, most)?;
        Some(Way { node, dial_id, live })
    }

    /// What every grant says: who, from where, until when, and by which revision it was decided.
    pub(super) fn grant(&self, revision: u64) -> v1::Grant {
        let identity = &self.user.identity;
        v1::Grant {
            user: identity.user.clone(),
            user_id: identity.user_id.clone(),
            client_addr: self.peer.to_string(),
            not_after_unix: i64::try_from(self.user.valid_before).unwrap_or(i64::MAX),
            revision,
            certificate_fingerprint: self.user.key.fingerprint(),
            ..v1::Grant::default()
        }
    }

    /// Dials and relays to the end, or for as long as it is allowed.
    pub(super) async fn carry(
        &self,
        request: ChannelRequest,
        way: Way,
        grant: v1::Grant,
        held: &Held,
        is_allowed: impl Fn(&View) -> bool,
    ) {
        let Way { node, dial_id, live } = way;
        let carry = async {
            match self.front.tunnels.dial(&node.id, dial_id, grant).await {
                Ok(stream) => relay(request.accept(), stream).await,
                Err(error) => request.reject(OpenFailure::ConnectFailed, &format!("{}: {error}", node.name)),
            }
        };
        tokio::select! {
            () = carry => {}
            () = cut(&self.front, &self.user, live, held, is_allowed) => {}
        }
    }
}

/// Comes back when a connection to a node must end: the answer is no now, the certificate ran out, or an administrator ended
/// its session.
async fn cut(front: &Front, user: &User, live: LiveDial, held: &Held, is_allowed: impl Fn(&View) -> bool) {
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
