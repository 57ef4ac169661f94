//! The node's sshd: one connection that came through the tunnel.
//!
//! The client's certificate is verified again and the decision made again, with the agent's own view of roles and locks; what the
//! proxy granted can only narrow it.

mod authenticate;
mod command;
mod factor;
mod forward;
mod idle;
mod leader;
mod pump;
mod session;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use mezite_core::identity::Identity;
use mezite_core::rbac::{Permit, Proof};
use mezite_net::ssh::{ChannelOpen, Connection, DisconnectReason, Event, Incoming, OpenFailure};
use mezite_net::tunnel::TunnelStream;
use mezite_proto::v1;
use mezite_proto::v1::control_up::Message as Up;
use mezite_ssh::config::{HostKey, ServerConfig};
use tokio::sync::Semaphore;

use crate::Agent;
use crate::tunnel::{ControlSender, up};

/// Sessions of one connection when no role says less.
const MAX_SESSIONS: usize = 64;
/// Forwarded channels of one connection.
const MAX_FORWARDS: usize = 128;

/// Time to log in: somebody whom the proxy let in may have to find a telephone first.
const LOGIN_GRACE: Duration = Duration::from_secs(120);

/// How this connection came here.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// The proxy's name for it.
    pub(crate) dial_id: String,
    /// What the proxy decided.
    pub(crate) grant: v1::Grant,
    /// Where to tell the proxy about refused forwards and sessions.
    pub(crate) control: ControlSender,
}

/// A connection that authenticated and was permitted.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Shared by all connections.
    pub(crate) agent: Arc<Agent>,
    /// How it came here.
    pub(crate) dial: Dial,
    /// Who.
    pub(crate) identity: Identity,
    /// As which OS user.
    pub(crate) login: String,
    /// The second factor that was shown; it holds for the connection.
    pub(crate) proof: Proof,
    /// End of the certificate, unix seconds.
    pub(crate) valid_before: u64,
    /// What was decided when it came.
    pub(crate) permit: Permit,
}

/// Refused forwards of one connection that are told of, so that whoever floods does not push out the reports of others.
const MAX_REPORTS: u32 = 128;

/// Serves one connection to its end.
pub(crate) async fn serve(agent: Arc<Agent>, stream: TunnelStream, dial: Dial) {
    let identity = Arc::clone(&agent.identity.borrow());
    let key = HostKey { key: Arc::clone(&identity.keys.ssh), certificate: Some(Arc::clone(&identity.ssh_certificate)) };
    let config = ServerConfig { login_grace: LOGIN_GRACE, ..ServerConfig::new(vec![key]) };
    let (connection, mut incoming) = mezite_net::ssh::accept(stream, Arc::new(config)).await;
    let Some(admitted) = authenticate::run(agent, dial, &connection, &mut incoming).await else { return };
    run(Arc::new(admitted), connection, incoming).await;
}

async fn run(admitted: Arc<Admitted>, connection: Connection, mut incoming: Incoming) {
    let allowed = admitted.permit.max_sessions().map_or(MAX_SESSIONS, |max| MAX_SESSIONS.min(max as usize));
    let sessions = Arc::new(Semaphore::new(allowed));
    let forwards = Arc::new(Semaphore::new(MAX_FORWARDS));
    let mut reports = 0..MAX_REPORTS;
    let mut refused = |target: String| {
        if reports.next().is_some() {
            admitted.report_forward(target);
        }
    };
    while let Some(event) = incoming.next().await {
        match event {
            Event::Channel(request) => match request.open.clone() {
                ChannelOpen::Session => {
                    let Ok(slot) = Arc::clone(&sessions).try_acquire_owned() else {
                        request.reject(OpenFailure::ResourceShortage, "too many sessions on one connection");
                        continue;
                    };
                    let (admitted, connection) = (Arc::clone(&admitted), connection.clone());
                    tokio::spawn(async move {
                        session::run(admitted, connection, request.accept()).await;
                        drop(slot);
                    });
                }
                ChannelOpen::DirectTcpip { host, port, .. } => {
                    let target = format!("{host}:{port}");
                    if !admitted.permit.port_forwarding() {
                        refused(target);
                        request.reject(OpenFailure::AdministrativelyProhibited, "no role allows port forwarding");
                        continue;
                    }
                    let Ok(slot) = Arc::clone(&forwards).try_acquire_owned() else {
                        request.reject(OpenFailure::ResourceShortage, "too many forwarded connections");
                        continue;
                    };
                    if let Err(reason) = admitted.decide_again(false) {
                        request.reject(OpenFailure::AdministrativelyProhibited, &reason);
                        continue;
                    }
                    authenticate::report_forward(&admitted, &target);
                    let (admitted, connection) = (Arc::clone(&admitted), connection.clone());
                    let sessions = Arc::clone(&sessions);
                    tokio::spawn(async move {
                        let ended = tokio::select! {
                            () = forward::tcp(request, &host, port) => None,
                            verdict = admitted.verdict("") => Some(verdict),
                        };
                        drop(slot);
                        // Sessions end by their own verdict, on record, and the connection with them.
                        if let Some(verdict) = ended.filter(|_| sessions.available_permits() == allowed) {
                            connection.disconnect(DisconnectReason::ByApplication, &verdict.message);
                        }
                    });
                }
                other => {
                    refused(other.name().to_owned());
                    request.reject(OpenFailure::AdministrativelyProhibited, "this kind of forwarding is not offered");
                }
            },
            Event::Global(request) => {
                if request.name == "tcpip-forward" && !admitted.permit.port_forwarding() {
                    refused(request.name.clone());
                }
                request.reply(None);
            }
            Event::Auth(request) => request.reject(&[]),
            Event::Authenticated { .. } => {}
        }
    }
}

impl Admitted {
    /// The proxy writes the event (F071). A full queue means that the tunnel is stuck, and the proxy will see that.
    fn report_forward(&self, target: String) {
        let denied = v1::PortForwardDenied { dial_id: self.dial.dial_id.clone(), target };
        let _ = self.dial.control.try_send(up(Up::PortForwardDenied(denied)));
    }
}
