//! The caller's second factors.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderName, HeaderValue, header};
use mezite_proto::v1;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::web::credential::Caller;
use crate::web::login::Done;
use crate::web::{ApiError, Web};

/// One factor.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Factor {
    name: String,
    /// `totp`.
    r#type: String,
    added_unix: i64,
    /// 0: never.
    last_used_unix: i64,
}

/// The caller's factors, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Factors {
    factors: Vec<Factor>,
}

/// Lists the caller's second factors.
#[utoipa::path(get, path = "/v1/webapi/mfa", responses((status = 200, body = Factors)))]
pub(crate) async fn list(State(mut web): State<Web>, caller: Caller) -> Result<Json<Factors>, ApiError> {
    let reply = web.auth.list_mfa(caller.request(v1::ListMfaRequest::default())).await?.into_inner();
    let shown = |v1::MfaFactor { name, r#type, added_unix, last_used_unix }| Factor {
        name,
        r#type,
        added_unix,
        last_used_unix,
    };
    Ok(Json(Factors { factors: reply.factors.into_iter().map(shown).collect() }))
}

/// A factor to be enrolled.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginRequest {
    /// What the factor is called; `totp` when empty.
    #[serde(default)]
    name: String,
    /// A code of a factor that is there already; empty for the first.
    #[serde(default)]
    otp: String,
}

/// What the authenticator is to be told, once.
#[derive(Serialize, ToSchema)]
pub(crate) struct BeginReply {
    /// By which the enrolment is ended.
    id: String,
    /// `otpauth://…`; holds the secret.
    uri: String,
}

/// Begins to enrol a TOTP authenticator; it counts once a code of it was given to `/v1/webapi/mfa/totp/finish`.
#[utoipa::path(post, path = "/v1/webapi/mfa/totp/begin", request_body = BeginRequest, responses((status = 200, body = BeginReply)))]
pub(crate) async fn begin(
    State(mut web): State<Web>,
    caller: Caller,
    body: Result<Json<BeginRequest>, JsonRejection>,
) -> Result<([(HeaderName, HeaderValue); 1], Json<BeginReply>), ApiError> {
    let Json(BeginRequest { name, otp }) = body?;
    let request = v1::BeginMfaRequest { r#type: "totp".to_owned(), name, otp };
    let v1::BeginMfaReply { id, uri } = web.auth.begin_mfa(caller.request(request)).await?.into_inner();
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(BeginReply { id, uri })))
}

/// The end of an enrolment.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishRequest {
    id: String,
    /// A code of the new authenticator.
    code: String,
}

/// The name of the factor that counts from here on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FinishReply {
    name: String,
}

/// Ends the enrolment of a TOTP authenticator.
#[utoipa::path(post, path = "/v1/webapi/mfa/totp/finish", request_body = FinishRequest, responses((status = 200, body = FinishReply), (status = 403, body = super::ErrorBody)))]
pub(crate) async fn finish(
    State(mut web): State<Web>,
    caller: Caller,
    body: Result<Json<FinishRequest>, JsonRejection>,
) -> Result<Json<FinishReply>, ApiError> {
    let Json(FinishRequest { id, code }) = body?;
    let reply = web.auth.finish_mfa(caller.request(v1::FinishMfaRequest { id, code })).await?.into_inner();
    Ok(Json(FinishReply { name: reply.name }))
}

/// A factor to be removed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveRequest {
    name: String,
    /// A code of any of the caller's factors.
    otp: String,
}

/// Removes one of the caller's factors.
#[utoipa::path(post, path = "/v1/webapi/mfa/remove", request_body = RemoveRequest, responses((status = 200, body = Done), (status = 403, body = super::ErrorBody)))]
pub(crate) async fn remove(
    State(mut web): State<Web>,
    caller: Caller,
    body: Result<Json<RemoveRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let Json(RemoveRequest { name, otp }) = body?;
    web.auth.remove_mfa(caller.request(v1::RemoveMfaRequest { name, otp })).await?;
    Ok(Json(Done {}))
}
