//! A code for each session, by every client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mezite_core::totp;

use crate::mfa::enrol_early;
use crate::process::{Client, Output, run, wait_for};
use crate::pty::Pty;
use crate::setup::Setup;
use crate::user::User;

/// A role of one test for its users, with these options.
fn role(setup: &Setup, name: &str, options: &str) {
    let yaml = format!(
        "kind: role\nversion: v1\nmetadata: {{name: {name}}}\nspec:\n  options: {{{options}}}\n  allow:\n    \
         logins: [\"{{{{internal.logins}}}}\"]\n    node_labels: {{\"*\": \"*\"}}\n"
    );
    setup.cluster.add_role(&yaml).ok();
}

/// `ssh -J` with nothing but key, certificate and known hosts.
fn jump(setup: &Setup, user: &User, node: &str, more: &[&str]) -> Command {
    let (host, port) = user.front_door().split_once(':').unwrap();
    let mut command = user.plain_openssh();
    command.args(["-J", &format!("{}@{host}:{port}", user.name)]).args(more).arg(format!("{}@{node}", setup.os.name));
    command
}

fn mfa_events(setup: &Setup, user: &User) -> (usize, Vec<String>) {
    let proven = setup.cluster.audit_of("session.mfa", &user.name).len();
    let denied = setup.cluster.audit_of("access.denied", &user.name);
    assert!(denied.iter().all(|event| event["event_code"] == "T4003W"), "{denied:#?}");
    (proven, denied.iter().map(|event| event["error_message"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn msh_gives_a_code_or_asks_for_it_and_every_code_counts_once() {
    let setup = Setup::shared();
    role(&setup, "mfa-msh", "require_session_mfa: totp");
    let user = setup.somebody_with("mfa-msh");
    let target = setup.msh_target();
    let msh = |more: &[&str]| user.msh(&[&["ssh"], more, &[&target, "--", "id", "-un"]].concat());
    let refused = msh(&["--mfa-code=123456"]).refused(255);
    assert!(refused.contains("msh mfa add --type=totp"), "{refused}");

    let (secret, first) = enrol_early(&user);
    let code = |step: u64| format!("--mfa-code={}", totp::code(&secret, step));
    let refused = msh(&[]).refused(255);
    assert!(refused.contains("--mfa-code=CODE") && refused.contains("no terminal"), "{refused}");
    let refused = msh(&[&code(first + 1000)]).refused(255);
    assert!(refused.contains("refused the code: the code is wrong or was used already"), "{refused}");
    assert_eq!(msh(&[&code(first)]).ok().trim(), setup.os.name);
    msh(&[&code(first)]).refused(255);
    user.try_login(&[&code(first)], crate::cluster::USER_PASSWORD).refused(5);

    let mut pty = Pty::start(&user.msh_command(&["ssh", &target]), 80, 24);
    pty.expect(&format!("MFA code for {target}: "));
    pty.send("12 34 56\r");
    pty.expect("refused the code: the code is wrong");
    pty.expect(&format!("MFA code for {target}: "));
    pty.send(&format!("{}\r", totp::code(&secret, first + 1)));
    pty.prompt();
    // What changes in the cluster is decided with the code that was shown.
    role(&setup, "mfa-unrelated", "max_sessions: 3");
    setup.cluster.mezctl(&["users", "update", &user.name, "--roles=mfa-msh,mfa-unrelated"]).ok();
    pty.send("echo still he''re\r");
    pty.expect("still here");
    pty.send("exit\r");
    assert_eq!(pty.wait(), 0);

    let mut told = Vec::new();
    wait_for("the refusals to be told of", || {
        let (proven, denied) = mfa_events(&setup, &user);
        assert_eq!(proven, 2);
        told = denied;
        told.len() >= 5
    });
    told.sort();
    let none = "a code was asked for and none was given";
    let expected =
        [none, "the code is wrong", "the code is wrong", "the code was used already", "the user has no second factor"];
    assert_eq!(told, expected);
    // Where nobody asks, a code is not looked at.
    let other = setup.somebody();
    other.msh(&["ssh", "--mfa-code=123456", &target, "--", "true"]).ok();
}

#[test]
fn plain_ssh_is_asked_by_the_node_and_not_again_on_one_connection() {
    let setup = Setup::shared();
    role(&setup, "mfa-ssh", "require_session_mfa: totp");
    let user = setup.somebody_with("mfa-ssh");
    let out = user.ssh(&[&setup.target(), "true"]);
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("msh mfa add --type=totp"), "{out:?}");

    let (secret, first) = enrol_early(&user);
    let out = user.ssh(&["-o", "BatchMode=yes", &setup.target(), "true"]);
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("Permission denied (keyboard-interactive)"), "{out:?}");

    // By -J, with a wrong code before the right one.
    let mut pty = Pty::start(&jump(&setup, &user, "node-1", &[]), 80, 24);
    pty.expect("MFA code: ");
    pty.send("000000\r");
    pty.expect("the code is wrong or was used already; wait for the next one");
    pty.expect("MFA code: ");
    pty.send(&format!("{}\r", totp::code(&secret, first)));
    // ssh drops what is typed before it has put the terminal back.
    pty.expect("$ ");
    pty.prompt();
    pty.send("id -un; exit\r");
    pty.expect(&setup.os.name);
    assert_eq!(pty.wait(), 0);

    // By ProxyCommand, with further sessions on the connection.
    let socket = format!("ControlPath={}/mux", user.home().display());
    let mut pty = Pty::start(&user.ssh_command(&["-M", "-o", &socket, &setup.target()]), 80, 24);
    pty.expect("MFA code: ");
    pty.send(&format!("{}\r", totp::code(&secret, first + 1)));
    pty.expect("$ ");
    pty.prompt();
    for _ in 0..2 {
        let more = user.ssh(&["-o", &socket, "-o", "BatchMode=yes", &setup.target(), "id -un"]);
        assert_eq!(more.ok().trim(), setup.os.name);
    }
    pty.send("exit\r");
    assert_eq!(pty.wait(), 0);
    assert_eq!(mfa_events(&setup, &user).0, 2);
}

#[test]
fn files_are_copied_with_a_code_of_an_askpass_program() {
    let setup = Setup::shared();
    role(&setup, "mfa-scp", "require_session_mfa: totp");
    let user = setup.somebody_with("mfa-scp");
    let (secret, first) = enrol_early(&user);
    let (askpass, code, file) = (user.home().join("askpass"), user.home().join("code"), user.home().join("file"));
    fs::write(&askpass, format!("#!/bin/sh\necho \"$1\" >>{0}.asked\ncat {0}\n", code.display())).unwrap();
    fs::set_permissions(&askpass, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&file, "by code").unwrap();
    let with_askpass = |name: &str, code_now: String, args: &[&str]| {
        fs::write(&code, code_now).unwrap();
        let mut command = user.openssh(name);
        command.env("SSH_ASKPASS", &askpass).env("SSH_ASKPASS_REQUIRE", "force").args(args);
        run(command, b"").ok()
    };
    let target = setup.target();
    with_askpass("scp", totp::code(&secret, first), &[file.to_str().unwrap(), &format!("{target}:mfa-copied")]);
    assert_eq!(with_askpass("ssh", totp::code(&secret, first + 1), &[&target, "cat mfa-copied"]), "by code");
    let asked = fs::read_to_string(code.with_extension("asked")).unwrap();
    assert_eq!(asked.lines().count(), 2, "{asked}");
    assert!(asked.lines().all(|line| line.ends_with("MFA code: ")), "{asked}");
}

#[test]
fn three_wrong_codes_end_the_connection_with_a_reason() {
    let setup = Setup::shared();
    role(&setup, "mfa-three", "require_session_mfa: totp");
    let user = setup.somebody_with("mfa-three");
    enrol_early(&user);
    for command in [user.ssh_command(&[&setup.target()]), user.msh_command(&["ssh", &setup.msh_target()])] {
        let mut pty = Pty::start(&command, 80, 24);
        for _ in 0..3 {
            pty.expect("MFA code");
            pty.expect(": ");
            pty.send("000000\r");
        }
        pty.expect("none of 3 codes was right");
        assert_eq!(pty.wait(), 255);
    }
    assert_eq!(mfa_events(&setup, &user).1.len(), 5, "six refusals, the sixth of a sort is counted");
}

#[test]
fn what_no_code_can_prove_is_refused_by_name() {
    let setup = Setup::shared();
    for (mode, message) in [
        ("hardware_key", "no hardware key implementation available; real PIV support not yet built"),
        ("webauthn", "a security key for each session, which this release cannot do"),
    ] {
        role(&setup, &format!("mfa-{mode}"), &format!("require_session_mfa: {mode}"));
        let user = setup.somebody_with(&format!("mfa-{mode}"));
        enrol_early(&user);
        let msh = user.msh(&["ssh", "--mfa-code=123456", &setup.msh_target(), "--", "true"]).refused(255);
        assert!(msh.contains(message), "{msh}");
        let ssh: Output = run(jump(&setup, &user, "node-1", &[]), b"");
        assert_eq!((ssh.code, ssh.stderr.contains(message)), (255, true), "{ssh:?}");
    }
}

#[test]
fn three_nodes_ask_once_where_the_role_lets_a_proof_serve_again() {
    let mut setup = Setup::new();
    for node in ["node-2", "node-3"] {
        setup.cluster.add_agent(node, &[]);
    }
    role(&setup, "mfa-often", "require_session_mfa: totp, session_mfa_reuse: 10m");
    let user = setup.somebody_with("mfa-often");
    let (secret, first) = enrol_early(&user);
    let batch = |node: &str| run(jump(&setup, &user, node, &["-o", "BatchMode=yes"]), b"id -un\n");
    let at = |node: &str| format!("{}@{node}", setup.os.name);
    assert_eq!(batch("node-2").code, 255, "nothing was shown yet");
    // Begun at once with one code: the first that is looked at shows it, the others follow.
    let code = format!("--mfa-code={}", totp::code(&secret, first));
    let nodes = ["node-1", "node-2", "node-3"];
    let begun = nodes.map(|node| Client::start(user.msh_command(&["ssh", &code, &at(node), "--", "true"])));
    begun.into_iter().for_each(|mut client| drop(client.wait().ok()));
    for node in nodes {
        user.msh(&["ssh", &at(node), "--", "true"]).ok();
        assert!(batch(node).ok().contains(&setup.os.name), "{node}");
        user.ssh(&["-o", "BatchMode=yes", &format!("{}.mezite", at(node)), "true"]).ok();
    }
    assert_eq!(mfa_events(&setup, &user).0, 3 + 9);
    // A session outlives the factor; the proof does not.
    let mut running = Client::start(user.msh_command(&["ssh", &at("node-2"), "--", "echo up; cat"]));
    running.expect("up");
    setup.cluster.mezctl(&["users", "reset-totp", &user.name]).ok();
    let refused = user.msh(&["ssh", &at("node-3"), "--", "true"]).refused(255);
    assert!(refused.contains("msh mfa add"), "{refused}");
    assert_eq!(batch("node-1").code, 255);
    running.send("still here\n");
    running.expect("still here");
    running.close_stdin();
    running.wait().ok();
}
