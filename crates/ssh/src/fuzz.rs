//! Entry points for fuzzing: each takes bytes as a peer may send them and asserts what must hold for all of them.
//!
//! They panic only when an invariant of this crate is broken.

use crate::cert::{CertKind, Certificate, Policy, verify};
use crate::kex::{ClientKex, KexAlgorithm, server_reply};
use crate::key::{PrivateKey, PublicKey};
use crate::wire::{Reader, put_mpint};

/// Bytes as a certificate: what parses encodes to itself, and nobody unknown is trusted.
pub fn certificate(data: &[u8]) {
    let Ok(certificate) = Certificate::from_wire(data) else { return };
    assert!(certificate.to_wire() == data, "a certificate that parses encodes to itself");
    let mut policy = Policy { kind: CertKind::User, authorities: &[], now_unix: 0, principal: None, source: None };
    assert!(verify(&certificate, &policy).is_err(), "without authorities nothing is accepted");
    let authorities = [certificate.authority.clone()];
    policy = Policy { kind: certificate.kind, authorities: &authorities, now_unix: certificate.valid_after, ..policy };
    drop(verify(&certificate, &policy));
}

/// Bytes as a public key: what parses encodes to itself.
pub fn public_key(data: &[u8]) {
    if let Ok(key) = PublicKey::from_wire(data) {
        assert!(key.to_wire() == data, "a key that parses encodes to itself");
        drop(key.verify(key.algorithm(), b"", data));
    }
}

/// Bytes as the text of a key, a certificate line or a private key file.
pub fn text(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(PublicKey::from_openssh(text));
        drop(PublicKey::from_known_hosts_authority(text));
        drop(Certificate::from_openssh(text));
        drop(PrivateKey::from_openssh(text));
    }
}

/// Bytes as a key exchange share, at both ends.
pub fn key_exchange(data: &[u8]) {
    for algorithm in KexAlgorithm::ALL {
        drop(server_reply(algorithm, data));
        if let Ok((client, _)) = ClientKex::start(algorithm) {
            drop(client.finish(data));
        }
    }
}

/// Bytes as each field of the wire: a number that reads writes back.
pub fn wire(data: &[u8]) {
    let mut reader = Reader::new(data);
    if let Ok(number) = reader.mpint() {
        let mut out = Vec::new();
        put_mpint(&mut out, number);
        assert!(data.strip_prefix(&*out) == Some(reader.rest()), "a number that reads writes back");
    }
    drop(Reader::new(data).name_list());
}
