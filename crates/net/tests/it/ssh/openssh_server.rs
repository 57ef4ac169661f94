//! Our client against OpenSSH's server, one process of it for each connection.

use std::{net::TcpListener, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use mezite_net::ssh::{
    Channel, ChannelEvent, ChannelOpen, ClientConfig, ConnectError, Connection, HostTrust, OpenError, SessionRequest,
    begin, connect,
};
use mezite_ssh::{PrivateKey, PublicKey, cipher::Cipher, kex::KexAlgorithm};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use super::cluster::{Cluster, now_unix};

const PATIENCE: Duration = Duration::from_secs(120);

/// OpenSSH lets in whoever it runs as; names of others need more rights than tests have.
fn login() -> String {
    let done = std::process::Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

struct Sshd {
    cluster: Cluster,
    login: String,
    extra: String,
}

impl Sshd {
    fn new(extra: &str) -> Self {
        let login = login();
        let cluster = Cluster::for_user(&login);
        cluster.write("host", &cluster.host.to_openssh("host"));
        cluster.write("host.pub", &cluster.host.public().to_openssh("host"));
        cluster.write("host-cert.pub", &cluster.host_certificate.to_openssh("host"));
        cluster.write("user_ca.pub", &cluster.user_ca.public().to_openssh("ca"));
        Self { cluster, login, extra: extra.to_owned() }
    }

    /// A connected stream with `sshd -i` at its other end.
    async fn spawn(&self) -> (TcpStream, Child) {
        let dir = self.cluster.folder.path().display();
        let text = format!(
            "HostKey {dir}/host\nHostCertificate {dir}/host-cert.pub\nTrustedUserCAKeys {dir}/user_ca.pub\nPidFile none\n\
             AuthorizedKeysFile {dir}/authorized\nPermitRootLogin yes\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nLogLevel ERROR\n{}\n",
            self.extra
        );
        let config = self.cluster.write("sshd_config", &text);
        // Where a privileged sshd wants its empty folder; without rights it needs none.
        let _ = std::fs::create_dir_all("/run/sshd");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        near.set_nodelay(true).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-i", "-e", "-f"])
            .arg(config)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(far.try_clone().unwrap())))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(far)))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        (TcpStream::from_std(near).unwrap(), child)
    }

    fn client(&self) -> ClientConfig {
        let identity = Some(self.cluster.identity());
        ClientConfig::new(self.login.as_str(), identity, self.cluster.trust(), now_unix())
    }

    async fn connect(&self, config: ClientConfig) -> Result<(Connection, Child), ConnectError> {
        let (stream, child) = self.spawn().await;
        let (connection, _) = timeout(PATIENCE, connect(stream, config)).await.expect("login hangs")?;
        Ok((connection, child))
    }
}

/// Starts a command, asked for before the channel is there.
async fn exec(connection: &Connection, command: &str) -> Channel {
    let asked = connection.ask(ChannelOpen::Session).unwrap();
    let (writer, request) = (asked.writer(), SessionRequest::Exec(command.as_bytes().to_vec()));
    let (channel, started) = tokio::join!(asked.opened(), writer.request(request.name(), request.payload()));
    assert!(started.unwrap());
    channel.unwrap()
}

struct Done {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<u32>,
}

/// Reads to the end.
async fn finish(mut channel: Channel) -> Done {
    let mut done = Done { stdout: Vec::new(), stderr: Vec::new(), status: None };
    while let Some(event) = timeout(PATIENCE, channel.recv()).await.expect("the channel hangs") {
        match event {
            ChannelEvent::Data(data) => done.stdout.extend_from_slice(&data),
            ChannelEvent::Extended(_, data) => done.stderr.extend_from_slice(&data),
            ChannelEvent::Request(request) => {
                if let SessionRequest::ExitStatus(status) = request.request {
                    done.status = Some(status);
                }
            }
            ChannelEvent::Eof => {}
        }
    }
    done
}

async fn run(connection: &Connection, command: &str) -> Done {
    let channel = exec(connection, command).await;
    channel.writer().eof();
    finish(channel).await
}

/// Sends `total` bytes through `cat` and counts what comes back.
async fn through_cat(connection: &Connection, total: usize) {
    let (mut reader, writer) = exec(connection, "cat").await.split();
    tokio::spawn(async move {
        let block = Bytes::from(vec![7; 100_000]);
        for _ in 0..total / block.len() {
            writer.data(block.clone()).await.unwrap();
        }
        writer.eof();
    });
    let mut got = 0;
    while let Some(event) = timeout(PATIENCE, reader.recv()).await.expect("cat hangs") {
        if let ChannelEvent::Data(data) = event {
            assert!(data.iter().all(|byte| *byte == 7));
            got += data.len();
        }
    }
    assert_eq!(got, total);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_brings_output_and_status() {
    let sshd = Sshd::new("");
    let (connection, _child) = sshd.connect(sshd.client()).await.unwrap();
    let done = run(&connection, "echo out; echo err >&2; exit 7").await;
    assert_eq!(done.stdout, b"out\n");
    assert_eq!(done.stderr, b"err\n");
    assert_eq!(done.status, Some(7));
    // OpenSSH sends stderr after the EOF of stdout.
    let done = run(&connection, "exec >&-; echo late >&2").await;
    assert_eq!(done.stderr, b"late\n");
}

/// Those of ours that the installed OpenSSH has too: ML-KEM came with 9.9.
pub(crate) fn key_exchanges() -> Vec<KexAlgorithm> {
    let known = std::process::Command::new("ssh").args(["-Q", "kex"]).output().unwrap().stdout;
    let known = String::from_utf8(known).unwrap();
    let common = KexAlgorithm::ALL.into_iter().filter(|ours| known.lines().any(|line| line == ours.name()));
    let common: Vec<_> = common.collect();
    assert!(common.contains(&KexAlgorithm::Curve25519Sha256), "{known}");
    common
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_asked_for_before_the_login_waits_for_it() {
    let sshd = Sshd::new("");
    let (stream, _child) = sshd.spawn().await;
    let (connection, login) = begin(stream, sshd.client());
    let (login, channel) = timeout(PATIENCE, async { tokio::join!(login.done(), exec(&connection, "exit 3")) })
        .await
        .expect("the command hangs");
    let _incoming = login.unwrap();
    assert_eq!(finish(channel).await.status, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_algorithm_works() {
    let sshd = Sshd::new("");
    for cipher in Cipher::ALL {
        let mut config = sshd.client();
        config.algorithms.ciphers = vec![cipher];
        config.pipelined = cipher != Cipher::Aes256Gcm;
        let (connection, _child) = sshd.connect(config).await.unwrap();
        through_cat(&connection, 3_000_000).await;
    }
    for kex in key_exchanges() {
        let mut config = sshd.client();
        config.algorithms.kex = vec![kex];
        let (connection, _child) = sshd.connect(config).await.unwrap();
        assert_eq!(run(&connection, "echo hi").await.stdout, b"hi\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_keys_of_every_type_are_checked() {
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let sshd = Sshd::new("");
        let file = sshd.cluster.path("pinned");
        let made =
            std::process::Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&file).status();
        assert!(made.unwrap().success());
        let sshd = Sshd { extra: format!("HostKey {}", file.display()), ..sshd };
        let line = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let (key, _) = PublicKey::from_openssh(&line).unwrap();
        let config = ClientConfig { trust: HostTrust::Pinned(vec![key.clone()]), ..sshd.client() };
        if kind == "ed25519" {
            // The other Ed25519 key of this sshd comes first.
            assert!(matches!(sshd.connect(config).await, Err(ConnectError::Host(_))));
        } else {
            let (connection, _child) = sshd.connect(config).await.unwrap();
            assert_eq!(connection.host_key(), Some(key));
            assert_eq!(run(&connection, "echo hi").await.stdout, b"hi\n");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_is_not_believed() {
    let sshd = Sshd::new("");
    let keys = vec![sshd.cluster.host_ca.public()];
    let other = HostTrust::Authorities { keys, name: "other.example".to_owned() };
    let stranger =
        HostTrust::Authorities { keys: vec![sshd.cluster.user_ca.public()], name: super::cluster::HOST.to_owned() };
    for trust in [other, stranger] {
        let refused = sshd.connect(ClientConfig { trust, ..sshd.client() }).await;
        assert!(matches!(refused, Err(ConnectError::Host(_))));
    }
    let expired = ClientConfig { now_unix: now_unix() + 7200, ..sshd.client() };
    assert!(matches!(sshd.connect(expired).await, Err(ConnectError::Host(message)) if message.contains("expired")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_denied() {
    let sshd = Sshd::new("");
    let key = Arc::new(PrivateKey::generate().unwrap());
    let identity = Some(mezite_net::ssh::Identity::Key(Arc::clone(&key)));
    let denied = sshd.connect(ClientConfig { identity: identity.clone(), ..sshd.client() }).await;
    assert!(matches!(denied, Err(ConnectError::Denied { methods, .. }) if methods.contains(&"publickey".to_owned())));
    sshd.cluster.write("authorized", &key.public().to_openssh(""));
    sshd.connect(ClientConfig { identity, ..sshd.client() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_under_load() {
    let sshd = Sshd::new("RekeyLimit 256k");
    let (connection, _child) = sshd.connect(sshd.client()).await.unwrap();
    through_cat(&connection, 20_000_000).await;
    let sshd = Sshd::new("");
    let mut config = sshd.client();
    config.limits.rekey_bytes = 256 << 10;
    let (connection, _child) = sshd.connect(config).await.unwrap();
    through_cat(&connection, 20_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_channel_stalls_no_other() {
    let sshd = Sshd::new("MaxSessions 20");
    let (connection, _child) = sshd.connect(sshd.client()).await.unwrap();
    let mut stalled = exec(&connection, "cat /dev/zero").await;
    assert!(matches!(stalled.recv().await, Some(ChannelEvent::Data(_))));
    let runs = (0..9).map(|_| through_cat(&connection, 1_000_000));
    futures_util::future::join_all(runs).await;
    through_cat(&connection, 60_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_reached_and_a_closed_one_is_refused() {
    let sshd = Sshd::new("");
    let (connection, _child) = sshd.connect(sshd.client()).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = |port| ChannelOpen::DirectTcpip {
        host: "127.0.0.1".to_owned(),
        port,
        origin_host: "127.0.0.1".to_owned(),
        origin_port: 1,
    };
    let mut channel = connection.open(open(port)).await.unwrap().into_stream();
    let (mut stream, _) = listener.accept().await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut channel, b"hello").await.unwrap();
    let mut hello = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    drop(listener);
    assert!(matches!(connection.open(open(port)).await, Err(OpenError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn keepalives_of_the_server_are_answered() {
    let sshd = Sshd::new("ClientAliveInterval 1\nClientAliveCountMax 1");
    let (connection, _child) = sshd.connect(sshd.client()).await.unwrap();
    assert_eq!(run(&connection, "sleep 4; echo alive").await.stdout, b"alive\n");
}
