//! An administrator who can log in no more is let in again, on the hub's own machine only.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::cluster::{ADMIN_PASSWORD, Cluster};
use crate::process::{run, tool};
use crate::pty::Pty;

fn recover(cluster: &Cluster, user: &str) -> Command {
    let mut command = cluster.hub_command();
    command.args(["admin", "recover", &format!("--user={user}")]);
    command
}

/// The password that the terminal shows.
fn password(mut terminal: Pty, user: &str) -> String {
    terminal.expect(&format!("user {user} is "));
    assert_eq!(terminal.wait(), 0, "{}", terminal.text());
    let text = terminal.text();
    let after = text.split(" as an administrator, password ").nth(1).unwrap_or_else(|| panic!("{text}"));
    after.split_whitespace().next().unwrap().to_owned()
}

fn login(cluster: &Cluster, user: &str, password: &str) -> crate::process::Output {
    let name = format!("--username={user}");
    cluster.mezctl_with(&["login", &name, "--password-stdin"], format!("{password}\n").as_bytes())
}

#[test]
fn an_administrator_is_let_in_again_on_a_terminal_of_the_stopped_hub() {
    let mut cluster = Cluster::start();
    let running = Pty::start(&recover(&cluster, "admin"), 120, 40);
    let refused = {
        let mut running = running;
        running.expect("in use by another mezhub; stop that one first");
        running.wait()
    };
    assert_ne!(refused, 0);
    cluster.stop_hub(Signal::SIGTERM);

    let blind = run(recover(&cluster, "admin"), b"");
    assert!(blind.stderr.contains("run this on a terminal"), "{blind:?}");
    // As after a lock that was written past the hub.
    let database = cluster.path("hub/mezhub.db").display().to_string();
    let lock = r#"INSERT INTO locks (id, name, revision, spec, created_at, updated_at) VALUES ('00000000-0000-4000-8000-000000000001',
        'out', 1, '{"target_type":"role","target":"admin"}', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z')"#;
    tool("sqlite3", &[&database, lock]).ok();
    cluster.start_hub();
    login(&cluster, "admin", ADMIN_PASSWORD).refused(5);
    cluster.stop_hub(Signal::SIGTERM);

    let shown = password(Pty::start(&recover(&cluster, "admin"), 120, 40), "admin");
    cluster.start_hub();
    login(&cluster, "admin", ADMIN_PASSWORD).refused(5);
    cluster.admin_token = login(&cluster, "admin", &shown).ok().trim().to_owned();
    assert!(!cluster.mezctl(&["locks", "ls"]).ok().contains("out"));
    let events = cluster.mezctl_json(&["audit", "ls", "--type=user.recovered"]);
    assert_eq!((events.len(), &events[0]["details"]["locks_removed"][0]), (1, &"out".into()));
    assert!(!std::fs::read_to_string(cluster.path("hub.log")).unwrap().contains(&shown), "the password is in the log");
    cluster.mezctl(&["audit", "verify"]).ok();

    cluster.stop_hub(Signal::SIGTERM);
    let shown = password(Pty::start(&recover(&cluster, "rescue"), 120, 40), "rescue");
    cluster.start_hub();
    cluster.admin_token = login(&cluster, "rescue", &shown).ok().trim().to_owned();
    cluster.mezctl(&["users", "list"]).ok();
}
