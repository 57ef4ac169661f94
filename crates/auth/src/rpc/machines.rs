//! What agents and proxies say about themselves.

use std::collections::BTreeSet;
use std::time::Instant;

use mezite_core::audit::{Event, EventType};
use mezite_core::kind::{self, Kind};
use mezite_core::labels::{self, Labels};
use mezite_core::{Fault, Invalid, name};
use mezite_net::clock;
use mezite_proto::v1::*;
use mezite_store::Expect;

use crate::bursts::Cause;
use crate::caller::{Caller, Who};
use crate::hub::Hub;
use crate::join::unlocked_node;
use crate::presence::PERIOD_SECONDS;

/// Most tunnels a proxy may report.
const MAX_TUNNELS: usize = 100_000;
/// Most events in one message.
const MAX_EVENTS: usize = 256;

/// What agents and proxies may report; everything else is written by this service itself.
const REPORTED: [EventType; 11] = [
    EventType::AccessDenied,
    EventType::AccessDeniedSourceIp,
    EventType::AccessDeniedPortForwarding,
    EventType::AccessDeniedMfa,
    EventType::AccessDeniedLocked,
    EventType::AccessDeniedCertificate,
    EventType::SessionFileTransfer,
    EventType::SessionPortForward,
    EventType::SessionJoin,
    EventType::SessionLeave,
    EventType::SessionRecordingDamaged,
];

pub(super) async fn register_agent(
    hub: &Hub,
    caller: &Caller,
    request: RegisterAgentRequest,
) -> Result<RegisterAgentReply, Fault> {
    let id = &caller.agent()?.id;
    let node = unlocked_node(hub, id).await?;
    if !request.name.is_empty() && request.name != node.hostname {
        return Err(Fault::Conflict(format!(
            "this machine joined as {}; to rename it, empty its data directory and join again",
            node.hostname
        )));
    }
    let claimed: Labels = request.labels.into_iter().collect();
    labels::validate(&claimed)?;
    if request.version.is_empty() {
        return Err(Invalid::new("version", "is empty").into());
    }
    let registered = node.claim(&request.version, claimed);
    kind::Node::validate(&node.hostname, &registered)?;
    if registered != node {
        let mut tx = hub.store.begin(clock::now()).await?;
        tx.put::<kind::Node>(&node.hostname, &registered, Expect::Any).await?;
        let mut event = hub
            .event(EventType::NodeUpdated)
            .resource("node", &node.hostname)
            .detail("version", &registered.version)
            .detail("recording_mode", &request.recording_mode);
        if registered.claimed_labels != node.claimed_labels {
            event = event.detail("claimed_labels", &registered.claimed_labels);
        }
        event.server_hostname.clone_from(&node.hostname);
        event.resource_labels.clone_from(&registered.labels);
        tx.audit(&caller.sign(event)).await?;
        tx.commit().await?;
    }
    let labels = registered.labels.into_iter().collect();
    Ok(RegisterAgentReply { agent_id: id.clone(), cluster_name: hub.cluster().to_owned(), labels })
}

pub(super) async fn agent_heartbeat(
    hub: &Hub,
    caller: &Caller,
    request: AgentHeartbeatRequest,
) -> Result<AgentHeartbeatReply, Fault> {
    hub.presence.heartbeat(&caller.agent()?.id, request.live_sessions, Instant::now());
    Ok(AgentHeartbeatReply { next_seconds: PERIOD_SECONDS })
}

pub(super) async fn report_presence(
    hub: &Hub,
    caller: &Caller,
    request: ReportPresenceRequest,
) -> Result<ReportPresenceReply, Fault> {
    let Who::Proxy(peer) = &caller.who else { return Err(Fault::Denied("only proxies may call this".into())) };
    if request.online.len() > MAX_TUNNELS || !request.online.iter().all(|id| name::is_uuid(id)) {
        return Err(Invalid::new("online", "must be at most 100000 node ids").into());
    }
    if hub.presence.report(&peer.id, &request.online, Instant::now()) {
        hub.store.set_tunnels(&peer.id, &request.online, clock::now()).await?;
    }
    Ok(ReportPresenceReply {})
}

pub(super) async fn emit_audit_events(
    hub: &Hub,
    caller: &Caller,
    request: EmitAuditEventsRequest,
) -> Result<EmitAuditEventsReply, Fault> {
    if request.events.len() > MAX_EVENTS {
        return Err(Invalid::new("events", format!("more than {MAX_EVENTS} in one message")).into());
    }
    let node = match &caller.who {
        Who::Agent(peer) => hub.store.find_by_id::<kind::Node>(&peer.id).await?.map(|node| node.name),
        _ => None,
    };
    let reported = request.events.iter().map(|json| reported(hub, caller, node.as_deref(), json));
    let events = reported.collect::<Result<Vec<_>, _>>()?;
    refuse_foreign_sessions(hub, caller, &events).await?;
    let users = existing(hub, &events).await?;
    let refusals = events.into_iter().map(|event| (cause(caller, &event, &users), event));
    hub.audit_refusals(refusals.collect()).await?;
    Ok(EmitAuditEventsReply {})
}

/// The users of these events that exist.
async fn existing(hub: &Hub, events: &[Event]) -> Result<BTreeSet<String>, Fault> {
    let mut users = BTreeSet::new();
    for name in events.iter().map(|event| &event.user_name).collect::<BTreeSet<_>>() {
        if hub.store.find::<kind::User>(name).await?.is_some() {
            users.insert(name.clone());
        }
    }
    Ok(users)
}

/// A machine tells of what users do: each is a caller of its own, known by certificate or address. The names that it makes up
/// are one caller.
fn cause(caller: &Caller, event: &Event, users: &BTreeSet<String>) -> Cause {
    let machine = caller.cause();
    match (&caller.who, event.client_ip.parse()) {
        _ if users.contains(&event.user_name) => Cause::new(machine.door, &event.user_name),
        (Who::Proxy(_), Ok(source)) if event.user_name.is_empty() => Cause::outside(source),
        _ => machine,
    }
}

/// An agent tells of its own node's sessions, and of none that another node has told of.
async fn refuse_foreign_sessions(hub: &Hub, caller: &Caller, events: &[Event]) -> Result<(), Fault> {
    let Who::Agent(peer) = &caller.who else { return Ok(()) };
    for event in events.iter().filter(|event| !event.session_id.is_empty()) {
        if hub.store.session(&event.session_id).await?.is_some_and(|session| session.node_id != peer.id) {
            return Err(Fault::NotFound("no such session".into()));
        }
    }
    Ok(())
}

/// An event as a machine reports it, with everything that this service knows better written over.
fn reported(hub: &Hub, caller: &Caller, node: Option<&str>, json: &[u8]) -> Result<Event, Fault> {
    let refuse = |what: String| Fault::from(Invalid::new("events", what));
    let event: Event = serde_json::from_slice(json).map_err(|e| refuse(format!("not an event: {e}")))?;
    // A proxy also refuses calls of its web API by itself.
    let of_web = |kind: &EventType| *kind == EventType::AuthzDenied && matches!(caller.who, Who::Proxy(_));
    let kind = EventType::from_code(&event.event_code).filter(|kind| REPORTED.contains(kind) || of_web(kind));
    let kind = kind.ok_or_else(|| refuse(format!("{:?} is not reported by agents and proxies", event.event_code)))?;
    let known = hub.event(kind);
    let mut event = Event {
        id: if name::is_uuid(&event.id) { event.id.clone() } else { known.id },
        timestamp: known.timestamp,
        cluster_name: known.cluster_name,
        event_type: known.event_type,
        success: known.success,
        ..event
    }
    .detail("reported_at", mezite_core::when::millis(event.timestamp));
    match &caller.who {
        Who::Agent(peer) => {
            event.component = "agent".into();
            event.server_id.clone_from(&peer.id);
            event.server_hostname = node.unwrap_or_default().into();
        }
        _ => event.component = "proxy".into(),
    }
    Ok(event)
}
