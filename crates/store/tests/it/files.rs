use bytes::Bytes;
use mezite_core::Fault;
use mezite_store::Recordings;
use tempfile::TempDir;

const ID: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

async fn open() -> (Recordings, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Recordings::open(dir.path().join("recordings")).await.unwrap(), dir)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn a_recording_grows_chunk_by_chunk_until_it_is_sealed() {
    let (recordings, dir) = open().await;
    assert_eq!(recordings.held(ID).await.unwrap(), 0);
    recordings.begin(ID, bytes("{}")).await.unwrap();
    recordings.begin(ID, bytes("{}")).await.unwrap();
    let Err(Fault::Conflict(other)) = recordings.begin(ID, bytes("{1}")).await else { panic!("begun twice") };
    assert_eq!(other, format!("{ID}/meta.json exists with other content"), "where the hub keeps it is not told");
    for number in 0..3 {
        recordings.append(ID, number, bytes(&format!("chunk {number}"))).await.unwrap();
    }
    recordings.append(ID, 1, bytes("chunk 1")).await.unwrap();
    assert!(matches!(recordings.append(ID, 1, bytes("other")).await, Err(Fault::Conflict(_))));
    let Err(Fault::Conflict(gap)) = recordings.append(ID, 4, bytes("x")).await else { panic!("gap accepted") };
    assert!(gap.contains("3 are held"), "{gap}");
    assert_eq!(recordings.held(ID).await.unwrap(), 3);
    assert_eq!(recordings.chunk(ID, 2).await.unwrap().unwrap(), "chunk 2");
    assert_eq!(recordings.chunk(ID, 3).await.unwrap(), None);
    assert_eq!(recordings.sealed(ID).await.unwrap(), None);

    let line = r#"{"chunks":3}"#;
    recordings.seal(ID, line).await.unwrap();
    recordings.seal(ID, line).await.unwrap();
    assert!(matches!(recordings.seal(ID, "{}").await, Err(Fault::Conflict(_))));
    assert!(matches!(recordings.append(ID, 3, bytes("x")).await, Err(Fault::Conflict(_))));
    assert_eq!(recordings.sealed(ID).await.unwrap().unwrap(), "{\"chunks\":3}\n");
    assert_eq!(recordings.meta(ID).await.unwrap().unwrap(), "{}");
    let root = dir.path().join("recordings");
    assert_eq!(std::fs::read_to_string(root.join("index")).unwrap(), "{\"chunks\":3}\n");
    assert_eq!(std::fs::read(root.join("1b").join(ID).join("000000.chunk")).unwrap(), b"chunk 0");
    assert_eq!(std::fs::read_dir(root.join(".tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_index_without_the_line_is_healed_by_sealing_again() {
    let (recordings, dir) = open().await;
    recordings.seal(ID, "{}").await.unwrap();
    let index = dir.path().join("recordings/index");
    std::fs::remove_file(&index).unwrap();
    recordings.seal(ID, "{}").await.unwrap();
    assert_eq!(std::fs::read_to_string(index).unwrap(), "{}\n");
}

#[tokio::test]
async fn an_id_that_is_no_uuid_never_becomes_a_path() {
    let (recordings, _dir) = open().await;
    for id in
        ["", "..", "../../etc/passwd", "1B4E28BA-2FA1-41D2-883F-0016D3CCA427", "1b4e28ba-2fa1-41d2-883f-0016d3cca42/"]
    {
        let refused = recordings.append(id, 0, bytes("x")).await;
        assert!(matches!(refused, Err(Fault::Invalid(_))), "{id}");
        assert!(recordings.chunk(id, 0).await.is_err());
    }
    assert!(matches!(recordings.append(ID, 1_000_000, bytes("x")).await, Err(Fault::Invalid(_))));
    let big = Bytes::from(vec![0; 4 * 1024 * 1024 + 1]);
    recordings.begin(ID, bytes("{}")).await.unwrap();
    assert!(matches!(recordings.append(ID, 0, big).await, Err(Fault::Invalid(_))));
    assert_eq!(recordings.held(ID).await.unwrap(), 0);
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_cleared() {
    let (recordings, dir) = open().await;
    recordings.begin(ID, bytes("{}")).await.unwrap();
    recordings.append(ID, 0, bytes("kept")).await.unwrap();
    let root = dir.path().join("recordings");
    std::fs::write(root.join(".tmp").join("half"), "ha").unwrap();
    let recordings = Recordings::open(root.clone()).await.unwrap();
    assert_eq!(std::fs::read_dir(root.join(".tmp")).unwrap().count(), 0);
    assert_eq!(recordings.held(ID).await.unwrap(), 1);
}

#[tokio::test]
async fn a_chunk_that_cannot_be_written_leaves_nothing() {
    let (recordings, dir) = open().await;
    recordings.begin(ID, bytes("{}")).await.unwrap();
    let tmp = dir.path().join("recordings/.tmp");
    std::fs::remove_dir(&tmp).unwrap();
    let refused = recordings.append(ID, 0, bytes("x")).await;
    assert!(matches!(refused, Err(Fault::Unavailable(_))), "{refused:?}");
    assert_eq!(recordings.held(ID).await.unwrap(), 0);
    std::fs::create_dir(&tmp).unwrap();
    recordings.append(ID, 0, bytes("x")).await.unwrap();
    assert_eq!(recordings.held(ID).await.unwrap(), 1);
}
