use mezite_core::Fault;
use mezite_store::{Detail, Page, SealedRecording, Session, SessionFilter, Store};
use time::Duration;

use crate::{NOW, open};

fn session(n: u32) -> Session {
    Session {
        id: format!("{n:08x}-2fa1-41d2-883f-0016d3cca427"),
        kind: "shell".into(),
        user: if n.is_multiple_of(2) { "alice" } else { "bob" }.into(),
        node_id: "n1".into(),
        login: "ubuntu".into(),
        // Two by two at the same moment, so that paging has to break ties.
        started_at: NOW + Duration::seconds((n / 2).into()),
        ended_at: None,
        ended_reason: String::new(),
        exit: String::new(),
        recording_state: "recording".into(),
        detail: Detail { client_ip: "192.0.2.1".into(), recorded: true, ..Detail::default() },
    }
}

fn ended(n: u32) -> Session {
    let ended_at = Some(NOW + Duration::HOUR);
    Session { ended_at, ended_reason: "exit".into(), exit: "0".into(), ..session(n) }
}

async fn start(store: &Store, session: &Session) -> Result<(), Fault> {
    let mut tx = store.begin(NOW).await?;
    tx.start_session(session).await?;
    tx.commit().await
}

async fn end(store: &Store, session: &Session) -> Result<bool, Fault> {
    let mut tx = store.begin(NOW).await?;
    let first = tx.end_session(session).await?;
    tx.commit().await?;
    Ok(first)
}

#[tokio::test]
async fn a_session_starts_and_ends_once() {
    let fresh = open().await;
    let store = &fresh.store;
    start(store, &session(0)).await.unwrap();
    start(store, &session(0)).await.unwrap();
    assert_eq!(store.session(&session(0).id).await.unwrap(), Some(session(0)));
    let stolen = Session { node_id: "n2".into(), ..session(0) };
    assert!(matches!(start(store, &stolen).await, Err(Fault::Conflict(_))));
    assert!(matches!(end(store, &Session { node_id: "n2".into(), ..ended(0) }).await, Err(Fault::Conflict(_))));

    assert!(end(store, &ended(0)).await.unwrap());
    let later = Session { ended_reason: "disconnect".into(), ..ended(0) };
    assert!(!end(store, &later).await.unwrap());
    assert_eq!(store.session(&session(0).id).await.unwrap(), Some(ended(0)));
    assert!(end(store, &ended(1)).await.unwrap(), "an end whose start was lost is kept");
    assert_eq!(store.session(&session(1).id).await.unwrap(), Some(ended(1)));
}

#[tokio::test]
async fn sessions_are_listed_newest_first() {
    let fresh = open().await;
    let store = &fresh.store;
    for n in 0..7 {
        start(store, &session(n)).await.unwrap();
    }
    end(store, &ended(2)).await.unwrap();
    let ids = |listed: &[Session]| listed.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
    let expected = |ns: &[u32]| ns.iter().map(|n| session(*n).id).collect::<Vec<_>>();

    let mut page = Page::first(2);
    let mut seen = Vec::new();
    loop {
        let listed = store.sessions(&SessionFilter::default(), &page).await.unwrap();
        seen.extend(ids(&listed.items));
        let Some(next) = listed.next else { break };
        page.token = next;
    }
    assert_eq!(seen, expected(&[6, 5, 4, 3, 2, 1, 0]));

    let page = Page::default();
    let filter = SessionFilter { active_only: true, user: Some("alice".into()), ..SessionFilter::default() };
    assert_eq!(ids(&store.sessions(&filter, &page).await.unwrap().items), expected(&[6, 4, 0]));
    let filter = SessionFilter { node_id: Some("n2".into()), ..SessionFilter::default() };
    assert!(store.sessions(&filter, &page).await.unwrap().items.is_empty());
    let filter = SessionFilter { offset: 5, ..SessionFilter::default() };
    assert_eq!(ids(&store.sessions(&filter, &page).await.unwrap().items), expected(&[1, 0]));
    let bad = Page { token: "nonsense".into(), size: 0 };
    assert!(matches!(store.sessions(&SessionFilter::default(), &bad).await, Err(Fault::Invalid(_))));
}

#[tokio::test]
async fn a_recording_is_sealed_once() {
    let fresh = open().await;
    let store = &fresh.store;
    let id = session(0).id;
    let mut tx = store.begin(NOW).await.unwrap();
    assert!(matches!(tx.open_recording(&id).await, Err(Fault::NotFound(_))));
    tx.start_session(&session(0)).await.unwrap();
    tx.start_session(&session(1)).await.unwrap();
    for n in [0, 1, 0] {
        tx.open_recording(&session(n).id).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert!(!store.recording(&id).await.unwrap().unwrap().complete);

    let seal = SealedRecording { chunks: 3, bytes: 4096, duration_ms: 90_000, root: "ab".into(), complete: true };
    let mut tx = store.begin(NOW).await.unwrap();
    assert!(tx.seal_recording(&id, &seal).await.unwrap());
    let other = SealedRecording { complete: false, ..seal.clone() };
    assert!(!tx.seal_recording(&id, &other).await.unwrap());
    tx.commit().await.unwrap();
    let held = store.recording(&id).await.unwrap().unwrap();
    assert_eq!((held.chunks, held.bytes, held.duration_ms), (3, 4096, 90_000));
    assert!(held.complete);
    assert_eq!(held.session.recording_state, "complete");

    let all = store.recordings(None, &Page::default()).await.unwrap().items;
    assert_eq!(all.iter().map(|r| r.session.user.as_str()).collect::<Vec<_>>(), ["bob", "alice"]);
    assert_eq!(store.recordings(Some("alice"), &Page::default()).await.unwrap().items, [held]);
}
