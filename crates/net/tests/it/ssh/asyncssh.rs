//! AsyncSSH, the independent implementation of `mlkem768x25519-sha256` that is at hand where OpenSSH is older than 9.9.
//! Skipped where `scripts/asyncssh` did not install it.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use mezite_net::ssh::{ChannelEvent, ChannelOpen, ClientConfig, SessionRequest, connect};
use mezite_ssh::kex::KexAlgorithm;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use super::{
    cluster::{Cluster, HOST, USER, now_unix},
    server::{Rules, listen},
};

const PATIENCE: Duration = Duration::from_secs(120);
/// More than the peer's limit for new keys, several times.
const LOAD: usize = 2_000_000;

/// A client that offers this key exchange only, sends `LOAD` bytes through `cat` and renews its keys on the way.
const CLIENT: &str = r#"
import asyncio, asyncssh, sys
folder, port, host, user, load = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
async def main():
    async with asyncssh.connect("127.0.0.1", port, username=user, config=None, agent_path=None, host_key_alias=host,
            client_keys=[(folder + "/id", folder + "/id-cert.pub")], known_hosts=folder + "/known_hosts",
            kex_algs=["mlkem768x25519-sha256"], rekey_bytes=256 << 10) as connection:
        sent = bytes(n % 251 for n in range(load))
        done = await connection.run("cat; exit 7", input=sent, encoding=None)
        print(done.exit_status, done.stdout == sent)
asyncio.run(main())
"#;

/// A server that offers this key exchange only and sends back what it gets.
const SERVER: &str = r#"
import asyncio, asyncssh, sys
folder, user = sys.argv[1], sys.argv[2]
async def echo(process):
    while data := await process.stdin.read(65536):
        process.stdout.write(data)
        await process.stdout.drain()
    process.exit(7)
async def main():
    server = await asyncssh.listen("127.0.0.1", 0, config=None, server_host_keys=[(folder + "/host", folder + "/host-cert.pub")],
        authorized_client_keys=folder + "/authorized", process_factory=echo, encoding=None,
        kex_algs=["mlkem768x25519-sha256"], rekey_bytes=256 << 10)
    print(server.get_port(), flush=True)
    await server.wait_closed()
asyncio.run(main())
"#;

/// The interpreter that has AsyncSSH, where it was installed.
fn python() -> Option<Command> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/asyncssh/bin/python"));
    if !path.exists() {
        eprintln!("skipped: AsyncSSH is not installed; scripts/asyncssh does it");
        return None;
    }
    let mut command = Command::new(path);
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_client_agrees_with_our_server_on_ml_kem() {
    let Some(mut command) = python() else { return };
    let cluster = Cluster::new();
    let rules = Rules { user_ca: cluster.user_ca.public(), second_factor: false };
    let port = listen(cluster.server_config(), rules).await.port().to_string();
    command.args(["-c", CLIENT]).arg(cluster.folder.path()).args([&port, HOST, USER, &LOAD.to_string()]);
    let Output { stdout, stderr, .. } = timeout(PATIENCE, command.output()).await.expect("it hangs").unwrap();
    assert_eq!(String::from_utf8_lossy(&stdout), "7 True\n", "{}", String::from_utf8_lossy(&stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_agrees_with_its_server_on_ml_kem() {
    let Some(mut command) = python() else { return };
    let cluster = Cluster::new();
    cluster.write("host", &cluster.host.to_openssh("host"));
    cluster.write("host-cert.pub", &cluster.host_certificate.to_openssh("host"));
    let authority = cluster.user_ca.public().to_openssh("");
    cluster.write("authorized", &format!("cert-authority,principals=\"{USER}\" {authority}\n"));
    let mut server = command.args(["-c", SERVER]).arg(cluster.folder.path()).arg(USER).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = timeout(PATIENCE, lines.next_line()).await.expect("it does not start").unwrap().expect("it ended");

    let stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).await.unwrap();
    let mut config = ClientConfig::new(USER, Some(cluster.identity()), cluster.trust(), now_unix());
    config.algorithms.kex = vec![KexAlgorithm::MlKem768X25519Sha256];
    let (connection, _incoming) = timeout(PATIENCE, connect(stream, config)).await.expect("login hangs").unwrap();
    let channel = connection.open(ChannelOpen::Session).await.unwrap();
    let request = SessionRequest::Exec(b"echo".to_vec());
    assert!(channel.writer().request(request.name(), request.payload()).await.unwrap());
    let (mut reader, writer) = channel.split();
    tokio::spawn(async move {
        for _ in 0..LOAD / 1000 {
            writer.data(vec![7; 1000].into()).await.unwrap();
        }
        writer.eof();
    });
    let (mut got, mut status) = (0, None);
    while let Some(event) = timeout(PATIENCE, reader.recv()).await.expect("the channel hangs") {
        match event {
            ChannelEvent::Data(data) => {
                assert!(data.iter().all(|byte| *byte == 7));
                got += data.len();
            }
            ChannelEvent::Request(request) => {
                if let SessionRequest::ExitStatus(code) = request.request {
                    status = Some(code);
                }
            }
            _ => {}
        }
    }
    assert_eq!((got, status), (LOAD, Some(7)));
}
