//! Mode `node-sync`.

use bytes::Bytes;
use mezite_record::{Content, Mode, RecordError};

use crate::auth::Auth;
use crate::{ID, Log, Node, in_time, play};

fn mode(auth: &Auth) -> Mode {
    Mode::NodeSync(Box::new(auth.client()))
}

#[tokio::test]
async fn chunks_reach_auth_while_the_session_runs() {
    let (node, auth) = (Node::new(), Auth::start());
    let recorder = node.record(mode(&auth), Content::Terminal, ID).await;
    recorder.output(Bytes::from_static(b"live")).await.unwrap();
    auth.wait(|state| state.held.get(ID).is_some_and(|held| !held.chunks.is_empty())).await;
    let live = auth.held(ID);
    assert_eq!(live.seal, None);
    assert_eq!(play(ID, &live).await.0, "live");
    let seal = recorder.finish().await.unwrap();
    auth.wait(|state| state.held.get(ID).is_some_and(|held| held.seal == Some(seal))).await;
    in_time(async {
        while node.dir.path().join("spool").join(ID).exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_is_logged_and_the_session_recorded_locally() {
    let (node, auth, log) = (Node::new(), Auth::start(), Log::default());
    let _guard = log.capture();
    auth.set(|state| state.away = true);
    let recorder = node.record(mode(&auth), Content::Terminal, ID).await;
    recorder.output(Bytes::from_static(b"local")).await.unwrap();
    assert!(recorder.finish().await.unwrap().complete);
    assert!(log.text().contains("opening recording stream (falling back to local-only)"), "{}", log.text());
    auth.set(|state| state.away = false);
    assert_eq!(play(ID, &node.upload(&auth, ID).await).await.0, "local");
}

#[tokio::test]
async fn a_stream_that_breaks_ends_the_session_and_loses_nothing() {
    let (node, auth) = (Node::new(), Auth::start());
    let recorder = node.record(mode(&auth), Content::Terminal, ID).await;
    auth.set(|state| state.break_after = Some(1));
    recorder.output(Bytes::from_static(b"shown")).await.unwrap();
    assert!(matches!(in_time(recorder.failed()).await, RecordError::Stream(_)));
    let refused = recorder.output(Bytes::from_static(b"not shown")).await;
    assert!(matches!(refused, Err(RecordError::Stream(_))));
    let seal = recorder.finish().await.unwrap();
    auth.set(|state| state.break_after = None);
    let held = node.upload(&auth, ID).await;
    assert_eq!(held.seal, Some(seal));
    assert_eq!(play(ID, &held).await.0, "shown");
}
