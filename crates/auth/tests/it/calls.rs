//! Every RPC, called with an empty message by every sort of caller, from one table.

use std::collections::BTreeSet;

use http::uri::PathAndQuery;
use mezite_net::rpc::{AUTHORIZATION, bearer};
use mezite_proto::RPCS;
use mezite_proto::v1::recording_part::Part;
use mezite_proto::v1::*;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::cluster::Cluster;
use crate::sessions::{ending, info};

/// Who gets past the door: N nobody, U a user, D an auditor, A an administrator, G an agent, P a proxy. What a user may do to
/// which object is decided behind it.
const CALLS: &[(&str, &str)] = &[
    // These carry their credential in the message.
    ("Ping", "NUDAGP"),
    ("AuthenticateLocal", "NUDAGP"),
    ("RedeemInvite", "NUDAGP"),
    ("GenerateHostCerts", "NUDAGP"),
    ("Logout", "UDA"),
    ("WhoAmI", "UDA"),
    ("IssueUserCerts", "UDA"),
    ("ChangePassword", "UDA"),
    ("BeginMfa", "UDA"),
    ("FinishMfa", "UDA"),
    ("ListMfa", "UDA"),
    ("RemoveMfa", "UDA"),
    ("GetObject", "UDA"),
    ("ListObjects", "UDA"),
    ("PutObject", "UDA"),
    ("DeleteObject", "UDA"),
    ("ListSessions", "UDA"),
    ("ListRecordings", "UDA"),
    ("DownloadRecording", "UDA"),
    ("CaStatus", "UDA"),
    ("CaExport", "UDA"),
    ("VerifyRecording", "DA"),
    ("ListAudit", "DA"),
    ("VerifyAudit", "DA"),
    ("ExportAudit", "DA"),
    ("ExplainAccess", "DA"),
    ("WhoCan", "DA"),
    ("CreateUser", "A"),
    ("ResetPassword", "A"),
    ("ResetMfa", "A"),
    ("CreateToken", "A"),
    ("TerminateSession", "A"),
    ("PreviewRole", "A"),
    ("AwaitRevision", "A"),
    ("RegisterAgent", "G"),
    ("AgentHeartbeat", "G"),
    ("StartSession", "G"),
    ("EndSession", "G"),
    ("UploadRecording", "G"),
    ("ProveSessionMfa", "G"),
    ("EmitAuditEvents", "GP"),
    ("Watch", "GP"),
    ("ConfirmRevision", "GP"),
    ("ReportPresence", "P"),
];

/// The status of a call with an empty message. Messages without fields decode as any other.
async fn call(channel: &Channel, path: &'static str, token: Option<&str>) -> Code {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(PingRequest {});
    if let Some(token) = token {
        request.metadata_mut().insert(AUTHORIZATION, bearer(token).unwrap());
    }
    let codec = ProstCodec::<PingRequest, PingReply>::default();
    let answer = grpc.server_streaming(request, PathAndQuery::from_static(path), codec).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn every_call_answers_every_caller_as_its_row_says() {
    let rpcs: Vec<_> = RPCS.iter().filter_map(|path| Some((*path, path.strip_prefix("/mezite.v1.Auth/")?))).collect();
    let rows: BTreeSet<&str> = CALLS.iter().map(|(rpc, _)| *rpc).collect();
    let uncovered: Vec<_> = rpcs.iter().filter(|(_, rpc)| !rows.contains(rpc)).collect();
    println!("calls without a row: {uncovered:?}");
    assert!(uncovered.is_empty(), "{uncovered:?}");
    assert_eq!((rows.len(), rpcs.len()), (CALLS.len(), CALLS.len()));

    let cluster = Cluster::new().await;
    cluster.new_user("una", &["access"], &[]).await;
    cluster.new_user("dora", &["auditor"], &[]).await;
    let nobody = cluster.channel(None);
    let machines =
        [('G', cluster.machine_channel("node", "web-1").await), ('P', cluster.machine_channel("proxy", "p").await)];
    for (path, rpc) in rpcs {
        let (_, who) = CALLS.iter().find(|(name, _)| *name == rpc).unwrap();
        let open = who.contains('N');
        let code = call(&nobody, path, None).await;
        let refused = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
        assert!(open || refused, "{rpc} by nobody: {code:?}");
        let garbage = call(&nobody, path, Some("0123456789abcdef")).await;
        assert_eq!(garbage, Code::Unauthenticated, "{rpc} with a token that is none");
        for (caller, name) in [('U', "una"), ('D', "dora"), ('A', "admin")] {
            // A new session for each: one of the calls ends it.
            let user = cluster.user(name).await;
            let code = call(&nobody, path, user.token.as_deref()).await;
            assert_eq!(code != Code::PermissionDenied, who.contains(caller), "{rpc} by {name}: {code:?}");
            let borrowed = call(&machines[0].1, path, user.token.as_deref()).await;
            assert_eq!(borrowed, Code::PermissionDenied, "{rpc} by an agent with the token of {name}");
        }
        for (caller, channel) in &machines {
            let code = call(channel, path, None).await;
            assert_eq!(code != Code::PermissionDenied, who.contains(*caller), "{rpc} by {caller}: {code:?}");
        }
    }
    let una = cluster.user("una").await;
    for path in ["/mezite.v1.Auth/Nothing", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        assert_eq!(call(&nobody, path, una.token.as_deref()).await, Code::Unimplemented, "{path}");
    }
}

/// Every call of agents that names something, made by another agent.
#[tokio::test]
async fn an_agent_reaches_nothing_of_another() {
    let cluster = Cluster::new().await;
    let mut one = cluster.machine("node", "web-1").await;
    let mut two = cluster.machine("node", "web-2").await;
    let session = info("alice");
    one.client.start_session(StartSessionRequest { session: Some(session.clone()) }).await.unwrap();

    let named = RegisterAgentRequest { name: "web-1".into(), ..RegisterAgentRequest::default() };
    assert!(two.client.register_agent(named).await.is_err());
    assert!(two.client.start_session(StartSessionRequest { session: Some(session.clone()) }).await.is_err());
    assert!(two.client.end_session(ending(session.clone(), "exit")).await.is_err());
    let event = serde_json::json!({
        "id": "", "event_type": "", "event_code": "T2005W", "timestamp": "2020-01-01T00:00:00.000Z", "success": false,
        "session_id": session.session_id,
    });
    let events = EmitAuditEventsRequest { events: vec![event.to_string().into_bytes()] };
    assert!(two.client.emit_audit_events(events).await.is_err());
    let open = RecordingOpen { session_id: session.session_id.clone(), ..RecordingOpen::default() };
    let parts = tokio_stream::iter([RecordingPart { part: Some(Part::Open(open)) }]);
    let acks = match two.client.upload_recording(parts).await {
        Ok(acks) => acks.into_inner().message().await,
        Err(status) => Err(status),
    };
    assert!(acks.is_err(), "{acks:?}");

    let mut admin = cluster.admin().await;
    let request = admin.with(ListSessionsRequest { active_only: true, ..ListSessionsRequest::default() });
    let live = admin.client.list_sessions(request).await.unwrap().into_inner().sessions;
    assert_eq!(live.len(), 1, "the session of web-1 lives on");
    assert_eq!(live[0].node_name, "web-1");
}
