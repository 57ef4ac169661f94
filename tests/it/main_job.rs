//! The main job: log in, reach a node through the tunnel as another OS user, be recorded, play it back.

use crate::process::wait_for;
use crate::setup::Setup;

#[test]
fn stock_ssh_runs_a_command_as_another_user_and_is_recorded() {
    let setup = Setup::new();
    let (cluster, alice, target) = (&setup.cluster, &setup.alice, setup.target());

    assert_eq!(alice.ssh(&[&target, "true"]).ok(), "");
    assert_eq!(alice.ssh(&[&target, "id", "-un"]).ok().trim(), setup.os.name);
    assert_eq!(alice.ssh(&[&target, "exit 7"]).code, 7);

    let sessions = alice.msh(&["sessions", "ls"]).ok();
    let mut lines = sessions.lines();
    let head: Vec<_> = lines.next().unwrap().split("  ").filter(|w| !w.is_empty()).map(str::trim).collect();
    assert_eq!(head, ["SESSION ID", "USER", "NODE", "LOGIN", "STARTED", "ENDED"], "{sessions}");
    let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(&row[1..4], ["alice", "node-1", setup.os.name.as_str()], "{sessions}");

    wait_for("the recordings to be uploaded", || cluster.mezctl_json(&["recordings", "ls"]).len() == 3);
    assert_eq!(cluster.audit("session.start").len(), 3);
    wait_for("the seals", || cluster.audit("session.recording.uploaded").len() == 3);
    cluster.mezctl(&["audit", "verify"]).ok();
}

#[test]
fn msh_ssh_runs_a_command_and_passes_its_exit_status_on() {
    let setup = Setup::shared();
    let login = format!("--login={}", setup.os.name);

    let out = setup.alice.msh(&["ssh", &login, "node-1", "--", "echo", "hello; exit 3"]);
    assert_eq!((out.code, out.stdout.trim()), (3, "hello"), "{out:?}");
    let piped = setup.alice.msh_with(&["ssh", &login, "node-1", "--", "cat"], b"through the tunnel").ok();
    assert_eq!(piped, "through the tunnel");
}

#[test]
fn nodes_are_listed_as_documented_and_filtered_by_label() {
    let setup = Setup::shared();
    let version = env!("CARGO_PKG_VERSION");

    let admin = setup.cluster.mezctl(&["nodes", "ls"]).ok();
    let rows: Vec<Vec<_>> = admin.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["HOSTNAME", "TYPE", "STATUS", "LABELS", "VERSION"]);
    assert!(rows.contains(&vec!["node-1", "node", "online", "env=test,team=core", version]), "{admin}");

    let user = setup.alice.msh(&["ls"]).ok();
    let rows: Vec<Vec<_>> = user.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["HOSTNAME", "ROLE", "STATUS", "LABELS", "VERSION"]);
    assert!(rows.contains(&vec!["node-1", "node", "online", "env=test,team=core", version]), "{user}");

    let both = setup.alice.msh(&["ls", "--filter=env=test", "--filter=team=core"]).ok();
    assert!(both.contains("node-1"), "{both}");
    let one = setup.alice.msh(&["ls", "--filter=env=test", "--filter=team=other"]).ok();
    assert!(!one.contains("node-1"), "{one}");
}

#[test]
fn the_certificate_of_a_deleted_user_opens_nothing_even_when_the_name_is_given_again() {
    let setup = Setup::shared();
    let (user, target) = (setup.somebody(), setup.msh_target());
    let enter = || user.msh(&["ssh", &target, "--", "true"]).code;
    assert_eq!(enter(), 0);
    setup.cluster.mezctl(&["users", "delete", &user.name]).ok();
    assert_ne!(enter(), 0);
    setup.cluster.add_user(&user.name, "access", &setup.os.name);
    assert_ne!(enter(), 0);
}
