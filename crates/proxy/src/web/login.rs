//! Logging in, the certificate, the password.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse, Response};
use http::header;
use mezite_proto::v1;
use mezite_ssh::key::PublicKey;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::web::credential::{COOKIE, Caller, Source};
use crate::web::{ApiError, Web};

/// Life of the cookie, in seconds: that of a session token.
const COOKIE_LIFE: u32 = 12 * 3600;

/// What a client needs to know before it logs in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PingReply {
    cluster_name: String,
    version: &'static str,
    ssh_addr: String,
    tunnel_addr: String,
}

/// The name of the cluster and where its doors are.
#[utoipa::path(get, path = "/v1/webapi/ping", responses((status = 200, body = PingReply)))]
pub(crate) async fn ping(State(web): State<Web>) -> Json<PingReply> {
    Json(PingReply {
        cluster_name: web.about.cluster_name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        ssh_addr: web.about.ssh_addr.clone(),
        tunnel_addr: web.about.tunnel_addr.clone(),
    })
}

/// A local login.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginRequest {
    /// The user's name; `user` is accepted too.
    #[serde(alias = "user")]
    username: String,
    password: String,
    /// A code of the user's second factor, for whoever has one; `mfa_code` and `totp` are accepted too.
    #[serde(default, alias = "mfa_code", alias = "totp")]
    otp: String,
}

/// A session; certificates are fetched with it (`/v1/webapi/certs`).
#[derive(Serialize, ToSchema)]
pub(crate) struct LoginReply {
    session_id: String,
    username: String,
    expires_unix: i64,
    cluster_name: String,
    ssh_addr: String,
    tunnel_addr: String,
}

/// Checks a password, and a code for whoever has a second factor, and opens a session of 12 h. Browsers get it as a cookie
/// too. A right password without the code that is needed is answered by 401 and `mfa_needed`.
#[utoipa::path(post, path = "/v1/webapi/login", request_body = LoginRequest, responses((status = 200, body = LoginReply), (status = 401, body = super::ErrorBody)))]
pub(crate) async fn login(
    State(mut web): State<Web>,
    source: Source,
    body: Result<Json<LoginRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(LoginRequest { username, password, otp }) = body?;
    let request = source.request(v1::AuthenticateLocalRequest { username, password, otp });
    let reply = web.auth.authenticate_local(request).await?.into_inner();
    let cookie =
        format!("{COOKIE}={}; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age={COOKIE_LIFE}", reply.session_id);
    let body = LoginReply {
        session_id: reply.session_id,
        username: reply.username,
        expires_unix: reply.expires_unix,
        cluster_name: web.about.cluster_name.clone(),
        ssh_addr: web.about.ssh_addr.clone(),
        tunnel_addr: web.about.tunnel_addr.clone(),
    };
    Ok(([(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, "no-store".to_owned())], Json(body)).into_response())
}

/// An invited user chooses a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InviteRequest {
    token: String,
    password: String,
}

/// The name of the user who may now log in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InviteReply {
    username: String,
}

/// Redeems an invite, once.
#[utoipa::path(post, path = "/v1/webapi/invite", request_body = InviteRequest, responses((status = 200, body = InviteReply)))]
pub(crate) async fn redeem_invite(
    State(mut web): State<Web>,
    source: Source,
    body: Result<Json<InviteRequest>, JsonRejection>,
) -> Result<Json<InviteReply>, ApiError> {
    let Json(InviteRequest { token, password }) = body?;
    let reply = web.auth.redeem_invite(source.request(v1::RedeemInviteRequest { token, password })).await?.into_inner();
    Ok(Json(InviteReply { username: reply.username }))
}

/// Nothing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {}

/// Ends the session everywhere.
#[utoipa::path(post, path = "/v1/webapi/logout", responses((status = 200, body = Done)))]
pub(crate) async fn logout(State(mut web): State<Web>, caller: Caller) -> Result<Response, ApiError> {
    web.auth.logout(caller.request(v1::LogoutRequest {})).await?;
    let cookie = format!("{COOKIE}=; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=0");
    Ok(([(header::SET_COOKIE, cookie)], Json(Done {})).into_response())
}

/// Who the session belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WhoAmIReply {
    username: String,
    roles: Vec<String>,
    expires_unix: i64,
    admin: bool,
    auditor: bool,
}

/// The caller's name, roles and end of session.
#[utoipa::path(get, path = "/v1/webapi/whoami", responses((status = 200, body = WhoAmIReply)))]
pub(crate) async fn who_am_i(State(mut web): State<Web>, caller: Caller) -> Result<Json<WhoAmIReply>, ApiError> {
    let v1::WhoAmIReply { username, roles, expires_unix, admin, auditor } =
        web.auth.who_am_i(caller.request(v1::WhoAmIRequest {})).await?.into_inner();
    Ok(Json(WhoAmIReply { username, roles, expires_unix, admin, auditor }))
}

/// A public key to be certified.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertsRequest {
    /// One OpenSSH public key line, Ed25519.
    ssh_public_key: String,
    /// Seconds; 0 is the default of 12 h.
    #[serde(default)]
    ttl_seconds: u32,
}

/// A user certificate and what the user should trust.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CertsReply {
    ssh_certificate: String,
    host_authorities: Vec<String>,
    user_authorities: Vec<String>,
    tls_ca_pem: String,
    cluster_name: String,
    valid_before_unix: i64,
    logins: Vec<String>,
}

/// Issues a short-lived user certificate.
#[utoipa::path(post, path = "/v1/webapi/certs", request_body = CertsRequest, responses((status = 200, body = CertsReply)))]
pub(crate) async fn issue_certs(
    State(mut web): State<Web>,
    caller: Caller,
    body: Result<Json<CertsRequest>, JsonRejection>,
) -> Result<Json<CertsReply>, ApiError> {
    let Json(CertsRequest { ssh_public_key, ttl_seconds }) = body?;
    let (key, _comment) = PublicKey::from_openssh(&ssh_public_key)
        .map_err(|error| ApiError::invalid(format!("ssh_public_key: {error}")))?;
    let request = v1::IssueUserCertsRequest { ssh_public_key: key.to_wire(), ttl_seconds };
    let reply = web.auth.issue_user_certs(caller.request(request)).await?.into_inner();
    Ok(Json(CertsReply {
        ssh_certificate: reply.ssh_certificate,
        host_authorities: reply.host_authorities,
        user_authorities: reply.user_authorities,
        tls_ca_pem: reply.tls_ca_pem,
        cluster_name: reply.cluster_name,
        valid_before_unix: reply.valid_before_unix,
        logins: reply.logins,
    }))
}

/// The old password is asked for again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordRequest {
    old_password: String,
    new_password: String,
    /// A code of the caller's, who has a second factor.
    #[serde(default)]
    otp: String,
}

/// Changes the caller's own password.
#[utoipa::path(post, path = "/v1/webapi/password", request_body = PasswordRequest, responses((status = 200, body = Done)))]
pub(crate) async fn change_password(
    State(mut web): State<Web>,
    caller: Caller,
    body: Result<Json<PasswordRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let Json(PasswordRequest { old_password, new_password, otp }) = body?;
    web.auth.change_password(caller.request(v1::ChangePasswordRequest { old_password, new_password, otp })).await?;
    Ok(Json(Done {}))
}
