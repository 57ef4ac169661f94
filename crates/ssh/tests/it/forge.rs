//! Writes certificates field by field, right or wrong, independently of the library's own encoder.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use mezite_ssh::wire::{put_mpint, put_string, put_u32, put_u64};
use mezite_ssh::{PrivateKey, PublicKey};

/// An option's list entry: name and raw data.
pub(crate) type RawOption = (Vec<u8>, Vec<u8>);

/// The fields of a certificate as they go to the wire.
pub(crate) struct Forged {
    pub(crate) name: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) serial: u64,
    pub(crate) kind: u32,
    pub(crate) key_id: Vec<u8>,
    pub(crate) principals: Vec<Vec<u8>>,
    pub(crate) valid_after: u64,
    pub(crate) valid_before: u64,
    pub(crate) critical: Vec<RawOption>,
    pub(crate) extensions: Vec<RawOption>,
    pub(crate) reserved: Vec<u8>,
    pub(crate) authority: Vec<u8>,
}

impl Forged {
    /// A user certificate for `ubuntu` from second 1000 to 2000, signed by the key that `authority` makes.
    pub(crate) fn user() -> Self {
        Self {
            name: b"ssh-ed25519-cert-v01@openssh.com".to_vec(),
            nonce: vec![5; 32],
            public_key: vec![6; 32],
            serial: 7,
            kind: 1,
            key_id: b"user-1".to_vec(),
            principals: vec![b"ubuntu".to_vec(), b"deploy".to_vec()],
            valid_after: 1_000,
            valid_before: 2_000,
            critical: vec![],
            extensions: vec![flag("permit-port-forwarding"), flag("permit-pty"), option("roles@example.com", "[]")],
            reserved: vec![],
            authority: authority().public().to_wire(),
        }
    }

    /// Everything before the signature.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, &self.name);
        put_string(&mut out, &self.nonce);
        put_string(&mut out, &self.public_key);
        put_u64(&mut out, self.serial);
        put_u32(&mut out, self.kind);
        put_string(&mut out, &self.key_id);
        put_string(&mut out, &strings(&self.principals));
        put_u64(&mut out, self.valid_after);
        put_u64(&mut out, self.valid_before);
        for options in [&self.critical, &self.extensions] {
            let mut list = Vec::new();
            for (name, data) in options {
                put_string(&mut list, name);
                put_string(&mut list, data);
            }
            put_string(&mut out, &list);
        }
        put_string(&mut out, &self.reserved);
        put_string(&mut out, &self.authority);
        out
    }

    /// The certificate with any signature.
    pub(crate) fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        let mut out = self.body();
        put_string(&mut out, signature);
        out
    }

    /// The certificate signed by [`authority`], whatever it names as signing key.
    pub(crate) fn signed(&self) -> Vec<u8> {
        self.with_signature(&authority().sign(&self.body()))
    }
}

/// The trusted Ed25519 authority.
pub(crate) fn authority() -> PrivateKey {
    PrivateKey::from_seed([1; 32]).unwrap()
}

/// A P-256 authority with its public key.
pub(crate) fn p256() -> (EcdsaKeyPair, PublicKey) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().try_into().unwrap();
    (pair, PublicKey::EcdsaP256(point))
}

/// A P-256 signature in SSH form.
pub(crate) fn p256_sign(pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let fixed = pair.sign(&SystemRandom::new(), message).unwrap();
    let (r, s) = fixed.as_ref().split_at(32);
    let mut numbers = Vec::new();
    put_mpint(&mut numbers, r);
    put_mpint(&mut numbers, s);
    strings(&[b"ecdsa-sha2-nistp256".to_vec(), numbers])
}

/// Byte strings one after the other.
pub(crate) fn strings(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        put_string(&mut out, part);
    }
    out
}

/// An option without data.
pub(crate) fn flag(name: &str) -> RawOption {
    (name.into(), vec![])
}

/// An option with a string inside its data.
pub(crate) fn option(name: &str, value: &str) -> RawOption {
    (name.into(), strings(&[value.into()]))
}
