//! The X.509 face of an authority: its own certificate, and the certificates it signs (RFC 5280).

use mezite_net::clock;
use mezite_net::tls::{Peer, PeerRole};
use mezite_ssh::key::{PrivateKey, PublicKey};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Authority;
use crate::AuthError;

/// Validity of a CA certificate.
const CA_LIFE: Duration = Duration::days(3650);
/// Certificates begin this much in the past, for peers whose clock is behind (F394 allows a minute).
pub(crate) const BACKDATE: Duration = Duration::seconds(60);
/// Longest SubjectPublicKeyInfo accepted, in bytes: Ed25519 and P-256 are far shorter.
const MAX_SPKI: usize = 256;

/// What a leaf certificate is for.
pub(crate) enum Leaf<'a> {
    /// An agent: shows it to auth and to proxies.
    Agent {
        /// Node id.
        id: &'a str,
    },
    /// A proxy: shows it to auth, and to whoever connects to its listeners.
    Proxy {
        /// Proxy id.
        id: &'a str,
        /// Names and addresses that clients dial.
        names: &'a [SanType],
    },
    /// A listener of auth.
    Listener {
        /// Names and addresses that clients dial.
        names: &'a [SanType],
    },
}

/// The Host CA's own certificate.
pub(super) fn host_ca(
    key: &PrivateKey,
    cluster: &str,
    now: OffsetDateTime,
) -> Result<CertificateDer<'static>, AuthError> {
    ca(key, &format!("{cluster} host CA"), Vec::new(), now)
}

/// The SPIFFE CA's own certificate; its name is the trust domain (SPIFFE X509-SVID section 3).
pub(super) fn spiffe_ca(
    key: &PrivateKey,
    cluster: &str,
    now: OffsetDateTime,
) -> Result<CertificateDer<'static>, AuthError> {
    let domain = SanType::URI(Ia5String::try_from(format!("spiffe://{cluster}"))?);
    ca(key, &format!("{cluster} spiffe CA"), vec![domain], now)
}

fn ca(
    key: &PrivateKey,
    name: &str,
    names: Vec<SanType>,
    now: OffsetDateTime,
) -> Result<CertificateDer<'static>, AuthError> {
    let mut params = params(name, names, now, now + CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(&Signer::new(key)?)?.into())
}

/// Certifies `public_key` (SubjectPublicKeyInfo, DER) until `not_after`. The answer is the chain, the leaf and the CA: a
/// client that pins the CA must be shown it.
///
/// # Errors
/// For a key that is malformed, or neither Ed25519 nor ECDSA P-256.
pub(crate) fn issue(
    host: &Authority,
    leaf: &Leaf<'_>,
    public_key: &[u8],
    now: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<[CertificateDer<'static>; 2], AuthError> {
    if public_key.len() > MAX_SPKI {
        return Err(AuthError::new("the TLS public key is too long"));
    }
    let subject = SubjectPublicKeyInfo::from_der(public_key)
        .map_err(|_| AuthError::new("the TLS public key is no SubjectPublicKeyInfo"))?;
    if ![&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256].contains(&subject.algorithm()) {
        return Err(AuthError::new("the TLS public key must be Ed25519 or ECDSA P-256"));
    }
    let uri = |role, id: &str| -> Result<SanType, AuthError> {
        Ok(SanType::URI(Ia5String::try_from(Peer::uri(&host.cluster, role, id))?))
    };
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    let (common_name, names, usages) = match leaf {
        Leaf::Agent { id } => (*id, vec![uri(PeerRole::Agent, id)?], vec![client]),
        Leaf::Proxy { id, names } => (*id, [&[uri(PeerRole::Proxy, id)?], *names].concat(), vec![client, server]),
        Leaf::Listener { names } => ("mezite auth", names.to_vec(), vec![server]),
    };
    let mut params = params(common_name, names, now, not_after);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    params.use_authority_key_identifier_extension = true;
    let ca = host.certificate.as_ref().ok_or_else(|| AuthError::new("the host CA has no certificate"))?;
    let issuer = Issuer::from_ca_cert_der(ca, Signer::new(&host.key)?)?;
    Ok([params.signed_by(&subject, &issuer)?.into(), ca.clone()])
}

fn params(common_name: &str, names: Vec<SanType>, now: OffsetDateTime, not_after: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = names;
    params.not_before = now - BACKDATE;
    params.not_after = not_after;
    // Positive and of full length, as RFC 5280 4.1.2.2 wants it.
    let mut serial: [u8; 16] = clock::random();
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// A name or an address as a certificate names it.
///
/// # Errors
/// When it is neither an IP address nor a DNS name.
pub(crate) fn san(name: &str) -> Result<SanType, AuthError> {
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    match rustls_pki_types::DnsName::try_from(name) {
        Ok(_) => Ok(SanType::DnsName(Ia5String::try_from(name.to_ascii_lowercase())?)),
        Err(_) => Err(AuthError::new(format!("{name:?} is neither a host name nor an address"))),
    }
}

/// PEM of one certificate (RFC 7468).
pub(crate) fn pem(certificate: &CertificateDer<'static>) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text + "-----END CERTIFICATE-----\n"
}

/// The first certificate of a PEM text.
pub(super) fn from_pem(text: &str) -> Result<CertificateDer<'static>, AuthError> {
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| AuthError::new(format!("a CA certificate: {e}")))
}

/// Whether the certificate is for this key.
pub(super) fn is_for(certificate: &CertificateDer<'_>, key: &PrivateKey) -> bool {
    let PublicKey::Ed25519(public) = key.public() else { return false };
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| *parsed.public_key().subject_public_key.data == public)
}

/// Signs X.509 with a key of the SSH engine, so that there is no second copy of it.
struct Signer<'a> {
    key: &'a PrivateKey,
    public: [u8; 32],
}

impl<'a> Signer<'a> {
    fn new(key: &'a PrivateKey) -> Result<Self, AuthError> {
        match key.public() {
            PublicKey::Ed25519(public) => Ok(Self { key, public }),
            _ => Err(AuthError::new("a CA key must be Ed25519")),
        }
    }
}

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        // The engine's signature is the algorithm name and then the 64 bytes of RFC 8032.
        let blob = self.key.sign(message);
        blob.last_chunk::<64>().map(|signature| signature.to_vec()).ok_or(rcgen::Error::RemoteKeyError)
    }
}
