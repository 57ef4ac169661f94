//! A hub that cannot start says why: what is wrong, where, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::cluster::{ADMIN_PASSWORD, Cluster, bin_dir, program};
use crate::process::run;

fn hub(dir: &std::path::Path, yaml: &str) -> Command {
    let file = dir.join("mezhub.yaml");
    fs::write(&file, yaml).unwrap();
    let mut command = program("mezhub");
    command.env("MEZITE_CA_KEY_PASSPHRASE", "passphrase of the test").env("MEZITE_ADMIN_PASSWORD", ADMIN_PASSWORD);
    command.arg(format!("--config={}", file.display()));
    command
}

fn yaml(dir: &std::path::Path, more: &str) -> String {
    format!(
        "cluster_name: test\ndata_dir: {}/hub\nauth: {{listen_addr: \"127.0.0.1:0\"}}\n\
         proxy: {{listen_addr: \"127.0.0.1:0\", ssh_listen_addr: \"127.0.0.1:0\", tunnel_listen_addr: \"127.0.0.1:0\", public_addr: localhost}}\n\
         diag: {{listen_addr: \"127.0.0.1:0\"}}\n{more}",
        dir.display()
    )
}

#[test]
fn an_unknown_key_is_named_with_its_nearest_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(hub(dir.path(), &yaml(dir.path(), "clustre_name: x\n")), b"");
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("clustre_name") && out.stderr.contains("cluster_name"), "{out:?}");
    assert!(!dir.path().join("hub").exists(), "something was made before the configuration was read");
}

#[test]
fn missing_and_wrong_values_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (text, word) in [
        (yaml(dir.path(), "").replace("cluster_name: test\n", ""), "cluster_name"),
        (yaml(dir.path(), "log: {level: loud}\n"), "loud"),
        (
            yaml(dir.path(), "").replace("auth: {listen_addr: \"127.0.0.1:0\"}", "auth: {listen_addr: nowhere}"),
            "listen_addr",
        ),
        ("cluster_name: [\n".to_owned(), "mezhub.yaml:1:15: "),
        (yaml(dir.path(), "").replace("diag: {", "diag: {{"), "mezhub.yaml:5:7: "),
    ] {
        let out = run(hub(dir.path(), &text), b"");
        assert_ne!(out.code, 0, "{text}");
        assert!(out.stderr.contains(word), "{word}: {out:?}");
    }
    let mut command = program("mezhub");
    command.arg("--config=/nowhere/mezite.yaml");
    assert!(run(command, b"").stderr.contains("/nowhere/mezite.yaml"));
}

#[test]
fn a_data_directory_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mezhub = dir.path().join("mezhub");
    fs::copy(bin_dir().join("mezhub"), &mezhub).unwrap();
    let file = dir.path().join("mezhub.yaml");
    fs::write(&file, yaml(dir.path(), "")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(dir.path().join("hub")).unwrap();
    let mut command = Command::new("setpriv");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MEZITE_CA_KEY_PASSPHRASE", "passphrase of the test");
    command
        .env("MEZITE_ADMIN_PASSWORD", ADMIN_PASSWORD)
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&mezhub)
        .arg(format!("--config={}", file.display()));
    let out = run(command, b"");
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains(&dir.path().join("hub").display().to_string()), "{out:?}");
    assert!(out.stderr.contains("ermission denied") || out.stderr.contains("unable to open database file"), "{out:?}");
}

#[test]
fn a_first_start_without_an_administrator_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = hub(dir.path(), &yaml(dir.path(), ""));
    command.env_remove("MEZITE_ADMIN_PASSWORD");
    let out = run(command, b"");
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("MEZITE_ADMIN_PASSWORD_FILE"), "{out:?}");
    assert!(!dir.path().join("hub").exists(), "something was made");
}

#[test]
fn a_wrong_passphrase_is_refused() {
    let mut cluster = Cluster::start();
    cluster.stop_hub(Signal::SIGTERM);
    let mut command = cluster.hub_command();
    command.env("MEZITE_CA_KEY_PASSPHRASE", "another passphrase");
    let out = run(command, b"");
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("passphrase"), "{out:?}");
    assert!(!out.stderr.contains("another passphrase"), "{out:?}");
    // Nothing was changed by the attempt.
    cluster.start_hub();
    cluster.mezctl(&["audit", "verify"]).ok();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let text =
        yaml(dir.path(), "").replace("ssh_listen_addr: \"127.0.0.1:0\"", &format!("ssh_listen_addr: \"{address}\""));
    let out = run(hub(dir.path(), &text), b"");
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains(&address), "{out:?}");
}
