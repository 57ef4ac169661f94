//! Events that the proxy sees first: refusals. They are queued and sent to Auth, which chains them; while Auth is away they wait.
//! Nothing privileged happens on the strength of a queued event, so a full queue drops with an error in the log.

use std::net::SocketAddr;
use std::time::Duration;

use mezite_core::audit::{Event, EventType};
use mezite_core::identity::Identity;
use mezite_core::rbac::Denied;
use mezite_net::backoff::Backoff;
use mezite_net::clock;
use mezite_proto::v1;
use mezite_proto::v1::auth_client::AuthClient;
use tokio::sync::mpsc;
use tonic::Code;
use tonic::transport::Channel;

use crate::tunnel::ForwardDenied;

/// Events waiting for Auth.
const QUEUE: usize = 4096;
/// Events of one call.
const BATCH: usize = 64;

/// Where refusals are reported.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    events: mpsc::Sender<Event>,
}

impl Reporter {
    /// Starts the sender; it ends when every clone is dropped and the queue is empty.
    pub(crate) fn start(auth: AuthClient<Channel>) -> Self {
        let (events, queue) = mpsc::channel(QUEUE);
        tokio::spawn(send(auth, queue));
        Self { events }
    }

    /// A certificate that one of our CAs signed for `holder` did not open the front door.
    pub(crate) fn certificate_refused(&self, kind: EventType, holder: &str, peer: SocketAddr, reason: &str) {
        let mut event = event(kind, peer).resource("user", holder).user(holder, &[]);
        event.error_message = reason.to_owned();
        self.queue(event);
    }

    /// The decision about a node was no.
    pub(crate) fn denied(
        &self,
        who: &Identity,
        peer: SocketAddr,
        node: (&str, &str),
        login: Option<&str>,
        denied: &Denied,
    ) {
        let (name, id) = node;
        let mut event = event(denied.event_type(), peer).resource("node", name).user(who.user.as_str(), &who.roles);
        event.server_hostname = name.to_owned();
        event.server_id = id.to_owned();
        event.login = login.unwrap_or_default().to_owned();
        event.error_message = denied.to_string();
        if let Ok(reasons) = serde_json::to_value(denied) {
            event.details.insert("reasons".to_owned(), reasons);
        }
        self.queue(event);
    }

    /// An agent refused a port forward as the proxy's grant told it to (F069..F071).
    pub(crate) fn forward_denied(&self, report: &ForwardDenied) {
        let ForwardDenied { dial, target } = report;
        let mut event = event(EventType::AccessDeniedPortForwarding, dial.client)
            .resource("node", dial.node_name.as_str())
            .user(dial.user.as_str(), &[]);
        event.server_hostname.clone_from(&dial.node_name);
        event.server_id.clone_from(&dial.node_id);
        event.error_message = "no role of the user allows port forwarding".to_owned();
        event.details.insert("target".to_owned(), target.as_str().into());
        self.queue(event);
    }

    fn queue(&self, event: Event) {
        if let Err(error) = self.events.try_send(event) {
            tracing::error!(%error, "an audit event of the proxy was dropped");
        }
    }
}

fn event(kind: EventType, peer: SocketAddr) -> Event {
    let mut event = Event::new(kind, clock::uuid(), clock::now());
    event.client_ip = peer.ip().to_string();
    event.component = "proxy".to_owned();
    event.success = false;
    event
}

async fn send(mut auth: AuthClient<Channel>, mut queue: mpsc::Receiver<Event>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let events: Vec<Vec<u8>> = batch.drain(..).filter_map(|event| serde_json::to_vec(&event).ok()).collect();
        loop {
            match auth.emit_audit_events(v1::EmitAuditEventsRequest { events: events.clone() }).await {
                Ok(_) => break backoff.reset(),
                Err(status)
                    if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) =>
                {
                    tokio::time::sleep(backoff.next(None)).await;
                }
                Err(status) => {
                    tracing::error!(error = status.message(), "the auth service refused audit events of the proxy");
                    break;
                }
            }
        }
    }
}
