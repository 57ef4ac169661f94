//! In force: when `locks create`, `roles create` or `users update` has answered, nothing that it forbids begins or goes on,
//! anywhere the hub can reach.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::{Client, Output, tool, wait_for, within};
use crate::setup::Setup;
use crate::user::User;

/// The issue's bound for what comes back after a break.
const BOUND: Duration = Duration::from_secs(5);
/// Sessions raced against a change.
const RACED: usize = 200;

/// A session that goes on, with a process that can be told from all others.
fn session(setup: &Setup, user: &User, mark: &str) -> Client {
    let client = Client::start(user.ssh_command(&[&setup.target(), &format!("echo up; sleep {mark}; true")]));
    client.expect("up");
    client
}

fn runs(mark: &str) -> bool {
    tool("pgrep", &["-f", &format!("^sleep {mark}$").replace('.', r"\.")]).code == 0
}

fn try_ssh(setup: &Setup, user: &User) -> Output {
    user.msh(&["ssh", &setup.msh_target(), "--", "true"])
}

#[test]
fn a_lock_of_any_kind_cuts_and_refuses_and_is_lifted() {
    let setup = Setup::new();
    let user = setup.somebody();
    let targets = [("node", "node-1"), ("login", &setup.os.name), ("agent-identity", "node-1"), ("agent", "node-1")];
    for (turn, (kind, target)) in targets.into_iter().enumerate() {
        let mark = format!("64.{turn}");
        let mut live = session(&setup, &user, &mark);
        assert!(runs(&mark));
        let (flag, message) = (format!("--{kind}={target}"), format!("--message=because of the {kind}"));
        let answer = setup.cluster.mezctl(&["locks", "create", &flag, &message, "--format=json"]).ok();
        assert!(!runs(&mark), "{kind}: it runs on after the answer {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["unconfirmed"], Value::Array(Vec::new()), "{answer:#}");
        assert_eq!(answer["confirmed"], 2, "the proxy and the agent: {answer:#}");
        let out = live.wait();
        assert_eq!(out.code, 255, "{kind}: {out:?}");
        assert!(out.stderr.contains(&format!("because of the {kind}")), "{kind}: {out:?}");
        try_ssh(&setup, &user).refused(255);
        let machine = kind.starts_with("agent");
        if machine {
            setup.cluster.wait_status("node-1", "offline");
        } else {
            assert_eq!(setup.cluster.status("node-1"), "online", "{kind}: its agent stays");
        }
        wait_for("the end to be known", || {
            setup.cluster.audit_of("session.end", &user.name).iter().any(|end| end["details"]["reason"] == "locked")
        });
        let listed = setup.cluster.mezctl(&["locks", "ls"]).ok();
        assert!(listed.contains(target) && listed.contains(&format!("because of the {kind}")), "{listed}");
        setup.cluster.mezctl(&["locks", "delete", &flag]).ok();
        assert!(!setup.cluster.mezctl(&["locks", "ls"]).ok().contains(target));
        setup.cluster.wait_status("node-1", "online");
        wait_for("the lock to be lifted", || try_ssh(&setup, &user).code == 0);
    }
}

#[test]
fn a_target_that_is_not_there_is_a_warning_and_a_kind_that_is_not_there_a_refusal() {
    let setup = Setup::shared();
    for flag in ["--user=nobody-yet", "--role=no-role", "--node=no-node", "--agent=no-node", "--mfa-device=alice/none"]
    {
        let out = setup.cluster.mezctl(&["locks", "create", flag, "--ttl=1s"]);
        assert!(out.code == 0 && out.stderr.contains("so far"), "{flag}: {out:?}");
    }
    let text = setup.cluster.mezctl(&["locks", "create", "--type=planet", "--name=x"]).refused(2);
    assert!(text.contains("agent_identity, node, login, mfa_device"), "{text}");
    let text = setup.cluster.mezctl(&["locks", "create", "--user=admin"]).refused(7);
    assert!(text.contains("nobody to administer"), "{text}");
    setup.cluster.mezctl(&["locks", "create", "--role=admin"]).refused(7);
}

/// Whatever began before is over and whatever comes after is refused once `change` has answered.
#[track_caller]
fn race(setup: &Setup, user: &User, change: impl FnOnce() -> Output) {
    let stamps = setup.cluster.path(&format!("stamps-{}", user.name));
    fs::create_dir(&stamps).unwrap();
    tool("chmod", &["0777", stamps.to_str().unwrap()]).ok();
    let (begun, answered) = (AtomicUsize::new(0), AtomicBool::new(false));
    let masters: Vec<String> = (0..8).map(|n| format!("ControlPath={}/mux-{n}", user.home().display())).collect();
    let at = thread::scope(|scope| {
        for master in &masters {
            let (begun, answered, stamps) = (&begun, &answered, stamps.display());
            scope.spawn(move || {
                while begun.fetch_add(1, Ordering::Relaxed) < RACED {
                    let late = answered.load(Ordering::SeqCst);
                    let stamp = format!("date +%s%N >{stamps}/$$; sleep 0.05");
                    // Several sessions a connection: what was let in before must ask again.
                    let options = ["-o", master, "-o", "ControlMaster=auto", "-o", "ControlPersist=30"];
                    let mut command = user.ssh_command(&options);
                    command.arg(setup.target()).arg(if late { "true" } else { &stamp });
                    let out = crate::process::run(command, b"");
                    assert!(!late || out.code == 255, "let in after the answer: {out:?}");
                }
            });
        }
        wait_for("some sessions", || begun.load(Ordering::Relaxed) > RACED / 4);
        change().ok();
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        answered.store(true, Ordering::SeqCst);
        at
    });
    // A session that was ended before its `date` ran left an empty file: it began when the file was made.
    let begun = |file: fs::DirEntry| {
        let made =
            file.metadata().unwrap().modified().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        fs::read_to_string(file.path()).unwrap().trim().parse().unwrap_or(made)
    };
    let begun: Vec<u128> = fs::read_dir(&stamps).unwrap().map(|file| begun(file.unwrap())).collect();
    assert!(begun.len() > RACED / 8, "{} sessions began: the race was none", begun.len());
    let late = begun.iter().filter(|began| **began > at).count();
    assert_eq!(late, 0, "sessions that began after the answer");
    try_ssh(setup, user).refused(255);
}

#[test]
fn no_session_slips_through_a_lock() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let lock = format!("--user={}", user.name);
    race(&setup, &user, || setup.cluster.mezctl(&["locks", "create", &lock, "--message=raced"]));
}

#[test]
fn no_session_slips_through_a_change_of_a_role() {
    let setup = Setup::shared();
    let role = |login: &str| {
        format!("metadata: {{name: raced}}\nspec:\n  allow:\n    node_labels: {{env: test}}\n    logins: [{login}]\n")
    };
    setup.cluster.add_role(&role(&setup.os.name)).ok();
    let user = setup.somebody_with("raced");
    race(&setup, &user, || setup.cluster.add_role(&role("somebody-else")));
}

/// An agent that hears nothing is named, and cuts as soon as it is back.
#[test]
fn an_agent_that_was_away_cuts_when_it_is_back() {
    let setup = Setup::new();
    let user = setup.somebody();
    let mut live = session(&setup, &user, "66.1");
    let agent = &setup.cluster.agents["node-1"];
    agent.signal(Signal::SIGSTOP);
    let begin = Instant::now();
    let out = setup.cluster.mezctl(&["locks", "create", &format!("--user={}", user.name), "--message=while away"]);
    let took = begin.elapsed();
    agent.signal(Signal::SIGCONT);
    let back = Instant::now();
    assert!(out.code == 0 && out.stderr.contains("not confirmed in 5 s by node node-1"), "{out:?}");
    assert!(took >= Duration::from_secs(5), "{took:?}");
    assert!(within(BOUND, || !runs("66.1")), "it runs on {:?} after the agent is back", back.elapsed());
    // The proxy has cut the connection meanwhile; the agent could tell nobody why.
    assert_eq!(live.wait().code, 255);
    wait_for("the end to be told", || !setup.cluster.audit_of("session.end", &user.name).is_empty());
    let again = ["locks", "create", "--login=nobody-at-all", "--format=json"];
    let answer: Value = serde_json::from_str(&setup.cluster.mezctl(&again).ok()).unwrap();
    assert_eq!(answer["unconfirmed"], Value::Array(Vec::new()), "it follows again: {answer:#}");
}

#[test]
fn a_role_that_only_denies_binds_whoever_is_in() {
    let setup = Setup::shared();
    let role = format!("metadata: {{name: not-you}}\nspec:\n  deny: {{logins: [{}]}}\n", setup.os.name);
    setup.cluster.add_role(&role).ok();
    let user = setup.somebody();
    let mut live = session(&setup, &user, "67.1");
    setup.cluster.mezctl(&["users", "update", &user.name, "--roles=access,not-you"]).ok();
    assert!(!runs("67.1"), "the certificate of before does not name the role");
    let out = live.wait();
    assert!(out.code == 255 && out.stderr.contains("role not-you denies this login"), "{out:?}");
    try_ssh(&setup, &user).refused(255);
    setup.cluster.mezctl(&["users", "update", &user.name, "--roles=access"]).ok();
    try_ssh(&setup, &user).ok();
}

#[test]
fn a_role_given_for_a_time_ends_with_it() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let mut live = session(&setup, &user, "68.1");
    setup.cluster.mezctl(&["users", "update", &user.name, "--expires=access=4s"]).ok();
    assert!(setup.cluster.mezctl(&["users", "get", &user.name]).ok().contains("access (until "));
    assert!(runs("68.1"), "not before its time");
    // While the role is held, a certificate is good until its end.
    user.login();
    let out = live.wait();
    assert!(out.code == 255 && out.stderr.contains("that time is over"), "{out:?}");
    try_ssh(&setup, &user).refused(255);
    user.login();
    assert!(!user.msh(&["ls"]).ok().contains("node-1"), "a login of after has no role");
    setup.cluster.mezctl(&["users", "update", &user.name, "--expires=access="]).ok();
    user.login();
    try_ssh(&setup, &user).ok();
}

#[test]
fn sessions_of_a_user_are_counted_on_all_connections() {
    let setup = Setup::shared();
    let role = format!(
        "metadata: {{name: two-sessions}}\nspec:\n  options: {{max_sessions: 2}}\n  allow:\n    node_labels: {{\"*\": \
         \"*\"}}\n    logins: [{}]\n",
        setup.os.name
    );
    setup.cluster.add_role(&role).ok();
    let user = setup.somebody_with("access,two-sessions");
    let _first = session(&setup, &user, "69.1");
    let second = session(&setup, &user, "69.2");
    let text = try_ssh(&setup, &user).refused(255);
    assert!(text.contains("your roles allow 2 sessions at a time"), "{text}");
    wait_for("the event", || !setup.cluster.audit_of("access.denied", &user.name).is_empty());
    let denied = setup.cluster.audit_of("access.denied", &user.name);
    assert_eq!((denied.len(), &denied[0]["event_code"]), (1, &"T4000W".into()), "{denied:#?}");
    drop(second);
    wait_for("a place", || try_ssh(&setup, &user).code == 0);
}

#[test]
fn certificates_and_sessions_end_with_the_password_they_came_by() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let mut live = session(&setup, &user, "70.1");
    let reset = ["users", "reset-password", &user.name, "--password-stdin"];
    setup.cluster.mezctl_with(&reset, b"another fine password\n").ok();
    assert!(!runs("70.1"));
    let out = live.wait();
    assert!(out.code == 255 && out.stderr.contains("the password was changed"), "{out:?}");
    let text = try_ssh(&setup, &user).refused(255);
    assert!(text.contains("run msh login"), "{text}");
    // At once: a certificate of the same second is told from those of before.
    user.try_login(&[], "another fine password").ok();
    try_ssh(&setup, &user).ok();
}
