use mezite_proto::v1::recording_part::Part;
use mezite_proto::v1::*;
use mezite_record::{Chain, Metadata};
use tonic::{Code, Status};

use crate::cluster::{Caller, Cluster, Machine};
use crate::sessions::info;

fn part(part: Part) -> RecordingPart {
    RecordingPart { part: Some(part) }
}

fn open(session: &SessionInfo) -> RecordingPart {
    let metadata = Metadata {
        session_id: session.session_id.clone(),
        kind: session.kind.clone(),
        user: session.user.clone(),
        user_id: session.user_id.clone(),
        login: session.login.clone(),
        started_unix_ms: session.started_unix_ms,
        ..Metadata::default()
    };
    let metadata = serde_json::to_vec(&metadata).unwrap();
    part(Part::Open(RecordingOpen { session_id: session.session_id.clone(), resume_from: 0, metadata }))
}

/// Three chunks and a seal of a session.
fn recording(session: &SessionInfo) -> (Vec<RecordingPart>, RecordingPart) {
    let mut chain = Chain::new(&session.session_id);
    let texts = ["{\"version\":2,\"width\":80,\"height\":24}\n", "[0.1,\"o\",\"hello\"]\n", "[0.2,\"o\",\"bye\"]\n"];
    let chunks = texts.map(|text| part(Part::Chunk(chain.append(text.as_bytes()).unwrap().into()))).to_vec();
    (chunks, part(Part::Seal(chain.seal(true, 200).into())))
}

async fn send(node: &mut Machine, parts: Vec<RecordingPart>) -> Result<Vec<RecordingAck>, Status> {
    let mut acks = node.client.upload_recording(tokio_stream::iter(parts)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(ack) = acks.message().await? {
        all.push(ack);
    }
    Ok(all)
}

async fn download(caller: &mut Caller, session_id: &str) -> Result<String, Code> {
    let request = caller.with(DownloadRecordingRequest { session_id: session_id.into() });
    let mut chunks = caller.client.download_recording(request).await.map_err(|status| status.code())?.into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(|status| status.code())? {
        text.extend_from_slice(&chunk.data);
    }
    Ok(String::from_utf8(text).unwrap())
}

async fn verify(caller: &mut Caller, session_id: &str) -> VerifyRecordingReply {
    let request = caller.with(VerifyRecordingRequest { session_id: session_id.into() });
    caller.client.verify_recording(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_recording_is_taken_up_where_it_was_left_and_sealed_once() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let session = info("alice");
    node.client.start_session(StartSessionRequest { session: Some(session.clone()) }).await.unwrap();
    let (chunks, seal) = recording(&session);

    let acks = send(&mut node, vec![open(&session), chunks[0].clone()]).await.unwrap();
    assert_eq!(acks.iter().map(|ack| ack.chunks).collect::<Vec<_>>(), [0, 1]);
    assert!(download(&mut admin, &session.session_id).await.unwrap().starts_with("{\"version\":2"), "live");
    let rest = vec![open(&session), chunks[1].clone(), chunks[2].clone(), seal.clone()];
    let acks = send(&mut node, rest).await.unwrap();
    assert_eq!(
        acks.iter().map(|ack| (ack.chunks, ack.sealed)).collect::<Vec<_>>(),
        [(1, false), (2, false), (3, false), (3, true)]
    );
    let again = send(&mut node, vec![open(&session), seal]).await.unwrap();
    assert!(again.last().unwrap().sealed, "the acknowledgement of a seal may be lost");

    let text = download(&mut admin, &session.session_id).await.unwrap();
    assert_eq!(text.lines().count(), 3);
    let verified = verify(&mut admin, &session.session_id).await;
    assert!(verified.ok && verified.chunks == 3, "{verified:?}");
    let events = crate::sessions::events(&mut admin, "session.recording.uploaded").await;
    assert_eq!((events.len(), &events[0]["event_code"]), (1, &"T2005I".into()));
    assert_eq!(events[0]["details"]["seal"]["chunks"], 3);
    let list = admin.client.list_recordings(admin.with(ListRecordingsRequest::default())).await.unwrap().into_inner();
    assert_eq!(list.recordings.len(), 1);
    assert!(list.recordings[0].complete && list.recordings[0].duration_ms == 200);
    assert_eq!(list.recordings[0].session.as_ref().unwrap().recording_state, "complete");
}

#[tokio::test]
async fn what_is_not_the_agents_or_does_not_fit_is_refused() {
    let cluster = Cluster::new().await;
    let mut one = cluster.machine("node", "web-1").await;
    let mut two = cluster.machine("node", "web-2").await;
    let session = info("alice");
    one.client.start_session(StartSessionRequest { session: Some(session.clone()) }).await.unwrap();
    let (chunks, seal) = recording(&session);
    assert_eq!(send(&mut two, vec![open(&session)]).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(send(&mut one, vec![chunks[0].clone()]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(
        send(&mut one, vec![open(&session), chunks[1].clone()]).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(send(&mut one, vec![open(&session), seal]).await.unwrap_err().code(), Code::InvalidArgument);
    let stranger = SessionInfo { session_id: "../../../../etc/passwd".into(), ..session };
    assert_eq!(send(&mut one, vec![open(&stranger)]).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_spool_tells_of_a_session_that_nobody_knew() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let session = info("alice");
    let (chunks, seal) = recording(&session);
    send(&mut node, [vec![open(&session)], chunks, vec![seal]].concat()).await.unwrap();
    let starts = crate::sessions::events(&mut admin, "session.start").await;
    assert_eq!(starts[0]["session_id"], session.session_id);
    assert_eq!(starts[0]["server_hostname"], "web-1");
    assert!(verify(&mut admin, &session.session_id).await.ok);
}

#[tokio::test]
async fn an_edit_on_the_disk_is_found_and_stops_the_playback() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    let session = info("alice");
    let (chunks, seal) = recording(&session);
    send(&mut node, [vec![open(&session)], chunks, vec![seal]].concat()).await.unwrap();
    let id = &session.session_id;
    let file = cluster.dir.path().join("recordings").join(&id[..2]).join(id).join("000001.chunk");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let verified = verify(&mut admin, id).await;
    assert!(!verified.ok && verified.detail.contains("chunk 1"), "{verified:?}");
    assert_eq!(download(&mut admin, id).await, Err(Code::DataLoss));
    assert_eq!(crate::sessions::events(&mut admin, "session.recording.damaged").await.len(), 1);
}

#[tokio::test]
async fn a_recording_of_somebody_else_does_not_exist() {
    let cluster = Cluster::new().await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut bob = cluster.new_user("bob", &["access"], &[]).await;
    let mut carol = cluster.new_user("carol", &["auditor"], &[]).await;
    let session = info("alice");
    let (chunks, seal) = recording(&session);
    send(&mut node, [vec![open(&session)], chunks, vec![seal]].concat()).await.unwrap();
    let request = |id: &str| DownloadRecordingRequest { session_id: id.into() };
    let other = bob.client.download_recording(bob.with(request(&session.session_id))).await.unwrap_err();
    let none = bob.client.download_recording(bob.with(request(&mezite_net::clock::uuid()))).await.unwrap_err();
    let path = bob.client.download_recording(bob.with(request("../../x"))).await.unwrap_err();
    assert_eq!((other.code(), other.message()), (none.code(), none.message()));
    assert_eq!((path.code(), path.message()), (none.code(), none.message()));
    assert!(download(&mut carol, &session.session_id).await.is_ok());
    let mine = bob.client.list_recordings(bob.with(ListRecordingsRequest::default())).await.unwrap().into_inner();
    assert!(mine.recordings.is_empty());
}
