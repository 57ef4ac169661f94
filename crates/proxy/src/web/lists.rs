//! Lists: nodes, sessions, users, roles, audit; and a recording as asciicast.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http::header;
use mezite_core::audit::{Event, EventType};
use mezite_core::kind::{Kind, Role, RoleSpec, role_document};
use mezite_net::clock;
use mezite_proto::v1;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use utoipa::{IntoParams, ToSchema};

use crate::web::credential::Caller;
use crate::web::{ApiError, Web};

/// Rows of one page at most.
const MAX_ROWS: u32 = 1000;

/// The nodes that the caller's roles can see.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Nodes {
    /// `id`, `hostname`, `type`, `status` (`online`, `offline`), `labels`, `version`.
    #[schema(value_type = Vec<Object>)]
    nodes: Vec<Value>,
}

/// Nodes with labels and status.
#[utoipa::path(get, path = "/v1/webapi/nodes", responses((status = 200, body = Nodes)))]
pub(crate) async fn nodes(State(web): State<Web>, caller: Caller) -> Result<Json<Nodes>, ApiError> {
    let mut nodes = Vec::new();
    for object in all_objects(web, &caller, "node").await? {
        let (spec, status) = (parse(&object.spec), parse(&object.status));
        let online = status.get("online").and_then(Value::as_bool).unwrap_or_default();
        nodes.push(json!({
            "id": spec.get("node_id"),
            "hostname": object.name,
            "type": spec.get("kind"),
            "status": if online { "online" } else { "offline" },
            "labels": spec.get("labels"),
            "version": spec.get("version"),
        }));
    }
    Ok(Json(Nodes { nodes }))
}

/// Filters of the session list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionQuery {
    /// Rows of the page; 100 when missing, at most 1000.
    limit: Option<u32>,
    /// Rows to skip.
    #[serde(default)]
    offset: u32,
    /// Only this user's.
    #[serde(default)]
    user: String,
    /// Only `ssh` exists.
    #[serde(default)]
    protocol: String,
    /// Only live ones.
    #[serde(default)]
    active: bool,
}

/// Sessions, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sessions {
    /// `id`, `user`, `node`, `login`, `kind`, `command`, `started`, `ended`, `client_ip`, `recording`.
    #[schema(value_type = Vec<Object>)]
    sessions: Vec<Value>,
}

/// Sessions: all for administrators and auditors, one's own for everybody else.
#[utoipa::path(get, path = "/v1/webapi/sessions", params(SessionQuery), responses((status = 200, body = Sessions)))]
pub(crate) async fn sessions(
    State(mut web): State<Web>,
    caller: Caller,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Json<Sessions>, ApiError> {
    let Query(SessionQuery { limit, offset, user, protocol, active }) = query?;
    if !matches!(protocol.as_str(), "" | "ssh") {
        return Ok(Json(Sessions { sessions: Vec::new() }));
    }
    let request = v1::ListSessionsRequest {
        active_only: active,
        user,
        page_size: limit.unwrap_or(100).min(MAX_ROWS),
        offset,
        ..Default::default()
    };
    let reply = web.auth.list_sessions(caller.request(request)).await?.into_inner();
    Ok(Json(Sessions { sessions: reply.sessions.iter().map(session).collect() }))
}

fn session(info: &v1::SessionInfo) -> Value {
    json!({
        "id": info.session_id,
        "user": info.user,
        "node": info.node_name,
        "login": info.login,
        "kind": info.kind,
        "command": info.command,
        "client_ip": info.client_ip,
        "started": rfc3339(info.started_unix_ms),
        "ended": (info.ended_unix_ms != 0).then(|| rfc3339(info.ended_unix_ms)),
        "ended_reason": info.ended_reason,
        "recording": info.recording_state,
        "waiting": info.waiting,
    })
}

/// A recording as plain asciicast v2. Somebody else's is answered like one that does not exist.
#[utoipa::path(get, path = "/v1/webapi/sessions/{id}/recording", params(("id" = String, Path)), responses((status = 200, content_type = "application/x-asciicast")))]
pub(crate) async fn recording(
    State(mut web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let request = caller.request(v1::DownloadRecordingRequest { session_id: id });
    let chunks = web.auth.download_recording(request).await?.into_inner();
    let body = Body::from_stream(chunks.map(|chunk| chunk.map(|c| c.data)));
    Ok(([(header::CONTENT_TYPE, "application/x-asciicast")], body).into_response())
}

/// Users, without anything secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Users {
    /// `name`, `roles`, `traits`.
    #[schema(value_type = Vec<Object>)]
    users: Vec<Value>,
}

/// All users; for administrators.
#[utoipa::path(get, path = "/v1/webapi/users", responses((status = 200, body = Users), (status = 403, body = super::ErrorBody)))]
pub(crate) async fn users(State(web): State<Web>, caller: Caller) -> Result<Json<Users>, ApiError> {
    only_admin(&web, &caller, "list users").await?;
    let objects = all_objects(web, &caller, "user").await?;
    let users = objects.iter().map(|o| with_name(&o.name, parse(&o.spec))).collect();
    Ok(Json(Users { users }))
}

/// Role documents.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Roles {
    /// Each as `mezctl roles get --format=json` prints it.
    #[schema(value_type = Vec<Object>)]
    roles: Vec<Value>,
}

/// All roles; for administrators.
#[utoipa::path(get, path = "/v1/webapi/roles", responses((status = 200, body = Roles), (status = 403, body = super::ErrorBody)))]
pub(crate) async fn roles(State(web): State<Web>, caller: Caller) -> Result<Json<Roles>, ApiError> {
    only_admin(&web, &caller, "list roles").await?;
    let objects = all_objects(web, &caller, "role").await?;
    Ok(Json(Roles { roles: objects.iter().map(role).collect() }))
}

/// A role that cannot be read is shown by its name and why.
fn role(object: &v1::Object) -> Value {
    match serde_json::from_slice::<RoleSpec>(&object.spec) {
        Ok(spec) => role_document(&object.name, &spec),
        Err(_) => json!({ "kind": Role::KIND, "metadata": { "name": object.name }, "error": object.error }),
    }
}

/// Filters of the audit list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    /// Event type, as `session.start`.
    #[serde(default, rename = "type")]
    event_type: String,
    /// Only this user's.
    #[serde(default)]
    user: String,
    /// From this date (`2026-03-01`) or RFC 3339 time on.
    #[serde(default)]
    from: String,
    /// Up to this date or time, not included.
    #[serde(default)]
    to: String,
    /// Rows of the page; 100 when missing, at most 1000.
    limit: Option<u32>,
    /// From the reply before.
    #[serde(default)]
    page: String,
}

/// Audit events, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Audit {
    /// One object per event, as stored.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
    /// Give it back as `page` for the rows that follow; empty at the end.
    next_page: String,
}

/// The audit log; for administrators and auditors.
#[utoipa::path(get, path = "/v1/webapi/audit", params(AuditQuery), responses((status = 200, body = Audit), (status = 403, body = super::ErrorBody)))]
pub(crate) async fn audit(
    State(mut web): State<Web>,
    caller: Caller,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Audit>, ApiError> {
    let Query(AuditQuery { event_type, user, from, to, limit, page }) = query?;
    let request = v1::ListAuditRequest {
        types: if event_type.is_empty() { Vec::new() } else { vec![event_type] },
        user,
        since_unix_ms: instant("from", &from)?,
        until_unix_ms: instant("to", &to)?,
        page_token: page,
        page_size: limit.unwrap_or(100).min(MAX_ROWS),
        ..v1::ListAuditRequest::default()
    };
    let reply = web.auth.list_audit(caller.request(request)).await?.into_inner();
    Ok(Json(Audit { events: reply.events.iter().map(|e| parse(e)).collect(), next_page: reply.next_page_token }))
}

/// REST hands whole users and roles to administrators only (F504); a refusal is an event.
pub(super) async fn only_admin(web: &Web, caller: &Caller, what: &str) -> Result<(), ApiError> {
    let mut auth = web.auth.clone();
    let who = auth.who_am_i(caller.request(v1::WhoAmIRequest {})).await?.into_inner();
    if who.admin {
        return Ok(());
    }
    let event = Event::new(EventType::AuthzDenied, clock::uuid(), clock::now());
    let mut event = event.resource("api", what).user(who.username, &who.roles);
    event.client_ip = caller.address().to_owned();
    event.error_message = "only administrators may do this through the web API".to_owned();
    let json = serde_json::to_vec(&event).map_err(|_| ApiError::denied("the refusal cannot be noted"))?;
    let events = vec![json];
    auth.emit_audit_events(v1::EmitAuditEventsRequest { events }).await?;
    Err(ApiError::denied(format!("only administrators may {what}")))
}

async fn all_objects(mut web: Web, caller: &Caller, kind: &str) -> Result<Vec<v1::Object>, ApiError> {
    let mut objects = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListObjectsRequest { kind: kind.to_owned(), page_token, page_size: MAX_ROWS };
        let reply = web.auth.list_objects(caller.request(request)).await?.into_inner();
        objects.extend(reply.objects);
        if reply.next_page_token.is_empty() {
            return Ok(objects);
        }
        page_token = reply.next_page_token;
    }
}

/// JSON that Auth sent; what cannot be read is shown as nothing, so that one bad row does not hide the others.
fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_default()
}

fn with_name(name: &str, spec: Value) -> Value {
    let mut row = json!({ "name": name });
    if let (Some(row), Value::Object(spec)) = (row.as_object_mut(), spec) {
        row.extend(spec);
    }
    row
}

fn rfc3339(unix_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000))
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Unix milliseconds of a date or an RFC 3339 time; 0 for nothing.
fn instant(field: &str, text: &str) -> Result<i64, ApiError> {
    if text.is_empty() {
        return Ok(0);
    }
    let date = format_description!("[year]-[month]-[day]");
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| time::Date::parse(text, &date).map(|d| d.midnight().assume_utc()))
        .map_err(|_| {
            ApiError::invalid(format!("{field}: expected a date like 2026-03-01 or a time like 2026-03-01T12:00:00Z"))
        })?;
    Ok(i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_accepted_and_nothing_else() {
        assert_eq!(instant("from", "").unwrap(), 0);
        assert_eq!(instant("from", "1970-01-02").unwrap(), 86_400_000);
        assert_eq!(instant("from", "1970-01-01T00:00:01Z").unwrap(), 1000);
        assert!(instant("from", "yesterday").is_err());
    }
}
