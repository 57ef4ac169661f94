//! What stock OpenSSH does beyond one command: many channels, new keys, jumps, ciphers, host names.

use std::process::Command;

use crate::process::{Client, run, tool, wait_for};
use crate::setup::Setup;
use crate::user::User;

fn ssh(user: &User, args: &[&str]) -> Command {
    user.ssh_command(args)
}

#[test]
fn ten_channels_share_a_connection_and_a_stalled_one_stops_nobody() {
    let setup = Setup::shared();
    let (alice, target) = (&setup.alice, setup.target());
    let socket = alice.home().join("mux").display().to_string();
    let through = |command: &str| ssh(alice, &["-S", &socket, &target, command]);

    let _master = Client::start(ssh(alice, &["-M", "-S", &socket, "-N", &target]));
    wait_for("the master", || run(ssh(alice, &["-S", &socket, "-O", "check", &target]), b"").code == 0);

    // Nobody reads this one: its output stands in the pipe, in every window, and in the program.
    let mut stalled = through("head -c 20000000 /dev/zero");
    stalled.stdout(std::process::Stdio::piped()).stdin(std::process::Stdio::null());
    let mut stalled = stalled.spawn().unwrap();
    let mut others: Vec<_> = (0..9).map(|n| Client::start(through(&format!("cat; echo {n}")))).collect();
    for (n, client) in others.iter_mut().enumerate() {
        assert!(client.send("typed "));
        client.close_stdin();
        assert_eq!(client.wait().ok(), format!("typed {n}\n"));
    }
    let mut output = stalled.stdout.take().unwrap();
    assert_eq!(std::io::copy(&mut output, &mut std::io::sink()).unwrap(), 20_000_000);
    assert!(stalled.wait().unwrap().success());
    run(ssh(alice, &["-S", &socket, "-O", "exit", &target]), b"").ok();
}

#[test]
fn keys_are_renewed_while_data_flows_both_ways() {
    let setup = Setup::shared();
    let input: Vec<u8> = (0..4_000_000_u32).map(|n| b'a' + u8::try_from(n % 23).unwrap()).collect();
    let out = setup.alice.ssh_with(&["-v", "-o", "RekeyLimit=256k", &setup.target(), "cat"], &input);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout.as_bytes() == input, "the data came back changed");
    assert!(
        out.stderr.matches("rekeying in progress").count() + out.stderr.matches("SSH2_MSG_NEWKEYS sent").count() > 10
    );
}

#[test]
fn each_cipher_that_we_name_works_and_others_are_refused() {
    let setup = Setup::shared();
    for cipher in ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"] {
        let option = format!("Ciphers={cipher}");
        let out = setup.alice.ssh_with(&["-v", "-o", &option, &setup.target(), "cat"], &[b'c'; 500_000]);
        assert_eq!((out.code, out.stdout.len()), (0, 500_000), "{cipher}: {}", out.stderr);
        assert!(out.stderr.contains(&format!("server->client cipher: {cipher}")), "{}", out.stderr);
    }
    for option in ["Ciphers=aes128-ctr", "KexAlgorithms=diffie-hellman-group14-sha256"] {
        let out = setup.alice.ssh(&["-o", option, &setup.target(), "true"]);
        assert_eq!(out.code, 255, "{out:?}");
        assert!(out.stderr.contains("no matching"), "{out:?}");
    }
}

#[test]
fn plain_openssh_jumps_with_the_profiles_key() {
    let setup = Setup::shared();
    let (host, port) = setup.alice.front_door().split_once(':').unwrap();
    let jump = format!("{}@{host}:{port}", setup.alice.name);

    let mut command = setup.alice.plain_openssh();
    command.args(["-J", &jump, &format!("{}@node-1", setup.os.name), "id -un"]);
    assert_eq!(run(command, b"").ok().trim(), setup.os.name);

    // New keys on both connections, one inside the other.
    let mut command = setup.alice.plain_openssh();
    let proxy = format!(
        "ProxyCommand=ssh -F {0}/plain_config -o RekeyLimit=256k -p {port} -W %h:%p {1}@{host}",
        setup.alice.home().display(),
        setup.alice.name
    );
    command.args(["-o", &proxy, "-o", "RekeyLimit=300k", &format!("{}@node-1.test", setup.os.name), "cat"]);
    assert_eq!(run(command, &[b'j'; 3_000_000]).ok().len(), 3_000_000);
}

#[test]
fn dash_w_reaches_a_registered_node_and_nothing_else() {
    let setup = Setup::shared();
    let somebody = setup.somebody();
    let (host, port) = somebody.front_door().split_once(':').unwrap();
    let reach = |target: &str| {
        let mut command = somebody.plain_openssh();
        command.args(["-p", port, "-W", target, &format!("{}@{host}", somebody.name)]);
        command
    };
    let node = Client::start(reach("node-1:22"));
    node.expect("SSH-2.0-");
    drop(node);
    for elsewhere in
        ["127.0.0.1:22", "localhost:22", "169.254.169.254:80", "node-9:22", setup.cluster.addr["auth"].as_str()]
    {
        let out = run(reach(elsewhere), b"");
        assert_eq!(out.code, 255, "{elsewhere}: {out:?}");
        assert!(
            out.stdout.is_empty() && out.stderr.contains("no role of yours opens a node named"),
            "{elsewhere}: {out:?}"
        );
    }
}

#[test]
fn the_proxy_itself_runs_nothing() {
    let setup = Setup::shared();
    let (host, port) = setup.alice.front_door().split_once(':').unwrap();
    let at = format!("{}@{host}", setup.alice.name);
    let remote_forward = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9"];
    for args in [&[&at, "id"][..], &["-s", &at, "sftp"], &[&remote_forward[..], &[&at]].concat()] {
        let mut command = setup.alice.plain_openssh();
        command.args(["-p", port]).args(args);
        let out = run(command, b"");
        assert_ne!(out.code, 0, "{args:?}: {out:?}");
        assert_eq!(out.stdout, "", "{args:?}");
    }
}

#[test]
fn the_host_certificate_must_name_the_node() {
    let setup = Setup::shared();
    let (host, port) = setup.alice.front_door().split_once(':').unwrap();
    let jump = format!("{}@{host}:{port}", setup.alice.name);
    let mut command = setup.alice.plain_openssh();
    command.args(["-J", &jump, "-o", "HostKeyAlias=node-2", &format!("{}@node-1", setup.os.name), "true"]);
    let out = run(command, b"");
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("node-2") || out.stderr.contains("Host key verification failed"), "{out:?}");
}

#[test]
fn nobody_gets_in_without_a_certificate_of_this_cluster() {
    let setup = Setup::shared();
    let key = setup.alice.home().join("own_key");
    let _ = std::fs::remove_file(&key);
    let (path, public) = (key.display().to_string(), key.with_extension("pub").display().to_string());
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path]).ok();
    tool("ssh-keygen", &["-q", "-s", &path, "-I", "alice", "-n", &setup.os.name, "-V", "+1h", &public]).ok();
    let (host, port) = setup.alice.front_door().split_once(':').unwrap();
    let known = format!("UserKnownHostsFile={}", setup.alice.store().join("known_hosts").display());
    for identity in [vec![], vec!["-i".to_owned(), path.clone()]] {
        let mut command = Command::new("ssh");
        command.env_clear().env("PATH", "/usr/bin:/bin").args([
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            &known,
            "-p",
            port,
        ]);
        command.args(&identity).args(["-W", "node-1:22", &format!("alice@{host}")]);
        let out = run(command, b"");
        assert_eq!(out.code, 255, "{out:?}");
        assert!(out.stderr.contains("Permission denied (publickey)"), "{out:?}");
    }
}
