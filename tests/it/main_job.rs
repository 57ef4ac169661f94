//! The main job: log in, reach a node through the tunnel as another OS user, be recorded, play it back.

use crate::cluster::{Cluster, wait_for};
use crate::os_user::OsUser;

#[test]
fn stock_ssh_runs_a_command_as_another_user_and_is_recorded() {
    let os = OsUser::create();
    let cluster = Cluster::with_node(&os.name);
    let target = format!("{}@node-1.mezite", os.name);

    assert_eq!(cluster.ssh(&[&target, "true"]).ok(), "");
    assert_eq!(cluster.ssh(&[&target, "id", "-un"]).ok().trim(), os.name);
    assert_eq!(cluster.ssh(&[&target, "exit 7"]).code, 7);

    let sessions = cluster.msh(&["sessions", "ls"]).ok();
    let mut lines = sessions.lines();
    assert!(lines.next().unwrap().starts_with("SESSION ID"), "{sessions}");
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(&row[1..4], ["alice", "node-1", os.name.as_str()], "{sessions}");

    wait_for("the recordings to be uploaded", || {
        cluster.mezctl_json(&["recordings", "ls"]).as_array().map_or(0, Vec::len) == 3
    });
    assert!(!cluster.audit("session.start").is_empty());
    assert!(!cluster.audit("session.recording.uploaded").is_empty());
    cluster.mezctl(&["audit", "verify"]).ok();
}

#[test]
fn msh_ssh_runs_a_command_and_passes_its_exit_status_on() {
    let os = OsUser::create();
    let cluster = Cluster::with_node(&os.name);
    let login = format!("--login={}", os.name);

    let out = cluster.msh(&["ssh", &login, "node-1", "--", "echo", "hello; exit 3"]);
    assert_eq!((out.code, out.stdout.trim()), (3, "hello"), "{out:?}");
    let piped = cluster.msh_with(&["ssh", &login, "node-1", "--", "cat"], b"through the tunnel").ok();
    assert_eq!(piped, "through the tunnel");
}

#[test]
fn a_login_that_no_role_allows_is_refused_with_one_event() {
    let os = OsUser::create();
    let cluster = Cluster::with_node(&os.name);

    let out = cluster.msh(&["ssh", "--login=daemon", "node-1", "--", "true"]);
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("daemon"), "{out:?}");
    assert_eq!(cluster.audit("access.denied").len(), 1);
}

#[test]
fn an_unknown_node_is_named_in_the_error() {
    let os = OsUser::create();
    let cluster = Cluster::with_node(&os.name);

    let out = cluster.msh(&["ssh", &format!("{}@node-9", os.name), "--", "true"]);
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("node-9"), "{out:?}");
}
