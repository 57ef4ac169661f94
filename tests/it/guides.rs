//! The commands of the guides run, and say what the guides show.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, USER_PASSWORD};
use crate::os_user::OsUser;
use crate::process::run;
use crate::pty::Pty;
use crate::user::User;

/// A fenced block: what stands behind the fence, and the text.
type Block = (String, String);

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((info.to_owned(), text.join("\n")));
        }
    }
    blocks
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// [`follow_as`] the administrator.
#[track_caller]
fn follow(guide: &str, cluster: &Cluster) {
    follow_as(&cluster.mezctl_command(), guide, cluster, &[]);
}

/// `yaml NAME` and `conf NAME` write a file, `sh` runs with the environment of `who`, `text` is what the last `sh` printed,
/// perhaps among other lines. `here` says what the names and places of the guide are called in this cluster.
#[track_caller]
fn follow_as(who: &Command, guide: &str, cluster: &Cluster, here: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides").join(guide);
    let dir = cluster.path("guide");
    fs::create_dir_all(&dir).unwrap();
    let mut printed = String::new();
    let mut ran = 0;
    let page = here.iter().fold(fs::read_to_string(path).unwrap(), |page, (there, here)| page.replace(there, here));
    for (info, text) in blocks(&page) {
        match info.split_once(' ').unwrap_or((&info, "")) {
            ("yaml" | "conf", name) => fs::write(dir.join(name), text).unwrap(),
            ("sh" | "text", person) if !person.is_empty() => {}
            ("sh", _) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-e", "-c", &text]).current_dir(&dir).env_clear();
                shell.envs(who.get_envs().filter_map(|(key, value)| Some((key, value?))));
                printed = run(shell, b"").ok();
                ran += 1;
            }
            ("text", _) => {
                for line in text.lines() {
                    let is_there = printed.lines().any(|shown| words(shown) == words(line));
                    assert!(is_there, "{guide} shows {line:?}, and the command printed:\n{printed}");
                }
            }
            _ => panic!("{guide}: a block of kind {info:?}"),
        }
    }
    assert!(ran > 0, "{guide} has no command");
}

#[test]
fn the_commands_of_the_guides_to_forwarding_and_addresses_run() {
    let mut cluster = Cluster::start();
    cluster.add_agent("web-01", &[("MEZITE_NODE_LABELS", "env=production")]);
    follow("port-forwarding.md", &cluster);
    follow("source-addresses.md", &cluster);
}

#[test]
fn the_commands_of_the_guide_to_locks_run() {
    let mut cluster = Cluster::start();
    cluster.add_agent("web-01", &[]);
    cluster.add_user("alice", "access", "root");
    follow("locks.md", &cluster);
    assert_eq!(cluster.mezctl_json(&["locks", "ls"]), Vec::<serde_json::Value>::new(), "the guide lifts what it locks");
    let alice = cluster.mezctl(&["users", "get", "alice"]).ok();
    assert!(alice.contains("viewer (until 20"), "{alice}");
}

#[test]
fn the_commands_of_the_guide_to_roles_run() {
    let mut cluster = Cluster::start();
    cluster.add_agent("web-01", &[("MEZITE_NODE_LABELS", "env=production")]);
    follow("rbac.md", &cluster);
    let role = cluster.mezctl(&["roles", "get", "web-ops"]).ok();
    assert!(role.contains("deploy") && !role.contains("backup"), "a dry run has written: {role}");

    let answer = ["access", "explain", "--user=alice", "--node=web-01", "--login=root", "--format=json"];
    let answer: serde_json::Value = serde_json::from_str(&cluster.mezctl(&answer).ok()).unwrap();
    assert_eq!((&answer["allowed"], &answer["reasons"][0]), (&false.into(), &"role web-ops denies this login".into()));
    let text = cluster.mezctl(&["access", "explain", "--user=alise", "--node=web-01"]).refused(3);
    assert!(text.contains("user alise does not exist; did you mean alice?"), "{text}");
}

#[test]
fn the_commands_of_the_guide_to_openssh_run() {
    let mut cluster = Cluster::start();
    cluster.add_agent("web-01", &[]);
    let os = OsUser::create();
    let alice = cluster.user("alice", "access", &os.name);
    let store = alice.store().display().to_string();
    let port = alice.front_door().split_once(':').unwrap().1.to_owned();
    let here = [
        ("~/.mezite", store.as_str()),
        ("mezite.example.com", "localhost"),
        (":3023", &format!(":{port}")),
        ("ubuntu", &os.name),
    ];
    follow_as(&alice.msh_command(&[]), "openssh.md", &cluster, &here);
}

#[test]
fn the_commands_of_the_guide_to_the_audit_log_run() {
    let cluster = Cluster::start();
    follow("audit.md", &cluster);
}

#[test]
fn the_commands_of_the_guide_to_moderated_sessions_run() {
    let os = OsUser::create();
    let mut cluster = Cluster::start();
    cluster.add_agent("db-01", &[("MEZITE_NODE_LABELS", "sensitivity=high")]);
    follow("moderated-sessions.md", &cluster);
    // The people of the guide, with passwords of the test and an OS user of this machine.
    let page = include_str!("../../docs/guides/moderated-sessions.md");
    let typed = |person: &str| {
        let mut found = blocks(page).into_iter().filter(|(info, _)| info.strip_prefix("sh ") == Some(person));
        found.next().unwrap().1
    };
    for name in ["alice", "bob"] {
        let reset = ["users", "reset-password", name, "--password-stdin"];
        cluster.mezctl_with(&reset, format!("{USER_PASSWORD}\n").as_bytes()).ok();
    }
    cluster.mezctl(&["users", "update", "alice", &format!("--logins={}", os.name)]).ok();
    let (alice, bob) = (cluster.nobody("alice"), cluster.nobody("bob"));
    alice.login();
    bob.login();
    let start = |user: &User, line: &str| {
        let args: Vec<&str> = line.strip_prefix("msh ").unwrap().split(' ').collect();
        Pty::start(&user.msh_command(&args), 200, 24)
    };
    let mut shell = start(&alice, &typed("alice").replace("dba@", &format!("{}@", os.name)));
    shell.expect("mezite: session ");
    shell.expect(" waits for 1 observer for whom contains(user.roles, \"auditor\") holds (require-auditor-observer); they join by: msh sessions join ");
    shell.expect(". Ctrl-C leaves");
    let id = cluster.live("alice")[0]["id"].as_str().unwrap().to_owned();
    let mut watching = start(&bob, &typed("bob").replace("SESSION", &id));
    watching.expect("joining the session of alice on db-01 as observer; Ctrl-C leaves");
    // What is typed before is lost.
    shell.expect("the session runs");
    shell.prompt();
    shell.send("echo watch''ed\r");
    shell.expect("watched");
    watching.expect("watched");
    watching.send("\x03");
    assert_eq!(watching.wait(), 0);
    shell.expect("the session is paused, for it lacks 1 observer");
    shell.send("\x03");
    assert_eq!(shell.wait(), 255);
}
