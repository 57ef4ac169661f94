//! SSH sessions: agents tell of them, users list them, administrators end them.

use mezite_core::audit::{Event, EventType};
use mezite_core::lock::Subject;
use mezite_core::rbac::{Denied, Resource};
use mezite_core::{Fault, Invalid, kind, name};
use mezite_net::clock;
use mezite_proto::v1::*;
use mezite_store::{Change, Detail, Session, SessionFilter, Tx};
use time::OffsetDateTime;

use super::{page, reads_all};
use crate::bursts::Cause;
use crate::caller::Caller;
use crate::hub::Hub;
use crate::join::unlocked_node;

/// The watched pseudo-kind by which a session is ended.
pub(crate) const TERMINATION: &str = "termination";
/// Reasons a session may end for.
const REASONS: [&str; 10] =
    ["exit", "disconnect", "terminated", "recording", "locked", "denied", "expired", "idle", "moderation", "agent"];
/// Longest text of a session, in bytes; a command line may be longer and is cut by the agent.
const MAX_TEXT: usize = 4096;

pub(super) async fn start(
    hub: &Hub,
    caller: &Caller,
    request: StartSessionRequest,
) -> Result<StartSessionReply, Fault> {
    let node = unlocked_node(hub, &caller.agent()?.id).await?;
    let info = request.session.ok_or_else(|| Invalid::new("session", "is missing"))?;
    let session = from_info(hub, &node, info)?;
    let mut tx = hub.store.begin(clock::now()).await?;
    // Nobody else writes while `tx` is held: of two sessions that would be one too many, one sees the other.
    if let Some(denied) = refusal(hub, &session).await? {
        drop(tx);
        let mut event = event(hub, denied.event_type(), &session);
        event.success = false;
        event.error_message = denied.to_string();
        if let Ok(reasons) = serde_json::to_value(&denied) {
            event = event.detail("reasons", reasons);
        }
        hub.audit_refusals(vec![(Cause::new(caller.cause().door, &session.user), event)]).await?;
        return Err(denied.into());
    }
    begin(hub, &mut tx, &session).await?;
    tx.commit().await?;
    Ok(StartSessionReply {})
}

/// What only this service knows at the moment when a session starts: a lock that the agent has not heard of, and how many
/// sessions the user has on other nodes.
async fn refusal(hub: &Hub, session: &Session) -> Result<Option<Denied>, Fault> {
    let names = [session.detail.node_name.as_str(), &session.node_id];
    let user = hub.store.find::<kind::User>(&session.user).await?;
    let held = user.and_then(|user| user.spec.ok()).map(|spec| spec.roles_at(clock::now())).unwrap_or_default();
    let subject =
        Subject { user: &session.user, roles: &held, node: &names, login: &session.login, ..Subject::machine(&names) };
    if let Some(lock) = hub.locked(subject).await? {
        return Ok(Some(Denied::locked(&lock)));
    }
    let roles = hub.roles().await?;
    let granting = session.detail.roles.iter().filter_map(|role| roles.get(role));
    let Some(most) = granting.filter_map(|role| role.options.max_sessions).min() else { return Ok(None) };
    let live = hub.store.live_sessions(&session.user, &session.id).await?;
    Ok((live >= u64::from(most)).then(|| Denied::too_many_sessions(most)))
}

pub(super) async fn end(hub: &Hub, caller: &Caller, request: EndSessionRequest) -> Result<EndSessionReply, Fault> {
    let EndSessionRequest { session_id, ended_unix_ms, reason, exit, session } = request;
    if !REASONS.contains(&reason.as_str()) {
        return Err(Invalid::new("reason", format!("must be one of {}", REASONS.join(", "))).into());
    }
    bounded("exit", &exit)?;
    let node = node_of(hub, caller).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    let known = hub.store.session(&session_id).await?;
    let session = match (known, session) {
        (Some(known), _) if known.node_id == node.node_id => known,
        (None, Some(info)) if info.session_id == session_id => from_info(hub, &node, info)?,
        _ => return Err(Fault::NotFound("no such session".into())),
    };
    let ended_at = moment(ended_unix_ms)?.max(session.started_at);
    let ended = Session { ended_at: Some(ended_at), ended_reason: reason, exit, ..session };
    finish(hub, &mut tx, &ended).await?;
    tx.commit().await?;
    Ok(EndSessionReply {})
}

pub(super) async fn list(hub: &Hub, caller: &Caller, request: ListSessionsRequest) -> Result<ListSessionsReply, Fault> {
    let ListSessionsRequest { active_only, user, node, page_token, page_size, offset } = request;
    let all = reads_all(caller, Resource::Sessions)?;
    let reader = caller.user()?;
    let user = match Some(user).filter(|user| !user.is_empty()) {
        Some(other) if !all && other != reader.name => return Ok(ListSessionsReply::default()),
        asked => asked.or_else(|| (!all).then(|| reader.name.clone())),
    };
    let node_id = match node.as_str() {
        "" => None,
        name => Some(hub.store.find::<kind::Node>(name).await?.map_or(node, |found| found.id)),
    };
    let filter = SessionFilter { active_only, user, node_id, offset };
    let found = hub.store.sessions(&filter, &page(page_token, page_size)).await?;
    // By id as well: a user made anew under an old name has no claim on the old sessions.
    let visible = found.items.into_iter().filter(|session| all || session.detail.user_id == reader.id);
    Ok(ListSessionsReply { sessions: visible.map(to_info).collect(), next_page_token: found.next.unwrap_or_default() })
}

pub(super) async fn terminate(
    hub: &Hub,
    caller: &Caller,
    request: TerminateSessionRequest,
) -> Result<TerminateSessionReply, Fault> {
    let gone = || Fault::NotFound("no such session, or it has ended".into());
    let session = hub.store.session(&request.session_id).await?.filter(|s| s.ended_at.is_none()).ok_or_else(gone)?;
    let mut tx = hub.store.begin(clock::now()).await?;
    let event = event(hub, EventType::SessionTerminated, &session);
    let event = event.detail("session_user", &session.user);
    let mut event = event.user(&caller.user()?.name, &caller.user()?.roles);
    event.client_ip = caller.client_ip.to_string();
    tx.audit(&event).await?;
    announce_end(&mut tx, &session.id, "terminated");
    tx.commit().await?;
    Ok(TerminateSessionReply {})
}

/// Tells agents and proxies to end a session, once the transaction is committed.
pub(crate) fn announce_end(tx: &mut Tx, session_id: &str, reason: &str) {
    let json = serde_json::json!({ "reason": reason }).to_string();
    tx.announce(Change { kind: TERMINATION, name: session_id.to_owned(), revision: 0, json: Some(json.into()) });
}

/// Records the start of a session and its event, once, and whom it waits for, as often as that changes.
pub(super) async fn begin(hub: &Hub, tx: &mut Tx, session: &Session) -> Result<(), Fault> {
    // Nobody else writes while `tx` is held, so what is read here stays true.
    let known = hub.store.session(&session.id).await?;
    tx.start_session(session).await?;
    match known {
        None => tx.audit(&event(hub, EventType::SessionStart, session)).await,
        Some(known) if known.detail.waiting != session.detail.waiting && known.ended_at.is_none() => {
            let waiting = session.detail.waiting.clone();
            tx.set_session_detail(&known.id, &Detail { waiting, ..known.detail }).await
        }
        Some(_) => Ok(()),
    }
}

/// Records the end of a session, and its start if that was never told, with their events.
pub(crate) async fn finish(hub: &Hub, tx: &mut Tx, session: &Session) -> Result<(), Fault> {
    begin(hub, tx, session).await?;
    if !tx.end_session(session).await? {
        return Ok(());
    }
    let ended_at = session.ended_at.unwrap_or_else(|| tx.now());
    let duration = (ended_at - session.started_at).whole_milliseconds().max(0);
    let ended = event(hub, EventType::SessionEnd, session)
        .detail("reason", &session.ended_reason)
        .detail("exit", &session.exit)
        .detail("duration_ms", i64::try_from(duration).unwrap_or(i64::MAX))
        .detail("recorded", session.detail.recorded);
    tx.audit(&ended).await?;
    match transfer(&session.kind, &session.detail.command) {
        Some(protocol) => {
            let copied = event(hub, EventType::SessionFileTransfer, session).detail("protocol", protocol);
            tx.audit(&copied.detail("exit", &session.exit)).await
        }
        None => Ok(()),
    }
}

/// The protocol by which a session copies files, as its subsystem or the command that the client runs on the far side tells.
fn transfer(kind: &str, command: &str) -> Option<&'static str> {
    if kind == "subsystem" {
        return (command == "sftp").then_some("sftp");
    }
    let mut words = command.split_whitespace();
    match words.next()?.rsplit('/').next()? {
        "scp" if words.any(|word| matches!(word, "-t" | "-f")) => Some("scp"),
        "rsync" if words.any(|word| word == "--server") => Some("rsync"),
        "sftp-server" => Some("sftp"),
        _ => None,
    }
}

fn event(hub: &Hub, kind: EventType, session: &Session) -> Event {
    let Detail { roles, node_name, command, client_ip, pty, waiting, .. } = &session.detail;
    let mut event = hub
        .event(kind)
        .user(&session.user, roles)
        .resource("node", node_name)
        .detail("kind", &session.kind)
        .detail("pty", pty);
    if !command.is_empty() {
        event = event.detail("command", command);
    }
    if !waiting.is_empty() {
        event = event.detail("waiting", waiting);
    }
    event.session_id.clone_from(&session.id);
    event.server_id.clone_from(&session.node_id);
    event.server_hostname.clone_from(node_name);
    event.login.clone_from(&session.login);
    event.client_ip.clone_from(client_ip);
    event
}

/// The caller's node as it is stored; a lock does not keep it from telling what has happened.
pub(super) async fn node_of(hub: &Hub, caller: &Caller) -> Result<kind::NodeSpec, Fault> {
    let gone = || Fault::Denied("this node was deleted or replaced".into());
    let node = hub.store.find_by_id::<kind::Node>(&caller.agent()?.id).await?.ok_or_else(gone)?;
    Ok(node.spec()?.clone())
}

/// A session as the agent tells it; which node and cluster it is in, this service knows.
pub(super) fn from_info(hub: &Hub, node: &kind::NodeSpec, info: SessionInfo) -> Result<Session, Fault> {
    if !name::is_uuid(&info.session_id) {
        return Err(Invalid::new("session_id", "must be a lower-case UUID").into());
    }
    if !["shell", "exec", "subsystem"].contains(&info.kind.as_str()) {
        return Err(Invalid::new("kind", "must be shell, exec or subsystem").into());
    }
    name::user(&info.user)?;
    let (id, login, ip, waiting) = (&info.user_id, &info.login, &info.client_ip, &info.waiting);
    for (field, text) in [("user_id", id), ("login", login), ("client_ip", ip), ("waiting", waiting)] {
        bounded(field, text)?;
    }
    if info.roles.len() > mezite_core::identity::MAX_ROLES {
        return Err(Invalid::new("roles", "are too many").into());
    }
    info.roles.iter().try_for_each(|role| bounded("roles", role))?;
    let mut command = info.command;
    if command.len() > MAX_TEXT {
        command.truncate(command.floor_char_boundary(MAX_TEXT));
    }
    Ok(Session {
        id: info.session_id,
        kind: info.kind,
        user: info.user,
        node_id: node.node_id.clone(),
        login: info.login,
        started_at: moment(info.started_unix_ms)?,
        ended_at: None,
        ended_reason: String::new(),
        exit: String::new(),
        recording_state: String::new(),
        detail: Detail {
            user_id: info.user_id,
            roles: info.roles,
            node_name: node.hostname.clone(),
            cluster_name: hub.cluster().to_owned(),
            command,
            client_ip: info.client_ip,
            pty: info.pty,
            recorded: info.recorded,
            waiting: info.waiting,
        },
    })
}

/// The session as it is shown.
pub(super) fn to_info(session: Session) -> SessionInfo {
    SessionInfo {
        session_id: session.id,
        kind: session.kind,
        user: session.user,
        user_id: session.detail.user_id,
        node_id: session.node_id,
        login: session.login,
        command: session.detail.command,
        client_ip: session.detail.client_ip,
        started_unix_ms: unix_ms(session.started_at),
        recorded: session.detail.recorded,
        pty: session.detail.pty,
        roles: session.detail.roles,
        ended_reason: session.ended_reason,
        ended_unix_ms: session.ended_at.map(unix_ms).unwrap_or_default(),
        node_name: session.detail.node_name,
        cluster_name: session.detail.cluster_name,
        recording_state: session.recording_state,
        waiting: if session.ended_at.is_none() { session.detail.waiting } else { String::new() },
    }
}

fn bounded(field: &str, text: &str) -> Result<(), Fault> {
    if text.len() > MAX_TEXT {
        return Err(Invalid::new(field, format!("is longer than {MAX_TEXT} bytes")).into());
    }
    Ok(())
}

/// A moment told by an agent, which cannot lie in the future of this clock.
fn moment(unix_ms: i64) -> Result<OffsetDateTime, Fault> {
    let told = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .map_err(|_| Invalid::new("unix_ms", "is not a time"))?;
    Ok(told.clamp(OffsetDateTime::UNIX_EPOCH, clock::now()))
}

fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::transfer;

    #[test]
    fn what_copies_files_is_told_from_what_does_not() {
        for (kind, command, protocol) in [
            ("subsystem", "sftp", Some("sftp")),
            ("subsystem", "other", None),
            ("exec", "scp -r -t /tmp", Some("scp")),
            ("exec", "/usr/bin/scp -f notes", Some("scp")),
            ("exec", "rsync --server -logDtpre.iLsfxCIvu . dir/", Some("rsync")),
            ("exec", "/usr/lib/openssh/sftp-server", Some("sftp")),
            ("exec", "scp a b:c", None),
            ("exec", "rsync --version", None),
            ("exec", "echo scp -t", None),
            ("shell", "", None),
        ] {
            assert_eq!(transfer(kind, command), protocol, "{kind} {command}");
        }
    }
}
