//! Keys and certificates exchanged with the real `ssh-keygen`; skipped where there is none. The corpus files hold what
//! it wrote, for machines without it.

use mezite_ssh::cert::verify;
use mezite_ssh::{CertError, CertKind, Certificate, CertificateBuilder, Policy, PrivateKey, PublicKey};
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYGEN: &str = "/usr/bin/ssh-keygen";

/// An empty folder for keys, or `None` where there is no ssh-keygen.
fn workshop() -> Option<tempfile::TempDir> {
    Path::new(KEYGEN).exists().then(|| tempfile::tempdir().unwrap())
}

/// Runs ssh-keygen in `folder` and returns what it printed.
fn keygen(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(KEYGEN).args(arguments).current_dir(folder).env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

fn corpus(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)).unwrap()
}

#[test]
fn it_reads_our_keys() {
    let Some(folder) = workshop() else { return };
    for length in 0..9 {
        let key = PrivateKey::generate().unwrap();
        let comment = "c".repeat(length);
        let name = format!("key{length}");
        write_private(&folder.path().join(&name), &key.to_openssh(&comment));
        let public = keygen(folder.path(), &["-y", "-f", &name]);
        assert_eq!(public.trim(), key.public().to_openssh(&comment));
        let shown = keygen(folder.path(), &["-l", "-f", &name]);
        assert!(shown.contains(&key.public().fingerprint()), "{shown}");
    }
}

#[test]
fn we_read_its_keys() {
    let Some(folder) = workshop() else { return };
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("rsa", "2048")] {
        keygen(folder.path(), &["-q", "-t", kind, "-b", bits, "-N", "", "-C", "a comment", "-f", kind]);
        let (key, comment) = PublicKey::from_openssh(&read(folder.path(), &format!("{kind}.pub"))).unwrap();
        assert_eq!(comment, "a comment");
        let shown = keygen(folder.path(), &["-l", "-f", kind]);
        assert!(shown.contains(&key.fingerprint()), "{shown}");
    }
    let private = PrivateKey::from_openssh(&read(folder.path(), "ed25519")).unwrap();
    let (public, _) = PublicKey::from_openssh(&read(folder.path(), "ed25519.pub")).unwrap();
    assert_eq!(private.public(), public);
    assert!(PrivateKey::from_openssh(&read(folder.path(), "rsa")).is_err());

    keygen(folder.path(), &["-q", "-t", "ed25519", "-N", "a passphrase", "-f", "locked"]);
    let locked = PrivateKey::from_openssh(&read(folder.path(), "locked"));
    assert_eq!(locked.unwrap_err(), mezite_ssh::KeyError::Encrypted);
    for (kind, bits) in [("dsa", "1024"), ("ecdsa", "384"), ("rsa", "1024")] {
        let name = format!("weak-{kind}");
        keygen(folder.path(), &["-q", "-t", kind, "-b", bits, "-N", "", "-f", &name]);
        assert!(PublicKey::from_openssh(&read(folder.path(), &format!("{name}.pub"))).is_err(), "{kind}");
    }
}

#[test]
fn it_reads_our_certificates() {
    let Some(folder) = workshop() else { return };
    let authority = PrivateKey::generate().unwrap();
    let key = PrivateKey::generate().unwrap();
    let certificate = CertificateBuilder {
        public_key: key.public(),
        serial: 42,
        kind: CertKind::User,
        key_id: "user-1".into(),
        principals: vec!["ubuntu".into(), "deploy".into()],
        valid_after: 1_767_225_600,
        valid_before: 1_767_225_600 + 3_600,
        critical_options: vec![("source-address".into(), b"192.0.2.0/24,2001:db8::/32".to_vec())],
        extensions: vec![
            ("permit-pty".into(), vec![]),
            ("roles@example.com".into(), b"[\"access\"]".to_vec()),
            ("permit-X11-forwarding".into(), vec![]),
        ],
    }
    .sign(&authority)
    .unwrap();
    fs::write(folder.path().join("key-cert.pub"), certificate.to_openssh("ours")).unwrap();
    let shown = keygen(folder.path(), &["-L", "-f", "key-cert.pub"]);
    for line in [
        "Type: ssh-ed25519-cert-v01@openssh.com user certificate".to_owned(),
        format!("Public key: ED25519-CERT {}", key.public().fingerprint()),
        format!("Signing CA: ED25519 {} (using ssh-ed25519)", authority.public().fingerprint()),
        "Key ID: \"user-1\"".into(),
        "Serial: 42".into(),
        "Valid: from 2026-01-01T00:00:00 to 2026-01-01T01:00:00".into(),
        "deploy".into(),
        "source-address 192.0.2.0/24,2001:db8::/32".into(),
        "permit-X11-forwarding".into(),
        "permit-pty".into(),
    ] {
        assert!(shown.lines().any(|shown| shown.trim() == line), "{line} is not in\n{shown}");
    }
    assert!(shown.contains("roles@example.com UNKNOWN OPTION"), "{shown}");
    assert!(!shown.contains("permit-pty UNKNOWN"), "{shown}");
}

#[test]
fn we_read_its_certificates() {
    let Some(folder) = workshop() else { return };
    let folder = folder.path();
    keygen(folder, &["-q", "-t", "ed25519", "-N", "", "-f", "key"]);
    for (kind, accepted) in [("ed25519", true), ("ecdsa", true), ("rsa", false)] {
        keygen(folder, &["-q", "-t", kind, "-N", "", "-f", kind]);
        keygen(
            folder,
            &[
                "-q",
                "-s",
                kind,
                "-I",
                "user-1",
                "-n",
                "ubuntu,deploy",
                "-z",
                "42",
                "-V",
                "20260101000000Z:20260101010000Z",
                "-O",
                "source-address=192.0.2.0/24",
                "-O",
                "extension:roles@example.com=[\"access\"]",
                "key.pub",
            ],
        );
        let line = read(folder, "key-cert.pub");
        if !accepted {
            assert!(matches!(Certificate::from_openssh(&line), Err(CertError::Malformed(_))));
            continue;
        }
        let (certificate, _) = Certificate::from_openssh(&line).unwrap();
        let (authority, _) = PublicKey::from_openssh(&read(folder, &format!("{kind}.pub"))).unwrap();
        assert_eq!(certificate.principals, ["ubuntu", "deploy"]);
        assert_eq!(certificate.serial, 42);
        assert_eq!(certificate.extension("roles@example.com").as_deref(), Some("[\"access\"]"));
        assert_eq!(certificate.extension("permit-pty").as_deref(), Some(""));
        let policy = Policy {
            kind: CertKind::User,
            authorities: &[authority],
            now_unix: certificate.valid_after,
            principal: Some("deploy"),
            source: Some("192.0.2.9".parse().unwrap()),
        };
        verify(&certificate, &policy).unwrap();
    }
}

#[test]
fn what_it_wrote_is_judged_the_same_everywhere() {
    let authority = |name: &str| PublicKey::from_openssh(&corpus(name)).unwrap().0;
    let authorities = [authority("ed25519-authority.pub"), authority("p256-authority.pub")];
    let policy = Policy {
        kind: CertKind::User,
        authorities: &authorities,
        now_unix: 1_767_225_600,
        principal: Some("ubuntu"),
        source: Some("2001:db8::1".parse().unwrap()),
    };
    let host = Policy { kind: CertKind::Host, principal: Some("db-1.example"), ..policy };
    for (name, policy, expected) in [
        ("user-cert.pub", policy, ""),
        ("user-p256-cert.pub", policy, ""),
        ("user-source-cert.pub", policy, ""),
        ("host-cert.pub", host, ""),
        ("host-cert.pub", policy, "a user certificate is needed, this is a host certificate"),
        ("user-cert.pub", Policy { now_unix: 1_767_225_600 + 7_200, ..policy }, "certificate expired"),
        (
            "user-cert.pub",
            Policy { authorities: &authorities[1..], ..policy },
            "the certificate is signed by an unknown",
        ),
        ("user-forced-cert.pub", policy, "the certificate has the unknown critical option \"force-command\""),
        ("user-forever-cert.pub", policy, "the certificate has no end"),
        ("user-nobody-cert.pub", policy, "the certificate has no principals"),
        ("user-rsa-authority-cert.pub", policy, "malformed certificate: the signing key must be"),
        ("user-rsa-cert.pub", policy, "unsupported certificate type \"ssh-rsa-cert-v01@openssh.com\""),
    ] {
        let verdict = Certificate::from_openssh(&corpus(name)).and_then(|(parsed, _)| verify(&parsed, &policy));
        let shown = verdict.map_or_else(|error| error.to_string(), |()| String::new());
        assert!(shown.starts_with(expected) && shown.is_empty() == expected.is_empty(), "{name}: {shown}");
    }
}
