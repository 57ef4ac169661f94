use mezite_auth::{AuthConfig, FirstAdmin, start};
use mezite_proto::v1::*;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::cluster::{Cluster, config};

fn secret(text: &str) -> Option<Zeroizing<String>> {
    Some(Zeroizing::new(text.into()))
}

#[tokio::test]
async fn a_wrong_passphrase_is_refused_and_the_database_holds_no_key() {
    let mut cluster = Cluster::new().await;
    let before = cluster.running().ca_pin.clone();
    // The passphrase that comes later takes the keys over from the key file.
    cluster.restart(|config| config.ca_key_passphrase = secret("correct horse")).await.unwrap();
    std::fs::remove_file(cluster.dir.path().join("ca.key")).unwrap();
    cluster.restart(|config| config.ca_key_passphrase = secret("correct horse")).await.unwrap();
    assert_eq!(cluster.running().ca_pin, before);
    let wrong = cluster.restart(|config| config.ca_key_passphrase = secret("wrong")).await.unwrap_err();
    assert!(wrong.to_string().contains("passphrase is wrong"), "{wrong}");
    let none = cluster.restart(|_| {}).await.unwrap_err();
    assert!(none.to_string().contains("set ca_key_passphrase"), "{none}");

    for file in ["mezhub.db", "mezhub.db-wal"] {
        let bytes = std::fs::read(cluster.dir.path().join(file)).unwrap_or_default();
        for marker in [b"PRIVATE KEY".as_slice(), b"openssh-key-v1", crate::cluster::PASSWORD.as_bytes()] {
            assert!(!bytes.windows(marker.len()).any(|part| part == marker), "{file}");
        }
    }
}

#[tokio::test]
async fn the_first_administrator_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let with = |first_admin| AuthConfig { first_admin, ..config(dir.path()) };
    for without in [FirstAdmin::Refuse, FirstAdmin::Password(Zeroizing::new("short".into()))] {
        let refused = start(with(without), CancellationToken::new()).await.unwrap_err();
        assert!(refused.to_string().contains("MEZITE_ADMIN_PASSWORD"), "{refused}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let on_a_taken_port =
        AuthConfig { listen_addr: taken.local_addr().unwrap(), first_admin: FirstAdmin::Random, ..config(dir.path()) };
    start(on_a_taken_port, CancellationToken::new()).await.unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was made by a start that was refused");
    let stop = CancellationToken::new();
    let running = start(with(FirstAdmin::Random), stop.clone()).await.unwrap();
    assert_eq!(running.first_password.as_ref().unwrap().len(), 32);
    stop.cancel();
    running.stopped().await;
    let stop = CancellationToken::new();
    let running = start(with(FirstAdmin::Refuse), stop.clone()).await.unwrap();
    assert!(running.first_password.is_none());
    stop.cancel();
    running.stopped().await;
}

#[tokio::test]
async fn another_cluster_name_or_a_short_key_is_refused() {
    let mut cluster = Cluster::new().await;
    let other = cluster.restart(|config| config.cluster_name = "other".into()).await.unwrap_err();
    assert!(other.to_string().contains("belongs to the cluster example"), "{other}");
    let short = cluster.restart(|config| config.audit_hmac_key = secret("short")).await.unwrap_err();
    assert!(short.to_string().contains("audit.hmac_key"), "{short}");
}

#[tokio::test]
async fn a_new_audit_key_begins_a_segment_and_the_former_one_is_still_needed() {
    let mut cluster = Cluster::new().await;
    let key = "0123456789abcdef0123456789abcdef";
    cluster.restart(|config| config.audit_hmac_key = secret(key)).await.unwrap();
    let mut admin = cluster.admin().await;
    let verified = admin.client.verify_audit(admin.with(VerifyAuditRequest::default())).await.unwrap().into_inner();
    assert_eq!((verified.ok, verified.segments), (true, 2), "{verified:?}");
    std::fs::remove_file(cluster.dir.path().join("audit.key")).unwrap();
    cluster.restart(|config| config.audit_hmac_key = secret(key)).await.unwrap();
    let mut admin = cluster.admin().await;
    let verified = admin.client.verify_audit(admin.with(VerifyAuditRequest::default())).await.unwrap().into_inner();
    assert_eq!((verified.ok, verified.first_bad_seq), (false, 1), "{verified:?}");
}

#[tokio::test]
async fn authorities_are_shown_and_exported_without_private_parts() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let status = admin.client.ca_status(admin.with(CaStatusRequest {})).await.unwrap().into_inner();
    let types: Vec<_> = status.authorities.iter().map(|ca| (ca.r#type.as_str(), ca.phase.as_str())).collect();
    assert_eq!(types, [("user", "complete"), ("host", "complete"), ("spiffe", "complete"), ("audit", "complete")]);
    assert_eq!(status.authorities[1].x509_fingerprint, cluster.running().ca_pin);
    for (kind, begins) in [
        ("user", "ssh-ed25519 "),
        ("host", "ssh-ed25519 "),
        ("spiffe", "-----BEGIN CERTIFICATE"),
        ("audit", "ssh-ed25519 "),
    ] {
        let request = admin.with(CaExportRequest { r#type: kind.into() });
        let text = admin.client.ca_export(request).await.unwrap().into_inner().text;
        assert!(text.starts_with(begins) && !text.contains("PRIVATE"), "{text}");
    }
    admin.client.ca_export(admin.with(CaExportRequest { r#type: "jwt".into() })).await.unwrap_err();
    let bundle = std::fs::read_to_string(cluster.dir.path().join("tls/ca.pem")).unwrap();
    assert_eq!(bundle, cluster.running().tls_ca_pem);
}
