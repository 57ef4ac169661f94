use mezite_core::identity::Identity;
use mezite_proto::v1::*;
use mezite_ssh::cert::{CertKind, Certificate, Policy, verify};
use mezite_ssh::key::{PrivateKey, PublicKey};
use tonic::Code;

use crate::cluster::{Caller, Cluster, PASSWORD};

async fn issue(user: &mut Caller, ttl_seconds: u32) -> Result<IssueUserCertsReply, tonic::Status> {
    let ssh_public_key = PrivateKey::generate().unwrap().public().to_wire();
    let request = user.with(IssueUserCertsRequest { ssh_public_key, ttl_seconds });
    user.client.issue_user_certs(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_login_gives_a_certificate_that_says_who_and_for_how_long() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.new_user("alice", &["access"], &["ubuntu", "deploy"]).await;
    let reply = issue(&mut alice, 0).await.unwrap();
    assert_eq!(reply.logins, ["deploy", "ubuntu"]);
    assert_eq!(reply.cluster_name, "example");

    let (certificate, _) = Certificate::from_openssh(&reply.ssh_certificate).unwrap();
    let (authority, _) = PublicKey::from_openssh(&reply.user_authorities[0]).unwrap();
    let now = mezite_net::clock::now_unix();
    let policy = |principal| Policy {
        kind: CertKind::User,
        authorities: std::slice::from_ref(&authority),
        now_unix: now,
        principal: Some(principal),
        source: None,
    };
    verify(&certificate, &policy("ubuntu")).unwrap();
    assert!(verify(&certificate, &policy("root")).is_err());
    let (host, _) = PublicKey::from_openssh(&reply.host_authorities[0]).unwrap();
    assert_ne!(host, authority);

    let lifetime = certificate.valid_before - now;
    assert!((12 * 3600 - 5..=12 * 3600).contains(&lifetime), "{lifetime}");
    assert!(certificate.valid_after <= now - 59);
    let texts: Vec<(String, String)> = certificate
        .extensions
        .iter()
        .map(|(name, value)| (name.clone(), String::from_utf8(value.clone()).unwrap()))
        .collect();
    let pairs = texts.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let identity = Identity::from_certificate(&certificate.key_id, &certificate.principals, pairs).unwrap();
    assert_eq!((identity.user.as_str(), identity.roles.as_slice()), ("alice", ["access".to_owned()].as_slice()));
    assert!(certificate.extension("permit-port-forwarding").is_some(), "role access grants it");
}

#[tokio::test]
async fn validity_is_cut_to_the_role_and_to_a_day() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let life = |reply: &IssueUserCertsReply| reply.valid_before_unix - mezite_net::clock::now_unix().cast_signed();
    let long = issue(&mut admin, 7 * 86_400).await.unwrap();
    assert!((86_390..=86_400).contains(&life(&long)), "{}", life(&long));

    let spec = br#"{"options":{"max_session_ttl":"1h"},"allow":{"logins":["root"]}}"#.to_vec();
    let put = PutObjectRequest { kind: "role".into(), name: "short".into(), spec, expected_revision: Some(0) };
    admin.client.put_object(admin.with(put)).await.unwrap();
    let mut bob = cluster.new_user("bob", &["access", "short"], &["bob"]).await;
    let short = issue(&mut bob, 0).await.unwrap();
    assert!((3590..=3600).contains(&life(&short)), "{}", life(&short));
    assert_eq!(short.logins, ["bob", "root"]);

    // The time of the login is a fact; the setting may change after it.
    let spec = br#"{"value":"24h"}"#.to_vec();
    let put = PutObjectRequest { kind: "config".into(), name: "session_ttl".into(), spec, expected_revision: None };
    admin.client.put_object(admin.with(put)).await.unwrap();
    let again = issue(&mut bob, 0).await.unwrap();
    assert!((3580..=3600).contains(&life(&again)), "{}", life(&again));
}

#[tokio::test]
async fn a_user_without_logins_gets_a_certificate_for_nobody() {
    let cluster = Cluster::new().await;
    let mut auditor = cluster.new_user("carol", &["auditor"], &[]).await;
    let reply = issue(&mut auditor, 0).await.unwrap();
    assert!(reply.logins.is_empty());
    let (certificate, _) = Certificate::from_openssh(&reply.ssh_certificate).unwrap();
    assert_eq!(certificate.principals, ["-mezite-nologin"]);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_login_the_answer_is_the_same() {
    let cluster = Cluster::new().await;
    cluster.new_user("alice", &["access"], &[]).await;
    lock(&cluster, "alice").await;
    let mut answers = Vec::new();
    for (user, password) in [
        ("alice", PASSWORD),
        ("alice", "wrong password"),
        ("nobody", PASSWORD),
        ("admin", ""),
        ("admin", "x\0y"),
        ("../../etc", "whatever it is"),
        ("admin", &"x".repeat(100_000)),
    ] {
        let refused = cluster.login(user, password).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        answers.push(refused.message().to_owned());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let mut admin = cluster.admin().await;
    let request = ListAuditRequest { types: vec!["user.login.failed".into()], ..ListAuditRequest::default() };
    let events = admin.client.list_audit(admin.with(request)).await.unwrap().into_inner().events;
    let events: Vec<serde_json::Value> = events.iter().map(|json| serde_json::from_slice(json).unwrap()).collect();
    assert_eq!(events.len(), 7);
    assert!(events.iter().any(|event| event["error_message"] == "the user is locked"));
    assert!(events.iter().all(|event| event["client_ip"] == "127.0.0.1" && event["success"] == false));
}

#[tokio::test]
async fn guessing_is_slowed_down_and_a_right_password_still_counts() {
    let cluster = Cluster::new().await;
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(cluster.login("admin", "wrong password").await.unwrap_err().code());
    }
    assert_eq!(codes.iter().filter(|code| **code == Code::Unauthenticated).count(), 10, "{codes:?}");
    assert_eq!(codes.last(), Some(&Code::Unavailable));
}

#[tokio::test]
async fn a_session_survives_a_restart_and_ends_with_logout_lock_and_password() {
    let mut cluster = Cluster::new().await;
    let alice = cluster.new_user("alice", &["access"], &[]).await;
    cluster.restart(|_| {}).await.unwrap();
    let mut alice = Caller { client: cluster.nobody(), token: alice.token };
    let me = alice.client.who_am_i(alice.with(WhoAmIRequest {})).await.unwrap().into_inner();
    assert_eq!((me.username.as_str(), me.admin), ("alice", false));

    let mut other = cluster.user("alice").await;
    let change = |old: &str, new: &str| ChangePasswordRequest {
        old_password: old.into(),
        new_password: new.into(),
        otp: String::new(),
    };
    for (old, new) in [("wrong password", "another password"), (PASSWORD, "short"), (PASSWORD, &"x".repeat(73))] {
        alice.client.change_password(alice.with(change(old, new))).await.unwrap_err();
    }
    alice.client.change_password(alice.with(change(PASSWORD, "another password"))).await.unwrap();
    let ended = other.client.who_am_i(other.with(WhoAmIRequest {})).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    alice.client.who_am_i(alice.with(WhoAmIRequest {})).await.unwrap();
    cluster.login("alice", PASSWORD).await.unwrap_err();

    lock(&cluster, "alice").await;
    assert_eq!(issue(&mut alice, 0).await.unwrap_err().code(), Code::Aborted);
    let mut admin = cluster.admin().await;
    let unlock = DeleteObjectRequest { kind: "lock".into(), name: "l-alice".into(), expected_revision: None };
    admin.client.delete_object(admin.with(unlock)).await.unwrap();
    alice.client.logout(alice.with(LogoutRequest {})).await.unwrap();
    let out = alice.client.who_am_i(alice.with(WhoAmIRequest {})).await.unwrap_err();
    assert_eq!(out.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_invite_sets_the_first_password_once() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let request =
        CreateUserRequest { name: "dave".into(), spec: br#"{"roles":["access"]}"#.to_vec(), password: String::new() };
    let created = admin.client.create_user(admin.with(request.clone())).await.unwrap().into_inner();
    assert_eq!(created.invite_token.len(), 64);
    assert_eq!(created.proxy_addr, "hub.example.com:443");
    assert_eq!(admin.client.create_user(admin.with(request)).await.unwrap_err().code(), Code::Aborted);
    cluster.login("dave", "").await.unwrap_err();
    let redeem =
        |password: &str| RedeemInviteRequest { token: created.invite_token.clone(), password: password.into() };
    let mut nobody = cluster.nobody();
    assert_eq!(nobody.redeem_invite(redeem("short")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(nobody.redeem_invite(redeem(PASSWORD)).await.unwrap().into_inner().username, "dave");
    assert_eq!(nobody.redeem_invite(redeem(PASSWORD)).await.unwrap_err().code(), Code::PermissionDenied);
    cluster.login("dave", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_password_is_reset_by_an_administrator() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let reset = |name: &str, password: &str| ResetPasswordRequest { name: name.into(), password: password.into() };
    let unknown = admin.client.reset_password(admin.with(reset("nobody", ""))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let invited = admin.client.reset_password(admin.with(reset("alice", ""))).await.unwrap().into_inner();
    assert_eq!((invited.invite_token.len(), invited.proxy_addr.as_str()), (64, "hub.example.com:443"));
    cluster.login("alice", PASSWORD).await.unwrap_err();
    cluster.login("alice", "").await.unwrap_err();
    let who = alice.client.who_am_i(alice.with(WhoAmIRequest {})).await.unwrap_err();
    assert_eq!(who.code(), Code::Unauthenticated, "what she was logged in with has ended");

    let other = "another password";
    let set = admin.client.reset_password(admin.with(reset("alice", other))).await.unwrap().into_inner();
    assert_eq!(set.invite_token, "");
    let redeem = RedeemInviteRequest { token: invited.invite_token, password: PASSWORD.into() };
    cluster.nobody().redeem_invite(redeem).await.unwrap_err();
    cluster.login("alice", other).await.unwrap();
    let short = admin.client.reset_password(admin.with(reset("alice", "short"))).await.unwrap_err();
    assert_eq!(short.code(), Code::InvalidArgument);

    // One's own session outlives the change, so that a lost invite locks nobody out.
    admin.client.reset_password(admin.with(reset("admin", PASSWORD))).await.unwrap();
    let events = crate::sessions::events(&mut admin, "user.password.changed").await;
    assert_eq!(events.len(), 3);
    assert_eq!((&events[1]["user_name"], &events[1]["resource_name"]), (&"admin".into(), &"alice".into()));
}

/// Verifying takes long, and a reset takes none of that: whoever knows the old password goes on trying while it is reset.
#[tokio::test]
async fn no_session_of_the_old_password_outlives_its_reset() {
    let mut cluster = Cluster::new().await;
    cluster.new_user("alice", &["access"], &[]).await;
    cluster.restart(|config| config.password_cost = 8).await.unwrap();
    let mut admin = cluster.admin().await;
    for round in 0..5 {
        let known = format!("the password of round {round}");
        let reset = |password: String| ResetPasswordRequest { name: "alice".into(), password };
        admin.client.reset_password(admin.with(reset(known.clone()))).await.unwrap();
        let mut client = admin.client.clone();
        let (first, second, done) = tokio::join!(
            cluster.login("alice", &known),
            cluster.login("alice", &known),
            client.reset_password(admin.with(reset(String::new()))),
        );
        done.unwrap();
        for token in [first, second].into_iter().flatten().map(|reply| reply.session_id) {
            let mut thief = Caller { client: cluster.nobody(), token: Some(token) };
            let who = thief.client.who_am_i(thief.with(WhoAmIRequest {})).await;
            assert_eq!(who.map_err(|status| status.code()).unwrap_err(), Code::Unauthenticated, "round {round}");
        }
    }
}

/// A change that was begun with the old password would take the account back.
#[tokio::test]
async fn no_change_of_the_old_password_overtakes_its_reset() {
    let mut cluster = Cluster::new().await;
    cluster.new_user("alice", &["access"], &[]).await;
    cluster.restart(|config| config.password_cost = 8).await.unwrap();
    let mut admin = cluster.admin().await;
    for round in 0..5 {
        let known = format!("the password of round {round}");
        let reset = |password: String| ResetPasswordRequest { name: "alice".into(), password };
        admin.client.reset_password(admin.with(reset(known.clone()))).await.unwrap();
        let token = cluster.login("alice", &known).await.unwrap().session_id;
        let thief = Caller { client: cluster.nobody(), token: Some(token) };
        let stolen = "the password of the thief";
        let change = ChangePasswordRequest { old_password: known, new_password: stolen.into(), otp: String::new() };
        let (mut by_thief, mut by_admin) = (thief.client.clone(), admin.client.clone());
        let (_, done) = tokio::join!(
            by_thief.change_password(thief.with(change)),
            by_admin.reset_password(admin.with(reset(String::new()))),
        );
        done.unwrap();
        cluster.login("alice", stolen).await.unwrap_err();
    }
}

pub(crate) async fn lock(cluster: &Cluster, user: &str) {
    let mut admin = cluster.admin().await;
    let spec = serde_json::json!({ "target_type": "user", "target": user }).to_string().into_bytes();
    let put = PutObjectRequest { kind: "lock".into(), name: format!("l-{user}"), spec, expected_revision: None };
    admin.client.put_object(admin.with(put)).await.unwrap();
}
