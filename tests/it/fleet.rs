//! Many nodes on one hub (F196): 500 agents, all real, join, are listed, carry sessions, and come back after the hub.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::os_user::OsUser;
use crate::process::within;

const AGENTS: usize = 500;
/// For all of them together, on a small machine.
const PATIENCE: Duration = Duration::from_secs(900);

fn online(cluster: &Cluster) -> usize {
    cluster
        .mezctl(&["nodes", "ls"])
        .stdout
        .lines()
        .filter(|row| row.split_whitespace().nth(2) == Some("online"))
        .count()
}

#[track_caller]
fn wait_all_online(cluster: &Cluster, what: &str, begin: Instant) {
    assert!(within(PATIENCE, || online(cluster) == AGENTS), "{what}: {} of {AGENTS} are online", online(cluster));
    println!("{what}: {:.0} s; the hub takes {} KiB", begin.elapsed().as_secs_f64(), pss_kib(cluster.hub.pid()));
}

/// Proportional set size: what the process would free.
fn pss_kib(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "takes minutes and some gigabytes; run by make test-faults"]
fn five_hundred_agents_on_one_hub() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft.max(16384)), hard).unwrap();
    let os = OsUser::create();
    let mut cluster = Cluster::start();
    println!("an idle hub takes {} KiB", pss_kib(cluster.hub.pid()));
    let begin = Instant::now();
    for n in 0..AGENTS {
        let command = cluster.agent_command(&format!("node-{n}"), &cluster.join_token("1h"));
        cluster.start_agent(&format!("node-{n}"), command);
    }
    wait_all_online(&cluster, "joined", begin);
    let alice = cluster.user("alice", "access", &os.name);
    let enter = |n: usize| {
        let out = alice.ssh(&[&format!("{}@node-{n}.mezite", os.name), "id -un"]);
        assert_eq!(out.ok().trim(), os.name, "node-{n}");
    };
    [0, AGENTS / 2, AGENTS - 1].into_iter().for_each(enter);
    assert_eq!(alice.msh(&["ls"]).ok().lines().count(), AGENTS + 1);

    cluster.stop_hub(Signal::SIGKILL);
    cluster.start_hub();
    wait_all_online(&cluster, "back after a kill of the hub", Instant::now());
    [1, AGENTS - 2].into_iter().for_each(enter);
    cluster.mezctl(&["audit", "verify"]).ok();
}
