//! Audit events of agents and proxies on their way to Auth, which chains them: queued, sent in batches, kept while Auth is away.
//! Nothing privileged happens on the strength of a queued event, so a full queue drops with an error in the log.

use std::time::Duration;

use mezite_core::audit::Event;
use mezite_proto::v1;
use mezite_proto::v1::auth_client::AuthClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::Backoff;

/// Events waiting for Auth.
const QUEUE: usize = 4096;
/// Events of one call.
const BATCH: usize = 64;

/// Where events are handed in. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Reports {
    events: mpsc::Sender<Event>,
}

impl Reports {
    /// Starts the sender; it ends when every clone is dropped and the queue is empty.
    pub fn start(auth: AuthClient<Channel>) -> Self {
        let (events, queue) = mpsc::channel(QUEUE);
        tokio::spawn(deliver(auth, queue));
        Self { events }
    }

    /// Hands an event in; it does not wait.
    pub fn send(&self, event: Event) {
        if let Err(error) = self.events.try_send(event) {
            tracing::error!(%error, "an audit event was dropped");
        }
    }
}

async fn deliver(mut auth: AuthClient<Channel>, mut queue: mpsc::Receiver<Event>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let events: Vec<Vec<u8>> = batch.drain(..).map(|event| event.canonical()).collect();
        // One that cannot be taken, or that makes the message too large, does not take the others with it.
        if tell(&mut auth, &mut backoff, &events).await.is_err() {
            for event in events {
                if let Err(status) = tell(&mut auth, &mut backoff, &[event]).await {
                    tracing::error!(error = status.message(), "the auth service refused an audit event");
                }
            }
        }
    }
}

/// Tells Auth of events; waits while it is away.
///
/// # Errors
/// Auth's refusal.
async fn tell(auth: &mut AuthClient<Channel>, backoff: &mut Backoff, events: &[Vec<u8>]) -> Result<(), Status> {
    loop {
        match auth.emit_audit_events(v1::EmitAuditEventsRequest { events: events.to_vec() }).await {
            Ok(_) => {
                backoff.reset();
                return Ok(());
            }
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) => {
                tokio::time::sleep(backoff.next(None)).await;
            }
            Err(status) => return Err(status),
        }
    }
}
