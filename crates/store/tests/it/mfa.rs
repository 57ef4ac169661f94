use mezite_core::Fault;
use mezite_core::kind::User;
use mezite_store::{Expect, MfaDevice};

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
