use mezite_proto::v1::*;
use tonic::Code;

use crate::cluster::{Caller, Cluster};

pub(crate) fn info(user: &str) -> SessionInfo {
    SessionInfo {
        session_id: mezite_net::clock::uuid(),
        kind: "shell".into(),
        user: user.into(),
        user_id: "u-1".into(),
        node_id: "a lie".into(),
        node_name: "another lie".into(),
        login: "ubuntu".into(),
        client_ip: "192.0.2.1".into(),
        started_unix_ms: mezite_net::clock::now_unix_ms() - 5000,
        recorded: true,
        pty: true,
        roles: vec!["access".into()],
        ..SessionInfo::default()
    }
}

pub(crate) fn ending(session: SessionInfo, reason: &str) -> EndSessionRequest {
    EndSessionRequest {
        session_id: session.session_id.clone(),
        ended_unix_ms: session.started_unix_ms + 2500,
        reason: reason.into(),
        exit: "0".into(),
        session: Some(session),
    }
}

pub(crate) async fn events(caller: &mut Caller, kind: &str) -> Vec<serde_json::Value> {
    let request = caller.with(ListAuditRequest { types: vec![kind.into()], ..ListAuditRequest::default() });
    let events = caller.client.list_audit(request).await.unwrap().into_inner().events;
    events.iter().map(|json| serde_json::from_slice(json).unwrap()).collect()
}

async fn list(caller: &mut Caller, active_only: bool, user: &str) -> Vec<SessionInfo> {
    let request = caller.with(ListSessionsRequest { active_only, user: user.into(), ..ListSessionsRequest::default() });
    caller.client.list_sessions(request).await.unwrap().into_inner().sessions
}

#[tokio::test]
async fn a_session_is_told_once_however_often_the_agent_tells_it() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let session = info("alice");
    let start = StartSessionRequest { session: Some(session.clone()) };
    node.client.start_session(start.clone()).await.unwrap();
    node.client.start_session(start).await.unwrap();
    let live = list(&mut admin, true, "").await;
    assert_eq!(live.len(), 1);
    assert_eq!((live[0].node_id.as_str(), live[0].node_name.as_str()), (node.certs.host_id.as_str(), "web-1"));

    node.client.end_session(ending(session.clone(), "exit")).await.unwrap();
    node.client.end_session(ending(session, "agent")).await.unwrap();
    assert!(list(&mut admin, true, "").await.is_empty());
    assert_eq!(list(&mut admin, false, "").await[0].ended_reason, "exit");
    let starts = events(&mut admin, "session.start").await;
    assert_eq!((starts.len(), &starts[0]["event_code"]), (1, &"T2000I".into()));
    assert_eq!(starts[0]["server_hostname"], "web-1");
    let ends = events(&mut admin, "session.end").await;
    assert_eq!((ends.len(), &ends[0]["details"]["duration_ms"]), (1, &2500.into()));

    let late = info("alice");
    node.client.end_session(ending(late, "agent")).await.unwrap();
    assert_eq!(events(&mut admin, "session.start").await.len(), 2, "a start that was never delivered is told too");
    let verified = admin.client.verify_audit(admin.with(VerifyAuditRequest::default())).await.unwrap().into_inner();
    assert!(verified.ok && verified.records > 5, "{verified:?}");
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_sessions_only() {
    let cluster = Cluster::new().await;
    let mut one = cluster.machine("node", "web-1").await;
    let mut two = cluster.machine("node", "web-2").await;
    let session = info("alice");
    one.client.start_session(StartSessionRequest { session: Some(session.clone()) }).await.unwrap();
    let foreign = two.client.end_session(ending(session.clone(), "exit")).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
    two.client.start_session(StartSessionRequest { session: Some(session.clone()) }).await.unwrap_err();
    let damaged = |session_id: &str| {
        let event = serde_json::json!({
            "id": "", "event_type": "", "event_code": "T2005W", "timestamp": "2020-01-01T00:00:00.000Z", "success": false,
            "session_id": session_id,
        });
        EmitAuditEventsRequest { events: vec![event.to_string().into_bytes()] }
    };
    let foreign = two.client.emit_audit_events(damaged(&session.session_id)).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
    one.client.emit_audit_events(damaged(&session.session_id)).await.unwrap();
    for bad in [
        SessionInfo { session_id: "../../etc".into(), ..session.clone() },
        SessionInfo { kind: "x11".into(), ..session.clone() },
        SessionInfo { user: "a\nb".into(), ..session.clone() },
        SessionInfo { login: "x".repeat(5000), ..session.clone() },
    ] {
        let refused = one.client.start_session(StartSessionRequest { session: Some(bad) }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn users_see_their_own_sessions_by_id_and_privileged_ones_all() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let mut carol = cluster.new_user("carol", &["auditor"], &[]).await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let get = GetObjectRequest { kind: "user".into(), name: "alice".into() };
    let object = admin.client.get_object(admin.with(get)).await.unwrap().into_inner();
    let status: serde_json::Value = serde_json::from_slice(&object.status).unwrap();
    let own = SessionInfo { user_id: status["id"].as_str().unwrap().into(), ..info("alice") };
    let former = info("alice");
    for session in [own.clone(), former, info("bob")] {
        node.client.start_session(StartSessionRequest { session: Some(session) }).await.unwrap();
    }
    let seen = list(&mut alice, false, "").await;
    assert_eq!(seen.iter().map(|s| s.session_id.as_str()).collect::<Vec<_>>(), [own.session_id.as_str()]);
    assert!(list(&mut alice, false, "bob").await.is_empty());
    assert_eq!(list(&mut carol, false, "").await.len(), 3);
    assert_eq!(list(&mut carol, false, "bob").await.len(), 1);
}

#[tokio::test]
async fn agents_report_denials_and_nothing_else() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let event = |code: &str| {
        let event = serde_json::json!({
            "id": "not-trusted", "event_type": "anything", "event_code": code, "user_name": "alice\u{1b}[2J",
            "timestamp": "2020-01-01T00:00:00.000Z", "success": true, "component": "auth", "server_id": "a lie",
        });
        EmitAuditEventsRequest { events: vec![event.to_string().into_bytes()] }
    };
    node.client.emit_audit_events(event("T4000W")).await.unwrap();
    for code in ["T1000I", "T2000I", "T6000I", "T2005I", "nonsense"] {
        let refused = node.client.emit_audit_events(event(code)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{code}");
    }
    let mut proxy = cluster.machine("proxy", "").await;
    proxy.client.emit_audit_events(event("T1020W")).await.unwrap();
    node.client.emit_audit_events(event("T1020W")).await.unwrap_err();
    let refused = events(&mut admin, "authz.denied").await;
    assert!(refused.iter().any(|event| event["component"] == "proxy"), "of its web API: {refused:?}");
    let seen = events(&mut admin, "access.denied").await;
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0]["success"], &seen[0]["component"]), (&false.into(), &"agent".into()));
    assert_eq!(seen[0]["server_id"], node.certs.host_id);
    assert_ne!(seen[0]["id"], "not-trusted");
    assert_eq!(seen[0]["details"]["reported_at"], "2020-01-01T00:00:00.000Z");
}
