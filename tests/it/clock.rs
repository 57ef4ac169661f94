//! Clocks that are wrong by more than a minute: refused, in words that name both clocks.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, USER_PASSWORD};
use crate::os_user::OsUser;
use crate::process::{run, tool, wait_for};
use crate::setup::Setup;

/// The program of `command` with a time of day that is the true one moved by what `file` says; the monotonic clock stays.
fn shifted(command: &Command, file: &Path) -> Command {
    let preload = tool("faketime", &["-f", "+0", "sh", "-c", "echo $LD_PRELOAD"])
        .ok()
        .trim()
        .replace("faketime.so", "faketimeMT.so");
    let mut faked = Command::new(command.get_program());
    faked.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?)))).args(command.get_args());
    faked.env("LD_PRELOAD", preload).env("FAKETIME_TIMESTAMP_FILE", file).env("FAKETIME_NO_CACHE", "1");
    faked.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    faked
}

#[test]
fn an_agent_whose_clock_is_slow_or_fast() {
    let os = OsUser::create();
    let mut cluster = Cluster::start();
    let clock = cluster.path("clock");
    fs::write(&clock, "+0s").unwrap();
    let command = shifted(&cluster.agent_command("node-1", &cluster.join_token("1h")), &clock);
    cluster.start_agent("node-1", command);
    cluster.wait_status("node-1", "online");
    let user = cluster.user("alice", "access", &os.name);
    user.try_login(&["--ttl=10m"], USER_PASSWORD).ok();
    let ssh = || user.msh(&["ssh", &format!("{}@node-1", os.name), "--", "true"]);
    ssh().ok();
    for (by, words) in [("-3m", "ssh: certificate not yet valid"), ("+30m", "ssh: certificate expired")] {
        fs::write(&clock, by).unwrap();
        let text = ssh().refused(255);
        assert!(text.contains(words), "{text}");
        assert!(text.matches("Z").count() >= 2, "both clocks are named: {text}");
    }
    let denied = cluster.audit_of("access.denied", "alice");
    assert_eq!(
        denied.iter().map(|event| &event["event_code"]).collect::<Vec<_>>(),
        ["T4005W", "T4005W"],
        "{denied:#?}"
    );
    // Half a minute is nothing.
    fs::write(&clock, "+30s").unwrap();
    ssh().ok();
    // An agent that starts with a slow clock waits until it is set.
    drop(cluster.agents.remove("node-1"));
    cluster.wait_status("node-1", "offline");
    fs::write(&clock, "-3m").unwrap();
    let again = shifted(&cluster.agent_command("node-1", "spent"), &clock);
    cluster.start_agent("node-1-again", again);
    wait_for("the agent to name the clock", || cluster.agents["node-1-again"].log().contains("clock is slow"));
    fs::write(&clock, "+0s").unwrap();
    cluster.wait_status("node-1", "online");
}

#[test]
fn a_client_whose_clock_is_far_ahead() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let clock = user.home().join("clock");
    fs::write(&clock, "+3d").unwrap();
    let out = run(shifted(&user.msh_command(&["ssh", &setup.msh_target(), "--", "true"]), &clock), b"");
    let text = out.refused(255);
    assert!(text.contains("expired"), "{text}");
}
