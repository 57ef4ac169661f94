//! The certificate corpus: each case is one certificate, one policy, one verdict.

use crate::forge::{Forged, authority, flag, option, p256, p256_sign, strings};
use mezite_ssh::cert::{CLOCK_ALLOWANCE, MAX_CERTIFICATE_LEN, verify};
use mezite_ssh::wire::{put_mpint, put_string, put_u32};
use mezite_ssh::{CertError, CertKind, Certificate, Policy, PrivateKey, PublicKey};
use std::net::IpAddr;

const ACCEPTED: &str = "Ok";

fn policy(authorities: &[PublicKey]) -> Policy<'_> {
    Policy {
        kind: CertKind::User,
        authorities,
        now_unix: 1_500,
        principal: Some("ubuntu"),
        source: Some("192.0.2.7".parse().unwrap()),
    }
}

fn judge(blob: &[u8], policy: &Policy<'_>) -> Result<(), CertError> {
    verify(&Certificate::from_wire(blob)?, policy)
}

/// Compares the verdict, as `Debug` shows it, with how it must begin.
#[track_caller]
fn expect(case: &str, verdict: &Result<(), CertError>, expected: &str) {
    let shown = match verdict {
        Ok(()) => ACCEPTED.to_owned(),
        Err(error) => format!("{error:?}"),
    };
    assert!(shown.starts_with(expected), "{case}: expected {expected}, got {shown}");
}

type Edit = fn(&mut Forged);

/// Certificates signed by the trusted authority, judged under the plain policy.
const SIGNED: &[(&str, Edit, &str)] = &[
    ("unchanged", |_| (), ACCEPTED),
    ("no extensions", |c| c.extensions.clear(), ACCEPTED),
    ("last second", |c| (c.valid_after, c.valid_before) = (0, 1_501), ACCEPTED),
    // Kind.
    ("host certificate", |c| c.kind = 2, "WrongKind"),
    ("kind 0", |c| c.kind = 0, "Malformed(\"neither"),
    ("kind 3", |c| c.kind = 3, "Malformed(\"neither"),
    // Type of the certificate.
    ("plain key", |c| c.name = b"ssh-ed25519".to_vec(), "UnsupportedType"),
    ("rsa certificate", |c| c.name = b"ssh-rsa-cert-v01@openssh.com".to_vec(), "UnsupportedType"),
    ("version 00", |c| c.name = b"ssh-ed25519-cert-v00@openssh.com".to_vec(), "UnsupportedType"),
    ("hardware key", |c| c.name = b"sk-ssh-ed25519-cert-v01@openssh.com".to_vec(), "UnsupportedType"),
    ("name with NUL", |c| c.name.push(0), "UnsupportedType"),
    ("short subject key", |c| c.public_key.truncate(31), "Malformed(\"an Ed25519 key"),
    ("long subject key", |c| c.public_key.push(0), "Malformed(\"an Ed25519 key"),
    ("no nonce", |c| c.nonce.clear(), "Malformed(\"the nonce"),
    ("huge nonce", |c| c.nonce = vec![0; 65], "Malformed(\"the nonce"),
    ("reserved field in use", |c| c.reserved = vec![0], "Malformed(\"the reserved"),
    // Key id.
    ("empty key id", |c| c.key_id.clear(), ACCEPTED),
    ("key id with line end", |c| c.key_id = b"user\n1".to_vec(), "Malformed(\"the key id"),
    ("key id with escape", |c| c.key_id = b"\x1b[2J".to_vec(), "Malformed(\"the key id"),
    ("key id not UTF-8", |c| c.key_id = vec![0xff], "Wire(NotUtf8)"),
    ("huge key id", |c| c.key_id = vec![b'a'; 1_025], "Malformed(\"the key id"),
    // Principals.
    ("no principals", |c| c.principals.clear(), "NoPrincipals"),
    ("other principal", |c| c.principals = vec![b"root".to_vec()], "PrincipalMismatch"),
    ("second principal", |c| c.principals.swap(0, 1), ACCEPTED),
    ("empty principal", |c| c.principals.push(vec![]), "Malformed(\"a principal"),
    ("comma in principal", |c| c.principals = vec![b"ubuntu,root".to_vec()], "Malformed(\"a principal"),
    ("NUL in principal", |c| c.principals = vec![b"ubuntu\0".to_vec()], "Malformed(\"a principal"),
    ("line end in principal", |c| c.principals = vec![b"ubuntu\n".to_vec()], "Malformed(\"a principal"),
    ("space in principal", |c| c.principals = vec![b"ubuntu ".to_vec()], "Malformed(\"a principal"),
    ("star principal", |c| c.principals = vec![b"*".to_vec()], "Malformed(\"a principal"),
    ("wildcard principal", |c| c.principals = vec![b"ubunt?".to_vec()], "Malformed(\"a principal"),
    ("negated principal", |c| c.principals = vec![b"!root".to_vec()], "Malformed(\"a principal"),
    ("trailing dot", |c| c.principals = vec![b"ubuntu.".to_vec()], "PrincipalMismatch"),
    ("prefix of the login", |c| c.principals = vec![b"ubunt".to_vec()], "PrincipalMismatch"),
    ("login as prefix", |c| c.principals = vec![b"ubuntu2".to_vec()], "PrincipalMismatch"),
    ("mixed case", |c| c.principals = vec![b"Ubuntu".to_vec()], "PrincipalMismatch"),
    ("homoglyph", |c| c.principals = vec!["ub\u{446}ntu".into()], "Malformed(\"a principal"),
    ("principal not UTF-8", |c| c.principals = vec![vec![0xff]], "Wire(NotUtf8)"),
    ("256 principals", |c| c.principals = vec![b"ubuntu".to_vec(); 256], ACCEPTED),
    ("257 principals", |c| c.principals = vec![b"ubuntu".to_vec(); 257], "Malformed(\"too many principals"),
    ("huge principal", |c| c.principals.push(vec![b'a'; 513]), "Malformed(\"a principal"),
    // Validity.
    ("ends before it starts", |c| (c.valid_after, c.valid_before) = (2_000, 1_000), "Malformed(\"the validity"),
    ("empty validity", |c| (c.valid_after, c.valid_before) = (1_500, 1_500), "Malformed(\"the validity"),
    ("both zero", |c| (c.valid_after, c.valid_before) = (0, 0), "Malformed(\"the validity"),
    ("never ends", |c| c.valid_before = u64::MAX, "NeverExpires"),
    ("ends in a very far year", |c| c.valid_before = u64::MAX - 1, ACCEPTED),
    ("long expired", |c| (c.valid_after, c.valid_before) = (1, 2), "Expired { now: 1500, valid_before: 2 }"),
    ("far future", |c| (c.valid_after, c.valid_before) = (u64::MAX - 1, u64::MAX), "NeverExpires"),
    ("next year", |c| (c.valid_after, c.valid_before) = (9_000, 9_001), "NotYetValid { now: 1500, valid_after: 9000 }"),
    // Critical options.
    (
        "unknown critical option",
        |c| c.critical = vec![flag("x@example.com")],
        "UnknownCriticalOption(\"x@example.com\")",
    ),
    ("force-command", |c| c.critical = vec![option("force-command", "id")], "UnknownCriticalOption"),
    ("verify-required", |c| c.critical = vec![flag("verify-required")], "UnknownCriticalOption"),
    ("permission as critical option", |c| c.critical = vec![flag("permit-pty")], "UnknownCriticalOption"),
    ("option after source-address", |c| c.critical = vec![option("source-address", "192.0.2.7"), flag("z")], "Unknown"),
    ("source-address in capitals", |c| c.critical = vec![option("Source-Address", "192.0.2.7")], "UnknownCritical"),
    // Order, doubles, form of options.
    ("doubled extension", |c| c.extensions = vec![flag("a"), flag("a")], "Malformed(\"options are"),
    (
        "doubled critical option",
        |c| c.critical = vec![option("source-address", "::/0"), option("source-address", "192.0.2.7")],
        "Malformed(\"options are",
    ),
    ("unordered extensions", |c| c.extensions = vec![flag("b"), flag("a")], "Malformed(\"options are"),
    ("unordered critical options", |c| c.critical = vec![flag("b"), flag("a")], "Malformed(\"options are"),
    ("extension without name", |c| c.extensions = vec![flag("")], "Malformed(\"an option"),
    ("extension name with space", |c| c.extensions = vec![flag("a b")], "Malformed(\"an option"),
    ("huge extension name", |c| c.extensions = vec![flag(&"a".repeat(129))], "Malformed(\"an option"),
    ("data that is no string", |c| c.extensions = vec![(b"a".to_vec(), b"raw".to_vec())], "Wire(Truncated)"),
    ("bytes after the inner string", |c| c.extensions[2].1.push(0), "Wire(Trailing)"),
    ("flag as empty inner string", |c| c.extensions = vec![option("a", "")], "Malformed(\"not in the one"),
    ("value not UTF-8", |c| c.extensions = vec![(b"a".to_vec(), strings(&[vec![0xff]]))], "Malformed(\"an option"),
    ("64 extensions", |c| c.extensions = (0..64).map(|n| flag(&format!("e{n:03}"))).collect(), ACCEPTED),
    (
        "65 extensions",
        |c| c.extensions = (0..65).map(|n| flag(&format!("e{n:03}"))).collect(),
        "Malformed(\"too many options",
    ),
    // Signing key.
    ("signing key is a certificate", |c| c.authority = Forged::user().signed(), "SigningKey(UnsupportedAlgorithm"),
    (
        "signing key is hardware",
        |c| c.authority = strings(&[b"sk-ssh-ed25519@openssh.com".to_vec(), vec![1; 32], b"ssh:".to_vec()]),
        "SigningKey",
    ),
    ("signing key is rsa of 1024 bits", |c| c.authority = rsa(128), "SigningKey(Invalid"),
    ("signing key is rsa of 2048 bits", |c| c.authority = rsa(256), "Malformed(\"the signing key"),
    ("signing key is rsa of 65536 bits", |c| c.authority = rsa(8_192), "SigningKey(Invalid"),
    ("signing key on another curve", |c| c.authority = curve(b"nistp384", 97), "SigningKey(Invalid"),
    ("signing key off its curve", |c| c.authority = curve(b"nistp256", 65), "SigningKey(Invalid"),
    (
        "signing key of type p384",
        |c| c.authority = strings(&[b"ecdsa-sha2-nistp384".to_vec(), b"nistp384".to_vec(), vec![4; 97]]),
        "SigningKey(Unsupported",
    ),
    ("signing key with trailing byte", |c| c.authority.push(0), "SigningKey(Wire(Trailing"),
    ("no signing key", |c| c.authority.clear(), "SigningKey(Wire(Truncated"),
    ("another authority named", |c| c.authority = stranger().public().to_wire(), "UnknownAuthority(\"SHA256:"),
    (
        "larger than 32 KiB",
        |c| c.extensions = vec![option("a", &"x".repeat(MAX_CERTIFICATE_LEN))],
        "Malformed(\"longer than",
    ),
];

fn rsa(modulus_len: usize) -> Vec<u8> {
    let mut out = strings(&[b"ssh-rsa".to_vec()]);
    put_mpint(&mut out, &[1, 0, 1]);
    put_mpint(&mut out, &vec![0xff; modulus_len]);
    out
}

fn curve(name: &[u8], point_len: usize) -> Vec<u8> {
    strings(&[b"ecdsa-sha2-nistp256".to_vec(), name.to_vec(), vec![4; point_len]])
}

fn stranger() -> PrivateKey {
    PrivateKey::from_seed([8; 32]).unwrap()
}

#[test]
fn signed_certificates() {
    let authorities = [authority().public()];
    for (case, edit, expected) in SIGNED {
        let mut forged = Forged::user();
        edit(&mut forged);
        expect(case, &judge(&forged.signed(), &policy(&authorities)), expected);
    }
}

#[test]
fn signatures() {
    let authorities = [authority().public()];
    let forged = Forged::user();
    let body = forged.body();
    let good = authority().sign(&body);
    let raw = good[good.len() - 64..].to_vec();
    let named = |name: &str| strings(&[name.into(), raw.clone()]);
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("good", good.clone(), ACCEPTED),
        ("stranger's", stranger().sign(&body), "BadSignature"),
        ("of something else", authority().sign(b"x"), "BadSignature"),
        ("empty", vec![], "BadSignature"),
        ("twice", [&good[..], &good].concat(), "BadSignature"),
        ("with a trailing byte", [&good[..], &[0]].concat(), "BadSignature"),
        ("cut", good[..good.len() - 1].to_vec(), "BadSignature"),
        ("named rsa-sha2-256", named("rsa-sha2-256"), "BadSignature"),
        ("named ecdsa", named("ecdsa-sha2-nistp256"), "BadSignature"),
        ("named as the certificate type", named("ssh-ed25519-cert-v01@openssh.com"), "BadSignature"),
        ("without name", named(""), "BadSignature"),
    ];
    for (case, signature, expected) in cases {
        expect(case, &judge(&forged.with_signature(&signature), &policy(&authorities)), expected);
    }
    expect("no authorities", &judge(&forged.signed(), &policy(&[])), "UnknownAuthority");
    let trailing = [forged.signed(), vec![0]].concat();
    expect("trailing byte", &judge(&trailing, &policy(&authorities)), "Wire(Trailing)");
    let two = [forged.signed(), forged.signed()].concat();
    expect("two certificates", &judge(&two, &policy(&authorities)), "Wire(Trailing)");
}

#[test]
fn a_p256_authority_signs_with_p256_only() {
    let (pair, key) = p256();
    let authorities = [key.clone()];
    let forged = Forged { authority: key.to_wire(), ..Forged::user() };
    let good = p256_sign(&pair, &forged.body());
    expect("good", &judge(&forged.with_signature(&good), &policy(&authorities)), ACCEPTED);
    let other = p256_sign(&p256().0, &forged.body());
    expect("another key", &judge(&forged.with_signature(&other), &policy(&authorities)), "BadSignature");
    expect("ed25519 signature", &judge(&forged.signed(), &policy(&authorities)), "BadSignature");
    let renamed = [strings(&[b"ecdsa-sha2-nistp384".to_vec()]), good[23..].to_vec()].concat();
    expect("named nistp384", &judge(&forged.with_signature(&renamed), &policy(&authorities)), "BadSignature");
    expect("unknown", &judge(&forged.with_signature(&good), &policy(&[authority().public()])), "UnknownAuthority");
}

#[test]
fn a_nested_certificate_never_makes_its_signer_an_authority() {
    // The signer holds a good certificate and signs another one with its own key, naming the certificate as signer.
    let authorities = [authority().public()];
    let signer = stranger();
    let PublicKey::Ed25519(signer_key) = signer.public() else { unreachable!() };
    let intermediate = Forged { public_key: signer_key.to_vec(), ..Forged::user() }.signed();
    let nested = Forged { authority: intermediate.clone(), ..Forged::user() };
    let blob = nested.with_signature(&signer.sign(&nested.body()));
    expect("nested", &judge(&blob, &policy(&authorities)), "SigningKey(UnsupportedAlgorithm");
    assert!(PublicKey::from_wire(&intermediate).is_err(), "a certificate cannot enter the set of authorities");
}

#[test]
fn clocks_may_be_off_by_the_allowance() {
    let authorities = [authority().public()];
    let blob = Forged::user().signed();
    for (now, expected) in [
        (0, "NotYetValid { now: 0, valid_after: 1000 }"),
        (1_000 - CLOCK_ALLOWANCE - 1, "NotYetValid"),
        (1_000 - CLOCK_ALLOWANCE, ACCEPTED),
        (1_000, ACCEPTED),
        (1_999, ACCEPTED),
        (2_000, ACCEPTED),
        (2_000 + CLOCK_ALLOWANCE - 1, ACCEPTED),
        (2_000 + CLOCK_ALLOWANCE, "Expired { now: 2060, valid_before: 2000 }"),
        (2_000 + CLOCK_ALLOWANCE + 1, "Expired"),
        (u64::MAX, "Expired"),
    ] {
        let policy = Policy { now_unix: now, ..policy(&authorities) };
        expect(&now.to_string(), &judge(&blob, &policy), expected);
    }
}

#[test]
fn source_addresses() {
    let authorities = [authority().public()];
    for (list, source, expected) in [
        ("192.0.2.7", Some("192.0.2.7"), ACCEPTED),
        ("192.0.2.7", Some("192.0.2.8"), "SourceAddress"),
        ("192.0.2.7", Some("::ffff:192.0.2.7"), ACCEPTED),
        ("192.0.2.0/24,2001:db8::/32", Some("2001:db8::5"), ACCEPTED),
        ("192.0.2.0/24,2001:db8::/32", Some("198.51.100.1"), "SourceAddress"),
        ("0.0.0.0/0", Some("2001:db8::5"), "SourceAddress"),
        ("192.0.2.7", None, "SourceAddress"),
        ("0.0.0.0/0,::/0", None, "SourceAddress"),
        ("192.0.2.7,", Some("192.0.2.7"), "SourceAddress"),
        ("192.0.2.7,office", Some("192.0.2.7"), "SourceAddress"),
        ("192.0.2.7/0", Some("192.0.2.7"), "SourceAddress"),
        ("192.0.2.0/99", Some("192.0.2.7"), "SourceAddress"),
        ("*", Some("192.0.2.7"), "SourceAddress"),
    ] {
        let blob = Forged { critical: vec![option("source-address", list)], ..Forged::user() }.signed();
        let source = source.map(|address| address.parse::<IpAddr>().unwrap());
        expect(list, &judge(&blob, &Policy { source, ..policy(&authorities) }), expected);
    }
    let flag_only = Forged { critical: vec![flag("source-address")], ..Forged::user() }.signed();
    expect("empty list", &judge(&flag_only, &policy(&authorities)), "SourceAddress");
    expect("no option", &judge(&Forged::user().signed(), &Policy { source: None, ..policy(&authorities) }), ACCEPTED);
}

#[test]
fn host_certificates() {
    let authorities = [authority().public()];
    let host = |edit: Edit| {
        let mut forged = Forged { kind: 2, principals: vec![b"db-1.example".to_vec()], ..Forged::user() };
        edit(&mut forged);
        forged.signed()
    };
    let policy = Policy { kind: CertKind::Host, principal: Some("db-1.example"), source: None, ..policy(&authorities) };
    expect("host", &judge(&host(|_| ()), &policy), ACCEPTED);
    expect("user", &judge(&host(|c| c.kind = 1), &policy), "WrongKind { wanted: Host, found: User }");
    expect("short name", &judge(&host(|_| ()), &Policy { principal: Some("db-1"), ..policy }), "PrincipalMismatch");
    expect("no name asked", &judge(&host(|_| ()), &Policy { principal: None, ..policy }), ACCEPTED);
    expect("no names", &judge(&host(|c| c.principals.clear()), &Policy { principal: None, ..policy }), "NoPrincipals");
    // A host certificate knows no critical option at all.
    let bound = host(|c| c.critical = vec![option("source-address", "192.0.2.7")]);
    expect("source-address", &judge(&bound, &policy), "UnknownCriticalOption");
}

#[test]
fn huge_lengths_are_refused_at_every_field() {
    let blob = Forged::user().signed();
    let authorities = [authority().public()];
    for offset in 0..blob.len() - 4 {
        for length in [u32::MAX, 0x8000_0000, 0x0100_0000] {
            let mut damaged = blob.clone();
            damaged[offset..offset + 4].copy_from_slice(&length.to_be_bytes());
            assert!(damaged == blob || judge(&damaged, &policy(&authorities)).is_err(), "offset {offset}");
        }
    }
    let mut principals = Vec::new();
    put_u32(&mut principals, u32::MAX);
    let mut head = Vec::new();
    put_string(&mut head, b"ssh-ed25519-cert-v01@openssh.com");
    assert!(judge(&[head, principals].concat(), &policy(&authorities)).is_err());
}

#[test]
fn every_bit_counts_and_every_cut_is_refused() {
    let blob = Forged { critical: vec![option("source-address", "192.0.2.0/24")], ..Forged::user() }.signed();
    let authorities = [authority().public()];
    expect("unchanged", &judge(&blob, &policy(&authorities)), ACCEPTED);
    for bit in 0..blob.len() * 8 {
        let mut damaged = blob.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(judge(&damaged, &policy(&authorities)).is_err(), "bit {bit}");
    }
    for end in 0..blob.len() {
        assert!(Certificate::from_wire(&blob[..end]).is_err(), "cut at {end}");
    }
}
