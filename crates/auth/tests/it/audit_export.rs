//! The audit log leaves the hub in a form that anybody can verify, and the hub is held against what left it.

use mezite_core::audit::checkpoint::PublicKey;
use mezite_core::audit::export::{BadLine, Contents, FileVerifier};
use mezite_proto::v1::*;
use mezite_ssh::key::PublicKey as SshKey;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::cluster::{Caller, Cluster};
use crate::sessions::events;

async fn export(caller: &mut Caller, request: ExportAuditRequest) -> Result<Vec<String>, Status> {
    let mut reply = caller.client.export_audit(caller.with(request)).await?.into_inner();
    let mut file = Vec::new();
    while let Some(piece) = reply.message().await? {
        file.extend_from_slice(&piece.data);
    }
    Ok(String::from_utf8(file).unwrap().lines().map(str::to_owned).collect())
}

fn verify(lines: &[String], key: PublicKey) -> Result<Contents, BadLine> {
    let mut verifier = FileVerifier::new(Some(vec![key]));
    lines.iter().try_for_each(|line| verifier.push(line))?;
    verifier.finish()
}

async fn audit_key(caller: &mut Caller) -> PublicKey {
    let request = caller.with(CaExportRequest { r#type: "audit".into() });
    let line = caller.client.ca_export(request).await.unwrap().into_inner().text;
    match SshKey::from_openssh(line.trim()).unwrap() {
        (SshKey::Ed25519(key), _) => key,
        (other, _) => unreachable!("{other:?}"),
    }
}

/// The answer of `mezctl audit verify --checkpoint`.
async fn hold_against(caller: &mut Caller, lines: &[String]) -> Result<VerifyAuditReply, Status> {
    let signed = lines.iter().filter(|line| line.starts_with("{\"checkpoint\"") || line.starts_with("{\"end\""));
    let checkpoints = signed.map(|line| line.as_bytes().to_vec()).collect();
    let request = caller.with(VerifyAuditRequest { checkpoints });
    caller.client.verify_audit(request).await.map(tonic::Response::into_inner)
}

/// Stops the service, does something to its database, and starts it again.
async fn meanwhile(cluster: &mut Cluster, act: impl FnOnce(&std::path::Path)) {
    cluster.stop.cancel();
    cluster.running.take().unwrap().stopped().await;
    act(&cluster.dir.path().join("mezhub.db"));
    cluster.restart(|_| {}).await.unwrap();
}

#[tokio::test]
async fn an_auditor_exports_what_anybody_verifies_with_the_public_key() {
    let cluster = Cluster::new().await;
    let mut carol = cluster.new_user("carol", &["auditor"], &[]).await;
    let lines = export(&mut carol, ExportAuditRequest::default()).await.unwrap();
    let key = audit_key(&mut carol).await;
    let contents = verify(&lines, key).unwrap();
    assert_eq!((contents.extent.cluster.as_str(), contents.extent.first), ("example", 1));
    assert!(contents.checkpoints > 0 && contents.extent.last > 5, "{contents:?}");
    // The export is the last event in it.
    let last = lines.iter().rfind(|line| line.starts_with("{\"record\"")).unwrap();
    assert!(last.contains("\"event_code\":\"T8001I\"") && last.contains("carol"), "{last}");
    assert!(verify(&lines, [0; 32]).is_err());

    let verified = hold_against(&mut carol, &lines).await.unwrap();
    assert!(verified.ok && verified.checkpoints > 1, "{verified:?}");
    let changed: Vec<String> = lines.iter().map(|line| line.replace("example", "elsewhere")).collect();
    assert_eq!(hold_against(&mut carol, &changed).await.unwrap_err().code(), Code::InvalidArgument);

    let mut alice = cluster.new_user("alice", &["access"], &[]).await;
    let refused = export(&mut alice, ExportAuditRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_part_of_the_log_verifies_by_itself() {
    let cluster = Cluster::new().await;
    let mut admin = cluster.admin().await;
    let all = export(&mut admin, ExportAuditRequest::default()).await.unwrap();
    let moment = |line: &String| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let at = mezite_core::when::parse(value["record"]["event"]["timestamp"].as_str().unwrap()).unwrap();
        i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap()
    };
    let records: Vec<&String> = all.iter().filter(|line| line.starts_with("{\"record\"")).collect();
    let since_unix_ms = Some(moment(records[records.len() - 1]));
    let key = audit_key(&mut admin).await;
    let part = export(&mut admin, ExportAuditRequest { since_unix_ms, until_unix_ms: None }).await.unwrap();
    let contents = verify(&part, key).unwrap();
    assert!(contents.extent.first > 1 && contents.extent.first <= contents.extent.last, "{contents:?}");
    let early = ExportAuditRequest { since_unix_ms: None, until_unix_ms: since_unix_ms };
    let before = verify(&export(&mut admin, early).await.unwrap(), key).unwrap();
    assert_eq!((before.extent.first, before.extent.last + 1), (1, contents.extent.first));
    assert_eq!(before.extent.hash, contents.extent.before);
    let none = ExportAuditRequest { since_unix_ms: Some(0), until_unix_ms: Some(1) };
    let none = verify(&export(&mut admin, none).await.unwrap(), key).unwrap();
    assert_eq!(none.extent.last + 1, none.extent.first);
}

#[tokio::test]
async fn a_restored_older_database_says_so_at_the_start_and_fails_against_an_export() {
    let mut cluster = Cluster::new().await;
    let backup = cluster.dir.path().join("backup");
    meanwhile(&mut cluster, |db| assert!(std::fs::copy(db, &backup).unwrap() > 0)).await;
    let mut admin = cluster.admin().await;
    cluster.new_user("mallory", &["admin"], &[]).await;
    let lines = export(&mut admin, ExportAuditRequest::default()).await.unwrap();
    assert!(hold_against(&mut admin, &lines).await.unwrap().ok);
    meanwhile(&mut cluster, |_| {}).await;
    let mut admin = cluster.admin().await;
    assert!(events(&mut admin, "audit.restored").await.is_empty(), "nothing was restored");

    meanwhile(&mut cluster, |db| {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(db.with_extension(format!("db{end}")));
        }
        std::fs::copy(&backup, db).unwrap();
    })
    .await;
    let mut admin = cluster.admin().await;
    assert_eq!(events(&mut admin, "audit.restored").await.len(), 1);
    let own = hold_against(&mut admin, &[]).await.unwrap();
    assert!(own.ok, "by itself the older log is whole: {own:?}");
    let held = hold_against(&mut admin, &lines).await.unwrap();
    assert!(!held.ok && held.detail.contains("older database was restored"), "{held:?}");
    for _ in 0..40 {
        cluster.admin().await;
    }
    let held = hold_against(&mut admin, &lines).await.unwrap();
    assert!(!held.ok && held.detail.contains("not those that were signed"), "{held:?}");
}

#[tokio::test]
async fn what_was_changed_or_removed_is_neither_signed_nor_exported() {
    let mut cluster = Cluster::new().await;
    cluster.new_user("alice", &["access"], &[]).await;
    let mut admin = cluster.admin().await;
    let lines = export(&mut admin, ExportAuditRequest::default()).await.unwrap();
    let sql = |db: &std::path::Path, sql: &str| {
        let ran = std::process::Command::new("sqlite3").arg(db).arg(sql).status().unwrap();
        assert!(ran.success());
    };
    meanwhile(&mut cluster, |db| sql(db, "DELETE FROM audit_events WHERE seq = (SELECT max(seq) FROM audit_events)"))
        .await;
    let mut admin = cluster.admin().await;
    let held = hold_against(&mut admin, &lines).await.unwrap();
    assert!(!held.ok && held.detail.contains("missing"), "{held:?}");
    let refused = export(&mut admin, ExportAuditRequest::default()).await.unwrap_err();
    assert!(refused.message().contains("does not verify"), "{refused}");
    meanwhile(&mut cluster, |db| {
        sql(db, "UPDATE audit_checkpoints SET signed = replace(signed, 'example', 'elsewhere')")
    })
    .await;
    let mut admin = cluster.admin().await;
    let held = hold_against(&mut admin, &[]).await.unwrap();
    assert!(!held.ok && held.detail.contains("cannot be believed"), "{held:?}");
}

#[tokio::test]
async fn a_new_key_begins_a_segment_whose_predecessor_is_signed_to_its_end() {
    let mut cluster = Cluster::new().await;
    let key = Zeroizing::new("0123456789abcdef0123456789abcdef".to_owned());
    cluster.restart(|config| config.audit_hmac_key = Some(key)).await.unwrap();
    let mut admin = cluster.admin().await;
    let changed = events(&mut admin, "audit.key.changed").await;
    let former = changed[0]["details"]["former_records"].as_u64().unwrap();
    let lines = export(&mut admin, ExportAuditRequest::default()).await.unwrap();
    verify(&lines, audit_key(&mut admin).await).unwrap();
    let ends =
        lines.iter().any(|line| line.starts_with("{\"checkpoint\"") && line.contains(&format!("\"seq\":{former},")));
    assert!(ends, "record {former} has no checkpoint");
}
