//! The REST API under `/v1/webapi/` on :3080.
//!
//! Every route hands the caller's credential to Auth, which decides; nothing is decided here but that users and roles are for
//! administrators (F504). `tests.rs` has a table of every
//! route with who may call it, and calls each as nobody.

mod credential;
mod error;
mod lists;
mod login;
mod mfa;
mod openapi;
#[cfg(test)]
mod tests;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mezite_net::http::Remote;
use mezite_proto::v1::auth_client::AuthClient;
use tonic::Status;
use tonic::transport::Channel;

pub(crate) use error::{ApiError, ErrorBody};

/// The largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long a request may take up to the head of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    /// Auth, over the proxy's own mutual TLS.
    pub(crate) auth: AuthClient<Channel>,
    /// What clients are told about this cluster.
    pub(crate) about: Arc<About>,
}

/// Addresses that clients dial, `host:port`.
#[derive(Debug)]
pub(crate) struct About {
    /// The cluster's name.
    pub(crate) cluster_name: String,
    /// The SSH front door.
    pub(crate) ssh_addr: String,
    /// Where agents dial.
    pub(crate) tunnel_addr: String,
}

/// The whole REST API.
pub(crate) fn router(web: Web) -> Router {
    Router::new()
        .route("/v1/webapi/ping", get(login::ping))
        .route("/v1/webapi/login", post(login::login))
        .route("/v1/webapi/invite", post(login::redeem_invite))
        .route("/v1/webapi/logout", post(login::logout))
        .route("/v1/webapi/whoami", get(login::who_am_i))
        .route("/v1/webapi/certs", post(login::issue_certs))
        .route("/v1/webapi/password", post(login::change_password))
        .route("/v1/webapi/mfa", get(mfa::list))
        .route("/v1/webapi/mfa/totp/begin", post(mfa::begin))
        .route("/v1/webapi/mfa/totp/finish", post(mfa::finish))
        .route("/v1/webapi/mfa/remove", post(mfa::remove))
        .route("/v1/webapi/nodes", get(lists::nodes))
        .route("/v1/webapi/sessions", get(lists::sessions))
        .route("/v1/webapi/sessions/{id}/recording", get(lists::recording))
        .route("/v1/webapi/users", get(lists::users).post(users::create))
        .route("/v1/webapi/roles", get(lists::roles))
        .route("/v1/webapi/audit", get(lists::audit))
        .route("/v1/webapi/openapi.json", get(openapi::serve))
        .fallback(no_route)
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(bounded))
        .with_state(web)
}

/// Bounds the time of a request up to its answer's head, body included, and tells the listener of connections that showed a
/// good credential, so that a flood of strangers does not push them out.
async fn bounded(request: Request, next: Next) -> Response {
    let remote = request.extensions().get::<ConnectInfo<Remote>>().map(|info| info.0.clone());
    let anybody = matches!(request.uri().path(), "/v1/webapi/ping" | "/v1/webapi/openapi.json");
    let Ok(response) = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await else {
        return ApiError::too_slow().into_response();
    };
    if let Some(remote) = remote.filter(|_| !anybody && response.status().is_success()) {
        remote.authenticated();
    }
    response
}

/// A gRPC caller has the wrong port, and is told so in its own terms.
async fn no_route(headers: HeaderMap) -> Response {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if kind.starts_with(b"application/grpc") {
        let told =
            "this is the HTTPS port; Auth is at auth.listen_addr (3025), tunnels at proxy.tunnel_listen_addr (3024)";
        let mut response: Response = Status::unimplemented(told).into_http();
        // Never a success, which `bounded` takes for a good credential.
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    ApiError::no_route().into_response()
}
