//! Mode `node`.

use std::fs;

use bytes::Bytes;
use mezite_core::asciicast::Data;
use mezite_record::{Content, ExecPolicy, ExecStream, HEAD, Metadata, Mode, RecordError, verify};

use crate::auth::Auth;
use crate::{ID, Log, Node, in_time, play};

#[tokio::test]
async fn a_terminal_is_recorded_whole() {
    let (node, auth) = (Node::new(), Auth::start());
    let recorder = node.record(Mode::Node, Content::Terminal, ID).await;
    let line = "gr\u{fc}\u{df} dich \u{1b}[1m\u{1f980}\u{1b}[0m\r\n";
    let mut expected = String::new();
    // Cut where it hurts: within characters.
    for size in [1, 2, 3, 5, 7, 4096] {
        let text = line.repeat(2000);
        for piece in text.as_bytes().chunks(size) {
            recorder.output(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        expected.push_str(&text);
    }
    recorder.resize(120, 40).await.unwrap();
    recorder.input(Bytes::from_static(b"exit\r")).await.unwrap();
    let other = recorder.clone();
    let seal = recorder.finish().await.unwrap();
    assert!(seal.complete && seal.chunks > 1, "{seal:?}");
    assert!(matches!(other.output(Bytes::from_static(b"late")).await, Err(RecordError::Closed)));

    let held = node.upload(&auth, ID).await;
    assert_eq!(held.seal, Some(seal));
    verify(ID, &held.chunks, &seal).unwrap();
    assert_eq!(serde_json::from_slice::<Metadata>(&held.metadata).unwrap().user, "alice");
    let (text, rest) = play(ID, &held).await;
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    assert_eq!(rest, [Data::Resize { width: 120, height: 40 }, Data::Input("exit\r".to_owned())]);
    assert_eq!(fs::read_dir(node.dir.path().join("spool")).unwrap().count(), 1, "only the lock is left");
}

#[tokio::test]
async fn of_a_command_the_head_is_kept_and_the_whole_is_counted() {
    let (node, auth) = (Node::new(), Auth::start());
    let recorder = node.record(Mode::Node, Content::Exec(ExecPolicy::Head), ID).await;
    let block = Bytes::from(vec![b'x'; 1 << 16]);
    for _ in 0..24 {
        recorder.stream(ExecStream::Stdout, block.clone()).await.unwrap();
    }
    recorder.stream(ExecStream::Stderr, Bytes::from_static(b"oops")).await.unwrap();
    recorder.finish().await.unwrap();
    let (text, rest) = play(ID, &node.upload(&auth, ID).await).await;
    assert_eq!(text.len() as u64, HEAD + 4);
    let [Data::Marker(totals)] = rest.as_slice() else { panic!("{rest:?}") };
    let totals: serde_json::Value = serde_json::from_str(totals).unwrap();
    assert_eq!(totals["stdout"]["bytes"], 24 << 16);
    assert_eq!(totals["stdout"]["recorded"], HEAD);
    assert_eq!(totals["stdout"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(totals["stderr"]["bytes"], 4);
}

#[tokio::test]
async fn of_a_transfer_nothing_but_counts_is_kept() {
    let (node, auth) = (Node::new(), Auth::start());
    let recorder = node.record(Mode::Node, Content::Exec(ExecPolicy::Metadata), ID).await;
    recorder.output(Bytes::from_static(b"the file")).await.unwrap();
    recorder.finish().await.unwrap();
    let (text, rest) = play(ID, &node.upload(&auth, ID).await).await;
    assert_eq!(text, "");
    let totals = "{\"stdout\":{\"bytes\":8,\"recorded\":0},\"stderr\":{\"bytes\":0,\"recorded\":0}}";
    assert_eq!(rest, [Data::Marker(totals.to_owned())]);
}

#[tokio::test]
async fn a_recorder_that_is_dropped_leaves_an_incomplete_recording() {
    let (node, auth) = (Node::new(), Auth::start());
    let recorder = node.record(Mode::Node, Content::Terminal, ID).await;
    recorder.output(Bytes::from_static(b"half")).await.unwrap();
    drop(recorder);
    let held = node.upload(&auth, ID).await;
    assert!(!held.seal.unwrap().complete);
    assert_eq!(play(ID, &held).await.0, "half");
}

#[tokio::test]
async fn a_failed_upload_is_logged_and_the_recording_stays_until_one_succeeds() {
    let (node, auth, log) = (Node::new(), Auth::start(), Log::default());
    let _guard = log.capture();
    auth.set(|state| state.away = true);
    let recorder = node.record(Mode::Node, Content::Terminal, ID).await;
    recorder.output(Bytes::from_static(b"kept")).await.unwrap();
    recorder.finish().await.unwrap();
    let returning = async {
        auth.wait(|state| state.refused > 0).await;
        assert_eq!(node.spool.waiting().unwrap(), [ID]);
        auth.set(|state| state.away = false);
    };
    let (held, ()) = tokio::join!(node.upload(&auth, ID), returning);
    assert_eq!(play(ID, &held).await.0, "kept");
    assert!(log.text().contains("uploading session recording"), "{}", log.text());
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_where_auth_stands() {
    let (node, auth) = (Node::new(), Auth::start());
    let recorder = node.record(Mode::Node, Content::Terminal, ID).await;
    for _ in 0..200 {
        recorder.output(Bytes::from(vec![b'.'; 1 << 15])).await.unwrap();
    }
    let seal = recorder.finish().await.unwrap();
    assert!(seal.chunks > 4, "{seal:?}");
    // Every call brings two chunks and breaks, until few enough are left. A chunk that came twice would be refused.
    auth.set(|state| state.break_after = Some(2));
    let mending = async {
        auth.wait(|state| state.held.get(ID).is_some_and(|held| held.chunks.len() > 2)).await;
        auth.set(|state| state.break_after = None);
    };
    let (held, ()) = tokio::join!(node.upload(&auth, ID), mending);
    assert_eq!(held.seal, Some(seal));
    assert_eq!(play(ID, &held).await.0.len(), 200 << 15);
}

#[tokio::test]
async fn a_damaged_recording_goes_to_quarantine_and_does_not_hold_up_others() {
    let (node, auth) = (Node::new(), Auth::start());
    let other = "1b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64";
    for id in [ID, other] {
        let recorder = node.record(Mode::Node, Content::Terminal, id).await;
        recorder.output(Bytes::from_static(b"text")).await.unwrap();
        recorder.finish().await.unwrap();
    }
    let chunk = node.dir.path().join("spool").join(ID).join("000000.chunk");
    let mut bytes = fs::read(&chunk).unwrap();
    bytes[40] ^= 1;
    fs::write(&chunk, bytes).unwrap();
    let held = node.upload(&auth, other).await;
    assert_eq!(play(other, &held).await.0, "text");
    assert!(node.dir.path().join("quarantine").join(ID).join("000000.chunk").exists());
}

/// A node that was removed and joined anew still holds what its old identity recorded.
#[tokio::test]
async fn a_recording_of_another_identity_goes_to_quarantine_and_does_not_hold_up_others() {
    let (node, auth) = (Node::new(), Auth::start());
    let other = "1b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64";
    auth.set(|state| state.foreign = Some(ID.to_owned()));
    for id in [ID, other] {
        let recorder = node.record(Mode::Node, Content::Terminal, id).await;
        recorder.output(Bytes::from_static(b"text")).await.unwrap();
        recorder.finish().await.unwrap();
    }
    let held = node.upload(&auth, other).await;
    assert_eq!(play(other, &held).await.0, "text");
    assert!(node.dir.path().join("quarantine").join(ID).join("000000.chunk").exists());
    assert!(node.spool.waiting().unwrap().is_empty());
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_session_with_the_reason() {
    let node = Node::new();
    let recorder = node.record(Mode::Node, Content::Terminal, ID).await;
    // The directory vanishes under the recorder.
    fs::remove_dir_all(node.dir.path().join("spool").join(ID)).unwrap();
    recorder.output(Bytes::from_static(b"unstored")).await.unwrap();
    assert!(matches!(in_time(recorder.failed()).await, RecordError::Storage(_)));
    let refused = recorder.output(Bytes::from_static(b"more")).await;
    assert!(matches!(refused, Err(RecordError::Storage(_))));
    assert!(matches!(recorder.finish().await, Err(RecordError::Storage(_))));
}
