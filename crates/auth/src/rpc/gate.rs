//! What every call passes before it reaches a handler: the caller is found out and held against the policy table.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::Limited;
use mezite_core::Fault;
use mezite_core::audit::EventType;
use mezite_net::http::Remote;
use tonic::Status;

use super::policy::{self, Allowed};
use crate::caller::{Caller, Who};
use crate::hub::Hub;

/// Most bytes of a call without a credential: a login, an invite, or the keys of a machine that joins.
const STRANGERS_BODY: usize = 128 * 1024;
/// How long such a call may take, its body included.
const STRANGERS_TIME: Duration = Duration::from_secs(30);

/// The middleware of the whole service.
pub(crate) async fn pass(State(hub): State<Arc<Hub>>, mut request: Request, next: Next) -> Response {
    // Not the whole request: its body cannot be shared with another thread.
    let (path, headers, remote) = (request.uri().path(), request.headers(), request.extensions().get::<Remote>());
    match admit(&hub, path, headers, remote).await {
        Ok(caller) => {
            let stranger = matches!(caller.who, Who::Nobody);
            request.extensions_mut().insert(caller);
            if stranger { bounded(request, next).await } else { next.run(request).await }
        }
        Err(status) => status.into_http::<Body>(),
    }
}

/// The call of somebody without a credential: a message is held in memory while it arrives, so its size and time are bounded.
async fn bounded(request: Request, next: Next) -> Response {
    let request = request.map(|body| Body::new(Limited::new(body, STRANGERS_BODY)));
    tokio::time::timeout(STRANGERS_TIME, next.run(request))
        .await
        .unwrap_or_else(|_| Status::deadline_exceeded("the request took too long").into_http::<Body>())
}

async fn admit(hub: &Hub, path: &str, headers: &HeaderMap, remote: Option<&Remote>) -> Result<Caller, Status> {
    let Some((rpc, allowed)) = policy::row(path) else {
        return Err(Status::unimplemented("there is no such call"));
    };
    let admitted = admit_to(hub, path, allowed, headers, remote).await;
    let outcome = if admitted.is_ok() { "admitted" } else { "refused" };
    metrics::counter!("mezite_auth_calls_total", "rpc" => rpc, "outcome" => outcome).increment(1);
    admitted
}

async fn admit_to(
    hub: &Hub,
    path: &str,
    allowed: Allowed,
    headers: &HeaderMap,
    remote: Option<&Remote>,
) -> Result<Caller, Status> {
    let Some(remote) = remote else { return Err(Status::internal("the connection is not known")) };
    let caller = Caller::identify(hub, remote, headers).await.map_err(|fault| refuse(hub, path, &fault))?;
    if allowed.admits(&caller.who) {
        return Ok(caller);
    }
    let fault = match (&caller.who, allowed) {
        (Who::Nobody, Allowed::User | Allowed::Admin | Allowed::Auditor) => Fault::NotLoggedIn("log in first".into()),
        (Who::User(_), _) => Fault::Denied("your roles do not allow this".into()),
        _ => Fault::Denied("you may not do this".into()),
    };
    if !matches!(caller.who, Who::Nobody) {
        note_denied(hub, &caller, path).await.map_err(|fault| refuse(hub, path, &fault))?;
    }
    Err(refuse(hub, path, &fault))
}

/// Writes the `authz.denied` of a caller who is known (F443).
///
/// # Errors
/// When it could not be written.
pub(crate) async fn note_denied(hub: &Hub, caller: &Caller, what: &str) -> Result<(), Fault> {
    let event = hub.event(EventType::AuthzDenied).resource("api", what);
    hub.audit_refusals(vec![(caller.cause(), caller.sign(event))]).await
}

fn refuse(hub: &Hub, path: &str, fault: &Fault) -> Status {
    hub.report(path, fault);
    mezite_proto::status(fault)
}
