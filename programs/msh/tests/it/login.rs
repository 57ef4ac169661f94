//! Logging in, what it leaves behind, and whom it trusts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::hub::{Hub, Plan};
use crate::user::User;

#[tokio::test]
async fn a_login_writes_the_documented_files() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let profile = user.path(".mezite/profiles/127.0.0.1");
    let mode = |path: &str| fs::metadata(profile.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("keys/ssh_key"), mode("session"), mode("keys"), mode("")], [0o600, 0o600, 0o700, 0o700]);
    assert!(
        fs::read_to_string(profile.join("keys/ssh_key-cert.pub"))
            .unwrap()
            .starts_with("ssh-ed25519-cert-v01@openssh.com ")
    );
    let known_hosts = fs::read_to_string(user.path(".mezite/known_hosts")).unwrap();
    assert!(
        known_hosts.starts_with("@cert-authority * ssh-ed25519 ") && known_hosts.lines().count() == 1,
        "{known_hosts}"
    );
    let status = user.msh(&["status"]).await;
    assert_eq!(status.code, 0);
    assert!(status.stdout.contains("valid, from ") && status.stdout.contains("ubuntu, alice"), "{}", status.stdout);

    assert_eq!(user.msh(&["logout"]).await.code, 0);
    assert!(!profile.exists());
    assert_eq!(fs::read_to_string(user.path(".mezite/known_hosts")).unwrap(), "");
    let gone = user.msh(&["status"]).await;
    assert_eq!(gone.code, 5);
    assert!(gone.stderr.contains("msh login"), "{}", gone.stderr);
}

#[tokio::test]
async fn out_writes_an_identity_and_no_profile() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::new();
    let out = user.path("id");
    let run = user.login(&hub, &["--out", out.to_str().unwrap()]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(out.exists() && user.path("id-cert.pub").exists() && !user.path(".mezite").exists());
}

#[tokio::test]
async fn refusals_say_what_to_do_and_leave_nothing() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::new();
    let proxy = format!("--proxy={}", hub.web);
    let untrusted = user.run(&["login", &proxy, "--user=alice", "--password-stdin"], "x\n").await;
    assert_eq!(untrusted.code, 8);
    assert!(untrusted.stderr.contains("--ca-file"), "{}", untrusted.stderr);
    let wrong = user.run(&["login", &proxy, "--user=alice", "--password-stdin", "--insecure"], "wrong\n").await;
    assert_eq!(wrong.code, 5);
    assert!(wrong.stderr.contains("wrong user name or password"), "{}", wrong.stderr);
    let nobody = user.run(&["login", "--proxy=127.0.0.1:1", "--user=alice", "--password-stdin"], "x\n").await;
    assert_eq!(nobody.code, 8);
    assert!(nobody.stderr.contains("127.0.0.1:1") && nobody.stderr.contains("hub runs"), "{}", nobody.stderr);
    let hardware = user.msh(&["login", "--hardware-key", &proxy]).await;
    assert_eq!(hardware.code, 1);
    let sentence = "no hardware key implementation available; real PIV support not yet built";
    assert!(hardware.stderr.contains(sentence), "{}", hardware.stderr);
    let connector = user.msh(&["login", "--auth=okta", &proxy]).await;
    assert!(connector.code == 3 && connector.stderr.contains("no such connector"), "{}", connector.stderr);
    let long = user.run(&["login", &proxy, "--user=alice", "--password-stdin", "--insecure", "--ttl=25h"], "x\n").await;
    assert!(long.code == 2 && long.stderr.contains("24h"), "{}", long.stderr);
    assert!(!user.path(".mezite").exists());
}

/// `--ca-file` is for the first login; the profile remembers it, once, for the next (README).
#[tokio::test]
async fn a_later_login_trusts_the_authorities_of_the_first() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let profile = || {
        let host = hub.web.rsplit_once(':').unwrap().0;
        std::fs::read_to_string(user.path(".mezite/profiles").join(host).join("profile.json")).unwrap()
    };
    let first = profile().matches("BEGIN CERTIFICATE").count();
    for _ in 0..2 {
        let again = user.run(&["login", "--password-stdin"], "correct horse\n").await;
        assert_eq!(again.code, 0, "{}", again.stderr);
    }
    assert_eq!(profile().matches("BEGIN CERTIFICATE").count(), first);
}

#[tokio::test]
async fn an_insecure_login_is_no_licence_for_later() {
    // The hub's TLS certificate is not of the cluster's authority, so the login pins the key it saw.
    let hub = Hub::start(Plan { own_tls: false, ..Plan::default() }).await;
    let user = User::new();
    let proxy = format!("--proxy={}", hub.web);
    let args = ["login", &proxy, "--user=alice", "--password-stdin", "--insecure"];
    let login = user.run(&args, "correct horse\n").await;
    assert_eq!(login.code, 0, "{}", login.stderr);
    assert!(login.stderr.contains("not verified"), "{}", login.stderr);
    assert_eq!(user.msh(&["ls"]).await.code, 0);

    let port = hub.web.rsplit_once(':').unwrap().1.parse().unwrap();
    drop(hub);
    let _other = loop {
        // The port is free again when the first hub has let go of it.
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            break Hub::start(Plan { own_tls: false, port, ..Plan::default() }).await;
        }
        tokio::task::yield_now().await;
    };
    for args in [vec!["ls"], vec!["ls", "--insecure"]] {
        let refused = user.msh(&args).await;
        assert!(refused.code == 8 && refused.stderr.contains("another certificate"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_password_is_changed_with_the_old_one() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let changed = user.run(&["passwd", "--password-stdin"], "correct horse\nbattery staple\n").await;
    assert_eq!(
        (changed.code, changed.stdout.as_str()),
        (0, "Password changed; certificates of before are no longer good: run `msh login`\n"),
        "{}",
        changed.stderr
    );
}
