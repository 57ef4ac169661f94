//! The agent's end of the tunnel: one connection to the proxy, kept up with full jitter, and one stream per dial.

use std::sync::Arc;
use std::time::Duration;

use mezite_net::backoff::Backoff;
use mezite_net::dial::Dialer;
use mezite_net::rpc::{self, DIAL_ID};
use mezite_net::tls::{self, ALPN_H2, LiveIdentity, Trust};
use mezite_net::tunnel::{TunnelStream, queue};
use mezite_proto::v1;
use mezite_proto::v1::control_down::Message as Down;
use mezite_proto::v1::control_up::Message as Up;
use mezite_proto::v1::tunnel_client::TunnelClient;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::config::AgentConfig;
use crate::join::JoinError;
use crate::{Agent, ssh};

/// Messages waiting to be sent to the proxy.
const CONTROL_QUEUE: usize = 256;
/// Connections served at a time.
const MAX_CONNECTIONS: usize = 4096;
/// A tunnel that lived this long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(30);

/// Where an SSH connection tells the proxy about refused forwards and sessions.
pub(crate) type ControlSender = mpsc::Sender<v1::ControlUp>;

/// Dials the tunnel of the configuration; `own` is the node's certificate, once it has one.
///
/// # Errors
/// [`JoinError`] for an address or roots that cannot be used.
pub(crate) fn dialer(config: &AgentConfig, trust: Trust, own: Option<Arc<LiveIdentity>>) -> Result<Dialer, JoinError> {
    let inner = tls::client_config(trust, own, ALPN_H2, true)?;
    let dialer = Dialer::new(vec![config.proxy_addr.clone()], inner).map_err(JoinError::Tunnel)?;
    if !config.tls_wrap {
        return Ok(dialer);
    }
    let outer = Trust::System { extra_pem: config.outer_roots_pem.clone() };
    Ok(dialer.wrapped_in(tls::client_config(outer, None, ALPN_H2, false)?))
}

/// Keeps a tunnel up until `stop`.
pub(crate) async fn run(agent: Arc<Agent>, dialer: Dialer, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    loop {
        let begun = std::time::Instant::now();
        let mut retry_after = None;
        tokio::select! {
            () = stop.cancelled() => return,
            ended = one(&agent, &dialer, &connections, &mut retry_after) => match ended {
                Ok(()) => tracing::info!("the tunnel ended; connecting again"),
                Err(error) => tracing::warn!(%error, "the tunnel to the proxy cannot be kept; trying again"),
            }
        }
        if begun.elapsed() > GOOD {
            backoff.reset();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next(retry_after)) => {}
        }
    }
}

/// Why a tunnel is not up.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("{0}")]
    Dial(#[from] mezite_net::dial::DialError),
    #[error("{}", .0.message())]
    Refused(#[from] Status),
}

/// One tunnel, from its connection to its end.
async fn one(
    agent: &Arc<Agent>,
    dialer: &Dialer,
    connections: &Arc<Semaphore>,
    retry_after: &mut Option<Duration>,
) -> Result<(), TunnelError> {
    let mut client = TunnelClient::new(rpc::connect(dialer.clone()).await?);
    let (control, outgoing) = mpsc::channel(CONTROL_QUEUE);
    let hello = v1::Hello { version: env!("CARGO_PKG_VERSION").to_owned(), name: agent.node_name.clone() };
    let _ = control.try_send(up(Up::Hello(hello)));
    let mut down = client.control(ReceiverStream::new(outgoing)).await?.into_inner();
    while let Some(message) = down.message().await? {
        match message.message {
            Some(Down::Welcome(welcome)) => tracing::info!(proxy_id = welcome.proxy_id, "the tunnel is up"),
            Some(Down::Dial(request)) => {
                let Ok(permit) = Arc::clone(connections).try_acquire_owned() else {
                    refuse(&control, request.dial_id, "the node serves too many connections").await;
                    continue;
                };
                let (agent, client, control) = (Arc::clone(agent), client.clone(), control.clone());
                tokio::spawn(async move {
                    answer(agent, client, control, request).await;
                    drop(permit);
                });
            }
            Some(Down::Drain(drain)) => {
                *retry_after = Some(Duration::from_millis(u64::from(drain.retry_after_ms)));
                tracing::info!("the proxy is stopping");
            }
            None => {}
        }
    }
    Ok(())
}

/// Opens the stream for a dial and serves SSH over it.
async fn answer(
    agent: Arc<Agent>,
    mut client: TunnelClient<Channel>,
    control: ControlSender,
    request: v1::DialRequest,
) {
    let v1::DialRequest { dial_id, grant } = request;
    let Some(grant) = grant else { return refuse(&control, dial_id, "the dial has no grant").await };
    let Ok(id) = MetadataValue::try_from(&dial_id) else {
        return refuse(&control, dial_id, "the dial id cannot be sent back").await;
    };
    let (sender, receiver) = queue();
    let mut call = Request::new(ReceiverStream::new(receiver));
    call.metadata_mut().insert(DIAL_ID, id);
    match client.dial(call).await {
        Ok(reply) => {
            let stream = TunnelStream::new(reply.into_inner(), sender);
            ssh::serve(agent, stream, ssh::Dial { dial_id, grant, control }).await;
        }
        Err(status) => tracing::debug!(error = status.message(), "a dial could not be answered"),
    }
}

async fn refuse(control: &ControlSender, dial_id: String, reason: &str) {
    let refused = v1::DialRefused { dial_id, reason: reason.to_owned() };
    // The tunnel may have ended; the proxy then knows without being told.
    let _ = control.send(up(Up::Refused(refused))).await;
}

/// Wraps a control message.
pub(crate) fn up(message: Up) -> v1::ControlUp {
    v1::ControlUp { message: Some(message) }
}
