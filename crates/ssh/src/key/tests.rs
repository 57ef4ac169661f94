use super::*;
use crate::wire::put_u32;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding,
};
use proptest::prelude::*;

// RFC 8032 section 7.1, test 1.
const SEED: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49, 0xc5,
    0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];

fn blob(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        put_string(&mut out, part);
    }
    out
}

fn p256() -> (EcdsaKeyPair, PublicKey) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let key = PublicKey::EcdsaP256(pair.public_key().as_ref().try_into().unwrap());
    (pair, key)
}

fn p256_signature(pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let signature = pair.sign(&SystemRandom::new(), message).unwrap();
    let (r, s) = signature.as_ref().split_at(32);
    let mut numbers = Vec::new();
    put_mpint(&mut numbers, r);
    put_mpint(&mut numbers, s);
    blob(&[ECDSA_P256_NAME.as_bytes(), &numbers])
}

fn rsa_wire(bits: usize) -> Vec<u8> {
    let mut modulus = vec![0; bits.div_ceil(8)];
    modulus[0] = 1 << ((bits - 1) % 8);
    *modulus.last_mut().unwrap() |= 1;
    let mut out = blob(&[b"ssh-rsa"]);
    put_mpint(&mut out, &[1, 0, 1]);
    put_mpint(&mut out, &modulus);
    out
}

#[test]
fn ed25519_signs_as_rfc_8032_says() {
    let key = PrivateKey::from_seed(SEED).unwrap();
    let signature = key.sign(b"");
    assert_eq!(signature[signature.len() - 64..][..4], [0xe5, 0x56, 0x43, 0x00]);
    key.public().verify(ED25519_NAME, b"", &signature).unwrap();
    assert_eq!(key.public().verify(ED25519_NAME, b"x", &signature), Err(KeyError::BadSignature));
    assert_eq!(*key.seed(), SEED);
}

#[test]
fn signatures_of_another_algorithm_are_refused() {
    let key = PrivateKey::generate().unwrap();
    let signature = key.sign(b"m");
    for name in [ECDSA_P256_NAME, RSA_SHA256_NAME, RSA_NAME, "", "ssh-ed25519-cert-v01@openssh.com"] {
        assert_eq!(key.public().verify(name, b"m", &signature), Err(KeyError::SignatureAlgorithm), "{name}");
        let renamed = blob(&[name.as_bytes(), &signature[signature.len() - 64..]]);
        assert_eq!(key.public().verify(name, b"m", &renamed), Err(KeyError::SignatureAlgorithm), "{name}");
        assert_eq!(key.public().verify(ED25519_NAME, b"m", &renamed), Err(KeyError::SignatureAlgorithm), "{name}");
    }
}

#[test]
fn signatures_with_trailing_or_missing_bytes_are_refused() {
    let key = PrivateKey::generate().unwrap();
    let signature = key.sign(b"m");
    let verify = |blob: &[u8]| key.public().verify(ED25519_NAME, b"m", blob);
    assert_eq!(verify(&[&signature[..], &[0]].concat()), Err(KeyError::Wire(WireError::Trailing)));
    assert_eq!(verify(&[&signature[..], &signature[..]].concat()), Err(KeyError::Wire(WireError::Trailing)));
    let raw = &signature[signature.len() - 64..];
    assert_eq!(verify(&blob(&[b"ssh-ed25519", &raw[1..]])), Err(KeyError::BadSignature));
    assert_eq!(verify(&blob(&[b"ssh-ed25519", &[raw, &[0]].concat()])), Err(KeyError::BadSignature));
    for end in 0..signature.len() {
        assert!(verify(&signature[..end]).is_err());
    }
}

#[test]
fn p256_keys_verify() {
    let (pair, key) = p256();
    let signature = p256_signature(&pair, b"m");
    key.verify(ECDSA_P256_NAME, b"m", &signature).unwrap();
    assert_eq!(key.verify(ECDSA_P256_NAME, b"n", &signature), Err(KeyError::BadSignature));
    assert_eq!(PublicKey::from_wire(&key.to_wire()).unwrap(), key);
    // r or s of 33 bytes, and r = s = 0.
    for numbers in [[&[1u8; 33][..], &[1][..]], [&[], &[]]] {
        let mut inner = Vec::new();
        for number in numbers {
            put_mpint(&mut inner, number);
        }
        let forged = blob(&[ECDSA_P256_NAME.as_bytes(), &inner]);
        assert_eq!(key.verify(ECDSA_P256_NAME, b"m", &forged), Err(KeyError::BadSignature));
    }
}

#[test]
fn short_numbers_of_a_p256_signature_are_padded() {
    let (pair, key) = p256();
    let short = (0u32..10_000).find_map(|count| {
        let message = count.to_be_bytes();
        let signature = pair.sign(&SystemRandom::new(), &message).unwrap();
        (signature.as_ref()[0] == 0 || signature.as_ref()[32] == 0).then_some((message, signature))
    });
    let (message, signature) = short.unwrap();
    let mut inner = Vec::new();
    put_mpint(&mut inner, &signature.as_ref()[..32]);
    put_mpint(&mut inner, &signature.as_ref()[32..]);
    key.verify(ECDSA_P256_NAME, &message, &blob(&[ECDSA_P256_NAME.as_bytes(), &inner])).unwrap();
}

#[test]
fn malformed_p256_keys_are_refused() {
    let (_, key) = p256();
    let PublicKey::EcdsaP256(point) = key else { unreachable!() };
    let mut off_curve = point;
    off_curve[64] ^= 1;
    let compressed = [&[2 + (point[64] & 1)], &point[1..33]].concat();
    let name = ECDSA_P256_NAME.as_bytes();
    for (curve, bytes) in
        [(&b"nistp384"[..], &point[..]), (b"nistp256", &off_curve), (b"nistp256", &compressed), (b"nistp256", &[0])]
    {
        assert!(matches!(PublicKey::from_wire(&blob(&[name, curve, bytes])), Err(KeyError::Invalid(_))));
    }
    let other = blob(&[b"ecdsa-sha2-nistp384", b"nistp256", &point]);
    assert_eq!(PublicKey::from_wire(&other), Err(KeyError::UnsupportedAlgorithm("ecdsa-sha2-nistp384".into())));
}

#[test]
fn rsa_verifies_sha2_and_never_sha1() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    // DER of RSAPublicKey: SEQUENCE { INTEGER of 257 bytes, INTEGER 65537 }.
    let der = pair.public_key().as_ref();
    let key = PublicKey::Rsa { e: der[der.len() - 3..].to_vec(), n: der[9..][..256].to_vec() };
    assert_eq!(PublicKey::from_wire(&key.to_wire()).unwrap(), key);
    for (encoding, name) in
        [(&RSA_PKCS1_SHA256 as &'static dyn RsaEncoding, RSA_SHA256_NAME), (&RSA_PKCS1_SHA512, RSA_SHA512_NAME)]
    {
        let mut raw = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), b"m", &mut raw).unwrap();
        key.verify(name, b"m", &blob(&[name.as_bytes(), &raw])).unwrap();
        assert_eq!(key.verify(name, b"n", &blob(&[name.as_bytes(), &raw])), Err(KeyError::BadSignature));
        assert_eq!(key.verify(RSA_NAME, b"m", &blob(&[b"ssh-rsa", &raw])), Err(KeyError::SignatureAlgorithm));
    }
}

#[test]
fn rsa_sizes_are_bounded() {
    for bits in [2048, 3072, 8192] {
        PublicKey::from_wire(&rsa_wire(bits)).unwrap();
    }
    for bits in [512, 1024, 2047, 8193, 65_536] {
        assert!(matches!(PublicKey::from_wire(&rsa_wire(bits)), Err(KeyError::Invalid(_))), "{bits}");
    }
    for exponent in [&[][..], &[1], &[2], &[1, 0, 0], &[1, 0, 0, 0, 0, 1]] {
        let mut key = blob(&[b"ssh-rsa"]);
        put_mpint(&mut key, exponent);
        put_mpint(&mut key, &[0xff; 256]);
        assert!(matches!(PublicKey::from_wire(&key), Err(KeyError::Invalid(_))), "{exponent:?}");
    }
}

#[test]
fn other_key_types_and_certificates_are_no_keys() {
    for name in ["ssh-dss", "ssh-ed25519-cert-v01@openssh.com", "sk-ssh-ed25519@openssh.com", "ssh-ed448", ""] {
        let key = blob(&[name.as_bytes(), &[0; 32]]);
        assert_eq!(PublicKey::from_wire(&key), Err(KeyError::UnsupportedAlgorithm(name.into())));
    }
    assert!(matches!(PublicKey::from_wire(&blob(&[b"ssh-ed25519", &[0; 31]])), Err(KeyError::Invalid(_))));
    assert_eq!(PublicKey::from_wire(&blob(&[b"ssh-ed25519", &[0; 32], b""])), Err(KeyError::Wire(WireError::Trailing)));
    let mut huge = blob(&[b"ssh-ed25519"]);
    put_u32(&mut huge, u32::MAX);
    assert_eq!(PublicKey::from_wire(&huge), Err(KeyError::Wire(WireError::Truncated)));
}

#[test]
fn text_forms_round_trip() {
    let key = PrivateKey::from_seed(SEED).unwrap().public();
    let line = key.to_openssh("alice@laptop\n");
    assert_eq!(line, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea alice@laptop");
    assert_eq!(PublicKey::from_openssh(&line).unwrap(), (key.clone(), "alice@laptop".into()));
    assert_eq!(PublicKey::from_openssh(&key.to_openssh("")).unwrap(), (key.clone(), String::new()));
    let authority = key.to_known_hosts_authority();
    assert!(authority.starts_with("@cert-authority * ssh-ed25519 AAAA"));
    assert_eq!(PublicKey::from_known_hosts_authority(&authority).unwrap(), key);
    assert!(PublicKey::from_known_hosts_authority(&line).is_err());
    assert_eq!(format!("{key:?}"), format!("PublicKey(ssh-ed25519 {})", key.fingerprint()));
}

#[test]
fn malformed_lines_are_refused() {
    let line = PrivateKey::from_seed(SEED).unwrap().public().to_openssh("");
    let encoded = line.split(' ').nth(1).unwrap();
    for wrong in [
        String::new(),
        "ssh-ed25519".into(),
        encoded.into(),
        format!("ssh-rsa {encoded}"),
        format!("{line}\n{line}"),
        format!("no-pty {line}"),
        format!("ssh-ed25519 {encoded}="),
        format!("ssh-ed25519 {}", "A".repeat(1 << 20)),
    ] {
        assert!(PublicKey::from_openssh(&wrong).is_err(), "{wrong:.80}");
    }
}

#[test]
fn private_keys_round_trip_for_every_padding() {
    let key = PrivateKey::from_seed(SEED).unwrap();
    for length in 0..9 {
        let file = key.to_openssh(&"c".repeat(length));
        assert_eq!(*PrivateKey::from_openssh(&file).unwrap().seed(), SEED);
        assert!(file.lines().all(|line| line.len() <= 70));
    }
    assert!(key.to_openssh(&"\u{e9}".repeat(5000)).len() < 4096);
}

#[test]
fn a_private_key_shows_only_its_fingerprint() {
    let key = PrivateKey::from_seed(SEED).unwrap();
    assert_eq!(format!("{key:?}"), format!("PrivateKey({})", key.public().fingerprint()));
}

#[test]
fn damaged_private_key_files_are_refused() {
    let key = PrivateKey::from_seed(SEED).unwrap();
    let file = key.to_openssh("comment");
    let body: String = file.lines().filter(|line| !line.starts_with('-')).collect();
    let blob = base64::engine::general_purpose::STANDARD.decode(&body).unwrap();
    let read = |blob: &[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(blob);
        PrivateKey::from_openssh(&format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"
        ))
    };
    read(&blob).unwrap();
    for end in 0..blob.len() {
        assert!(read(&blob[..end]).is_err());
    }
    // Every byte matters but the comment's.
    let comment = blob.windows(7).position(|window| window == b"comment").unwrap();
    for index in (0..blob.len()).filter(|index| !(comment..comment + 7).contains(index)) {
        let mut damaged = blob.clone();
        damaged[index] ^= 1;
        assert!(read(&damaged).is_err(), "byte {index}");
    }
    for wrong in
        ["", "-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----"]
    {
        assert!(matches!(PrivateKey::from_openssh(wrong), Err(KeyError::Text(_))));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(data: Vec<u8>) {
        drop(PublicKey::from_wire(&data));
        drop(PrivateKey::from_seed(SEED).unwrap().public().verify(ED25519_NAME, b"", &data));
    }

    #[test]
    fn random_text_never_panics(text: String) {
        drop(PublicKey::from_openssh(&text));
        drop(PrivateKey::from_openssh(&text));
    }

    #[test]
    fn no_prefix_of_a_key_is_a_key(seed: [u8; 32]) {
        let wire = PrivateKey::from_seed(seed).unwrap().public().to_wire();
        for end in 0..wire.len() {
            prop_assert!(PublicKey::from_wire(&wire[..end]).is_err());
        }
    }
}
