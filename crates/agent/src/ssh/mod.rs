//! The node's sshd: one connection that came through the tunnel.
//!
//! The client's certificate is verified again and the decision made again, with the agent's own view of roles and locks; what the
//! proxy granted can only narrow it.

mod authenticate;
mod command;
mod factor;
mod forward;
mod gate;
mod guest;
mod idle;
mod leader;
mod pump;
mod room;
mod screen;
mod session;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use mezite_core::identity::Identity;
use mezite_core::rbac::{Permit, Proof};
use mezite_net::ssh::{ChannelOpen, Connection, Event, Incoming, OpenFailure};
use mezite_net::tunnel::TunnelStream;
use mezite_proto::v1;
use mezite_proto::v1::control_up::Message as Up;
use mezite_ssh::config::{HostKey, ServerConfig};
use tokio::sync::Semaphore;

use crate::Agent;
use crate::ssh::forward::Forwards;
use crate::tunnel::{ControlSender, up};
use authenticate::Entered;
pub(crate) use room::Rooms;

/// Sessions of one connection when no role says less.
const MAX_SESSIONS: usize = 64;

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

/// Serves one connection to its end.
pub(crate) async fn serve(agent: Arc<Agent>, stream: TunnelStream, dial: Dial) {
    let identity = Arc::clone(&agent.identity.borrow());
    let key = HostKey { key: Arc::clone(&identity.keys.ssh), certificate: Some(Arc::clone(&identity.ssh_certificate)) };
    let config = ServerConfig { login_grace: LOGIN_GRACE, ..ServerConfig::new(vec![key]) };
    let (connection, mut incoming) = mezite_net::ssh::accept(stream, Arc::new(config)).await;
    match authenticate::run(agent, dial, &connection, &mut incoming).await {
        Some(Entered::Node(admitted)) => run(Arc::new(*admitted), connection, incoming).await,
        Some(Entered::Session(guest)) => guest::run(*guest, connection, incoming).await,
        None => {}
    }
}

async fn run(admitted: Arc<Admitted>, connection: Connection, mut incoming: Incoming) {
    let allowed = admitted.permit.max_sessions().map_or(MAX_SESSIONS, |max| MAX_SESSIONS.min(max as usize));
    let sessions = Arc::new(Semaphore::new(allowed));
    let forwards = Forwards::new(Arc::clone(&admitted), connection.clone(), Arc::clone(&sessions), allowed);
    while let Some(event) = incoming.next().await {
        match event {
            Event::Channel(request) => match request.open {
                ChannelOpen::Session => {
                    if let Err(reason) = admitted.admit() {
                        request.reject(OpenFailure::AdministrativelyProhibited, &reason);
                        continue;
                    }
                    let Ok(slot) = Arc::clone(&sessions).try_acquire_owned() else {
                        request.reject(OpenFailure::ResourceShortage, "too many sessions on one connection");
                        continue;
                    };
                    let (admitted, connection) = (Arc::clone(&admitted), connection.clone());
                    let (forwards, settled) = (Arc::clone(&forwards), forwards.settled());
                    tokio::spawn(async move {
                        settled.await;
                        session::run(admitted, connection, request.accept(), &forwards).await;
                        forwards.session_ended();
                        drop(slot);
                    });
                }
                _ => forwards.open(request),
            },
            Event::Global(request) => forwards.global(request),
            Event::Auth(request) => request.reject(&[]),
            Event::Authenticated { .. } => {}
        }
    }
    forwards.close();
}

impl Admitted {
    /// The proxy writes the event (F071). A full queue means that the tunnel is stuck, and the proxy will see that.
    fn report_forward(&self, target: String, reason: &str) {
        let (dial_id, reason) = (self.dial.dial_id.clone(), reason.to_owned());
        let denied = v1::PortForwardDenied { dial_id, target, reason };
        let _ = self.dial.control.try_send(up(Up::PortForwardDenied(denied)));
    }
}
