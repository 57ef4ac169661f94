//! Second factors of sessions, as an agent asks for them.

use mezite_core::totp;
use mezite_proto::v1::prove_session_mfa_reply::Answer;
use mezite_proto::v1::*;
use mezite_ssh::cert::{CertKind, Certificate, CertificateBuilder};
use mezite_ssh::key::PrivateKey;
use tonic::{Code, Status};

use crate::cluster::{Caller, Cluster, Machine, PASSWORD};
use crate::mfa;
use crate::sessions::events;

const HOME: &str = "192.0.2.1";
const STRICT: &str = r#"{"require_session_mfa":"totp"}"#;
const REUSE: &str = r#"{"require_session_mfa":"totp","session_mfa_reuse":"10m"}"#;

async fn put(cluster: &Cluster, kind: &str, name: &str, spec: serde_json::Value) {
    let mut admin = cluster.admin().await;
    let spec = spec.to_string().into_bytes();
    let put = PutObjectRequest { kind: kind.into(), name: name.into(), spec, expected_revision: Some(0) };
    admin.client.put_object(admin.with(put)).await.unwrap();
}

/// A role with these options for every node, as `ubuntu`.
async fn role(cluster: &Cluster, name: &str, options: &str) {
    let options: serde_json::Value = serde_json::from_str(options).unwrap();
    let allow = serde_json::json!({ "logins": ["{{internal.logins}}"], "node_labels": { "*": "*" } });
    put(cluster, "role", name, serde_json::json!({ "options": options, "allow": allow })).await;
}

/// Somebody with a certificate, at a place.
struct Visitor {
    caller: Caller,
    certificate: Vec<u8>,
    secret: Vec<u8>,
    /// Its code and the next one are unused.
    step: u64,
}

impl Visitor {
    async fn new(cluster: &Cluster, name: &str, roles: &[&str]) -> Self {
        let mut caller = cluster.new_user(name, roles, &["ubuntu"]).await;
        let certificate = certificate(&mut caller).await;
        Self { caller, certificate, secret: Vec::new(), step: 0 }
    }

    async fn enrolled(cluster: &Cluster, name: &str, roles: &[&str]) -> Self {
        let mut visitor = Self::new(cluster, name, roles).await;
        (visitor.secret, visitor.step) = mfa::enrol_early(&mut visitor.caller, "phone").await;
        visitor
    }

    fn code(&self, later: u64) -> String {
        totp::code(&self.secret, self.step + later)
    }

    fn request(&self, source: &str, otp: &str) -> ProveSessionMfaRequest {
        let certificate = self.certificate.clone();
        ProveSessionMfaRequest {
            certificate,
            login: "ubuntu".into(),
            client_ip: source.into(),
            otp: otp.into(),
            ..Default::default()
        }
    }

    async fn at(&self, node: &mut Machine, otp: &str) -> Answer {
        ask(node, self.request(HOME, otp)).await.unwrap()
    }
}

async fn certificate(caller: &mut Caller) -> Vec<u8> {
    let ssh_public_key = PrivateKey::generate().unwrap().public().to_wire();
    let request = IssueUserCertsRequest { ssh_public_key, ..IssueUserCertsRequest::default() };
    let line = caller.client.issue_user_certs(caller.with(request)).await.unwrap().into_inner().ssh_certificate;
    Certificate::from_openssh(&line).unwrap().0.to_wire()
}

async fn ask(node: &mut Machine, request: ProveSessionMfaRequest) -> Result<Answer, Status> {
    node.client.prove_session_mfa(request).await.map(|reply| reply.into_inner().answer())
}

#[tokio::test]
async fn a_code_is_good_once_and_for_one_purpose() {
    let cluster = Cluster::new().await;
    role(&cluster, "strict", STRICT).await;
    let mut web_1 = cluster.machine("node", "web-1").await;
    let mut web_2 = cluster.machine("node", "web-2").await;
    let nobody = Visitor::new(&cluster, "nobody", &["strict"]).await;
    assert_eq!(nobody.at(&mut web_1, "").await, Answer::NotEnrolled);
    assert_eq!(nobody.at(&mut web_1, "123456").await, Answer::NotEnrolled);

    let alice = Visitor::enrolled(&cluster, "alice", &["strict"]).await;
    assert_eq!(alice.at(&mut web_1, "").await, Answer::CodeNeeded);
    let (first, second) = (alice.code(0), alice.code(1));
    for wrong in ["not a code", &totp::code(&alice.secret, alice.step + 1000), &"0".repeat(1 << 16)] {
        assert_eq!(alice.at(&mut web_1, wrong).await, Answer::CodeWrong);
    }
    assert_eq!(alice.at(&mut web_1, &first).await, Answer::Proven);
    assert_eq!(alice.at(&mut web_1, &first).await, Answer::CodeWrong, "a replay at the node");
    assert_eq!(alice.at(&mut web_2, &first).await, Answer::CodeWrong, "a replay at another node");
    assert_eq!(alice.at(&mut web_1, "").await, Answer::CodeNeeded, "nothing is kept");
    let refused = cluster.login_with("alice", PASSWORD, &first).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "a code of a session is none for a login");
    cluster.login_with("alice", PASSWORD, &second).await.unwrap();
    assert_eq!(alice.at(&mut web_2, &second).await, Answer::CodeWrong, "nor the other way round");

    let mut admin = cluster.admin().await;
    let proven = events(&mut admin, "session.mfa").await;
    let [event] = proven.as_slice() else { panic!("{proven:?}") };
    for (field, value) in
        [("user_name", "alice"), ("server_hostname", "web-1"), ("login", "ubuntu"), ("client_ip", HOME)]
    {
        assert_eq!(event[field], value, "{event}");
    }
    let denied = events(&mut admin, "access.denied").await;
    assert!(denied.iter().all(|event| event["event_code"] == "T4003W"), "{denied:?}");
    for why in ["the code is wrong", "the code was used already", "the user has no second factor"] {
        assert!(denied.iter().any(|event| event["error_message"] == why), "{why}: {denied:?}");
    }
    let told = format!("{proven:?}{denied:?}");
    assert!(![&first, &second].iter().any(|code| told.contains(code.as_str())), "a code is in the audit log");
}

#[tokio::test]
async fn of_parallel_sessions_with_one_code_one_is_let_in() {
    let cluster = Cluster::new().await;
    role(&cluster, "strict", STRICT).await;
    let alice = Visitor::enrolled(&cluster, "alice", &["strict"]).await;
    let mut tries = Vec::new();
    for n in 0..4 {
        let mut node = cluster.machine("node", &format!("web-{n}")).await;
        let request = alice.request(HOME, &alice.code(0));
        tries.push(tokio::spawn(async move { ask(&mut node, request).await.unwrap() }));
    }
    let mut proven = 0;
    for one in tries {
        proven += u32::from(one.await.unwrap() == Answer::Proven);
    }
    assert_eq!(proven, 1);
}

#[tokio::test]
async fn of_twenty_parallel_sessions_one_shows_the_code_and_the_others_follow() {
    let cluster = Cluster::new().await;
    role(&cluster, "often", REUSE).await;
    let alice = Visitor::enrolled(&cluster, "alice", &["often"]).await;
    let node = cluster.machine("node", "web-1").await.client;
    let tries: Vec<_> = (0..20)
        .map(|_| {
            let (mut node, request) = (node.clone(), alice.request(HOME, &alice.code(0)));
            tokio::spawn(async move { node.prove_session_mfa(request).await.unwrap().into_inner().answer() })
        })
        .collect();
    for one in tries {
        assert_eq!(one.await.unwrap(), Answer::Proven);
    }
    let mut admin = cluster.admin().await;
    let shown = events(&mut admin, "session.mfa").await;
    let reused = shown.iter().filter(|event| event["details"]["reused"] == true).count();
    assert_eq!((shown.len(), reused), (20, 19));
}

#[tokio::test]
async fn only_who_would_be_let_in_is_asked() {
    let cluster = Cluster::new().await;
    role(&cluster, "strict", STRICT).await;
    let mut node = cluster.machine("node", "web-1").await;
    let alice = Visitor::enrolled(&cluster, "alice", &["strict"]).await;
    let good = || alice.request(HOME, &alice.code(0));

    let own = Certificate::from_wire(&alice.certificate).unwrap();
    let forged = CertificateBuilder {
        public_key: own.public_key.clone(),
        serial: 1,
        kind: CertKind::User,
        key_id: "alice".into(),
        principals: own.principals.clone(),
        valid_after: own.valid_after,
        valid_before: own.valid_before,
        critical_options: Vec::new(),
        extensions: own.extensions.clone(),
    };
    let forged = forged.sign(&PrivateKey::generate().unwrap()).unwrap().to_wire();
    for (why, request, code) in [
        ("another authority", ProveSessionMfaRequest { certificate: forged, ..good() }, Code::PermissionDenied),
        ("no certificate", ProveSessionMfaRequest { certificate: vec![0; 64], ..good() }, Code::InvalidArgument),
        ("another login", ProveSessionMfaRequest { login: "root".into(), ..good() }, Code::PermissionDenied),
        ("no address", ProveSessionMfaRequest { client_ip: "home".into(), ..good() }, Code::InvalidArgument),
    ] {
        assert_eq!(ask(&mut node, request).await.unwrap_err().code(), code, "{why}");
    }
    let mut admin = cluster.admin().await;
    for (target_type, target, code) in [
        ("user", "alice", Code::PermissionDenied),
        ("role", "strict", Code::PermissionDenied),
        ("agent", "web-1", Code::Aborted),
    ] {
        put(&cluster, "lock", "stop", serde_json::json!({ "target_type": target_type, "target": target })).await;
        assert_eq!(ask(&mut node, good()).await.unwrap_err().code(), code, "a locked {target_type}");
        let delete = DeleteObjectRequest { kind: "lock".into(), name: "stop".into(), ..DeleteObjectRequest::default() };
        admin.client.delete_object(admin.with(delete)).await.unwrap();
    }
    assert_eq!(alice.at(&mut node, &alice.code(0)).await, Answer::Proven, "none of these used the code up");

    let delete = DeleteObjectRequest { kind: "user".into(), name: "alice".into(), ..DeleteObjectRequest::default() };
    admin.client.delete_object(admin.with(delete)).await.unwrap();
    let gone = alice.request(HOME, &alice.code(1));
    assert_eq!(ask(&mut node, gone).await.unwrap_err().code(), Code::PermissionDenied, "a user who is gone");
}

#[tokio::test]
async fn a_proof_serves_again_where_the_role_lets_it() {
    let mut cluster = Cluster::new().await;
    role(&cluster, "often", REUSE).await;
    role(&cluster, "strict", STRICT).await;
    let mut web_1 = cluster.machine("node", "web-1").await;
    let mut web_2 = cluster.machine("node", "web-2").await;
    let mut alice = Visitor::enrolled(&cluster, "alice", &["often"]).await;
    assert_eq!(alice.at(&mut web_2, "").await, Answer::CodeNeeded);
    assert_eq!(alice.at(&mut web_1, &alice.code(0)).await, Answer::Proven);
    for node in [&mut web_1, &mut web_2] {
        assert_eq!(alice.at(node, "").await, Answer::Proven);
    }
    let elsewhere = alice.request("192.0.2.2", "");
    assert_eq!(ask(&mut web_1, elsewhere).await.unwrap(), Answer::CodeNeeded, "another source");
    let other_key =
        ProveSessionMfaRequest { certificate: certificate(&mut alice.caller).await, ..alice.request(HOME, "") };
    assert_eq!(ask(&mut web_1, other_key).await.unwrap(), Answer::CodeNeeded, "another key");

    let bob = Visitor::enrolled(&cluster, "bob", &["often", "strict"]).await;
    assert_eq!(bob.at(&mut web_1, &bob.code(0)).await, Answer::Proven);
    assert_eq!(bob.at(&mut web_1, "").await, Answer::CodeNeeded, "the strictest role decides");

    let addr = cluster.running().addr;
    cluster.restart(|config| config.listen_addr = addr).await.unwrap();
    assert_eq!(alice.at(&mut web_2, "").await, Answer::Proven, "also after a restart");
    let mut admin = cluster.admin().await;
    let proven = events(&mut admin, "session.mfa").await;
    let reused = proven.iter().filter(|event| event["user_name"] == "alice" && event["details"]["reused"] == true);
    assert_eq!(reused.count(), 3, "{proven:?}");
}

#[tokio::test]
async fn a_proof_ends_with_what_it_stands_on() {
    let cluster = Cluster::new().await;
    role(&cluster, "often", REUSE).await;
    let mut node = cluster.machine("node", "web-1").await;
    let mut admin = cluster.admin().await;
    for end in ["logout", "reset", "removal", "password", "lock"] {
        let mut user = Visitor::enrolled(&cluster, end, &["often"]).await;
        let (name, uses) = (end.to_owned(), user.code(0));
        assert_eq!(user.at(&mut node, &uses).await, Answer::Proven);
        assert_eq!(user.at(&mut node, "").await, Answer::Proven);
        let otp = user.code(1);
        match end {
            "logout" => drop(user.caller.client.logout(user.caller.with(LogoutRequest {})).await.unwrap()),
            "reset" => {
                let reset = ResetMfaRequest { user: name, r#type: "totp".into() };
                admin.client.reset_mfa(admin.with(reset)).await.unwrap();
            }
            "removal" => {
                let BeginMfaReply { id, uri } = mfa::begin(&mut user.caller, "tablet", &otp).await.unwrap();
                let tablet = mfa::secret(&uri);
                mfa::finish(&mut user.caller, &id, &totp::code(&tablet, mfa::now_step())).await.unwrap();
                let next = totp::code(&tablet, mfa::now_step() + 1);
                mfa::remove(&mut user.caller, "phone", &next).await.unwrap();
            }
            "password" => {
                let (old_password, new_password) = (PASSWORD.to_owned(), "another fine password".to_owned());
                let change = ChangePasswordRequest { old_password, new_password, otp };
                user.caller.client.change_password(user.caller.with(change)).await.unwrap();
                // Those of before have ended with it.
                user.certificate = certificate(&mut user.caller).await;
            }
            _ => {
                put(&cluster, "lock", "stop", serde_json::json!({ "target_type": "user", "target": name })).await;
                let delete =
                    DeleteObjectRequest { kind: "lock".into(), name: "stop".into(), ..DeleteObjectRequest::default() };
                admin.client.delete_object(admin.with(delete)).await.unwrap();
            }
        }
        let expected = if end == "reset" { Answer::NotEnrolled } else { Answer::CodeNeeded };
        assert_eq!(user.at(&mut node, "").await, expected, "{end}");
    }
}

#[tokio::test]
async fn guesses_run_dry_and_lock_neither_a_familiar_place_nor_the_login() {
    let cluster = Cluster::new().await;
    role(&cluster, "strict", STRICT).await;
    let mut node = cluster.machine("node", "web-1").await;
    let alice = Visitor::enrolled(&cluster, "alice", &["strict"]).await;
    assert_eq!(alice.at(&mut node, &alice.code(0)).await, Answer::Proven);
    let guess = alice.request("198.51.100.7", "000000");
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(ask(&mut node, guess.clone()).await.unwrap());
    }
    let looked_at = answers.iter().take_while(|answer| **answer == Answer::CodeWrong).count();
    assert_eq!((looked_at, answers[10], answers[11]), (10, Answer::TooMany, Answer::TooMany));
    let right = alice.request("198.51.100.8", &alice.code(1));
    assert_eq!(ask(&mut node, right).await.unwrap(), Answer::TooMany, "from wherever the user was not seen yet");
    assert_eq!(alice.at(&mut node, &alice.code(1)).await, Answer::Proven, "the user's own place");
    let login = cluster.login("alice", PASSWORD).await.unwrap_err();
    assert_eq!(login.code(), Code::FailedPrecondition, "a login asks for its code as ever");
}

#[tokio::test]
async fn a_password_is_changed_with_a_code() {
    let cluster = Cluster::new().await;
    let mut alice = Visitor::enrolled(&cluster, "alice", &["access"]).await;
    let (first, second) = (alice.code(0), alice.code(1));
    let mut change = async |old: &str, otp: &str| {
        let (old_password, otp) = (old.to_owned(), otp.to_owned());
        let request = ChangePasswordRequest { old_password, new_password: "another fine password".into(), otp };
        alice.caller.client.change_password(alice.caller.with(request)).await.map(drop)
    };
    assert_eq!(change(PASSWORD, "").await.unwrap_err().code(), Code::FailedPrecondition);
    let refused = change("wrong password", "").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "the old password is wrong"));
    let refused = change("wrong password", &first).await.unwrap_err();
    assert_eq!(change(PASSWORD, "000000").await.unwrap_err().message(), refused.message());
    change(PASSWORD, &first).await.unwrap();
    assert_eq!(change("another fine password", &first).await.unwrap_err().message(), refused.message(), "used");
    cluster.login_with("alice", "another fine password", &second).await.unwrap();
}
