//! Full disks: a clear refusal, nothing corrupt, and recovery by itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::os_user::OsUser;
use crate::process::{Client, tool, wait_for};
use crate::setup::Setup;

/// A small disk; unmounted when dropped. Only this thread and the programs it starts from now on see it, and it goes with
/// the last of them, also when the test is killed.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        tool("mount", &["--make-rprivate", "/"]).ok();
        tool("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "none", &at.display().to_string()])
            .ok();
        Self(at.to_owned())
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.0.join("filler")).unwrap();
        for block in [1 << 16, 4096, 1] {
            while file.write_all(&vec![b'f'; block]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        tool("umount", &["-l", &self.0.display().to_string()]);
    }
}

#[test]
fn of_an_agent() {
    let os = OsUser::create();
    let mut cluster = Cluster::start();
    let disk = Disk::mount(&cluster.path("agent-node-1"), "8m");
    cluster.add_agent("node-1", &[]);
    let alice = cluster.user("alice", "access", &os.name);
    let target = format!("{}@node-1.mezite", os.name);
    alice.ssh(&[&target, "true"]).ok();
    wait_for("the first recording", || cluster.audit("session.recording.uploaded").len() == 1);
    let mut running =
        Client::start(alice.ssh_command(&["-tt", &target, "echo begun; read x; seq 1 200000; sleep 1000"]));
    running.expect("begun");

    disk.fill();
    let out = alice.ssh(&[&target, "true"]);
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("No space left") || out.stderr.contains("disk"), "{out:?}");
    // What runs ends when it can no longer be recorded; no unrecorded byte leaves.
    assert!(running.send("\n"));
    let out = running.wait();
    assert_ne!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("recorded") || out.stdout.contains("recorded"), "{:?}", out.stderr);

    disk.free();
    wait_for("a session to be possible again", || alice.ssh(&[&target, "true"]).code == 0);
    wait_for("all recordings", || cluster.mezctl_json(&["recordings", "ls"]).len() == 3);
    for recording in cluster.mezctl_json(&["recordings", "ls"]) {
        let id = recording["session"]["id"].as_str().unwrap();
        wait_for("it to verify", || cluster.mezctl(&["recordings", "verify", id]).code == 0);
    }
    wait_for("the list to be true", || cluster.live("alice").is_empty());
    // The agent's files are whole: it starts with them.
    let mut agent = cluster.agents.remove("node-1").unwrap();
    agent.signal(Signal::SIGTERM);
    agent.wait();
    let command = cluster.agent_command("node-1", "");
    cluster.start_agent("node-1", command);
    cluster.wait_status("node-1", "online");
    drop(agent);
    cluster.agents.clear();
}

#[test]
fn of_the_hub() {
    let place = tempfile::Builder::new().prefix("mezite-").tempdir().unwrap();
    tool("chmod", &["755", &place.path().display().to_string()]).ok();
    let disk = Disk::mount(&place.path().join("hub"), "24m");
    let os = OsUser::create();
    let mut cluster = Cluster::start_in(place, &[]);
    cluster.add_agent("node-1", &[]);
    let alice = cluster.user("alice", "access", &os.name);
    let setup = Setup { cluster, alice, os };
    setup.alice.ssh(&[&setup.target(), "true"]).ok();

    disk.fill();
    let mut refusal = String::new();
    wait_for("an act to be refused", || {
        let out =
            setup.cluster.mezctl(&["users", "create", "no-room", "--roles=access", "--password=a very long password"]);
        refusal = out.stderr;
        out.code != 0 || setup.cluster.mezctl(&["users", "delete", "--username=no-room"]).code != 0
    });
    assert!(refusal.contains("disk") || refusal.contains("full") || refusal.contains("space"), "{refusal}");
    // What is refused has not half happened.
    let listed = setup.cluster.mezctl(&["users", "list"]);
    assert_eq!(listed.code, 0, "reading goes on: {listed:?}");

    disk.free();
    wait_for("the hub to work again", || {
        setup.cluster.mezctl(&["users", "create", "room", "--roles=access", "--password=a very long password"]).code
            == 0
    });
    setup.cluster.mezctl(&["audit", "verify"]).ok();
    wait_for("a session to be possible", || setup.alice.ssh(&[&setup.target(), "true"]).code == 0);
    wait_for("the recordings", || setup.cluster.mezctl_json(&["recordings", "ls"]).len() >= 2);
    setup.cluster.mezctl(&["audit", "verify"]).ok();
    let Setup { cluster, .. } = setup;
    drop(cluster);
    drop(disk);
}

/// Recordings wait on the agent while the hub has no room for them.
#[test]
fn of_the_recordings_store() {
    let place = tempfile::Builder::new().prefix("mezite-").tempdir().unwrap();
    tool("chmod", &["755", &place.path().display().to_string()]).ok();
    let store = Disk::mount(&place.path().join("hub/recordings"), "64k");
    let os = OsUser::create();
    let mut cluster = Cluster::start_in(place, &[]);
    cluster.add_agent("node-1", &[]);
    let alice = cluster.user("alice", "access", &os.name);
    let setup = Setup { cluster, alice, os };
    store.fill();
    setup.alice.ssh(&[&setup.target(), "echo kept"]).ok();
    wait_for("the documented line", || setup.cluster.agents["node-1"].log().contains("uploading session recording"));
    assert!(setup.cluster.mezctl_json(&["recordings", "ls"]).iter().all(|r| r["complete"] == false));
    store.free();
    // The agent tries again by itself.
    let recording = setup.cluster.recording("alice");
    assert_eq!(recording["complete"], true, "{recording:#?}");
    let id = recording["session"]["id"].as_str().unwrap();
    setup.cluster.mezctl(&["recordings", "verify", id]).ok();
}
