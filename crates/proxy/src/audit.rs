//! Events that the proxy sees first: refusals.

use std::net::SocketAddr;

use mezite_core::audit::{Event, EventType};
use mezite_core::identity::Identity;
use mezite_core::rbac::Denied;
use mezite_net::clock;
use mezite_net::report::Reports;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_ssh::cert::Certificate;
use tonic::transport::Channel;

use crate::tunnel::ForwardDenied;

/// Where refusals are reported.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    events: Reports,
}

impl Reporter {
    /// Starts sending to Auth.
    pub(crate) fn start(auth: AuthClient<Channel>) -> Self {
        Self { events: Reports::start(auth) }
    }

    /// A certificate that one of our CAs signed did not open the front door.
    pub(crate) fn certificate_refused(
        &self,
        kind: EventType,
        certificate: &Certificate,
        peer: SocketAddr,
        reason: &str,
    ) {
        let holder = certificate.key_id.as_str();
        let mut event = event(kind, peer).resource("user", holder).user(holder, &[]);
        event.error_message = reason.to_owned();
        if let (EventType::AccessDeniedSourceIp, Some(pinned_to)) = (kind, certificate.source_addresses()) {
            event = event.detail("pinned_to", pinned_to);
        }
        self.events.send(event);
    }

    /// The decision about a node was no, or, without one, there is no such node. Returns the id of the event.
    pub(crate) fn denied(
        &self,
        who: &Identity,
        peer: SocketAddr,
        node: (&str, &str),
        login: Option<&str>,
        denied: Option<&Denied>,
    ) -> String {
        let (name, id) = node;
        let kind = denied.map_or(EventType::AccessDenied, Denied::event_type);
        let mut event = event(kind, peer).resource("node", name).user(who.user.as_str(), &who.roles);
        event.server_hostname = name.to_owned();
        event.server_id = id.to_owned();
        event.login = login.unwrap_or_default().to_owned();
        event.error_message = denied.map_or_else(|| "no node has this name".to_owned(), ToString::to_string);
        if let Some(Ok(reasons)) = denied.map(serde_json::to_value) {
            event.details.insert("reasons".to_owned(), reasons);
        }
        let event_id = event.id.clone();
        self.events.send(event);
        event_id
    }

    /// An agent refused a port forward as the proxy's grant told it to (F069..F071).
    pub(crate) fn forward_denied(&self, report: &ForwardDenied) {
        let ForwardDenied { dial, target, reason } = report;
        let mut event = event(EventType::AccessDeniedPortForwarding, dial.client)
            .resource("node", dial.node_name.as_str())
            .user(dial.user.as_str(), &[]);
        event.server_hostname.clone_from(&dial.node_name);
        event.server_id.clone_from(&dial.node_id);
        event.error_message.clone_from(reason);
        event.details.insert("target".to_owned(), target.as_str().into());
        self.events.send(event);
    }
}

fn event(kind: EventType, peer: SocketAddr) -> Event {
    let mut event = Event::new(kind, clock::uuid(), clock::now());
    event.client_ip = peer.ip().to_string();
    event.component = "proxy".to_owned();
    event.success = false;
    event
}
