//! The audit log: every act has its event, and a change is found.

use std::process::Command;

use crate::cluster::{Cluster, USER_PASSWORD};
use crate::process::{run, tool};
use crate::setup::Setup;

#[test]
fn every_act_has_its_event() {
    let setup = Setup::new();
    let cluster = &setup.cluster;
    cluster.add_role("kind: role\nversion: v1\nmetadata: {name: acted}\nspec: {}\n").ok();
    cluster
        .add_role("kind: role\nversion: v1\nmetadata: {name: acted}\nspec:\n  options: {max_session_ttl: 1h}\n")
        .ok();
    cluster.mezctl(&["roles", "delete", "acted"]).ok();
    cluster.user("actor", "access", &setup.os.name).msh(&["logout"]).ok();
    cluster.mezctl(&["users", "delete", "--username=actor"]).ok();
    cluster.mezctl(&["tokens", "create", "--name=spare"]).ok();
    cluster.mezctl(&["tokens", "delete", "spare"]).ok();
    cluster.mezctl(&["nodes", "update", "node-1", "--labels=env=test,team=core,new=yes"]).ok();
    cluster.mezctl(&["locks", "create", "--user=nobody-there"]).ok();
    cluster.mezctl(&["locks", "delete", "--target-type=user", "--target-name=nobody-there"]).ok();
    cluster.mezctl(&["config", "set", "user_cert_ttl", "8h"]).ok();
    cluster.mezctl_with(&["login", "--username=admin", "--password-stdin"], b"wrong\n");
    setup.alice.ssh(&[&setup.target(), "true"]).ok();
    setup.alice.msh(&["ssh", "daemon@node-1", "--", "true"]).refused(255);
    cluster.recording("alice");

    let all = cluster.mezctl_json(&["audit", "ls"]);
    let of = |name: &str| all.iter().filter(|event| event["event_type"] == name).count();
    for (name, count) in [
        ("user.login", 3),
        ("user.login.failed", 1),
        ("user.logout", 1),
        ("user.cert.issued", 2),
        ("user.created", 3),
        ("user.deleted", 1),
        ("session.start", 1),
        ("session.end", 1),
        ("session.recording.uploaded", 1),
        ("node.joined", 1),
        ("node.update", 1),
        ("host.cert.issued", 1),
        ("access.denied", 1),
        ("role.create", 1),
        ("role.update", 1),
        ("role.delete", 1),
        ("token.create", 2),
        ("token.used", 1),
        ("token.delete", 1),
        ("lock.create", 1),
        ("lock.delete", 1),
        ("config.set", 1),
    ] {
        assert!(
            of(name) >= count,
            "{name}: {} of {count}; {:#?}",
            of(name),
            all.iter().map(|e| &e["event_type"]).collect::<Vec<_>>()
        );
    }
    for event in &all {
        for field in [
            "id",
            "event_type",
            "event_code",
            "user_name",
            "resource_type",
            "resource_name",
            "server_hostname",
            "client_ip",
            "timestamp",
            "session_id",
            "success",
        ] {
            assert!(!event[field].is_null(), "{field} is missing: {event:#}");
        }
    }
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains(USER_PASSWORD) && !text.contains(&cluster.admin_token), "a secret is in the log");
    cluster.mezctl(&["audit", "verify"]).ok();
}

fn sqlite(cluster: &Cluster, sql: &str) -> String {
    tool(
        "sqlite3",
        &[&cluster.path("hub/mezhub.db").display().to_string(), &format!("PRAGMA busy_timeout=5000; {sql}")],
    )
    .ok()
}

#[test]
fn a_changed_a_removed_and_a_cut_off_record_are_named() {
    let cluster = Cluster::start();
    for n in 0..6 {
        cluster.add_user(&format!("user-{n}"), "access", "x");
    }
    cluster.mezctl(&["audit", "verify"]).ok();
    for (change, undo, named) in [
        (
            "CREATE TABLE keep AS SELECT * FROM audit_events WHERE seq=4; UPDATE audit_events SET \"user\"='mallory' WHERE seq=4",
            "4",
            "record 4",
        ),
        (
            "CREATE TABLE keep AS SELECT * FROM audit_events WHERE seq=4; UPDATE audit_events SET metadata=replace(metadata,'true','false') WHERE seq=4",
            "4",
            "record 4",
        ),
        (
            "CREATE TABLE keep AS SELECT * FROM audit_events WHERE seq=3; DELETE FROM audit_events WHERE seq=3",
            "3",
            "record 3",
        ),
        (
            "CREATE TABLE keep AS SELECT * FROM audit_events ORDER BY seq DESC LIMIT 2; DELETE FROM audit_events WHERE seq IN (SELECT seq FROM keep)",
            "",
            "record",
        ),
    ] {
        sqlite(&cluster, change);
        let out = cluster.mezctl(&["audit", "verify"]);
        assert_eq!(out.code, 1, "{change}: {out:?}");
        assert!(out.stderr.contains(named), "{change}: {out:?}");
        sqlite(&cluster, "INSERT OR REPLACE INTO audit_events SELECT * FROM keep; DROP TABLE keep");
        let _ = undo;
        cluster.mezctl(&["audit", "verify"]).ok();
    }
}

#[test]
fn filters_and_order() {
    let setup = Setup::shared();
    let user = setup.somebody();
    user.login();
    let logins = setup.cluster.audit_of("user.login", &user.name);
    assert_eq!(logins.len(), 2);
    assert!(logins[0]["timestamp"].as_str() >= logins[1]["timestamp"].as_str(), "newest first");
    let since = setup.cluster.mezctl_json(&["audit", "ls", "--since=1h", &format!("--user={}", user.name)]);
    assert!(since.len() >= 4, "{since:#?}");
    let until = setup.cluster.mezctl_json(&["audit", "ls", "--until=2020-01-01", &format!("--user={}", user.name)]);
    assert!(until.is_empty());
    let limited = setup.cluster.mezctl_json(&["audit", "ls", "--limit=2"]);
    assert_eq!(limited.len(), 2);
    let text = setup.cluster.mezctl(&["audit", "ls", "--type=user.login", &format!("--user={}", user.name)]).ok();
    assert!(text.contains("T1000I") && text.contains("127.0.0.1"), "{text}");
}

#[test]
fn what_a_stranger_types_cannot_act_on_the_readers_terminal() {
    let setup = Setup::shared();
    let mut command: Command = setup.cluster.mezctl_command();
    command.args(["login", "--username=\u{1b}]0;x\u{7}evil", "--password-stdin"]);
    assert_ne!(run(command, b"x\n").code, 0);
    let text = setup.cluster.mezctl(&["audit", "ls", "--type=user.login.failed"]).ok();
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
}
