//! What is refused is refused in words, with the right exit code and exactly one event.

use crate::cluster::USER_PASSWORD;
use crate::process::wait_for;
use crate::setup::Setup;

/// The one `access.denied` event of a user, after the refusal has been reported.
#[track_caller]
fn one_denial(setup: &Setup, user: &str, code: &str) -> serde_json::Value {
    wait_for("the event of the refusal", || !setup.cluster.audit_of("access.denied", user).is_empty());
    // Whoever came second would report through the same hub; another refusal flushes what is on its way.
    setup.cluster.mezctl(&["audit", "verify"]).ok();
    let events = setup.cluster.audit_of("access.denied", user);
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0]["event_code"], code, "{events:#?}");
    assert_eq!(events[0]["success"], false);
    events[0].clone()
}

#[test]
fn an_unknown_node_is_named() {
    let setup = Setup::shared();
    let out = setup.alice.msh(&["ssh", &format!("{}@node-9", setup.os.name), "--", "true"]);
    assert!(out.refused(255).contains("no role of yours opens a node named node-9; see `msh ls`"));
    let mut command = setup.alice.openssh("ssh");
    command.args(["-o", "ProxyCommand=msh proxy ssh %r@node-9:%p", &setup.target(), "true"]);
    let out = crate::process::run(command, b"");
    assert_eq!(out.code, 255);
    assert!(out.stderr.contains("node-9"), "{out:?}");
}

#[test]
fn a_login_that_no_role_allows() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let text = user.msh(&["ssh", "--login=daemon", "node-1", "--", "true"]).refused(255);
    assert!(text.contains("daemon"), "{text}");
    assert!(text.contains(&format!("your certificate names {}: ", setup.os.name)), "{text}");
    let event = one_denial(&setup, &user.name, "T4000W");
    assert_eq!((&event["login"], &event["server_hostname"]), (&"daemon".into(), &"node-1".into()), "{event:#?}");
}

#[test]
fn a_login_that_is_not_named_is_asked_for_unless_there_is_one_only() {
    let setup = Setup::shared();
    let several = setup.cluster.user("several-logins", "access", &format!("{},daemon", setup.os.name));
    let text = several.msh(&["ssh", "node-1", "--", "true"]).refused(255);
    assert!(text.contains("--login") && text.contains("daemon"), "{text}");
    let one = setup.somebody();
    assert_eq!(one.msh(&["ssh", "node-1", "--", "id", "-un"]).ok().trim(), setup.os.name);
}

#[test]
fn a_login_that_no_role_allows_by_a_plain_jump() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let (host, port) = user.front_door().split_once(':').unwrap();
    let mut command = user.plain_openssh();
    command.args(["-J", &format!("x@{host}:{port}"), "daemon@node-1", "true"]);
    let out = crate::process::run(command, b"");
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("daemon"), "{out:?}");
    one_denial(&setup, &user.name, "T4000W");
}

#[test]
fn a_deny_label_beats_every_allow() {
    let setup = Setup::shared();
    setup
        .cluster
        .add_role(
            "kind: role\nversion: v1\nmetadata: {name: not-core}\nspec:\n  deny:\n    node_labels: {team: core}\n",
        )
        .ok();
    let user = setup.somebody_with("access,not-core");
    let text = user.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    let event = one_denial(&setup, &user.name, "T4000W");
    assert!(event["error_message"].as_str().unwrap().contains("not-core"), "{event:#?}");
    assert!(!text.contains("not-core") && !user.msh(&["ls"]).ok().contains("node-1"), "{text}");
}

/// Who may not know of a node does not learn from a refusal that there is one; the administrator finds why by the reference.
#[test]
fn a_hidden_node_is_answered_like_an_unknown_one() {
    let setup = Setup::shared();
    let nowhere = "kind: role\nversion: v1\nmetadata: {name: nowhere}\nspec:\n  allow:\n    node_labels: {env: nowhere}\n    logins: [\"{{internal.logins}}\"]\n";
    setup.cluster.add_role(nowhere).ok();
    let user = setup.somebody_with("nowhere");
    let refused = |node: &str| {
        let text = user.msh(&["ssh", &format!("{}@{node}", setup.os.name), "--", "true"]).refused(255);
        let (reason, reference) = text.trim_end().split_once(" (reference ").unwrap_or_else(|| panic!("{text}"));
        let id = reference.split_once(')').unwrap().0;
        let event = || setup.cluster.mezctl(&["--format=json", "audit", "ls", "--id", id]).ok();
        wait_for("the event of the reference", || event().contains(id));
        let events: Vec<serde_json::Value> = serde_json::from_str(&event()).unwrap();
        (reason.replace(node, "NODE"), events[0]["error_message"].as_str().unwrap().to_owned())
    };
    let (hidden, why_hidden) = refused("node-1");
    let (unknown, why_unknown) = refused("node-9");
    assert_eq!(hidden, unknown);
    assert!(why_hidden.contains("no role allows this node"), "{why_hidden}");
    assert_eq!(why_unknown, "no node has this name");
}

#[test]
fn a_role_without_the_label_or_the_login() {
    let setup = Setup::shared();
    let role = |name: &str, labels: &str, login: &str| {
        format!(
            "kind: role\nversion: v1\nmetadata: {{name: {name}}}\nspec:\n  allow:\n    node_labels: {labels}\n    logins: [{login}]\n"
        )
    };
    setup.cluster.add_role(&role("other-env", "{env: production}", &setup.os.name)).ok();
    setup.cluster.add_role(&role("templated", "{env: [prod, test], team: ^c.*e$}", "\"{{internal.logins}}\"")).ok();
    let outside = setup.somebody_with("other-env");
    outside.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    one_denial(&setup, &outside.name, "T4000W");
    let inside = setup.somebody_with("templated");
    inside.msh(&["ssh", &setup.msh_target(), "--", "true"]).ok();
}

#[test]
fn a_role_with_an_error_is_refused_with_line_and_column() {
    let setup = Setup::shared();
    for (yaml, words) in [
        ("kind: role\nversion: v1\nmetadata: {name: bad\nspec: {}\n", &["standard input:4:5: "][..]),
        (
            "kind: role\nversion: v1\nmetadata: {name: bad}\nspec:\n  options:\n    max_sesion_ttl: 1h\n",
            &["max_sesion_ttl", "max_session_ttl", "6:"],
        ),
        (
            "kind: role\nversion: v1\nmetadata: {name: bad}\nspec:\n  options:\n    max_session_ttl: soon\n",
            &["max_session_ttl"],
        ),
        (
            "kind: role\nversion: v1\nmetadata: {name: bad}\nspec:\n  allow:\n    node_labels: {a: \"^(\"}\n",
            &["node_labels"],
        ),
        (
            "kind: role\nversion: v1\nmetadata: {name: bad}\nspec:\n  allow:\n    logins: [\"{{nobody.knows}}\"]\n",
            &["nobody.knows"],
        ),
    ] {
        let text = setup.cluster.add_role(yaml).refused(2);
        for word in words {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
    }
    assert!(!setup.cluster.mezctl(&["roles", "ls"]).ok().lines().any(|line| line.starts_with("bad ")));
}

#[test]
fn an_unreachable_hub_is_named() {
    let setup = Setup::shared();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = setup.cluster.nobody("nobody");
    let proxy = format!("--proxy=localhost:{port}");
    let text = nobody.msh_with(&["login", &proxy, "--user=alice", "--password-stdin"], b"x\n").refused(8);
    assert!(text.contains(&format!("localhost:{port}")), "{text}");
    let text = setup.cluster.mezctl(&[&format!("--auth-server=localhost:{port}"), "nodes", "ls"]).refused(8);
    assert!(text.contains(&format!("localhost:{port}")), "{text}");
}

#[test]
fn a_wrong_password_prints_nothing_and_leaves_one_event() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let name = format!("--username={}", user.name);
    let wrong = setup.cluster.mezctl_with(&["login", &name, "--password-stdin"], b"not the password\n");
    assert_eq!(wrong.stdout, "");
    assert_ne!(wrong.code, 0);
    let unknown = setup.cluster.mezctl_with(&["login", "--username=nobody-at-all", "--password-stdin"], b"x\n");
    assert_eq!((unknown.code, &unknown.stderr), (wrong.code, &wrong.stderr), "the answer tells whether a user exists");
    let events = setup.cluster.audit_of("user.login.failed", &user.name);
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(events[0]["event_code"], "T1000W");

    let out = user.try_login(&[], "not the password");
    assert_eq!((out.code, out.stdout.as_str()), (wrong.code, ""), "{out:?}");
    // The profile of before still works.
    user.msh(&["ls"]).ok();
}

#[test]
fn a_login_prints_only_the_token() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let name = format!("--username={}", user.name);
    let out = setup.cluster.mezctl_with(&["login", &name, "--password-stdin"], format!("{USER_PASSWORD}\n").as_bytes());
    let token = out.ok();
    assert_eq!(token.lines().count(), 1);
    assert!(token.trim().len() >= 32 && !token.trim().contains(char::is_whitespace), "{token}");
}

#[test]
fn mezctl_without_a_token_says_what_to_do() {
    let setup = Setup::shared();
    let mut command = setup.cluster.mezctl_command();
    command.env_remove("MEZITE_AUTH_TOKEN").args(["nodes", "ls"]);
    let text = crate::process::run(command, b"").refused(5);
    assert!(text.contains("mezctl login"), "{text}");
    let text = setup.cluster.mezctl(&["--token=0123456789abcdef0123456789abcdef", "nodes", "ls"]).refused(5);
    assert!(text.contains("expired or was ended; run `export MEZITE_AUTH_TOKEN=$(mezctl login "), "{text}");
}

#[test]
fn a_regular_user_administers_nothing() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let name = format!("--username={}", user.name);
    let login =
        setup.cluster.mezctl_with(&["login", &name, "--password-stdin"], format!("{USER_PASSWORD}\n").as_bytes());
    let token = format!("--token={}", login.ok().trim());
    for args in [
        &["users", "create", "eve", "--roles=admin", "--password=a very long password"][..],
        &["tokens", "create"],
        &["locks", "create", "--user=admin"],
        &["roles", "delete", "access"],
        &["nodes", "rm", "node-1"],
        &["audit", "ls"],
        &["audit", "verify"],
        &["config", "set", "user_cert_ttl", "24h"],
    ] {
        let mut all = vec![token.as_str()];
        all.extend(args);
        setup.cluster.mezctl(&all).refused(4);
    }
    assert_eq!(setup.cluster.audit_of("authz.denied", &user.name).len(), 8);
    setup.alice.msh(&["ssh", &setup.msh_target(), "--", "true"]).ok();
}
