use mezite_core::totp;
use mezite_proto::v1::*;
use tonic::Code;

use crate::cluster::{Caller, Cluster, PASSWORD};
use crate::sessions::events;

/// The secret in the address that authenticators read.
pub(crate) fn secret(uri: &str) -> Vec<u8> {
    let text = uri.split_once("secret=").unwrap().1.split('&').next().unwrap();
    let values = text.bytes().map(|c| u64::from(if c >= b'A' { c - b'A' } else { c - b'2' + 26 }));
    let bits: Vec<u64> = values.collect();
    let bytes = bits.chunks(8).flat_map(|eight| {
        let number = eight.iter().fold(0, |number, five| number << 5 | five);
        number.to_be_bytes()[3..].to_vec()
    });
    bytes.collect()
}

pub(crate) fn now_step() -> u64 {
    totp::step(mezite_net::clock::now_unix())
}

pub(crate) async fn begin(user: &mut Caller, name: &str, otp: &str) -> Result<BeginMfaReply, tonic::Status> {
    let request = BeginMfaRequest { r#type: "totp".into(), name: name.into(), otp: otp.into() };
    user.client.begin_mfa(user.with(request)).await.map(tonic::Response::into_inner)
}

pub(crate) async fn finish(user: &mut Caller, id: &str, code: &str) -> Result<FinishMfaReply, tonic::Status> {
    let request = FinishMfaRequest { id: id.into(), code: code.into() };
    user.client.finish_mfa(user.with(request)).await.map(tonic::Response::into_inner)
}

pub(crate) async fn remove(user: &mut Caller, name: &str, otp: &str) -> Result<(), tonic::Status> {
    let request = RemoveMfaRequest { name: name.into(), otp: otp.into() };
    user.client.remove_mfa(user.with(request)).await.map(drop)
}

async fn names(caller: &mut Caller, user: &str) -> Result<Vec<String>, tonic::Status> {
    let request = caller.with(ListMfaRequest { user: user.into() });
    let factors = caller.client.list_mfa(request).await?.into_inner().factors;
    Ok(factors.into_iter().map(|factor| factor.name).collect())
}

/// Enrols an authenticator: its secret, and the step whose code was used. The code of the step after it is good for a while
/// yet, the window being one step wide.
async fn enrol(user: &mut Caller, name: &str) -> (Vec<u8>, u64) {
    let BeginMfaReply { id, uri } = begin(user, name, "").await.unwrap();
    let (secret, step) = (secret(&uri), now_step());
    finish(user, &id, &totp::code(&secret, step)).await.unwrap();
    (secret, step)
}

/// Enrols with the code before the present one: the present one and the next are unused then.
pub(crate) async fn enrol_early(user: &mut Caller, name: &str) -> (Vec<u8>, u64) {
    let BeginMfaReply { id, uri } = begin(user, name, "").await.unwrap();
    let secret = secret(&uri);
    loop {
        let step = now_step();
        // Too late when the present step ends just now.
        if finish(user, &id, &totp::code(&secret, step - 1)).await.is_ok() {
            return (secret, step);
        }
    }
}

#[tokio::test]
async fn whoever_enrolled_an_authenticator_is_asked_for_a_code_once_per_step() {
    let mut cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let BeginMfaReply { id, uri } = begin(&mut alice, "", "").await.unwrap();
    assert!(uri.starts_with("otpauth://totp/example:alice?secret="), "{uri}");
    cluster.login("alice", PASSWORD).await.unwrap();
    assert_eq!(finish(&mut alice, &id, "000 00").await.unwrap_err().code(), Code::PermissionDenied);
    let (secret, step) = (secret(&uri), now_step());
    let first = totp::code(&secret, step);
    assert_eq!(finish(&mut alice, &id, &first).await.unwrap().name, "totp");
    assert_eq!(finish(&mut alice, &id, &first).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(names(&mut alice, "").await.unwrap(), ["totp"]);

    assert_eq!(cluster.login("alice", PASSWORD).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(cluster.login("alice", "wrong password").await.unwrap_err().code(), Code::Unauthenticated);
    let code = totp::code(&secret, step + 1);
    let wrong = totp::code(&secret, step + 1000);
    let mut answers = Vec::new();
    for (user, password, otp) in [
        ("alice", PASSWORD, wrong.as_str()),
        ("alice", PASSWORD, "not a code"),
        ("alice", PASSWORD, first.as_str()),
        ("alice", "wrong password", code.as_str()),
        ("nobody", PASSWORD, code.as_str()),
    ] {
        let refused = cluster.login_with(user, password, otp).await.unwrap_err();
        answers.push((refused.code(), refused.message().to_owned()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // A restart opens the sealed secret again; a wrong password has not used the code up.
    cluster.restart(|_| {}).await.unwrap();
    cluster.login_with("alice", PASSWORD, &code).await.unwrap();
    let again = cluster.login_with("alice", PASSWORD, &code).await.unwrap_err();
    assert_eq!((again.code(), again.message()), (answers[0].0, answers[0].1.as_str()));

    let mut admin = cluster.admin().await;
    let added = events(&mut admin, "user.mfa.added").await;
    assert_eq!((added.len(), &added[0]["event_code"]), (1, &"T1014I".into()), "{added:?}");
    assert_eq!(events(&mut admin, "user.mfa.failed").await.len(), 1);
    let logins = events(&mut admin, "user.login").await;
    assert!(logins.iter().any(|event| event.to_string().contains("\"mfa\":\"totp\"")), "{logins:?}");
    let failed = events(&mut admin, "user.login.failed").await;
    for why in ["a code is missing", "the code is wrong", "the code was used already", "the password is wrong"] {
        assert!(failed.iter().any(|event| event["error_message"].as_str().unwrap().contains(why)), "{why}: {failed:?}");
    }
    for entry in std::fs::read_dir(cluster.dir.path()).unwrap() {
        let held = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        assert!(!held.windows(secret.len()).any(|part| part == secret), "the secret lies open");
    }
}

#[tokio::test]
async fn a_locked_factor_counts_and_opens_nothing() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let (secret, step) = enrol(&mut alice, "phone").await;
    let mut admin = cluster.admin().await;
    let lock = crate::force::lock(&mut admin, "mfa_device", "alice/phone").await;
    let code = totp::code(&secret, step + 1);
    let without = cluster.login("alice", PASSWORD).await.unwrap_err();
    assert_eq!(without.code(), Code::FailedPrecondition, "the factor is not gone");
    let with = cluster.login_with("alice", PASSWORD, &code).await.unwrap_err();
    assert_eq!(with.code(), Code::Unauthenticated);
    assert_eq!(remove(&mut alice, "phone", &code).await.unwrap_err().code(), Code::PermissionDenied);
    let delete = DeleteObjectRequest { kind: "lock".into(), name: lock.name, expected_revision: None };
    admin.client.delete_object(admin.with(delete)).await.unwrap();
    cluster.login_with("alice", PASSWORD, &code).await.expect("no code was used up meanwhile");
}

#[tokio::test]
async fn of_parallel_logins_with_one_code_one_gets_in() {
    let cluster = std::sync::Arc::new(Cluster::new().await);
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let (secret, step) = enrol(&mut alice, "phone").await;
    let code = totp::code(&secret, step + 1);
    let logins: Vec<_> = (0..8)
        .map(|_| {
            let (cluster, code) = (cluster.clone(), code.clone());
            tokio::spawn(async move { cluster.login_with("alice", PASSWORD, &code).await.is_ok() })
        })
        .collect();
    let mut inside = 0;
    for login in logins {
        inside += u32::from(login.await.unwrap());
    }
    assert_eq!(inside, 1);
}

#[tokio::test]
async fn what_one_has_is_changed_with_a_code_only() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let (secret, step) = enrol(&mut alice, "phone").await;
    assert_eq!(begin(&mut alice, "phone", "").await.unwrap_err().code(), Code::Aborted);
    assert_eq!(begin(&mut alice, "tablet", "").await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(begin(&mut alice, "tablet", "000").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(begin(&mut alice, "../x", "").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(remove(&mut alice, "tablet", "").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(remove(&mut alice, "phone", "").await.unwrap_err().code(), Code::FailedPrecondition);
    let used = totp::code(&secret, step);
    assert_eq!(remove(&mut alice, "phone", &used).await.unwrap_err().code(), Code::PermissionDenied);
    remove(&mut alice, "phone", &totp::code(&secret, step + 1)).await.unwrap();
    assert!(names(&mut alice, "").await.unwrap().is_empty());
    cluster.login("alice", PASSWORD).await.unwrap();
    let mut admin = cluster.admin().await;
    assert_eq!(events(&mut admin, "user.mfa.removed").await.len(), 1);
}

#[tokio::test]
async fn the_last_factor_stays_while_a_role_demands_one() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let spec = br#"{"options":{"require_session_mfa":"totp"},"allow":{"logins":["root"]}}"#.to_vec();
    let put = PutObjectRequest { kind: "role".into(), name: "strict".into(), spec, expected_revision: Some(0) };
    admin.client.put_object(admin.with(put)).await.unwrap();
    let mut alice = cluster.new_user("alice", &["strict"], &[]).await;
    let (secret, step) = enrol(&mut alice, "phone").await;
    let refused = remove(&mut alice, "phone", &totp::code(&secret, step + 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
}

#[tokio::test]
async fn an_administrator_sees_and_resets_and_others_do_not() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let mut bob = cluster.new_user("bob", &["access"], &[]).await;
    let mut admin = cluster.admin().await;
    enrol(&mut alice, "phone").await;
    assert_eq!(names(&mut bob, "alice").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(names(&mut bob, "nobody").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(names(&mut admin, "nobody").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(names(&mut admin, "alice").await.unwrap(), ["phone"]);

    let reset = |user: &str| ResetMfaRequest { user: user.into(), r#type: "totp".into() };
    let refused = bob.client.reset_mfa(bob.with(reset("alice"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(cluster.login("alice", PASSWORD).await.unwrap_err().code(), Code::FailedPrecondition);
    for removed in [1, 0] {
        let reply = admin.client.reset_mfa(admin.with(reset("alice"))).await.unwrap().into_inner();
        assert_eq!(reply.removed, removed);
    }
    cluster.login("alice", PASSWORD).await.unwrap();
    assert_eq!(events(&mut admin, "user.mfa.removed").await.len(), 1);
}
