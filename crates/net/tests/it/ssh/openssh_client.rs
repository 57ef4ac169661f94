//! OpenSSH's client against our server.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
    time::Duration,
};

use mezite_net::ssh::ServerConfig;
use mezite_ssh::cipher::Cipher;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    process::Command,
    time::timeout,
};

use super::{
    cluster::{Cluster, HOST, USER},
    openssh_server::key_exchanges,
    server::{CODE, Rules, listen},
};

/// Every run is far quicker; a deadlock must not hold the tests up.
const PATIENCE: Duration = Duration::from_secs(120);

async fn start(cluster: &Cluster) -> SocketAddr {
    start_with(cluster, cluster.server_config()).await
}

async fn start_with(cluster: &Cluster, config: ServerConfig) -> SocketAddr {
    listen(config, Rules { user_ca: cluster.user_ca.public(), second_factor: false }).await
}

fn options(cluster: &Cluster, address: SocketAddr) -> Vec<String> {
    let options = [
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "GlobalKnownHostsFile=none".to_owned(),
        format!("UserKnownHostsFile={}", cluster.path("known_hosts").display()),
        format!("HostKeyAlias={HOST}"),
        format!("IdentityFile={}", cluster.path("id").display()),
        format!("User={USER}"),
        format!("Port={}", address.port()),
    ];
    let options = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
    ["-F".to_owned(), "none".to_owned()].into_iter().chain(options).collect()
}

fn ssh(cluster: &Cluster, address: SocketAddr) -> Command {
    let mut command = Command::new("/usr/bin/ssh");
    command.args(options(cluster, address)).args(["-o", "BatchMode=yes"]).kill_on_drop(true);
    command
}

/// `/bin/sh` with `$SSH` as the command up to the host.
fn shell(cluster: &Cluster, address: SocketAddr, script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    let options = options(cluster, address).join(" ");
    command.args(["-c", script]).env("SSH", format!("/usr/bin/ssh {options} -o BatchMode=yes"));
    command.env("DIR", cluster.folder.path()).kill_on_drop(true);
    command
}

async fn output(command: &mut Command) -> Output {
    timeout(PATIENCE, command.output()).await.expect("ssh hangs").unwrap()
}

/// Runs to success and returns what it wrote.
async fn stdout(command: &mut Command) -> String {
    let done = output(command).await;
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_brings_output_and_status() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let done = output(ssh(&cluster, address).args(["127.0.0.1", "echo out; echo err >&2; exit 7"])).await;
    assert_eq!(String::from_utf8_lossy(&done.stdout), "out\n", "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "err\n");
    assert_eq!(done.status.code(), Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_algorithm_works() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let ciphers = Cipher::ALL.map(|cipher| format!("Ciphers={}", cipher.name()));
    let kex = key_exchanges().into_iter().map(|kex| format!("KexAlgorithms={}", kex.name()));
    let host_key = "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com".to_owned();
    for option in ciphers.into_iter().chain(kex).chain([host_key]) {
        let mut command = ssh(&cluster, address);
        command.args(["-o", &option, "127.0.0.1", "head -c 300000 | wc -c"]).stdin(Stdio::null());
        assert_eq!(stdout(&mut command).await.trim(), "0", "{option}");
        let script = format!(
            "head -c 3000000 /dev/urandom > $DIR/sent; $SSH -o {option} 127.0.0.1 cat < $DIR/sent | cmp - $DIR/sent"
        );
        stdout(&mut shell(&cluster, address, &script)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_host_key_is_offered_too() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    cluster.write("known_hosts", &format!("{HOST} {}\n", cluster.host.public().to_openssh("")));
    let mut command = ssh(&cluster, address);
    command.args(["-o", "HostKeyAlgorithms=ssh-ed25519", "127.0.0.1", "echo here"]);
    assert_eq!(stdout(&mut command).await, "here\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() {
    let cluster = Cluster::new();
    let other = Cluster::new();
    let rules = Rules { user_ca: other.user_ca.public(), second_factor: false };
    let address = listen(cluster.server_config(), rules).await;
    let done = output(ssh(&cluster, address).args(["127.0.0.1", "true"])).await;
    assert_eq!(done.status.code(), Some(255));
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(stderr.contains("Permission denied (publickey)"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_does_not_deadlock() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let script = "head -c 60000000 /dev/zero | $SSH 127.0.0.1 cat | (sleep 1; wc -c)";
    assert_eq!(stdout(&mut shell(&cluster, address, script)).await.trim(), "60000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_under_load() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let script = "head -c 20000000 /dev/urandom > $DIR/sent; $SSH -o RekeyLimit=256k 127.0.0.1 cat < $DIR/sent | cmp - $DIR/sent";
    stdout(&mut shell(&cluster, address, script)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_side_changes_keys_under_load() {
    let cluster = Cluster::new();
    let mut config = cluster.server_config();
    config.limits.rekey_bytes = 256 << 10;
    let address = start_with(&cluster, config).await;
    let script = "head -c 20000000 /dev/urandom > $DIR/sent; $SSH 127.0.0.1 cat < $DIR/sent | cmp - $DIR/sent";
    stdout(&mut shell(&cluster, address, script)).await;
    let script = "head -c 20000000 /dev/urandom > $DIR/sent; $SSH -o RekeyLimit=300k 127.0.0.1 cat < $DIR/sent | cmp - $DIR/sent";
    stdout(&mut shell(&cluster, address, script)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_channel_of_a_master_stalls_no_other() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let control = format!("ControlPath={}", cluster.path("control").display());
    let mut stalled = ssh(&cluster, address);
    stalled.args(["-o", "ControlMaster=yes", "-o", &control, "127.0.0.1", "cat /dev/zero"]).stdout(Stdio::piped());
    let mut stalled = stalled.spawn().unwrap();
    // One byte shows that the flood is under way; the rest is not read.
    stalled.stdout.as_mut().unwrap().read_u8().await.unwrap();
    let runs = (0..10).map(|n| {
        let mut command = ssh(&cluster, address);
        command.args(["-o", &control, "127.0.0.1", &format!("head -c 1000000 /dev/zero; echo {n}")]);
        async move {
            let out = stdout(&mut command).await;
            assert_eq!(out.len(), 1_000_002);
            assert!(out.ends_with(&format!("{n}\n")));
        }
    });
    futures_util::future::join_all(runs).await;
    stalled.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_asked_for() {
    let cluster = Cluster::new();
    let rules = Rules { user_ca: cluster.user_ca.public(), second_factor: true };
    let address = listen(cluster.server_config(), rules).await;
    for (code, status) in [(CODE, 0), ("000000", 255)] {
        let askpass = cluster.write("askpass", &format!("#!/bin/sh\necho {code}\n"));
        std::fs::set_permissions(&askpass, PermissionsExt::from_mode(0o700)).unwrap();
        let mut command = Command::new("/usr/bin/ssh");
        command.args(options(&cluster, address)).args(["-o", "NumberOfPasswordPrompts=1", "127.0.0.1", "true"]);
        command.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force");
        let done = output(&mut command).await;
        assert_eq!(done.status.code(), Some(status), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// A server that sends back what it gets, to its end.
async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn netcat_mode_reaches_a_port() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(echo(listener));
    let script = format!(
        "head -c 5000000 /dev/urandom > $DIR/sent; $SSH -W 127.0.0.1:{port} 127.0.0.1 < $DIR/sent | cmp - $DIR/sent"
    );
    stdout(&mut shell(&cluster, address, &script)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_forward_comes_back() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(echo(listener));
    let mut command = ssh(&cluster, address);
    command.args(["-N", "-R", &format!("0:127.0.0.1:{port}"), "127.0.0.1"]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    timeout(PATIENCE, tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line)).await.unwrap().unwrap();
    // "Allocated port 12345 for remote forward to …"
    let allocated: u16 = line.split(' ').nth(2).and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    let mut stream = TcpStream::connect(("127.0.0.1", allocated)).await.unwrap();
    stream.write_all(b"round trip").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, "round trip");
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_reached_through_a_local_forward() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let (near, far) = (cluster.path("near"), cluster.path("far"));
    let listener = UnixListener::bind(&far).unwrap();
    let mut command = ssh(&cluster, address);
    command.arg("-L").arg(format!("{}:{}", near.display(), far.display())).args(["127.0.0.1", "echo ready; cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The forward listens before the command starts.
    child.stdout.as_mut().unwrap().read_u8().await.unwrap();
    let mut stream = tokio::net::UnixStream::connect(&near).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let (mut accepted, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut hello = [0; 5];
    accepted.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_of_the_client_are_answered() {
    let cluster = Cluster::new();
    let address = start(&cluster).await;
    let mut command = ssh(&cluster, address);
    // Two unanswered probes would end the connection before the command is over.
    command.args(["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", "127.0.0.1", "sleep 4; echo alive"]);
    assert_eq!(stdout(&mut command).await, "alive\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_of_the_server_find_the_client_alive() {
    let cluster = Cluster::new();
    let mut config = cluster.server_config();
    config.keepalive = Some(mezite_net::ssh::Keepalive { interval: Duration::from_millis(100), count: 2 });
    let address = start_with(&cluster, config).await;
    assert_eq!(stdout(ssh(&cluster, address).args(["127.0.0.1", "sleep 1; echo alive"])).await, "alive\n");
}
