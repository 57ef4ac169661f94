use super::*;
use crate::key::PrivateKey;
use proptest::prelude::*;

fn builder(authority: &PrivateKey) -> (CertificateBuilder, [PublicKey; 1]) {
    let builder = CertificateBuilder {
        public_key: PrivateKey::from_seed([2; 32]).unwrap().public(),
        serial: 7,
        kind: CertKind::User,
        key_id: "user-1".into(),
        principals: vec!["ubuntu".into(), "deploy".into()],
        valid_after: 1_000,
        valid_before: 2_000,
        critical_options: vec![],
        extensions: vec![("roles@example.com".into(), b"[\"access\"]".to_vec()), ("permit-pty".into(), vec![])],
    };
    (builder, [authority.public()])
}

fn policy(authorities: &[PublicKey]) -> Policy<'_> {
    Policy { kind: CertKind::User, authorities, now_unix: 1_500, principal: Some("ubuntu"), source: None }
}

#[test]
fn what_is_signed_parses_and_verifies() {
    let authority = PrivateKey::from_seed([1; 32]).unwrap();
    let (builder, authorities) = builder(&authority);
    let certificate = builder.sign(&authority).unwrap();
    let parsed = Certificate::from_wire(&certificate.to_wire()).unwrap();
    assert_eq!(parsed, certificate);
    assert_eq!(Certificate::from_openssh(&certificate.to_openssh("c")).unwrap(), (parsed.clone(), "c".into()));
    verify(&parsed, &policy(&authorities)).unwrap();
    assert_eq!(parsed.extension("roles@example.com").as_deref(), Some("[\"access\"]"));
    assert_eq!(parsed.extension("permit-pty").as_deref(), Some(""));
    assert_eq!(parsed.extension("permit"), None);
    assert_eq!(parsed.extensions[0].0, "permit-pty");
    assert_eq!(parsed.fingerprint(), parsed.public_key.fingerprint());
}

#[test]
fn nonces_differ() {
    let authority = PrivateKey::from_seed([1; 32]).unwrap();
    let (builder, _) = builder(&authority);
    assert_ne!(builder.clone().sign(&authority).unwrap().to_wire(), builder.sign(&authority).unwrap().to_wire());
}

#[test]
fn an_edited_field_breaks_the_signature() {
    let authority = PrivateKey::from_seed([1; 32]).unwrap();
    let (builder, authorities) = builder(&authority);
    let signed = builder.sign(&authority).unwrap();
    let edits: [fn(&mut Certificate); 9] = [
        |c| c.public_key = PrivateKey::from_seed([9; 32]).unwrap().public(),
        |c| c.serial += 1,
        |c| c.key_id.push('x'),
        |c| c.principals.push("root".into()),
        |c| c.valid_after -= 1,
        |c| c.valid_before += 1,
        |c| c.critical_options.push((SOURCE_ADDRESS.into(), b"192.0.2.0/24".to_vec())),
        |c| drop(c.extensions.pop()),
        |c| c.nonce[0] ^= 1,
    ];
    for (index, edit) in edits.into_iter().enumerate() {
        let mut edited = signed.clone();
        edit(&mut edited);
        assert_eq!(verify(&edited, &policy(&authorities)), Err(CertError::BadSignature), "edit {index}");
    }
    let mut other_key = signed.clone();
    other_key.public_key = PublicKey::Rsa { e: vec![3], n: vec![0xff; 256] };
    assert!(matches!(verify(&other_key, &policy(&authorities)), Err(CertError::Malformed(_))));
}

#[test]
fn what_would_be_refused_is_not_signed() {
    let authority = PrivateKey::from_seed([1; 32]).unwrap();
    let (good, _) = builder(&authority);
    let refused = |edit: fn(&mut CertificateBuilder)| {
        let mut edited = good.clone();
        edit(&mut edited);
        edited.sign(&authority).unwrap_err()
    };
    assert_eq!(refused(|b| b.principals.clear()), CertError::NoPrincipals);
    assert_eq!(refused(|b| b.valid_before = u64::MAX), CertError::NeverExpires);
    assert_eq!(
        refused(|b| b.critical_options = vec![(SOURCE_ADDRESS.into(), b"office".to_vec())]),
        CertError::SourceAddress { allowed: "office".into(), found: None }
    );
    let malformed: [fn(&mut CertificateBuilder); 12] = [
        |b| b.principals = vec!["a,b".into()],
        |b| b.principals = vec![String::new()],
        |b| b.principals = vec!["*".into()],
        |b| b.principals = vec!["a".repeat(MAX_PRINCIPAL_LEN + 1)],
        |b| b.principals = vec!["a".into(); MAX_PRINCIPALS + 1],
        |b| b.key_id = "a\nb".into(),
        |b| b.key_id = "a".repeat(MAX_KEY_ID_LEN + 1),
        |b| b.valid_after = b.valid_before,
        |b| b.extensions = vec![("a".into(), vec![]), ("a".into(), b"x".to_vec())],
        |b| b.extensions = vec![("a".into(), vec![0xff])],
        |b| b.extensions = vec![("a".into(), vec![b'x'; MAX_CERTIFICATE_LEN])],
        |b| b.public_key = PublicKey::Rsa { e: vec![3], n: vec![0xff; 256] },
    ];
    for (index, edit) in malformed.into_iter().enumerate() {
        assert!(matches!(refused(edit), CertError::Malformed(_)), "edit {index}");
    }
}

#[test]
fn time_errors_name_both_clocks() {
    let expired = CertError::Expired { now: 1_767_225_600, valid_before: 951_782_399 };
    assert_eq!(
        expired.to_string(),
        "certificate expired: it ended at 2000-02-28T23:59:59Z, and the clock here says 2026-01-01T00:00:00Z; \
         get a new one, or set the clocks right"
    );
    let early = CertError::NotYetValid { now: 0, valid_after: 951_782_400 };
    assert_eq!(
        early.to_string(),
        "certificate not yet valid: it starts at 2000-02-29T00:00:00Z, and the clock here says 1970-01-01T00:00:00Z; \
         set the clocks right"
    );
    assert!(Utc(u64::MAX).to_string().starts_with("584554051223-"));
}

prop_compose! {
    fn options()(options in proptest::collection::btree_map("[a-z@.-]{1,20}", "\\PC{0,40}", 0..6)) -> Vec<(String, Vec<u8>)> {
        options.into_iter().map(|(name, value)| (name, value.into_bytes())).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn certificates_round_trip_and_no_prefix_is_one(
        serial: u64,
        host: bool,
        key_id in "\\PC{0,40}",
        principals in proptest::collection::vec("[a-zA-Z0-9._@-]{1,20}", 1..5),
        valid_after in 0..1_000_000u64,
        length in 1..1_000_000u64,
        extensions in options(),
    ) {
        let authority = PrivateKey::from_seed([1; 32]).unwrap();
        let kind = if host { CertKind::Host } else { CertKind::User };
        let certificate = CertificateBuilder {
            public_key: PrivateKey::from_seed([2; 32]).unwrap().public(),
            serial, kind, key_id, principals, valid_after,
            valid_before: valid_after + length,
            critical_options: vec![],
            extensions,
        }.sign(&authority).unwrap();
        let wire = certificate.to_wire();
        prop_assert_eq!(Certificate::from_wire(&wire).unwrap(), certificate);
        for end in 0..wire.len() {
            prop_assert!(Certificate::from_wire(&wire[..end]).is_err());
        }
    }

    #[test]
    fn a_changed_bit_is_never_accepted(bit in 0usize..10_000) {
        let authority = PrivateKey::from_seed([1; 32]).unwrap();
        let (builder, authorities) = builder(&authority);
        let mut wire = builder.sign(&authority).unwrap().to_wire();
        let bit = bit % (wire.len() * 8);
        wire[bit / 8] ^= 1 << (bit % 8);
        let accepted = Certificate::from_wire(&wire).and_then(|parsed| verify(&parsed, &policy(&authorities)));
        prop_assert!(accepted.is_err());
    }

    #[test]
    fn random_bytes_never_panic(data: Vec<u8>) {
        let mut blob = Vec::new();
        put_utf8(&mut blob, CERTIFICATE_NAME);
        blob.extend_from_slice(&data);
        prop_assert!(Certificate::from_wire(&blob).is_err());
        prop_assert!(Certificate::from_wire(&data).is_err());
    }
}
