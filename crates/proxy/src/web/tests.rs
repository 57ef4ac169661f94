//! Every route, who may call it, and that nobody else gets past the door.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, StatusCode};
use mezite_proto::v1::auth_client::AuthClient;
use tonic::transport::Endpoint;
use tower::ServiceExt;

use super::{About, Web, router};

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// No credential.
    Anybody,
    /// A session token.
    User,
    /// A session token of an administrator.
    Admin,
    /// A session token of an administrator or auditor.
    Auditor,
}

/// Method, path and caller of every route.
pub(super) const ROUTES: &[(&str, &str, Who)] = &[
    ("GET", "/v1/webapi/ping", Who::Anybody),
    ("POST", "/v1/webapi/login", Who::Anybody),
    ("POST", "/v1/webapi/invite", Who::Anybody),
    ("GET", "/v1/webapi/openapi.json", Who::Anybody),
    ("POST", "/v1/webapi/logout", Who::User),
    ("GET", "/v1/webapi/whoami", Who::User),
    ("POST", "/v1/webapi/certs", Who::User),
    ("POST", "/v1/webapi/password", Who::User),
    ("GET", "/v1/webapi/mfa", Who::User),
    ("POST", "/v1/webapi/mfa/totp/begin", Who::User),
    ("POST", "/v1/webapi/mfa/totp/finish", Who::User),
    ("POST", "/v1/webapi/mfa/remove", Who::User),
    ("GET", "/v1/webapi/nodes", Who::User),
    ("GET", "/v1/webapi/sessions", Who::User),
    ("GET", "/v1/webapi/sessions/{id}/recording", Who::User),
    ("GET", "/v1/webapi/users", Who::Admin),
    ("POST", "/v1/webapi/users", Who::Admin),
    ("GET", "/v1/webapi/roles", Who::Admin),
    ("GET", "/v1/webapi/audit", Who::Auditor),
];

/// The API in front of an Auth that cannot be reached: whoever gets that far is answered 503.
fn api() -> axum::Router {
    let auth = AuthClient::new(Endpoint::from_static("http://127.0.0.1:1").connect_lazy());
    let about =
        About { cluster_name: "test".into(), ssh_addr: "localhost:1".into(), tunnel_addr: "localhost:2".into() };
    router(Web { auth, about: Arc::new(about) })
}

async fn call(method: &str, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
}

#[tokio::test]
async fn nobody_gets_nowhere_but_where_anybody_may() {
    for (method, path, who) in ROUTES {
        let status = call(method, path, &[]).await;
        if *who == Who::Anybody {
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        } else {
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
        assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}");
    }
}

#[tokio::test]
async fn a_cookie_alone_changes_nothing() {
    let cookie = ("cookie", "mezite_session=abc");
    for (method, path, who) in ROUTES {
        if *method == "POST" && *who != Who::Anybody {
            assert_eq!(call(method, path, &[cookie]).await, StatusCode::FORBIDDEN, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_same_shape() {
    assert_eq!(call("GET", "/v1/webapi/nope", &[]).await, StatusCode::NOT_FOUND);
    assert_eq!(call("DELETE", "/v1/webapi/ping", &[]).await, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_grpc_caller_is_told_of_the_wrong_port() {
    let request = Request::post("/mezite.v1.Auth/Login").header("content-type", "application/grpc");
    let response = api().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers().get("grpc-status").unwrap(), "12");
}
