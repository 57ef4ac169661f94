//! The one function that decides whether a certificate counts.

use super::{CertError, CertKind, Certificate, FOREVER, SOURCE_ADDRESS, lookup, source};
use crate::key::PublicKey;
use std::net::IpAddr;

/// How far a clock may be off at either end of the validity, in seconds.
pub const CLOCK_ALLOWANCE: u64 = 60;

/// What a certificate has to satisfy.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// The kind needed.
    pub kind: CertKind,
    /// The keys trusted to sign certificates of this kind; compared as keys, and by nothing else.
    pub authorities: &'a [PublicKey],
    /// The present, unix seconds.
    pub now_unix: u64,
    /// The login or host name that must be among the principals; `None` when it is not known here, and then whoever
    /// learns it has to verify again.
    pub principal: Option<&'a str>,
    /// The client's address; without one, a certificate bound to addresses is refused.
    pub source: Option<IpAddr>,
}

/// Accepts a certificate for `policy`, or says why not. Extensions are not looked at.
///
/// The caller still has to see a signature by [`Certificate::public_key`]: certificates are public.
///
/// # Errors
/// The first of, in this order: [`CertError::WrongKind`], [`CertError::UnknownAuthority`], [`CertError::Malformed`],
/// [`CertError::BadSignature`], [`CertError::NeverExpires`], [`CertError::NotYetValid`], [`CertError::Expired`],
/// [`CertError::NoPrincipals`], [`CertError::PrincipalMismatch`], [`CertError::UnknownCriticalOption`],
/// [`CertError::SourceAddress`].
pub fn verify(certificate: &Certificate, policy: &Policy<'_>) -> Result<(), CertError> {
    if certificate.kind != policy.kind {
        return Err(CertError::WrongKind { wanted: policy.kind, found: certificate.kind });
    }
    check_signature(certificate, policy.authorities)?;
    check_validity(certificate, policy.now_unix)?;
    check_principal(&certificate.principals, policy.principal)?;
    check_critical_options(certificate, policy.source)
}

fn check_signature(certificate: &Certificate, authorities: &[PublicKey]) -> Result<(), CertError> {
    let authority = &certificate.authority;
    if !authorities.contains(authority) {
        return Err(CertError::UnknownAuthority(authority.fingerprint()));
    }
    // The fields are public, so what was parsed may have been edited; the form is checked again with the signature.
    certificate.check_form()?;
    authority
        .verify(authority.algorithm(), &certificate.signed_part(), &certificate.signature)
        .map_err(|_| CertError::BadSignature)
}

fn check_validity(certificate: &Certificate, now: u64) -> Result<(), CertError> {
    let Certificate { valid_after, valid_before, .. } = *certificate;
    if valid_before == FOREVER {
        return Err(CertError::NeverExpires);
    }
    if now.saturating_add(CLOCK_ALLOWANCE) < valid_after {
        return Err(CertError::NotYetValid { now, valid_after });
    }
    if now >= valid_before.saturating_add(CLOCK_ALLOWANCE) {
        return Err(CertError::Expired { now, valid_before });
    }
    Ok(())
}

fn check_principal(principals: &[String], wanted: Option<&str>) -> Result<(), CertError> {
    if principals.is_empty() {
        return Err(CertError::NoPrincipals);
    }
    match wanted {
        Some(wanted) if !principals.iter().any(|principal| principal == wanted) => {
            Err(CertError::PrincipalMismatch(wanted.to_owned()))
        }
        _ => Ok(()),
    }
}

fn check_critical_options(certificate: &Certificate, source: Option<IpAddr>) -> Result<(), CertError> {
    let known = |name: &str| certificate.kind == CertKind::User && name == SOURCE_ADDRESS;
    if let Some((name, _)) = certificate.critical_options.iter().find(|(name, _)| !known(name)) {
        return Err(CertError::UnknownCriticalOption(name.clone()));
    }
    let Some(list) = lookup(&certificate.critical_options, SOURCE_ADDRESS) else {
        return Ok(());
    };
    match (source::parse(list), source) {
        (Some(blocks), Some(address)) if blocks.iter().any(|block| block.contains(address)) => Ok(()),
        (_, found) => Err(CertError::SourceAddress { allowed: list.to_owned(), found }),
    }
}
