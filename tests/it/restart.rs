//! Ends that nobody planned: of the hub, of an agent, with sessions running.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::{ADMIN_PASSWORD, Cluster, USER_PASSWORD};
use crate::process::{Client, run, tool, wait_for, within};
use crate::pty::Pty;
use crate::setup::Setup;

/// A session that has shown `begun`, with that on the node's disk, and its id.
fn begun(setup: &Setup) -> (Client, String) {
    let before: Vec<_> = setup.cluster.live("alice").iter().map(|s| s["id"].to_string()).collect();
    let session = Client::start(setup.alice.ssh_command(&["-tt", &setup.target(), "echo begun; sleep 1000"]));
    session.expect("begun");
    let id = || {
        setup
            .cluster
            .live("alice")
            .iter()
            .find(|s| !before.contains(&s["id"].to_string()))
            .and_then(|s| Some(s["id"].as_str()?.to_owned()))
    };
    wait_for("the session to be listed", || id().is_some());
    let id = id().unwrap();
    let spool = setup.cluster.path("agent-node-1").display().to_string();
    wait_for("a chunk", || !tool("find", &[&spool, "-path", &format!("*{id}*"), "-name", "*.chunk"]).stdout.is_empty());
    (session, id)
}

#[track_caller]
fn verified_recording(setup: &Setup, id: &str) -> serde_json::Value {
    let mut found = serde_json::Value::Null;
    wait_for("the recording to be whole", || {
        // In this order: what is listed before the seal is not final.
        let whole = setup.cluster.mezctl(&["recordings", "verify", id]).code == 0;
        found = setup
            .cluster
            .mezctl_json(&["recordings", "ls"])
            .into_iter()
            .find(|r| r["session"]["id"] == id)
            .unwrap_or_default();
        whole && !found.is_null()
    });
    assert!(setup.alice.msh(&["play", "--speed=1000", id]).ok().contains("begun"));
    found
}

fn hub_goes_with_a_session(signal: Signal) {
    let mut setup = Setup::new();
    let (mut session, id) = begun(&setup);
    let token = setup.cluster.admin_token.clone();
    let mut pty = Pty::start(&setup.alice.msh_command(&["ssh", &setup.msh_target()]), 80, 24);
    let modes = format!("{:?}", pty.modes());
    pty.prompt();

    setup.cluster.stop_hub(signal);
    assert_eq!(pty.wait(), 255, "{:?}", pty.text());
    assert_eq!(format!("{:?}", pty.modes()), modes, "the terminal is left raw: {:?}", pty.text());
    assert!(pty.text().contains("msh: "), "the user is told nothing: {:?}", pty.text());
    let out = session.wait();
    assert_eq!(out.code, 255, "{out:?}");
    assert!(!out.stderr.is_empty(), "the user is told nothing");
    if signal == Signal::SIGTERM {
        assert!(out.stderr.contains("stopping"), "{out:?}");
    }
    // Who comes meanwhile is told which hub does not answer.
    let port = setup.cluster.addr["https"].rsplit(':').next().unwrap();
    for (args, code) in [(&["ls"][..], 8), (&["ssh", &setup.msh_target(), "--", "true"], 255)] {
        let text = setup.alice.msh(args).refused(code);
        assert!(text.contains(&format!("localhost:{port}")) || text.contains(setup.alice.front_door()), "{text}");
    }
    setup.cluster.start_hub();
    setup.cluster.wait_status("node-1", "online");
    // Users, tokens and certificates go on; a stop is not a logout.
    assert_eq!(setup.cluster.admin_token, token);
    assert_eq!(setup.alice.ssh(&[&setup.target(), "echo again"]).ok(), "again\n");
    wait_for("the list to be true", || setup.cluster.live("alice").is_empty());
    let recording = verified_recording(&setup, &id);
    assert_eq!(recording["complete"], true, "{recording:#?}");
    let ended = setup.cluster.mezctl_json(&["audit", "ls", "--type=session.end", &format!("--session={id}")]);
    assert_eq!(ended.len(), 1, "{ended:#?}");
    setup.cluster.mezctl(&["audit", "verify"]).ok();
}

#[test]
fn a_hub_that_is_stopped_ends_sessions_with_a_reason() {
    hub_goes_with_a_session(Signal::SIGTERM);
}

#[test]
fn a_hub_that_is_killed_leaves_a_whole_recording() {
    hub_goes_with_a_session(Signal::SIGKILL);
}

#[test]
fn an_agent_that_is_killed_leaves_a_recording_that_says_so() {
    let mut setup = Setup::new();
    let (mut session, id) = begun(&setup);
    let mut agent = setup.cluster.agents.remove("node-1").unwrap();
    agent.signal(Signal::SIGKILL);
    agent.wait();
    let out = session.wait();
    assert_eq!(out.code, 255, "{out:?}");
    setup.cluster.wait_status("node-1", "offline");
    wait_for("the session's processes to end", || tool("pgrep", &["-u", &setup.os.name]).stdout.is_empty());
    let refused = setup.alice.msh(&["ssh", &setup.msh_target(), "--", "true"]);
    assert!(refused.refused(255).contains("node-1"));

    // Any token will do: it is not looked at again.
    let command = setup.cluster.agent_command("node-1", "0000");
    setup.cluster.start_agent("node-1", command);
    setup.cluster.wait_status("node-1", "online");
    let recording = verified_recording(&setup, &id);
    assert_eq!(recording["complete"], false, "{recording:#?}");
    let verdict = setup.cluster.mezctl(&["recordings", "verify", &id]).ok();
    assert!(verdict.contains("unchanged and lacks its end"), "{verdict}");
    let played = setup.alice.msh(&["play", "--speed=1000", &id]);
    assert!(played.stderr.contains("breaks off here"), "{played:?}");
    wait_for("the list to be true", || setup.cluster.live("alice").is_empty());
    assert_eq!(setup.alice.ssh(&[&setup.target(), "echo again"]).ok(), "again\n");
    assert_eq!(setup.cluster.audit("session.recording.damaged").len(), 1);
}

#[test]
fn an_agent_that_is_stopped_ends_its_sessions_and_uploads_later() {
    let mut setup = Setup::new();
    let (mut session, id) = begun(&setup);
    let mut agent = setup.cluster.agents.remove("node-1").unwrap();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait(), 0, "{}", agent.log());
    let out = session.wait();
    assert_ne!(out.code, 0);
    assert!(format!("{out:?}").contains("the agent of this node is stopping"), "{out:?}");
    setup.cluster.wait_status("node-1", "offline");
    let command = setup.cluster.agent_command("node-1", "");
    setup.cluster.start_agent("node-1", command);
    setup.cluster.wait_status("node-1", "online");
    assert_eq!(verified_recording(&setup, &id)["complete"], true);
}

#[test]
fn recordings_wait_for_a_hub_that_is_away() {
    let mut setup = Setup::new();
    let (mut session, id) = begun(&setup);
    setup.cluster.stop_hub(Signal::SIGKILL);
    assert_eq!(session.wait().code, 255);
    let mut agent = setup.cluster.agents.remove("node-1").unwrap();
    agent.signal(Signal::SIGKILL);
    agent.wait();
    setup.cluster.start_hub();
    assert!(
        !setup
            .cluster
            .mezctl_json(&["recordings", "ls"])
            .iter()
            .any(|r| r["complete"] == true && r["session"]["id"] == id.as_str())
    );
    let command = setup.cluster.agent_command("node-1", "");
    setup.cluster.start_agent("node-1", command);
    setup.cluster.wait_status("node-1", "online");
    verified_recording(&setup, &id);
}

#[test]
fn in_node_sync_a_stream_that_breaks_ends_the_session() {
    let mut setup = Setup::with_agent(&[("MEZITE_RECORDING_MODE", "node-sync")]);
    setup.alice.ssh(&[&setup.target(), "echo fine"]).ok();
    let (mut session, id) = begun(&setup);
    // What is on the screen is at the hub.
    wait_for("a chunk at the hub", || {
        setup.cluster.path("hub/recordings").join(&id[..2]).join(&id).join("000000.chunk").exists()
    });
    setup.cluster.stop_hub(Signal::SIGKILL);
    assert_eq!(session.wait().code, 255);
    wait_for("the session's processes to end", || tool("pgrep", &["-u", &setup.os.name]).stdout.is_empty());
    setup.cluster.start_hub();
    setup.cluster.wait_status("node-1", "online");
    verified_recording(&setup, &id);
    wait_for("the list to be true", || setup.cluster.live("alice").is_empty());
}

#[test]
fn in_node_sync_a_stream_that_cannot_be_opened_is_recorded_on_the_node() {
    let setup = Setup::with_agent(&[("MEZITE_RECORDING_MODE", "node-sync")]);
    let store = setup.cluster.path("hub/recordings").display().to_string();
    tool("mount", &["-t", "tmpfs", "-o", "ro,size=4k", "none", &store]).ok();
    let out = setup.alice.ssh(&[&setup.target(), "echo recorded here"]);
    tool("umount", &[&store]).ok();
    assert_eq!(out.ok(), "recorded here\n");
    let log = setup.cluster.agents["node-1"].log();
    assert!(log.contains("opening recording stream (falling back to local-only)"), "{log}");
    let id = setup.cluster.recording("alice")["session"]["id"].as_str().unwrap().to_owned();
    setup.cluster.mezctl(&["recordings", "verify", &id]).ok();
}

#[test]
fn a_backup_taken_while_writing_restores() {
    let cluster = Cluster::start();
    let backup = cluster.path("backup.db");
    let database = cluster.path("hub/mezhub.db").display().to_string();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..12).for_each(|n| cluster.add_user(&format!("user-{n}"), "access", "x")));
        wait_for("some users", || cluster.mezctl_json(&["users", "list"]).len() > 3);
        tool("sqlite3", &[&database, ".timeout 5000", &format!(".backup '{}'", backup.display())]).ok();
        writer.join().unwrap();
    });
    let copied =
        tool("sqlite3", &[&backup.display().to_string(), "PRAGMA integrity_check; SELECT count(*) FROM users"]).ok();
    assert!(copied.starts_with("ok\n"), "{copied}");
    let users: usize = copied.lines().nth(1).unwrap().parse().unwrap();
    assert!(users > 3, "{users}");

    // Another machine: the backup, the rest of the data directory, and the passphrase.
    let place = tempfile::Builder::new().prefix("mezite-").tempdir().unwrap();
    let hub = place.path().join("hub");
    tool("cp", &["-a", &cluster.path("hub").display().to_string(), &hub.display().to_string()]).ok();
    for name in ["mezhub.db", "mezhub.db-wal", "mezhub.db-shm"] {
        let _ = fs::remove_file(hub.join(name));
    }
    fs::copy(&backup, hub.join("mezhub.db")).unwrap();
    let restored = Cluster::start_in(place, &[]);
    assert_eq!(restored.mezctl_json(&["users", "list"]).len(), users);
    restored.mezctl(&["audit", "verify"]).ok();
    let login = restored
        .mezctl_with(&["login", "--username=user-0", "--password-stdin"], format!("{USER_PASSWORD}\n").as_bytes());
    login.ok();
}

#[test]
fn tokens_of_sessions_and_users_survive_a_restart() {
    let mut cluster = Cluster::start();
    let user = cluster.user("carol", "access", "x");
    let join = cluster.join_token("1h");
    let fingerprints = cluster.mezctl(&["ca", "status"]).ok();
    cluster.stop_hub(Signal::SIGTERM);
    cluster.start_hub();
    assert!(cluster.mezctl(&["users", "list"]).ok().contains("carol"), "the administrator's token is still good");
    user.msh(&["ls"]).ok();
    assert_eq!(cluster.mezctl(&["ca", "status"]).ok(), fingerprints);
    let command = cluster.agent_command("node-1", &join);
    cluster.start_agent("node-1", command);
    cluster.wait_status("node-1", "online");
    // The first administrator's password is not set again.
    let log = fs::read_to_string(cluster.path("hub.log")).unwrap();
    assert!(!log.contains(ADMIN_PASSWORD), "{log}");
}

/// D1 and D2 in small: both sides are killed again and again while sessions come and go; nothing acknowledged is lost.
#[test]
#[ignore = "takes minutes; run by make test-faults"]
fn repeated_kills_lose_nothing_that_was_acknowledged() {
    let mut setup = Setup::new();
    let (mut users, mut seen) = (0, 0);
    for round in 0..20_u64 {
        let mut load: Vec<_> = (0..4)
            .map(|n| {
                Client::start(
                    setup.alice.ssh_command(&[&setup.target(), &format!("echo begun {round} {n}; sleep 0.{n}")]),
                )
            })
            .collect();
        for _ in 0..3 {
            setup.cluster.add_user(&format!("kept-{users}"), "access", "x");
            users += 1;
        }
        // Each round meets the sessions at another step.
        within(Duration::from_millis(37 * round % 700), || false);
        if round % 2 == 0 {
            setup.cluster.stop_hub(Signal::SIGKILL);
            setup.cluster.start_hub();
        } else {
            let mut agent = setup.cluster.agents.remove("node-1").unwrap();
            agent.signal(Signal::SIGKILL);
            agent.wait();
            let command = setup.cluster.agent_command("node-1", "");
            setup.cluster.start_agent("node-1", command);
        }
        setup.cluster.wait_status("node-1", "online");
        seen += load.iter_mut().map(Client::wait).filter(|out| out.stdout.contains("begun")).count();
        let kept = setup.cluster.mezctl_json(&["users", "list"]).len();
        assert!(kept >= users, "{kept} of {users} users");
        setup.cluster.mezctl(&["audit", "verify"]).ok();
    }
    wait_for("every recording", || {
        let all = setup.cluster.mezctl_json(&["recordings", "ls"]);
        all.len() >= seen
            && all.iter().all(|r| {
                setup.cluster.mezctl(&["recordings", "verify", r["session"]["id"].as_str().unwrap()]).code == 0
            })
    });
    wait_for("the list to be true", || setup.cluster.live("alice").is_empty());
    assert_eq!(setup.cluster.audit("session.start").len(), setup.cluster.audit("session.end").len());
}

#[test]
fn the_hub_checks_its_configuration_without_starting() {
    let cluster = Cluster::start();
    let mut command: Command = crate::cluster::program("mezhub");
    command.arg("check").arg(format!("--config={}", cluster.path("mezhub.yaml").display()));
    assert_eq!(run(command, b"").code, 0);
}
