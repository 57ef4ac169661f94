use mezite_core::kind::parse_role;
use mezite_core::rbac::{Joining, Proof, Question, Roles, Target, check, may_join};
use mezite_core::{Identity, Labels};
use serde_json::json;

use super::*;

fn identity(user: &str, role: &str) -> Identity {
    let (user_id, user) = (format!("id-{user}"), user.to_owned());
    Identity { user_id, user, roles: vec![role.into()], principals: vec!["root".into()], ..Identity::default() }
}

fn roles() -> Roles {
    let entry = |name: &str, on_leave: &str| {
        json!({"name": name, "filter": "contains(user.roles, \"sec\")", "modes": ["observer", "peer"], "count": 1,
            "on_leave": on_leave})
    };
    let owner = |name: &str, entries| {
        json!({"metadata": {"name": name}, "spec": {"options": {"require_session_join": entries},
            "allow": {"node_labels": {"*": "*"}, "logins": ["root"]}}})
    };
    let sec = json!({"metadata": {"name": "sec"}, "spec": {"allow": {"join_sessions":
        [{"roles": ["*"], "modes": ["observer", "peer", "moderator"]}]}}});
    let all = [
        owner("free", json!([])),
        owner("pausing", json!([entry("one", "pause")])),
        owner("ending", json!([entry("two", "terminate")])),
        sec,
    ];
    all.iter().map(|role| parse_role(role).unwrap()).collect()
}

fn question<'a>(identity: &'a Identity, roles: &'a Roles, labels: &'a Labels) -> Question<'a> {
    Question {
        identity,
        roles,
        target: Target { node_id: "n", name: "web", labels },
        login: None,
        locks: &[],
        proof: Proof::Nothing,
        now: time::OffsetDateTime::UNIX_EPOCH,
    }
}

fn requirements(role: &str) -> Arc<[Requirement]> {
    let (alice, roles, labels) = (identity("alice", role), roles(), Labels::new());
    let asked = Question { login: Some("root"), ..question(&alice, &roles, &labels) };
    Arc::clone(check(&asked).unwrap().moderation())
}

fn room(role: &str) -> Arc<Room> {
    let (user, user_id) = ("alice".to_owned(), "id-alice".to_owned());
    let owner = Owner { user, user_id, roles: vec![role.to_owned()], login: "root".to_owned() };
    Arc::new(Room::new("s", owner, requirements(role), Some((80, 24))))
}

fn seat(user: &str, mode: JoinMode) -> Seat {
    let (who, roles, labels) = (identity(user, "sec"), roles(), Labels::new());
    let joining = Joining { mode, login: "root", owner_roles: &[], requirements: &[] };
    may_join(&question(&who, &roles, &labels), joining).unwrap()
}

async fn shown(place: &mut Place) -> String {
    String::from_utf8_lossy(&place.next().await.unwrap()).into_owned()
}

#[test]
fn a_session_runs_when_others_are_there_and_stops_when_one_leaves() {
    let room = room("pausing");
    assert!(room.state().starts_with("waits for 1 observer or peer for whom"), "{}", room.state());
    let own = room.enter(seat("alice", JoinMode::Peer)).unwrap();
    assert!(!room.is_running(), "nobody counts for the own session");
    let moderator = room.enter(seat("bob", JoinMode::Moderator)).unwrap();
    assert!(!room.is_running(), "in a mode that nobody asked for");
    let (first, second) = [1, 2].map(|_| room.enter(seat("bob", JoinMode::Observer)).unwrap()).into();
    assert!(room.is_running() && room.state().is_empty());
    drop((own, moderator, first));
    assert!(room.is_running(), "bob is still there");
    drop(second);
    assert!(!room.is_running());
    assert!(room.state().starts_with("is paused and waits for 1"), "{}", room.state());
    let back = room.enter(seat("carol", JoinMode::Observer)).unwrap();
    assert!(room.is_running());
    drop(back);
    let over = Verdict::new("terminated", "by somebody");
    room.end(over);
    assert!(room.enter(seat("carol", JoinMode::Observer)).is_err());
    assert!(!room.is_running(), "what is over stays over");
}

#[tokio::test]
async fn a_session_ends_when_its_requirement_says_so() {
    let room = room("ending");
    let bob = room.enter(seat("bob", JoinMode::Observer)).unwrap();
    let mut watching = room.enter(seat("carol", JoinMode::Moderator)).unwrap();
    assert!(room.is_running());
    shown(&mut watching).await;
    drop(bob);
    let verdict = room.over().await;
    assert_eq!(verdict.reason, "moderation");
    assert!(shown(&mut watching).await.contains("the session ends, for it lacks 1 observer"));
    assert!(shown(&mut watching).await.contains("bob left"));
    assert!(watching.next().await.is_none());
}

#[tokio::test]
async fn a_role_that_asks_for_others_now_stops_what_runs() {
    let room = room("free");
    assert!(room.is_running());
    room.require(&requirements("pausing"));
    assert!(!room.is_running());
    assert!(room.notice().await.contains("the session is paused"));
    room.require(&requirements("free"));
    assert!(room.is_running());
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let mut room = Arc::into_inner(room("pausing")).unwrap();
    room.patience = Duration::from_millis(1);
    let verdict = room.over().await;
    assert!(verdict.message.contains("did not come within 1ms"), "{verdict:?}");
}

#[tokio::test]
async fn a_slow_observer_loses_output_and_nobody_waits() {
    let room = room("free");
    let mut slow = room.enter(seat("bob", JoinMode::Observer)).unwrap();
    let mut quick = room.enter(seat("carol", JoinMode::Observer)).unwrap();
    shown(&mut slow).await;
    shown(&mut quick).await;
    let flood = Bytes::from(vec![b'x'; 1024]);
    for _ in 0..4096 {
        room.show(&flood);
        assert_eq!(quick.next().await.unwrap(), flood);
    }
    let queued = room.inner().present.iter().map(|present| present.queued).max().unwrap();
    assert!(queued <= QUEUE, "{queued} bytes wait");
    room.show(&Bytes::from_static(b"\x1b[2J\x1b[Hthe end"));
    assert!(shown(&mut slow).await.contains("the end"), "the screen as it stands comes next");
    room.show(&Bytes::from_static(b"more"));
    assert_eq!(shown(&mut slow).await, "more");
}

#[tokio::test]
async fn a_late_observer_sees_the_screen() {
    let room = room("free");
    room.show(&Bytes::from_static(b"before anybody came\r\n"));
    let mut late = room.enter(seat("bob", JoinMode::Observer)).unwrap();
    assert!(shown(&mut late).await.contains("before anybody came"));
}

#[tokio::test]
async fn only_peers_type_and_only_while_the_session_runs() {
    let room = room("pausing");
    let mut typed = room.typed().unwrap();
    let peer = room.enter(seat("dan", JoinMode::Peer)).unwrap();
    let observer = room.enter(seat("bob", JoinMode::Observer)).unwrap();
    let moderator = room.enter(seat("bob", JoinMode::Moderator)).unwrap();
    for place in [&observer, &moderator, &peer] {
        place.type_in(Bytes::from_static(b"a")).await;
    }
    assert_eq!(typed.try_recv().unwrap(), "a");
    assert!(typed.try_recv().is_err(), "somebody who only watches has typed");
    drop(observer);
    drop(peer);
    let other = room.enter(seat("alice", JoinMode::Peer)).unwrap();
    other.type_in(Bytes::from_static(b"late")).await;
    assert!(typed.try_recv().is_err(), "what was typed during a pause came later");
}
