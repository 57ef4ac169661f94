//! Joining: a token admits one machine, once, in time; a name has one holder.

use std::thread;

use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::process::{Program, run, tool, wait_for, within};
use crate::setup::Setup;

#[test]
fn the_token_line_is_the_documented_one() {
    let setup = Setup::shared();
    let line = setup.cluster.mezctl(&["tokens", "create", "--roles=node", "--ttl=1h"]).ok();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(
        (&words[..2], &words[3..6]),
        (&["Token", "created:"][..], &["(roles:", "node,", "expires:"][..]),
        "{line}"
    );
    assert!(words[2].len() >= 32 && words[2].bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
    assert!(words[6].ends_with("Z)") && words.len() == 7, "{line}");
}

/// What `tokens create` prints is enough to find the token in the list and to take it back, also by its id (F250–F252).
#[test]
fn a_token_is_deleted_by_what_create_printed() {
    let setup = Setup::shared();
    let created = setup.cluster.mezctl(&["tokens", "create"]);
    let token = created.ok().split_whitespace().nth(2).unwrap().to_owned();
    let name = &token[..12];
    let list = || setup.cluster.mezctl(&["tokens", "ls"]).ok();
    let line = list().lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(!list().contains(&token), "the list shows a secret");
    setup.cluster.mezctl(&["tokens", "delete", &token]).ok();
    assert!(!list().contains(name));
    let id = line.split_whitespace().last().unwrap();
    setup.cluster.mezctl(&["tokens", "delete", id]).refused(3);
    setup.cluster.mezctl(&["tokens", "create", "--name=by-id"]).ok();
    let line = list().lines().find(|line| line.starts_with("by-id ")).unwrap().to_owned();
    setup.cluster.mezctl(&["tokens", "delete", line.split_whitespace().last().unwrap()]).ok();
    assert!(!list().contains("by-id"));
}

#[test]
fn a_spent_an_expired_and_an_unknown_token_are_refused() {
    let setup = Setup::shared();
    let cluster = &setup.cluster;
    let spent = cluster.join_token("1h");
    let mut first = Program::start(cluster.agent_command("node-spent", &spent), cluster.path("node-spent.log"));
    cluster.wait_status("node-spent", "online");
    let short = cluster.mezctl(&["tokens", "create", "--ttl=1s", "--format=json"]).ok();
    let short: serde_json::Value = serde_json::from_str(&short).unwrap();
    let expires = short["expires"].as_str().unwrap();
    wait_for("the short token to run out", || tool("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).ok().trim() > expires);
    for (name, token) in [
        ("node-late", short["token"].as_str().unwrap()),
        ("node-reuse", spent.as_str()),
        ("node-made-up", &"ab".repeat(16)),
    ] {
        let out = run(cluster.agent_command(name, token), b"");
        assert_ne!(out.code, 0, "{name}: {out:?}");
        assert!(out.stderr.contains("token"), "{name}: {out:?}");
        assert!(!out.stderr.contains(token) && !out.stdout.contains(token), "{name}: the token is shown: {out:?}");
        assert_eq!(cluster.status(name), "", "{name} is in the inventory");
    }
    assert!(cluster.audit("node.join.failed").len() >= 3);
    // The spent token stays set, and the node comes back with what it has.
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait(), 0);
    cluster.wait_status("node-spent", "offline");
    let _again = Program::start(cluster.agent_command("node-spent", &spent), cluster.path("node-spent.log"));
    cluster.wait_status("node-spent", "online");
}

#[test]
fn of_two_machines_with_one_token_one_joins() {
    let setup = Setup::shared();
    let cluster = &setup.cluster;
    for round in 0..3 {
        let token = cluster.join_token("1h");
        let names = [format!("race-{round}-a"), format!("race-{round}-b"), format!("race-{round}-c")];
        let agents: Vec<_> = thread::scope(|scope| {
            let start = |name: &String| {
                Program::start(cluster.agent_command(name, &token), cluster.path(&format!("{name}.log")))
            };
            let started: Vec<_> = names.iter().map(|name| scope.spawn(move || start(name))).collect();
            started.into_iter().map(|agent| agent.join().unwrap()).collect()
        });
        let mut agents = agents;
        wait_for("two agents to give up", || {
            agents.iter_mut().filter_map(|agent| agent.running().then_some(())).count() == 1
        });
        let joined = names
            .iter()
            .filter(|name| within(std::time::Duration::from_secs(5), || cluster.status(name) == "online"))
            .count();
        assert_eq!(joined, 1);
        let events = cluster.audit("node.joined");
        assert_eq!(
            events.iter().filter(|e| names.iter().any(|n| e["resource_name"] == n.as_str())).count(),
            1,
            "{events:#?}"
        );
    }
}

#[test]
fn the_name_of_an_online_node_is_taken_and_of_an_offline_one_can_be_taken_over() {
    let setup = Setup::shared();
    let cluster = &setup.cluster;
    let agent = |dir: &str| {
        let mut command = cluster.agent_command("node-twice", &cluster.join_token("1h"));
        command.env("MEZITE_DATA_DIR", cluster.path(dir));
        command
    };
    let mut first = Program::start(agent("twice-a"), cluster.path("twice-a.log"));
    cluster.wait_status("node-twice", "online");
    let out = run(agent("twice-b"), b"");
    assert_ne!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("node-twice"), "{out:?}");

    first.signal(Signal::SIGKILL);
    first.wait();
    cluster.wait_status("node-twice", "offline");
    let _second = Program::start(agent("twice-b"), cluster.path("twice-b.log"));
    cluster.wait_status("node-twice", "online");
    assert_eq!(cluster.audit("node.replaced").len(), 1);
    // The identity of before is revoked.
    let mut command = agent("twice-a");
    command.env("MEZITE_JOIN_TOKEN", "");
    let mut old = Program::start(command, cluster.path("twice-old.log"));
    wait_for("the revoked agent to be refused", || {
        !old.running() || old.log().contains("refused") || old.log().contains("revoked")
    });
}

/// What the refusal says to do works: a spent or new token alone is not looked at again (F022).
#[test]
fn a_removed_node_is_told_how_to_join_anew() {
    let setup = Setup::shared();
    let cluster = &setup.cluster;
    let agent = || cluster.agent_command("node-removed", &cluster.join_token("1h"));
    let mut first = Program::start(agent(), cluster.path("node-removed.log"));
    cluster.wait_status("node-removed", "online");
    cluster.mezctl(&["nodes", "rm", "node-removed"]).ok();
    let identity = cluster.path("agent-node-removed/agent");
    wait_for("the running agent to say so", || first.log().contains("remove agent/ in its data directory"));
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait(), 0);

    let out = run(agent(), b"");
    assert_ne!(out.code, 0, "{out:?}");
    let advice = format!("to join anew, remove {} and start with a fresh token", identity.display());
    assert!(out.stderr.contains("was removed from the cluster") && out.stderr.contains(&advice), "{out:?}");
    std::fs::remove_dir_all(&identity).unwrap();
    let _again = Program::start(agent(), cluster.path("node-removed.log"));
    cluster.wait_status("node-removed", "online");
}

/// `node-1.test` is already the long name of `node-1` in the cluster `test`, and so on: no target may mean two nodes.
#[test]
fn a_name_that_would_make_a_target_ambiguous_is_refused() {
    let setup = Setup::shared();
    for name in ["node-1.test", "node-2.mezite", "0a6b0b5c-31a5-4e0c-9b1c-6a6a6a1f0b11", "127.0.0.1"] {
        let out = run(setup.cluster.agent_command(name, &setup.cluster.join_token("1h")), b"");
        assert_ne!(out.code, 0, "{name}: {out:?}");
        assert!(out.stderr.contains("choose another node name"), "{name}: {out:?}");
        assert_eq!(setup.cluster.status(name), "", "{name} is in the inventory");
    }
}

#[test]
fn a_wrong_pin_is_refused_before_the_token_is_sent() {
    let setup = Setup::shared();
    let cluster = &setup.cluster;
    let token = cluster.join_token("1h");
    let mut command = cluster.agent_command("node-pin", &token);
    command.env("MEZITE_CA_PIN", format!("sha256:{}", "0".repeat(64)));
    let out = run(command, b"");
    assert_ne!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("pin") || out.stderr.contains("certificate"), "{out:?}");
    // The token was not spent.
    let _agent = Program::start(cluster.agent_command("node-pin", &token), cluster.path("node-pin.log"));
    cluster.wait_status("node-pin", "online");
}

#[test]
fn the_right_pin_and_an_unreachable_tunnel() {
    let setup = Setup::shared();
    let cluster = &setup.cluster;
    let token = cluster.mezctl(&["tokens", "create", "--format=json"]).ok();
    let token: serde_json::Value = serde_json::from_str(&token).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = cluster.agent_command("node-no-tunnel", token["token"].as_str().unwrap());
    command
        .env("MEZITE_CA_PIN", token["ca_pin"].as_str().unwrap())
        .env("MEZITE_PROXY_ADDR", format!("127.0.0.1:{port}"));
    let agent = Program::start(command, cluster.path("node-no-tunnel.log"));
    wait_for("the agent to name the tunnel's address", || agent.log().contains(&format!("127.0.0.1:{port}")));
    drop(agent);
    // A door of the hub, and not the right one.
    let command = |proxy: &str| {
        let mut command = cluster.agent_command("node-no-tunnel", token["token"].as_str().unwrap());
        command.env("MEZITE_PROXY_ADDR", proxy);
        command
    };
    for door in ["https", "auth", "ssh"] {
        let out = run(command(&cluster.addr[door]), b"");
        assert_ne!(out.code, 0, "{door}: {out:?}");
        assert!(out.stderr.contains("MEZITE_PROXY_ADDR"), "{door}: {out:?}");
    }
    assert_eq!(cluster.status("node-no-tunnel"), "", "it is in the inventory");
    // The token was not spent.
    let _agent = Program::start(command(&cluster.addr["tunnel"]), cluster.path("node-no-tunnel-2.log"));
    cluster.wait_status("node-no-tunnel", "online");
}

#[test]
fn an_agent_that_finds_no_hub_says_so_and_joins_when_it_comes() {
    let mut cluster = Cluster::start();
    let command = cluster.agent_command("node-1", &cluster.join_token("1h"));
    cluster.stop_hub(Signal::SIGTERM);
    cluster.start_agent("node-1", command);
    let log = || cluster.agents["node-1"].log();
    wait_for("the agent to say so", || log().contains("cannot join yet") && log().contains(&cluster.addr["auth"]));
    cluster.start_hub();
    cluster.wait_status("node-1", "online");
}
