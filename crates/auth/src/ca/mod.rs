//! The certificate authorities: User CA and Host CA (Ed25519, F130, F131) and the SPIFFE CA. Private keys are open in the
//! memory of this process only; the database holds them sealed (C07).

pub(crate) mod seal;
pub(crate) mod x509;

use std::sync::Arc;

use mezite_core::audit::EventType;
use mezite_net::clock;
use mezite_proto::v1::TrustBundle;
use mezite_ssh::key::PrivateKey;
use mezite_store::{Authority as Row, Store};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::AuthError;
use crate::event::Events;
use seal::Sealer;

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// User certificates.
    User,
    /// Host certificates of SSH, and the TLS certificates of our own processes.
    Host,
    /// Identities of workloads.
    Spiffe,
    /// Checkpoints of the audit log. No certificate is ever signed with it.
    Audit,
}

impl Purpose {
    pub(crate) const ALL: [Self; 4] = [Self::User, Self::Host, Self::Spiffe, Self::Audit];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Host => "host",
            Self::Spiffe => "spiffe",
            Self::Audit => "audit",
        }
    }
}

/// The slot of the key that signs, and the phase outside a rotation.
const ACTIVE: &str = "active";
const COMPLETE: &str = "complete";

/// One authority with its key open.
pub(crate) struct Authority {
    pub(crate) purpose: Purpose,
    pub(crate) key: Arc<PrivateKey>,
    pub(crate) phase: String,
    /// The same key as an X.509 CA; Host and SPIFFE only.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    pub(crate) created_at: OffsetDateTime,
    cluster: String,
}

impl Authority {
    /// The public key as one OpenSSH line.
    pub(crate) fn line(&self) -> String {
        self.key.public().to_openssh(&format!("{}-ca@{}", self.purpose.as_str(), self.cluster))
    }

    /// The X.509 CA certificate, PEM; empty for those that have none.
    pub(crate) fn pem(&self) -> String {
        self.certificate.as_ref().map(x509::pem).unwrap_or_default()
    }
}

/// All authorities of the cluster.
pub(crate) struct Authorities {
    pub(crate) user: Authority,
    pub(crate) host: Authority,
    pub(crate) spiffe: Authority,
    pub(crate) audit: Authority,
    /// What sealed them; it seals the secrets of second factors too.
    pub(crate) sealer: Arc<Sealer>,
}

impl Authorities {
    /// Opens the authorities of the database, or makes them at the first start.
    pub(crate) async fn open(store: &Store, sealer: Sealer, events: &Events) -> Result<Self, AuthError> {
        let rows = store.authorities().await?;
        if let Some(other) = rows.iter().find(|row| row.cluster_name != events.cluster) {
            return Err(AuthError::new(format!(
                "the database belongs to the cluster {}, not {}; correct cluster_name",
                other.cluster_name, events.cluster
            )));
        }
        let without_passphrase = sealer.is_without_passphrase();
        // Argon2id takes 64 MiB and a good part of a second.
        let cluster = events.cluster.clone();
        let now = clock::now();
        let sealer = Arc::new(sealer);
        let kept = Arc::clone(&sealer);
        let opened = tokio::task::spawn_blocking(move || {
            Purpose::ALL.map(|purpose| open_or_make(purpose, &rows, &sealer, &cluster, now))
        });
        let opened = opened.await.map_err(|e| AuthError::new(format!("opening the CA keys: {e}")))?;
        let (mut authorities, mut resealed) = (Vec::new(), false);
        let mut tx = store.begin(now).await?;
        for (purpose, opened) in Purpose::ALL.into_iter().zip(opened) {
            let Opened { authority, write, made } = opened?;
            if let Some(row) = write {
                tx.put_authority(&row).await?;
                resealed |= !made;
            }
            if made {
                let event = events.event(EventType::AuthorityCreated).resource("ca", purpose.as_str());
                tx.audit(&event.detail("fingerprint", authority.key.public().fingerprint())).await?;
            }
            authorities.push(authority);
        }
        tx.commit().await?;
        if without_passphrase {
            tracing::warn!("no ca_key_passphrase is set: the CA keys are sealed with a key file in data_dir");
        }
        if resealed {
            tracing::warn!(
                "the CA keys, sealed with a key file before, need ca_key_passphrase from here on; keep it safe"
            );
        }
        let [user, host, spiffe, audit] =
            <[Authority; 4]>::try_from(authorities).map_err(|_| AuthError::new("a CA is missing"))?;
        Ok(Self { user, host, spiffe, audit, sealer: kept })
    }

    /// Whom agents, proxies and clients trust.
    pub(crate) fn trust(&self) -> TrustBundle {
        TrustBundle {
            user_authorities: vec![self.user.line()],
            host_authorities: vec![self.host.line()],
            tls_ca_pem: self.host.pem(),
        }
    }

    pub(crate) fn all(&self) -> [&Authority; 4] {
        [&self.user, &self.host, &self.spiffe, &self.audit]
    }
}

struct Opened {
    authority: Authority,
    /// The row to be written: a new one, or one whose seal is changed.
    write: Option<Row>,
    made: bool,
}

fn open_or_make(
    purpose: Purpose,
    rows: &[Row],
    sealer: &Sealer,
    cluster: &str,
    now: OffsetDateTime,
) -> Result<Opened, AuthError> {
    match rows.iter().find(|row| row.kind == purpose.as_str() && row.slot == ACTIVE) {
        Some(row) => open(purpose, row, sealer),
        None => make(purpose, sealer, cluster, now),
    }
}

fn open(purpose: Purpose, row: &Row, sealer: &Sealer) -> Result<Opened, AuthError> {
    let altered = |what: &str| AuthError::new(format!("the {} CA in the database was altered: {what}", row.kind));
    let seed = sealer.open(&row.kind, &row.id, &row.private_key)?;
    let seed = Zeroizing::new(<[u8; 32]>::try_from(seed.as_slice()).map_err(|_| altered("its key is not Ed25519"))?);
    let key = PrivateKey::from_seed(*seed)?;
    let (public, _) = mezite_ssh::key::PublicKey::from_openssh(&row.public_key)?;
    if public != key.public() {
        return Err(altered("public and private key do not belong together"));
    }
    let certificate = row.x509_pem.as_deref().map(x509::from_pem).transpose()?;
    if let Some(certificate) = &certificate
        && !x509::is_for(certificate, &key)
    {
        return Err(altered("its certificate is for another key"));
    }
    if certificate.is_none() && matches!(purpose, Purpose::Host | Purpose::Spiffe) {
        return Err(altered("its certificate is missing"));
    }
    let resealed = sealer.reseal(&row.kind, &row.id, &row.private_key, seed.as_slice())?;
    let write = resealed.map(|private_key| Row { private_key, ..row.clone() });
    let authority = Authority {
        purpose,
        key: Arc::new(key),
        phase: row.phase.clone(),
        certificate,
        created_at: row.created_at,
        cluster: row.cluster_name.clone(),
    };
    Ok(Opened { authority, write, made: false })
}

fn make(purpose: Purpose, sealer: &Sealer, cluster: &str, now: OffsetDateTime) -> Result<Opened, AuthError> {
    let id = clock::uuid();
    let key = PrivateKey::generate()?;
    let certificate = match purpose {
        Purpose::User | Purpose::Audit => None,
        Purpose::Host => Some(x509::host_ca(&key, cluster, now)?),
        Purpose::Spiffe => Some(x509::spiffe_ca(&key, cluster, now)?),
    };
    let private_key = sealer.seal(purpose.as_str(), &id, key.seed().as_slice())?;
    let authority = Authority {
        purpose,
        key: Arc::new(key),
        phase: COMPLETE.into(),
        certificate,
        created_at: now,
        cluster: cluster.into(),
    };
    let row = Row {
        id,
        kind: purpose.as_str().into(),
        slot: ACTIVE.into(),
        public_key: authority.line(),
        private_key,
        cluster_name: cluster.into(),
        phase: COMPLETE.into(),
        x509_pem: authority.certificate.as_ref().map(x509::pem),
        created_at: now,
    };
    Ok(Opened { authority, write: Some(row), made: true })
}
