use mezite_core::Fault;
use mezite_core::kind::{Lock, LockSpec, User};
use mezite_store::{Expect, MfaDevice, MfaProof};
use time::Duration;

use crate::{Fresh, NOW, open};

async fn device(fresh: &Fresh, id: &str, name: &str) -> MfaDevice {
    let user_id = fresh.store.find::<User>("alice").await.unwrap().unwrap().id;
    let (kind, secret) = ("totp".to_owned(), b"sealed".to_vec());
    MfaDevice { id: id.into(), user_id, kind, name: name.into(), secret, created_at: NOW, last_used_at: None }
}

async fn enrol(fresh: &Fresh, id: &str, name: &str, step: u64) -> Result<(), Fault> {
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.begin_mfa(&device(fresh, id, name).await).await.unwrap();
    assert!(tx.confirm_mfa(id, step).await?);
    tx.commit().await
}

#[tokio::test]
async fn a_step_is_used_once_and_never_an_older_one() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    enrol(&fresh, "1", "phone", 10).await.unwrap();
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    for (step, fresh) in [(10, false), (9, false), (11, true), (11, false), (10, false), (13, true), (12, false)] {
        assert_eq!(tx.use_mfa_step("1", step).await.unwrap(), fresh, "step {step}");
    }
    tx.commit().await.unwrap();
    assert_eq!(fresh.store.mfa_devices("alice").await.unwrap()[0].last_used_at, Some(NOW));
}

#[tokio::test]
async fn of_many_who_bring_one_code_one_gets_in() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    enrol(&fresh, "1", "phone", 0).await.unwrap();
    let racers: Vec<_> = (0..16)
        .map(|_| {
            let store = fresh.store.clone();
            tokio::spawn(async move {
                let mut tx = store.begin(NOW).await.unwrap();
                let won = tx.use_mfa_step("1", 7).await.unwrap();
                tx.commit().await.unwrap();
                won
            })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        winners += u32::from(racer.await.unwrap());
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_factor_counts_once_it_is_confirmed_and_until_it_is_removed() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    let store = &fresh.store;
    let mut tx = store.begin(NOW).await.unwrap();
    tx.begin_mfa(&device(&fresh, "1", "phone").await).await.unwrap();
    tx.begin_mfa(&device(&fresh, "2", "phone").await).await.unwrap();
    assert!(!tx.use_mfa_step("2", 5).await.unwrap(), "it counts for nothing before it is confirmed");
    tx.commit().await.unwrap();
    assert!(store.mfa_devices("alice").await.unwrap().is_empty());
    assert_eq!(store.mfa_pending("alice").await.unwrap().unwrap().id, "2", "the one before is gone");

    let mut tx = store.begin(NOW).await.unwrap();
    assert!(!tx.confirm_mfa("1", 5).await.unwrap());
    assert!(tx.confirm_mfa("2", 5).await.unwrap());
    assert!(!tx.confirm_mfa("2", 6).await.unwrap(), "once");
    tx.commit().await.unwrap();
    assert!(matches!(enrol(&fresh, "3", "phone", 0).await, Err(Fault::Conflict(_))), "the name is taken");
    enrol(&fresh, "4", "tablet", 0).await.unwrap();
    let names = |devices: Vec<MfaDevice>| devices.into_iter().map(|d| d.name).collect::<Vec<_>>();
    assert_eq!(names(store.mfa_devices("alice").await.unwrap()), ["phone", "tablet"]);
    assert!(store.mfa_devices("nobody").await.unwrap().is_empty());

    let user_id = device(&fresh, "", "").await.user_id;
    let mut tx = store.begin(NOW).await.unwrap();
    assert!(tx.remove_mfa(&user_id, "phone").await.unwrap());
    assert!(!tx.remove_mfa(&user_id, "phone").await.unwrap());
    tx.begin_mfa(&device(&fresh, "5", "next").await).await.unwrap();
    assert_eq!(tx.reset_mfa(&user_id, "totp").await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert!(
        store.mfa_devices("alice").await.unwrap().is_empty() && store.mfa_pending("alice").await.unwrap().is_none()
    );
}

#[tokio::test]
async fn factors_go_with_their_user_and_show_no_secret() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    enrol(&fresh, "1", "phone", 0).await.unwrap();
    let shown = format!("{:?}", fresh.store.mfa_devices("alice").await.unwrap());
    assert!(shown.contains("phone") && !shown.contains("secret"), "{shown}");
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.delete::<User>("alice", Expect::Any).await.unwrap();
    tx.commit().await.unwrap();
    fresh.user("alice", &[]).await;
    assert!(fresh.store.mfa_devices("alice").await.unwrap().is_empty());
    enrol(&fresh, "1", "phone", 0).await.unwrap();
}

const KEY: &str = "SHA256:abc";
const HOME: MfaProof<'_> = MfaProof { user_key: KEY, source: "192.0.2.1" };

/// A proof of the factor `1` for five minutes.
async fn prove(fresh: &Fresh) {
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    tx.keep_mfa_proof("1", HOME, Duration::minutes(5)).await.unwrap();
    tx.commit().await.unwrap();
}

async fn serves(fresh: &Fresh, proof: MfaProof<'_>, reuse: Duration, later: Duration) -> bool {
    let user_id = device(fresh, "", "").await.user_id;
    let found = fresh.store.mfa_proof(&user_id, proof, reuse, NOW + later).await.unwrap();
    assert!(found.as_deref().is_none_or(|name| name == "phone"));
    found.is_some()
}

#[tokio::test]
async fn a_proof_serves_its_key_and_source_for_the_shorter_of_two_times() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    enrol(&fresh, "1", "phone", 0).await.unwrap();
    prove(&fresh).await;
    let long = Duration::HOUR;
    let (second, minute) = (Duration::SECOND, Duration::MINUTE);
    for (reuse, later, expected) in [
        (long, Duration::ZERO, true),
        (long, 5 * minute - second, true),
        (long, 5 * minute, false),
        (minute, minute - second, true),
        (minute, minute, false),
        (Duration::ZERO, Duration::ZERO, false),
        // A clock that was put back makes nothing young again.
        (long, -second, false),
    ] {
        assert_eq!(serves(&fresh, HOME, reuse, later).await, expected, "{reuse} {later}");
    }
    assert!(!serves(&fresh, MfaProof { user_key: "SHA256:xyz", ..HOME }, long, second).await);
    assert!(!serves(&fresh, MfaProof { source: "192.0.2.2", ..HOME }, long, second).await);
    assert_eq!(fresh.store.mfa_proof("nobody", HOME, long, NOW).await.unwrap(), None);
    // A later one takes its place, and what is over goes.
    let mut tx = fresh.store.begin(NOW + 4 * minute).await.unwrap();
    tx.keep_mfa_proof("1", HOME, 5 * minute).await.unwrap();
    tx.commit().await.unwrap();
    assert!(serves(&fresh, HOME, long, 8 * minute).await);
}

#[tokio::test]
async fn a_proof_goes_with_its_factor_and_its_user_and_with_a_lock() {
    let fresh = open().await;
    fresh.user("alice", &[]).await;
    fresh.user("bob", &[]).await;
    let user_id = device(&fresh, "", "").await.user_id;
    let lock = |target: &str| {
        let spec = serde_json::json!({ "target_type": "user", "target": target });
        serde_json::from_value::<LockSpec>(spec).unwrap()
    };
    for end in ["removal", "reset", "end", "lock"] {
        enrol(&fresh, "1", "phone", 0).await.unwrap();
        prove(&fresh).await;
        let mut tx = fresh.store.begin(NOW).await.unwrap();
        tx.put::<Lock>(&format!("other-{end}"), &lock("bob"), Expect::Any).await.unwrap();
        tx.end_mfa_proofs("bob").await.unwrap();
        tx.commit().await.unwrap();
        assert!(serves(&fresh, HOME, Duration::HOUR, Duration::SECOND).await, "before {end}");
        let mut tx = fresh.store.begin(NOW).await.unwrap();
        match end {
            "removal" => assert!(tx.remove_mfa(&user_id, "phone").await.unwrap()),
            "reset" => assert_eq!(tx.reset_mfa(&user_id, "totp").await.unwrap(), 1),
            "end" => tx.end_mfa_proofs("alice").await.unwrap(),
            _ => drop(tx.put::<Lock>("stop", &lock("alice"), Expect::Any).await.unwrap()),
        }
        tx.commit().await.unwrap();
        assert!(!serves(&fresh, HOME, Duration::HOUR, Duration::SECOND).await, "after {end}");
        let mut tx = fresh.store.begin(NOW).await.unwrap();
        tx.reset_mfa(&user_id, "totp").await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = fresh.store.begin(NOW).await.unwrap();
    assert!(tx.keep_mfa_proof("1", HOME, Duration::HOUR).await.is_err(), "a factor that is gone proves nothing");
}
