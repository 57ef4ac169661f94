//! PuTTY's command line client against our server. Skipped where it is not installed.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{
    cluster::{Cluster, USER},
    server::{Rules, listen},
};

/// A saved session, the only way to name a certificate.
fn session(cluster: &Cluster, port: u16, cipher: &str) {
    std::fs::create_dir_all(cluster.path("sessions")).unwrap();
    let text = format!(
        "HostName=127.0.0.1\nPortNumber={port}\nProtocol=ssh\nUserName={USER}\nTryAgent=0\nCipher={cipher},WARN\n\
         PublicKeyFile={}\nDetachedCertificate={}\n",
        cluster.path("id.ppk").display(),
        cluster.path("id-cert.pub").display()
    );
    cluster.write("sessions/test", &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn plink_logs_in_by_certificate_and_pipes() {
    let cluster = Cluster::new();
    let mut convert = std::process::Command::new("puttygen");
    convert.arg(cluster.path("id")).args(["-O", "private", "-o"]).arg(cluster.path("id.ppk"));
    let Ok(converted) = convert.status() else { return eprintln!("skipped: PuTTY is not installed") };
    assert!(converted.success());
    let rules = Rules { user_ca: cluster.user_ca.public(), second_factor: false };
    let address = listen(cluster.server_config(), rules).await;
    let fingerprint = cluster.host.public().fingerprint();
    for cipher in ["aesgcm", "chacha20"] {
        session(&cluster, address.port(), cipher);
        let mut command = Command::new("plink");
        command.args(["-batch", "-no-antispoof", "-load", "test", "-hostkey", &fingerprint, "cat; exit 5"]);
        command.env("PUTTYDIR", cluster.folder.path()).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let sent: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        tokio::spawn(async move { stdin.write_all(&copy).await });
        let done = timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("plink hangs").unwrap();
        assert_eq!(done.status.code(), Some(5), "{cipher}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(done.stdout == sent, "{cipher}");
    }
}
