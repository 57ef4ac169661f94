//! Sessions that others must be present in: nothing runs before, nothing goes on without, and who joins can do what the mode says.

use std::process::Stdio;

use mezite_core::totp;
use serde_json::Value;

use crate::mfa::enrol_early;
use crate::process::{Client, wait_for};
use crate::pty::Pty;
use crate::setup::Setup;
use crate::user::User;

/// A role whose sessions need one observer with role `watcher`.
fn role(setup: &Setup, name: &str, on_leave: &str) {
    let yaml = format!(
        "metadata: {{name: {name}}}\nspec:\n  options:\n    require_session_join:\n    - {{name: watched, filter: 'contains(user.roles, \
         \"watcher\")', modes: [observer], count: 1, on_leave: {on_leave}}}\n  allow:\n    node_labels: {{\"*\": \"*\"}}\n    logins: \
         [{}]\n",
        setup.os.name
    );
    setup.cluster.add_role(&yaml).ok();
    // Tests at the same time make it too, and may be told that it changed meanwhile.
    drop(setup.cluster.add_role("metadata: {name: watcher}\nspec: {}\n"));
}

/// The one live session of `user`, once there is one.
fn session_of(setup: &Setup, user: &User) -> String {
    let mut found = Value::Null;
    wait_for("the session to be listed", || {
        found = setup.cluster.live(&user.name).first().cloned().unwrap_or_default();
        !found.is_null()
    });
    found["id"].as_str().unwrap().to_owned()
}

fn waiting(setup: &Setup, user: &User) -> String {
    setup.cluster.live(&user.name)[0]["waiting"].as_str().unwrap().to_owned()
}

/// Waits for what we say ourselves, which is on standard error.
#[track_caller]
fn told(client: &Client, text: &str) {
    wait_for(&format!("to be told {text:?}"), || client.err.text().contains(text));
}

fn join(user: &User, mode: &str, id: &str) -> Client {
    Client::start(user.msh_command(&["sessions", "join", &format!("--mode={mode}"), id]))
}

#[test]
fn a_command_runs_when_somebody_watches_and_not_before() {
    let setup = Setup::shared();
    role(&setup, "watched-command", "pause");
    let (owner, watcher) = (setup.somebody_with("watched-command"), setup.somebody_with("watcher"));
    let marker = setup.cluster.path("watched-command-ran");
    let home = std::env::temp_dir().join(format!("{}-ran", setup.os.name));
    let line = format!("touch {}; cat; echo do''ne", home.display());
    let mut session = Client::start(owner.ssh_command(&[&setup.target(), &line]));
    told(&session, "waits for 1 observer for whom contains(user.roles, \"watcher\") holds (watched)");
    session.send("fed before anybody came\n");
    let id = session_of(&setup, &owner);
    assert!(session.err.text().contains(&format!("msh sessions join {id}")), "{}", session.err.text());
    assert!(waiting(&setup, &owner).starts_with("waits for 1 observer"));
    assert!(!home.exists() && !marker.exists(), "the command ran before anybody watched");

    let mut watching = join(&watcher, "observer", &id);
    session.expect("fed before anybody came");
    watching.expect("fed before anybody came");
    assert!(home.exists());
    std::fs::remove_file(&home).unwrap();
    wait_for("the list to say that it runs", || waiting(&setup, &owner).is_empty());
    session.close_stdin();
    let out = session.wait();
    assert_eq!((out.code, out.stdout.as_str()), (0, "fed before anybody came\ndone\n"), "{out:?}");
    assert_eq!(watching.wait().code, 0);

    for (kind, code) in [("session.join", "T2001I"), ("session.leave", "T2003I")] {
        wait_for(kind, || !setup.cluster.audit_of(kind, &watcher.name).is_empty());
        let event = &setup.cluster.audit_of(kind, &watcher.name)[0];
        let shown =
            (&event["event_code"], &event["session_id"], &event["details"]["mode"], &event["details"]["session_user"]);
        let wanted = (&code.into(), &id.as_str().into(), &"observer".into(), &owner.name.as_str().into());
        assert_eq!(shown, wanted, "{event:#?}");
    }
    let start = &setup.cluster.audit_of("session.start", &owner.name)[0];
    assert!(start["details"]["waiting"].as_str().unwrap().starts_with("waits for 1 observer"), "{start:#?}");
    assert_eq!(setup.cluster.recording(&owner.name)["complete"], true);
}

#[test]
fn a_shell_pauses_when_the_observer_is_gone_and_forgets_what_is_typed_then() {
    let setup = Setup::shared();
    role(&setup, "watched-shell", "pause");
    let (owner, watcher) = (setup.somebody_with("watched-shell"), setup.somebody_with("watcher"));
    let mut shell = Pty::start(&owner.ssh_command(&["-tt", &setup.target()]), 80, 24);
    shell.expect("waits for 1 observer");
    shell.send("echo typed too ear''ly\r");
    let id = session_of(&setup, &owner);
    let mut watching = join(&watcher, "observer", &id);
    shell.expect("joined as observer");
    shell.prompt();
    shell.send("echo seen by bo''th\r");
    shell.expect("seen by both");
    watching.expect("seen by both");
    // An observer types nothing, and nothing that leaves is sent.
    watching.send("echo by the obser''ver\n");
    shell.send("echo by the own''er\r");
    shell.expect("by the owner");

    drop(watching);
    shell.expect("the session is paused");
    wait_for("the list to say so", || waiting(&setup, &owner).starts_with("is paused and waits for 1 observer"));
    shell.send("echo typed too la''te\r");
    let again = join(&watcher, "observer", &id);
    shell.expect("the session runs");
    shell.send("echo ba''ck\r");
    shell.expect("back");
    // Who joins late sees what the terminal shows.
    again.expect("by the owner");
    let text = shell.text();
    for never in ["typed too early", "typed too late", "by the observer"] {
        assert!(!text.contains(never), "{text}");
    }
    drop(again);
    shell.expect("the session is paused");
    shell.send("\x03");
    assert_eq!(shell.wait(), 255, "Ctrl-C leaves a session that is paused");
    wait_for("its end", || setup.cluster.live(&owner.name).is_empty());
}

#[test]
fn a_session_ends_when_the_observer_leaves_one_that_must_not_go_on() {
    let setup = Setup::shared();
    role(&setup, "watched-strictly", "terminate");
    let (owner, watcher) = (setup.somebody_with("watched-strictly"), setup.somebody_with("watcher"));
    let mut session = Client::start(owner.msh_command(&["ssh", &setup.msh_target(), "--", "echo up; sleep 1000"]));
    told(&session, "waits for");
    let mut watching = join(&watcher, "observer", &session_of(&setup, &owner));
    session.expect("up");
    watching.send("\x03");
    assert_eq!(watching.wait().code, 0);
    let out = session.wait();
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("the session ends, for it lacks 1 observer"), "{out:?}");
    wait_for("the end", || !setup.cluster.audit_of("session.end", &owner.name).is_empty());
    assert_eq!(setup.cluster.audit_of("session.end", &owner.name)[0]["details"]["reason"], "moderation");
}

#[test]
fn nobody_counts_for_the_own_session() {
    let setup = Setup::shared();
    role(&setup, "watched-alone", "pause");
    let owner = setup.somebody_with("watched-alone,watcher");
    let mut session = Client::start(owner.ssh_command(&[&setup.target(), "echo ran"]));
    told(&session, "waits for");
    let id = session_of(&setup, &owner);
    owner.login();
    let own = join(&owner, "observer", &id);
    own.expect("the session waits for 1 observer");
    told(&session, "joined as observer");
    assert!(waiting(&setup, &owner).starts_with("waits for"));
    // Somebody else does.
    let other = join(&setup.somebody_with("watcher"), "observer", &id);
    let out = session.wait();
    assert_eq!(out.stdout, "ran\n", "{out:?}");
    drop((own, other));
}

#[test]
fn a_peer_types_a_moderator_ends_and_others_are_refused() {
    let setup = Setup::shared();
    let grant = "metadata: {name: helper}\nspec:\n  allow:\n    join_sessions:\n    - {roles: [access], modes: [peer, moderator]}\n";
    setup.cluster.add_role(grant).ok();
    let (owner, helper, stranger) = (setup.somebody(), setup.somebody_with("helper"), setup.somebody());
    let mut shell = Pty::start(&owner.ssh_command(&["-tt", &setup.target()]), 80, 24);
    shell.prompt();
    let id = session_of(&setup, &owner);

    let text = stranger.msh(&["sessions", "join", &id]).refused(4);
    assert!(text.contains("no role allows joining this session as observer"), "{text}");
    assert_eq!(setup.cluster.audit_of("access.denied", &stranger.name).len(), 1);
    let refused = join(&helper, "observer", &id).wait();
    assert_eq!(refused.code, 255, "{refused:?}");
    assert!(refused.stderr.contains("no role allows joining this session as observer (reference "), "{refused:?}");
    wait_for("one event", || setup.cluster.audit_of("access.denied", &helper.name).len() == 1);
    stranger.msh(&["sessions", "join", "00000000-0000-4000-8000-000000000000"]).refused(8);
    stranger.msh(&["sessions", "join", "node-1"]).refused(2);

    let mut peer = join(&helper, "peer", &id);
    shell.expect("joined as peer");
    peer.send("echo typed by a pe''er\n");
    shell.expect("typed by a peer");
    peer.expect("typed by a peer");

    let mut moderator = join(&helper, "moderator", &id);
    shell.expect("joined as moderator");
    moderator.send("t");
    assert_ne!(shell.wait(), 0);
    assert!(shell.text().contains(&format!("{}, a moderator, ended this session", helper.name)), "{}", shell.text());
    assert_eq!((peer.wait().code, moderator.wait().code), (0, 0));
}

#[test]
fn a_lock_or_a_role_withdrawn_puts_a_watcher_out_and_stops_the_session() {
    let setup = Setup::shared();
    role(&setup, "watched-live", "pause");
    let owner = setup.somebody_with("watched-live");
    let mut shell = Pty::start(&owner.ssh_command(&["-tt", &setup.target()]), 80, 24);
    shell.expect("waits for");
    let id = session_of(&setup, &owner);
    let locked = setup.somebody_with("watcher");
    let mut watching = join(&locked, "observer", &id);
    shell.expect("the session runs");
    shell.prompt();
    setup.cluster.mezctl(&["locks", "create", &format!("--user={}", locked.name), "--message=not today"]).ok();
    shell.expect("the session is paused");
    let out = watching.wait();
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stdout.contains("not today"), "{out:?}");

    let demoted = setup.somebody_with("watcher,access");
    let mut watching = join(&demoted, "observer", &id);
    shell.expect("the session runs");
    setup.cluster.mezctl(&["users", "update", &demoted.name, "--roles=access"]).ok();
    shell.expect("the session is paused");
    assert_eq!(watching.wait().code, 255);
}

#[test]
fn what_cannot_be_watched_is_refused_and_a_shared_connection_opens_no_back_door() {
    let setup = Setup::shared();
    role(&setup, "watched-always", "pause");
    let (owner, watcher) = (setup.somebody_with("watched-always"), setup.somebody_with("watcher"));
    let mut sftp = owner.openssh("sftp");
    sftp.arg(setup.target());
    let out = crate::process::run(sftp, b"ls\n");
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("sftp cannot be watched"), "{out:?}");
    wait_for("the event", || setup.cluster.audit_of("access.denied", &owner.name).len() == 1);
    let forward = owner.ssh(&["-W", "127.0.0.1:1", &setup.target()]);
    assert_ne!(forward.code, 0, "{forward:?}");
    wait_for("the refusal", || !setup.cluster.audit_of("access.denied.port_forwarding", &owner.name).is_empty());

    let socket = owner.home().join("master");
    let control = format!("ControlPath={}", socket.display());
    let mut first = Client::start(owner.ssh_command(&["-o", &control, "-M", &setup.target(), "echo first; cat"]));
    told(&first, "waits for");
    let watching = join(&watcher, "observer", &session_of(&setup, &owner));
    first.expect("first");
    let mut second = Client::start(owner.ssh_command(&["-o", &control, &setup.target(), "echo second"]));
    told(&second, "waits for");
    assert!(second.out.text().is_empty(), "a watcher of one session opened another");
    let other = setup.cluster.live(&owner.name);
    let other = other.iter().find(|session| session["waiting"] != "").unwrap()["id"].as_str().unwrap().to_owned();
    let also = join(&watcher, "observer", &other);
    assert_eq!(second.wait().stdout, "second\n");
    first.close_stdin();
    assert_eq!(first.wait().code, 0);
    drop((watching, also));
}

#[test]
fn an_observer_who_does_not_read_slows_nobody() {
    let setup = Setup::shared();
    let (owner, auditor) = (setup.somebody(), setup.somebody_with("auditor"));
    let mut session =
        Client::start(owner.ssh_command(&[&setup.target(), "echo up; read go; head -c 30000000 /dev/zero; echo end"]));
    session.expect("up");
    let mut command = auditor.msh_command(&["sessions", "join", &session_of(&setup, &owner)]);
    let mut stuck = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    told(&session, "joined as observer");
    session.send("\n");
    session.close_stdin();
    let out = session.wait();
    assert_eq!((out.code, out.stdout.len()), (0, 30_000_007));
    let _ = stuck.kill();
    let _ = stuck.wait();
}

#[test]
fn what_a_node_asks_for_is_explained() {
    let setup = Setup::shared();
    role(&setup, "watched-explained", "pause");
    let owner = setup.somebody_with("watched-explained");
    let args = [
        "access",
        "explain",
        &format!("--user={}", owner.name),
        "--node=node-1",
        &format!("--login={}", setup.os.name),
    ];
    let text = setup.cluster.mezctl(&args).ok();
    assert!(text.contains("asked for: role watched-explained requires 1 observer"), "{text}");
    assert!(text.contains("no port forwarding"), "{text}");
}

#[test]
fn a_role_that_asks_for_a_code_asks_who_joins() {
    let setup = Setup::shared();
    let role = "metadata: {name: careful-auditor}\nspec:\n  options: {require_session_mfa: totp}\n  allow:\n    join_sessions:\n    - {roles: \
                [\"*\"], modes: [moderator]}\n";
    setup.cluster.add_role(role).ok();
    let (owner, careful) = (setup.somebody(), setup.somebody_with("careful-auditor"));
    let mut session = Client::start(owner.ssh_command(&[&setup.target(), "echo up; cat"]));
    session.expect("up");
    let id = session_of(&setup, &owner);
    let text = careful.msh(&["sessions", "join", "--mode=moderator", &id]).refused(4);
    assert!(text.contains("msh mfa add"), "{text}");
    let (secret, step) = enrol_early(&careful);
    let code = totp::code(&secret, step);
    let mut moderator = Client::start(careful.msh_command(&[
        "sessions",
        "join",
        "--mode=moderator",
        &format!("--mfa-code={code}"),
        &id,
    ]));
    told(&session, "joined as moderator");
    let proven = setup.cluster.audit_of("session.mfa", &careful.name);
    assert_eq!(proven[0]["session_id"], id, "{proven:#?}");
    moderator.send("t");
    assert_ne!(session.wait().code, 0);
    assert_eq!(moderator.wait().code, 0);
}
