//! Logging in: whom the client trusts, what it keeps, and that a session can be given back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::cluster::USER_PASSWORD;
use crate::process::run;
use crate::setup::Setup;

#[test]
fn an_untrusted_server_is_refused_and_insecure_says_so() {
    let setup = Setup::shared();
    let nobody = setup.cluster.nobody("stranger");
    let proxy = format!("--proxy=localhost:{}", setup.cluster.addr["https"].rsplit(':').next().unwrap());
    let password = format!("{USER_PASSWORD}\n");
    let login = |more: &[&str]| {
        let mut command = nobody.msh_command(&["login", &proxy, "--user=alice", "--password-stdin"]);
        command.env_remove("MEZITE_CA_FILE").args(more);
        run(command, password.as_bytes())
    };
    let text = login(&[]).refused(8);
    assert!(text.contains("certificate") && text.contains("--ca-file"), "{text}");
    let out = login(&["--insecure"]);
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("not verified") || out.stderr.contains("insecure"), "{out:?}");
    // What was pinned at the login is trusted from then on.
    let mut command = nobody.msh_command(&["ls"]);
    command.env_remove("MEZITE_CA_FILE");
    assert!(run(command, b"").ok().contains("node-1"));

    let mut command = setup.cluster.mezctl_command();
    command.env_remove("MEZITE_CA_FILE").env("MEZITE_DATA_DIR", "/nowhere").args(["nodes", "ls"]);
    let text = run(command, b"").refused(8);
    assert!(text.contains("certificate"), "{text}");
    let mut command = setup.cluster.mezctl_command();
    command.env_remove("MEZITE_CA_FILE").env("MEZITE_DATA_DIR", "/nowhere").args(["--insecure", "nodes", "ls"]);
    assert!(run(command, b"").ok().contains("node-1"));
}

#[test]
fn the_profile_holds_a_short_lived_certificate_and_its_key_is_private() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let keys = user.store().join("profiles/localhost/keys");
    let mode = |name: &str| fs::metadata(keys.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("ssh_key"), 0o600);
    let shown =
        crate::process::tool("ssh-keygen", &["-L", "-f", &keys.join("ssh_key-cert.pub").display().to_string()]).ok();
    assert!(shown.contains("ssh-ed25519-cert-v01@openssh.com user certificate"), "{shown}");
    assert!(shown.contains(&format!("\"{}\"", user.name)) && shown.contains(&setup.os.name), "{shown}");
    for extension in ["user-id@mezite", "roles@mezite", "traits@mezite", "cluster@mezite"] {
        assert!(shown.contains(extension), "{extension}: {shown}");
    }
    let known = fs::read_to_string(user.store().join("known_hosts")).unwrap();
    assert!(known.starts_with("@cert-authority * ssh-ed25519 "), "{known}");
    assert!(user.msh(&["status"]).ok().contains(&user.name));

    user.msh(&["logout"]).ok();
    assert!(!keys.join("ssh_key").exists());
    let text = user.msh(&["ls"]).refused(5);
    assert!(text.contains("msh login"), "{text}");
    let text = user.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    assert!(text.contains("msh login"), "{text}");
}

#[test]
fn a_key_can_be_written_elsewhere() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let out = user.home().join("id").display().to_string();
    user.try_login(&["--out", &out, "--ttl=5m"], USER_PASSWORD).ok();
    let shown = crate::process::tool("ssh-keygen", &["-L", "-f", &format!("{out}-cert.pub")]).ok();
    assert!(shown.contains(&setup.os.name), "{shown}");
}

#[test]
fn a_password_is_changed_by_its_owner() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let lines = format!("{USER_PASSWORD}\nanother fine password\n");
    user.msh_with(&["passwd", "--password-stdin"], lines.as_bytes()).ok();
    assert_ne!(user.try_login(&[], USER_PASSWORD).code, 0);
    user.try_login(&[], "another fine password").ok();
    assert_eq!(setup.cluster.audit_of("user.password.changed", &user.name).len(), 1);
}

#[test]
fn an_administrator_changes_a_user_and_resets_the_password() {
    let setup = Setup::shared();
    let (cluster, user) = (&setup.cluster, setup.somebody());
    let shown = cluster.mezctl(&["users", "update", &user.name, "--logins=one,two", "--trait=team=x"]).ok();
    assert!(shown.contains("one,two") && shown.contains("team=x"), "{shown}");
    assert_eq!(cluster.mezctl(&["users", "update", &user.name, "--logins=a b"]).code, 2);
    cluster.mezctl(&["users", "update", &user.name, "--roles=nothing"]).refused(2);
    assert!(cluster.audit("user.update").iter().any(|event| event["resource_name"] == user.name.as_str()));

    let invitation = cluster.mezctl(&["users", "reset-password", &user.name]).ok();
    assert_ne!(user.try_login(&[], USER_PASSWORD).code, 0);
    let text = user.msh(&["ls"]).refused(5);
    assert!(text.contains("msh login"), "{text}");
    let token = invitation.trim().rsplit_once("--token=").unwrap().1;
    let proxy = format!("--proxy=localhost:{}", cluster.addr["https"].rsplit(':').next().unwrap());
    let signup = ["signup", &proxy, &format!("--token={token}"), "--password-stdin"];
    user.msh_with(&signup, b"another fine password\n").ok();
    user.try_login(&[], "another fine password").ok();
    cluster.mezctl_with(&["users", "reset-password", &user.name, "--password-stdin"], b"a third password\n").ok();
    user.try_login(&[], "a third password").ok();
}

#[test]
fn config_append_is_idempotent() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let file = user.home().join(".ssh/config");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "Host other\n  Port 22\n").unwrap();
    user.msh(&["config", "--append"]).ok();
    let once = fs::read_to_string(&file).unwrap();
    user.msh(&["config", "--append"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), once);
    assert!(once.starts_with("Host other\n  Port 22\n") && once.contains("Host node-1.test.mezite"), "{once}");
    let mut command = std::process::Command::new("ssh");
    let place = user.msh_command(&[]);
    command.env_clear().envs(place.get_envs().filter_map(|(key, value)| Some((key, value?)))).arg("-F").arg(&file);
    command.args([&format!("{}@node-1.test.mezite", setup.os.name), "true"]);
    run(command, b"").ok();
}
