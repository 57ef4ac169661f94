//! Making a user.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use mezite_core::kind::UserSpec;
use mezite_core::kind::user::Traits;
use mezite_proto::v1;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::web::credential::Caller;
use crate::web::lists::only_admin;
use crate::web::{ApiError, Web};

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserRequest {
    /// The user's name; `name` and `user` are accepted too.
    #[serde(alias = "name", alias = "user")]
    username: String,
    /// Names of the roles held.
    roles: Vec<String>,
    /// Attributes, each with its values; `logins` are the OS logins.
    #[serde(default)]
    #[schema(value_type = Object)]
    traits: Traits,
    /// Without it, an invite is made.
    #[serde(default)]
    password: String,
}

/// The invite, unless a password was given.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserReply {
    username: String,
    /// Redeemed once at `/v1/webapi/invite`; empty for none.
    invite_token: String,
    /// End of the invite; 0 for none.
    invite_expires_unix: i64,
}

/// Makes a user; for administrators. A refusal is an `authz.denied` event.
#[utoipa::path(post, path = "/v1/webapi/users", request_body = UserRequest, responses((status = 200, body = UserReply), (status = 403, body = super::ErrorBody)))]
pub(crate) async fn create(
    State(mut web): State<Web>,
    caller: Caller,
    body: Result<Json<UserRequest>, JsonRejection>,
) -> Result<Json<UserReply>, ApiError> {
    // Before the body is looked at: whoever may not do this is noted, whatever was sent.
    only_admin(&web, &caller, "make users").await?;
    let Json(UserRequest { username, roles, traits, password }) = body?;
    let spec = serde_json::to_vec(&UserSpec { roles, traits, ..UserSpec::default() })
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let request = v1::CreateUserRequest { name: username.clone(), spec, password };
    let v1::CreateUserReply { invite_token, invite_expires_unix, .. } =
        web.auth.create_user(caller.request(request)).await?.into_inner();
    Ok(Json(UserReply { username, invite_token, invite_expires_unix }))
}
