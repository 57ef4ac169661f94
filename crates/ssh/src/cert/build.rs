//! Signing certificates.

use super::{CertError, CertKind, Certificate, FOREVER, MAX_CERTIFICATE_LEN, SOURCE_ADDRESS, lookup, source};
use crate::key::{PrivateKey, PublicKey};
use aws_lc_rs::rand;

/// Bytes of the random nonce, as ssh-keygen has it.
const NONCE_LEN: usize = 32;

/// The contents of a certificate to be signed; see [`Certificate`] for the fields. Options may come in any order.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of Certificate")]
pub struct CertificateBuilder {
    pub public_key: PublicKey,
    pub serial: u64,
    pub kind: CertKind,
    pub key_id: String,
    pub principals: Vec<String>,
    pub valid_after: u64,
    pub valid_before: u64,
    pub critical_options: Vec<(String, Vec<u8>)>,
    pub extensions: Vec<(String, Vec<u8>)>,
}

impl CertificateBuilder {
    /// Signs the certificate with a fresh nonce. What no verifier of ours would accept is not signed.
    ///
    /// # Errors
    /// [`CertError::NoPrincipals`], [`CertError::NeverExpires`], [`CertError::SourceAddress`] for a malformed list,
    /// [`CertError::Malformed`] for a field out of bounds, [`CertError::Nonce`].
    pub fn sign(self, authority: &PrivateKey) -> Result<Certificate, CertError> {
        if self.principals.is_empty() {
            return Err(CertError::NoPrincipals);
        }
        if self.valid_before == FOREVER {
            return Err(CertError::NeverExpires);
        }
        if let Some(list) = lookup(&self.critical_options, SOURCE_ADDRESS)
            && source::parse(list).is_none()
        {
            return Err(CertError::SourceAddress { allowed: list.to_owned(), found: None });
        }
        let mut certificate = self.unsigned(authority.public())?;
        certificate.check_form()?;
        certificate.signature = authority.sign(&certificate.signed_part());
        if certificate.to_wire().len() > MAX_CERTIFICATE_LEN {
            return Err(CertError::Malformed("longer than 32 KiB"));
        }
        Ok(certificate)
    }

    fn unsigned(mut self, authority: PublicKey) -> Result<Certificate, CertError> {
        self.critical_options.sort_unstable();
        self.extensions.sort_unstable();
        let mut nonce = vec![0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| CertError::Nonce)?;
        Ok(Certificate {
            public_key: self.public_key,
            serial: self.serial,
            kind: self.kind,
            key_id: self.key_id,
            principals: self.principals,
            valid_after: self.valid_after,
            valid_before: self.valid_before,
            critical_options: self.critical_options,
            extensions: self.extensions,
            authority,
            nonce,
            signature: Vec::new(),
        })
    }
}
