use mezite_core::audit::checkpoint::Marks;
use mezite_core::audit::{Event, EventType};
use mezite_core::kind::{Role, RoleSpec};
use mezite_store::{AuditFilter, AuditKeys, Expect, Page};
use time::Duration;

use crate::{Fresh, NOW, key, keys, open};

fn event(n: u32) -> Event {
    let kind = if n.is_multiple_of(2) { EventType::UserLogin } else { EventType::UserLoginFailed };
    let mut event = Event::new(kind, format!("{n:08x}-2fa1-41d2-883f-0016d3cca427"), NOW + Duration::seconds(n.into()))
        .user(if n < 4 { "alice" } else { "bob" }, &["dev".into()])
        .resource("user", "alice");
    event.session_id = if n == 3 { "s3".into() } else { String::new() };
    event
}

async fn with_events(count: u32) -> Fresh {
    let fresh = open().await;
    for n in 0..count {
        fresh.store.audit(vec![event(n)]).await.unwrap();
    }
    fresh
}

async fn bad(fresh: &Fresh) -> Option<(u64, String)> {
    fresh.store.verify_audit(Marks::default()).await.unwrap().bad.map(|bad| (bad.seq, bad.why))
}

async fn found(fresh: &Fresh, filter: AuditFilter) -> Vec<u64> {
    let listed = fresh.store.audit_events(&filter, &Page::default()).await.unwrap();
    listed.items.iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn events_are_found_newest_first() {
    let fresh = with_events(6).await;
    let all = AuditFilter::default;
    assert_eq!(found(&fresh, all()).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(found(&fresh, AuditFilter { types: vec!["user.login".into()], ..all() }).await, [5, 3, 1]);
    assert_eq!(found(&fresh, AuditFilter { user: Some("bob".into()), ..all() }).await, [6, 5]);
    assert_eq!(found(&fresh, AuditFilter { session_id: Some("s3".into()), ..all() }).await, [4]);
    assert_eq!(found(&fresh, AuditFilter { id: Some(event(2).id), ..all() }).await, [3]);
    let (since, until) = (Some(NOW + Duration::SECOND), Some(NOW + Duration::seconds(3)));
    assert_eq!(found(&fresh, AuditFilter { since, until, ..all() }).await, [3, 2]);

    let listed = fresh.store.audit_events(&all(), &Page::first(4)).await.unwrap();
    assert_eq!(listed.items[0].json.as_bytes(), event(5).canonical());
    let page = Page { token: listed.next.unwrap(), size: 4 };
    let rest = fresh.store.audit_events(&all(), &page).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (2, None));
}

/// A machine that gives its event the id of another's neither replaces nor suppresses either, nor fails those written with it.
#[tokio::test]
async fn an_id_that_is_taken_suppresses_nothing() {
    let fresh = with_events(2).await;
    fresh.store.audit(vec![event(0), event(0), event(2)]).await.unwrap();
    assert_eq!(found(&fresh, AuditFilter::default()).await, [5, 4, 3, 2, 1]);
    assert_eq!(found(&fresh, AuditFilter { id: Some(event(0).id), ..AuditFilter::default() }).await, [1]);
    assert_eq!(bad(&fresh).await, None);
}

#[tokio::test]
async fn a_change_and_its_event_stand_or_fall_together() {
    let fresh = open().await;
    for commit in [false, true] {
        let mut tx = fresh.store.begin(NOW).await.unwrap();
        tx.put::<Role>("dev", &RoleSpec::default(), Expect::Absent).await.unwrap();
        tx.audit(&event(0)).await.unwrap();
        if commit {
            tx.commit().await.unwrap();
        } else {
            drop(tx);
        }
        assert_eq!(fresh.store.find::<Role>("dev").await.unwrap().is_some(), commit);
        assert_eq!(found(&fresh, AuditFilter::default()).await.len(), usize::from(commit));
    }
    assert_eq!(bad(&fresh).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_make_one_chain() {
    let fresh = open().await;
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let store = fresh.store.clone();
            tokio::spawn(async move { store.audit(vec![event(n)]).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let report = fresh.store.verify_audit(Marks::default()).await.unwrap();
    assert_eq!((report.records, report.segments, report.bad), (200, 1, None));
}

#[tokio::test]
async fn one_request_that_is_refused_does_not_spoil_the_others() {
    let fresh = open().await;
    let mut long = event(0);
    for n in 0..100 {
        long = long.detail(&format!("d{n}"), "x".repeat(4000));
    }
    let (refused, kept) = tokio::join!(fresh.store.audit(vec![long]), fresh.store.audit(vec![event(1)]));
    assert!(refused.unwrap_err().to_string().contains("longer"));
    kept.unwrap();
    assert_eq!(fresh.store.verify_audit(Marks::default()).await.unwrap().records, 1);
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart_a_new_key_and_a_clock_set_back() {
    let fresh = with_events(3).await;
    let rotated = AuditKeys { current: key("another key of the chain"), former: vec![keys().current] };
    let fresh = fresh.reopen(rotated.clone()).await;
    let mut earlier = event(9);
    earlier.timestamp = NOW - Duration::days(1);
    fresh.store.audit(vec![earlier]).await.unwrap();
    let report = fresh.store.verify_audit(Marks::default()).await.unwrap();
    assert_eq!((report.records, report.segments, report.bad), (4, 2, None));
    assert_eq!(found(&fresh, AuditFilter::default()).await, [4, 3, 2, 1]);

    let forgetful = AuditKeys { former: Vec::new(), ..rotated };
    let fresh = fresh.reopen(forgetful).await;
    let (seq, why) = bad(&fresh).await.unwrap();
    assert_eq!(seq, 1);
    assert!(why.contains("former key"), "{why}");
}

#[tokio::test]
async fn every_edit_of_a_row_is_noticed() {
    let edits = [
        "metadata = replace(metadata, 'alice', 'mallory')",
        "\"user\" = 'mallory'",
        "event_type = 'user.logout'",
        "event_code = 'T0'",
        "resource = 'x'",
        "action = 'x'",
        "status = 'failure'",
        "session_id = 'x'",
        "created_at = '2020-01-01T00:00:00.000Z'",
        "created_at = created_at || ' '",
        "id = 'x'",
        "key_id = 'x'",
        "mac = replace(mac, substr(mac, 1, 1), 'z')",
        "mac = 'é'",
        "seq = 77",
        "seq = -1",
    ];
    for edit in edits {
        let fresh = with_events(5).await;
        assert_eq!(bad(&fresh).await, None);
        fresh.raw(&format!("UPDATE audit_events SET {edit} WHERE seq = 3")).await;
        assert!(bad(&fresh).await.is_some(), "{edit}");
    }
}

#[tokio::test]
async fn removed_and_moved_rows_are_noticed_and_stay_so() {
    for (edit, at) in [
        ("DELETE FROM audit_events WHERE seq = 1", 1),
        ("DELETE FROM audit_events WHERE seq = 3", 3),
        ("DELETE FROM audit_events WHERE seq >= 4", 4),
        ("DELETE FROM audit_events", 1),
        (
            "UPDATE audit_events SET seq = 9 WHERE seq = 2; UPDATE audit_events SET seq = 2 WHERE seq = 3; UPDATE audit_events SET seq = 3 WHERE seq = 9",
            2,
        ),
        ("DELETE FROM audit_head", 6),
        ("UPDATE audit_head SET seal = 'x'", 6),
    ] {
        let fresh = with_events(5).await;
        fresh.raw(edit).await;
        assert_eq!(bad(&fresh).await.map(|(seq, _)| seq), Some(at), "{edit}");
        // The next record does not heal the chain. Where the head was removed it is refused.
        let _ = fresh.store.audit(vec![event(10)]).await;
        assert!(bad(&fresh).await.is_some() || edit.contains("seal"), "{edit}");
    }
}
