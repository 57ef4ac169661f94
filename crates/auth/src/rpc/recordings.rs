//! Recordings: taken from agents chunk by chunk, given out as plain asciicast, verified against the audit log.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mezite_core::audit::EventType;
use mezite_core::rbac::Resource;
use mezite_core::{Fault, Invalid, name};
use mezite_net::clock;
use mezite_proto::v1::recording_part::Part;
use mezite_proto::v1::*;
use mezite_record::{Chain, Chunk as Piece, MAX_METADATA, Metadata, Seal};
use mezite_store::{AuditFilter, Page, Recordings, SealedRecording, Session};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Answers, page, reads_all, sessions};
use crate::caller::Caller;
use crate::hub::Hub;

/// Acknowledgements on their way to an agent.
const WAITING: usize = 16;
/// Longest recording taken, in compressed bytes.
const MAX_RECORDING: u64 = 8 << 30;

pub(super) fn upload(
    hub: &Arc<Hub>,
    caller: &Caller,
    parts: Streaming<RecordingPart>,
) -> Result<Answers<RecordingAck>, Fault> {
    caller.agent()?;
    let (acks, answers) = mpsc::channel(WAITING);
    let (hub, caller) = (Arc::clone(hub), caller.clone());
    tokio::spawn(async move {
        let ended = tokio::select! {
            () = hub.stop.cancelled() => Err(Status::unavailable("the hub is stopping")),
            () = acks.closed() => return,
            ended = receive(&hub, &caller, parts, &acks) => ended,
        };
        if let Err(status) = ended {
            tracing::warn!(%status, "a recording was not taken");
            // The agent may be gone.
            let _ = acks.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(answers)))
}

type Acks = mpsc::Sender<Result<RecordingAck, Status>>;

async fn receive(hub: &Hub, caller: &Caller, mut parts: Streaming<RecordingPart>, acks: &Acks) -> Result<(), Status> {
    let Some(Part::Open(open)) = next(&mut parts).await? else {
        return Err(Status::invalid_argument("a recording begins with its opening"));
    };
    let status = |fault: Fault| mezite_proto::status(&fault);
    let session_id = open.session_id.clone();
    let mut chain = begin(hub, caller, open).await.map_err(status)?;
    acknowledge(acks, chain.next(), false).await?;
    while let Some(part) = next(&mut parts).await? {
        match part {
            Part::Chunk(chunk) => {
                take(&hub.recordings, &session_id, &mut chain, chunk).await.map_err(status)?;
                acknowledge(acks, chain.next(), false).await?;
            }
            Part::Seal(seal) => {
                finish(hub, caller, &session_id, &chain, seal).await.map_err(status)?;
                return acknowledge(acks, chain.next(), true).await;
            }
            Part::Open(_) => return Err(Status::invalid_argument("a recording is opened once")),
        }
    }
    Ok(())
}

async fn next(parts: &mut Streaming<RecordingPart>) -> Result<Option<Part>, Status> {
    match parts.message().await? {
        Some(RecordingPart { part: Some(part) }) => Ok(Some(part)),
        Some(_) => Err(Status::invalid_argument("a part is empty")),
        None => Ok(None),
    }
}

async fn acknowledge(acks: &Acks, chunks: u64, sealed: bool) -> Result<(), Status> {
    let sent = acks.send(Ok(RecordingAck { chunks, sealed })).await;
    sent.map_err(|_| Status::cancelled("the agent went away"))
}

/// Opens a recording of the caller's own session, or takes it up where it was left; the chain runs over what is held.
async fn begin(hub: &Hub, caller: &Caller, open: RecordingOpen) -> Result<Chain, Fault> {
    let RecordingOpen { session_id, metadata, .. } = open;
    if !name::is_uuid(&session_id) {
        return Err(Invalid::new("session_id", "must be a lower-case UUID").into());
    }
    if metadata.len() > MAX_METADATA {
        return Err(Invalid::new("metadata", format!("is longer than {MAX_METADATA} bytes")).into());
    }
    let node = sessions::node_of(hub, caller).await?;
    let mut tx = hub.store.begin(clock::now()).await?;
    match hub.store.session(&session_id).await? {
        Some(known) if known.node_id == node.node_id => {}
        Some(_) => return Err(Fault::NotFound("no such session".into())),
        // The agent died before it could tell of the session; its spool knows.
        None => {
            let info = told_by_spool(&session_id, &metadata)?;
            sessions::begin(hub, &mut tx, &sessions::from_info(hub, &node, info)?).await?;
        }
    }
    tx.open_recording(&session_id).await?;
    tx.commit().await?;
    hub.recordings.begin(&session_id, metadata.into()).await?;
    let mut chain = Chain::new(&session_id);
    for number in 0..hub.recordings.held(&session_id).await? {
        let piece = read(&hub.recordings, &session_id, number).await?;
        chain.check(&piece).map_err(|e| Fault::Conflict(format!("what is held of the recording is damaged: {e}")))?;
    }
    Ok(chain)
}

fn told_by_spool(session_id: &str, metadata: &[u8]) -> Result<SessionInfo, Fault> {
    let told: Metadata = serde_json::from_slice(metadata).map_err(|e| Invalid::new("metadata", e.to_string()))?;
    Ok(SessionInfo {
        session_id: session_id.to_owned(),
        kind: told.kind,
        user: told.user,
        user_id: told.user_id,
        login: told.login,
        command: told.command,
        client_ip: told.client_ip,
        started_unix_ms: told.started_unix_ms,
        recorded: true,
        pty: !told.term.is_empty(),
        ..SessionInfo::default()
    })
}

/// Verifies a chunk and puts it on the disk. Returns when it is there.
async fn take(
    recordings: &Recordings,
    session_id: &str,
    chain: &mut Chain,
    chunk: RecordingChunk,
) -> Result<(), Fault> {
    let refuse = |e: mezite_record::Corrupt| Fault::from(Invalid::new("chunk", e.to_string()));
    let piece = Piece::try_from(chunk).map_err(refuse)?;
    chain.check(&piece).map_err(refuse)?;
    if chain.seal(false, 0).bytes > MAX_RECORDING {
        return Err(Fault::Conflict(format!("the recording is longer than {} GiB", MAX_RECORDING >> 30)));
    }
    recordings.append(session_id, piece.number, piece.to_bytes()).await
}

/// Seals a recording: in its files, in the index, and in the audit log. Saying it again changes nothing.
async fn finish(hub: &Hub, caller: &Caller, session_id: &str, chain: &Chain, seal: RecordingSeal) -> Result<(), Fault> {
    let refuse = |e: mezite_record::Corrupt| Fault::from(Invalid::new("seal", e.to_string()));
    let seal = Seal::try_from(seal).map_err(refuse)?;
    chain.finish(&seal).map_err(refuse)?;
    let line = serde_json::json!({ "session_id": session_id, "seal": seal }).to_string();
    hub.recordings.seal(session_id, &line).await?;

    let session = hub.store.session(session_id).await?.ok_or_else(|| Fault::NotFound("no such session".into()))?;
    let sealed = SealedRecording {
        chunks: seal.chunks,
        bytes: seal.bytes,
        duration_ms: seal.duration_ms.max(0).unsigned_abs(),
        root: seal.root.to_string(),
        complete: seal.complete,
    };
    let mut tx = hub.store.begin(clock::now()).await?;
    if tx.seal_recording(session_id, &sealed).await? {
        let mut event = hub
            .event(EventType::SessionRecordingUploaded)
            .user(&session.user, &session.detail.roles)
            .resource("recording", session_id)
            .detail(SEAL, seal);
        event.session_id = session_id.to_owned();
        event.server_id.clone_from(&session.node_id);
        event.server_hostname.clone_from(&session.detail.node_name);
        event.login.clone_from(&session.login);
        event.client_ip = caller.client_ip.to_string();
        tx.audit(&event).await?;
        if !seal.complete {
            let mut damaged = hub.event(EventType::SessionRecordingDamaged).resource("recording", session_id);
            damaged.session_id = session_id.to_owned();
            damaged.error_message = "the recorder ended before the session did".into();
            tx.audit(&damaged).await?;
        }
    }
    tx.commit().await
}

/// The detail of the audit event that holds the seal.
const SEAL: &str = "seal";

pub(super) async fn list(
    hub: &Hub,
    caller: &Caller,
    request: ListRecordingsRequest,
) -> Result<ListRecordingsReply, Fault> {
    let ListRecordingsRequest { user, page_token, page_size } = request;
    let reader = caller.user()?;
    let all = reads_all(caller, Resource::Recordings)?;
    let user = match Some(user).filter(|user| !user.is_empty()) {
        Some(other) if !all && other != reader.name => return Ok(ListRecordingsReply::default()),
        asked => asked.or_else(|| (!all).then(|| reader.name.clone())),
    };
    let found = hub.store.recordings(user.as_deref(), &page(page_token, page_size)).await?;
    let visible = found.items.into_iter().filter(|recording| all || recording.session.detail.user_id == reader.id);
    let recordings = visible.map(|recording| RecordingInfo {
        bytes: recording.bytes,
        duration_ms: i64::try_from(recording.duration_ms).unwrap_or(i64::MAX),
        complete: recording.complete,
        session: Some(sessions::to_info(recording.session)),
    });
    Ok(ListRecordingsReply { recordings: recordings.collect(), next_page_token: found.next.unwrap_or_default() })
}

pub(super) async fn download(
    hub: &Arc<Hub>,
    caller: &Caller,
    request: DownloadRecordingRequest,
) -> Result<Answers<Chunk>, Fault> {
    let session = readable(hub, caller, &request.session_id).await?;
    let seal = seal_in_files(&hub.recordings, &session.id).await?;
    let held = hub.recordings.held(&session.id).await?;
    if held == 0 && seal.is_none() {
        return Err(Fault::NotFound("there is no recording of this session yet".into()));
    }
    let pieces = pieces(hub.recordings.clone(), session.id.clone(), held);
    let text = mezite_record::reader::cast(&session.id, Box::pin(pieces), seal);
    Ok(Box::pin(text.map(|piece| match piece {
        Ok(data) => Ok(Chunk { data }),
        Err(error) => Err(Status::data_loss(error.to_string())),
    })))
}

pub(super) async fn verify(
    hub: &Hub,
    caller: &Caller,
    request: VerifyRecordingRequest,
) -> Result<VerifyRecordingReply, Fault> {
    let session = readable(hub, caller, &request.session_id).await?;
    let mut reply = VerifyRecordingReply::default();
    let Some(seal) = seal_in_audit(hub, &session.id).await? else {
        reply.detail = "the audit log holds no seal of this recording".into();
        return Ok(reply);
    };
    let mut chain = Chain::new(&session.id);
    let checked = async {
        for number in 0..hub.recordings.held(&session.id).await? {
            let bytes = stored(&hub.recordings, &session.id, number).await?;
            let checked = Piece::from_bytes(number, bytes).and_then(|piece| {
                chain.check(&piece)?;
                piece.text().map(drop)
            });
            if let Err(corrupt) = checked {
                return Ok(Some(corrupt.to_string()));
            }
        }
        // A seal that cannot be read any more was changed like one that says something else.
        let beside = hub.recordings.sealed(&session.id).await?;
        if beside.and_then(|line| parse_seal(&line)).is_none_or(|held| held != seal) {
            return Ok(Some("the seal beside the recording is not the one in the audit log".into()));
        }
        Ok::<_, Fault>(chain.finish(&seal).err().map(|corrupt| corrupt.to_string()))
    };
    let bad = checked.await?;
    (reply.chunks, reply.bytes, reply.complete) = (seal.chunks, seal.bytes, seal.complete);
    reply.ok = bad.is_none();
    if let Some(bad) = &bad {
        let mut event = hub.event(EventType::SessionRecordingDamaged).resource("recording", &session.id);
        event.session_id.clone_from(&session.id);
        event.error_message.clone_from(bad);
        hub.store.audit(vec![caller.sign(event)]).await?;
    }
    reply.detail = match bad {
        Some(bad) => bad,
        None if seal.complete => format!("matches the seal in the audit log, root {}", seal.root),
        None => "matches the seal in the audit log, which says that the recorder ended before the session did".into(),
    };
    Ok(reply)
}

/// A session whose recording the caller may read. What may not be read does not exist (F093).
async fn readable(hub: &Hub, caller: &Caller, session_id: &str) -> Result<Session, Fault> {
    let unknown = || Fault::NotFound("no such session".into());
    if !name::is_uuid(session_id) {
        return Err(unknown());
    }
    let session = hub.store.session(session_id).await?.ok_or_else(unknown)?;
    // By id, not by name: a user made anew under an old name has no claim on the old recordings.
    let own = session.detail.user_id == caller.user()?.id;
    if own || reads_all(caller, Resource::Recordings)? { Ok(session) } else { Err(unknown()) }
}

async fn seal_in_audit(hub: &Hub, session_id: &str) -> Result<Option<Seal>, Fault> {
    let filter = AuditFilter {
        types: vec![EventType::SessionRecordingUploaded.name().into()],
        session_id: Some(session_id.into()),
        ..AuditFilter::default()
    };
    let events = hub.store.audit_events(&filter, &Page::first(1)).await?;
    let event = events.items.first().and_then(|event| serde_json::from_str::<serde_json::Value>(&event.json).ok());
    let seal = event.and_then(|mut event| event.pointer_mut("/details/seal").map(serde_json::Value::take));
    Ok(seal.and_then(|seal| serde_json::from_value(seal).ok()))
}

async fn seal_in_files(recordings: &Recordings, session_id: &str) -> Result<Option<Seal>, Fault> {
    let Some(line) = recordings.sealed(session_id).await? else { return Ok(None) };
    let damaged = || Fault::Unavailable("the seal of the recording cannot be read".into());
    parse_seal(&line).ok_or_else(damaged).map(Some)
}

fn parse_seal(line: &[u8]) -> Option<Seal> {
    let mut line: serde_json::Value = serde_json::from_slice(line).ok()?;
    serde_json::from_value(line.get_mut("seal")?.take()).ok()
}

fn pieces(recordings: Recordings, session_id: String, held: u64) -> impl Stream<Item = Result<Piece, Fault>> {
    stream::iter(0..held).then(move |number| {
        let (recordings, session_id) = (recordings.clone(), session_id.clone());
        async move { read(&recordings, &session_id, number).await }
    })
}

async fn read(recordings: &Recordings, session_id: &str, number: u64) -> Result<Piece, Fault> {
    let bytes = stored(recordings, session_id, number).await?;
    Piece::from_bytes(number, bytes).map_err(|e| Fault::Unavailable(e.to_string()))
}

async fn stored(recordings: &Recordings, session_id: &str, number: u64) -> Result<Bytes, Fault> {
    let missing = || Fault::Unavailable(format!("chunk {number} of the recording is missing"));
    recordings.chunk(session_id, number).await?.ok_or_else(missing)
}
