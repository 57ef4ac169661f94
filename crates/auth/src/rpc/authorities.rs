//! State and public keys of the certificate authorities.

use mezite_core::{Fault, Invalid};
use mezite_net::tls::Pin;
use mezite_proto::v1::*;

use crate::ca::{Authority, Purpose};
use crate::caller::Caller;
use crate::hub::Hub;

pub(super) async fn status(hub: &Hub, _: &Caller, _: CaStatusRequest) -> Result<CaStatusReply, Fault> {
    let authorities = hub.authorities.all().map(info).into_iter().collect::<Result<_, _>>()?;
    Ok(CaStatusReply { authorities })
}

pub(super) async fn export(hub: &Hub, _: &Caller, request: CaExportRequest) -> Result<CaExportReply, Fault> {
    let found = hub.authorities.all().into_iter().find(|authority| authority.purpose.as_str() == request.r#type);
    let authority = found.ok_or_else(|| Invalid::new("type", "must be user, host, spiffe or audit"))?;
    let text = match authority.purpose {
        Purpose::Spiffe => authority.pem(),
        Purpose::User | Purpose::Host | Purpose::Audit => format!("{}\n", authority.line()),
    };
    Ok(CaExportReply { text })
}

fn info(authority: &Authority) -> Result<CaInfo, Fault> {
    Ok(CaInfo {
        r#type: authority.purpose.as_str().into(),
        phase: authority.phase.clone(),
        active_fingerprint: authority.key.public().fingerprint(),
        standby_fingerprint: String::new(),
        x509_fingerprint: pin(authority)?,
        created_unix: authority.created_at.unix_timestamp(),
    })
}

/// The pin of an authority's X.509 certificate; empty when it has none.
pub(super) fn pin(authority: &Authority) -> Result<String, Fault> {
    let pin = authority.certificate.as_ref().map(Pin::of_cert).transpose();
    let pin = pin.map_err(|e| Fault::Bug(format!("pin of the {} CA: {e}", authority.purpose.as_str())))?;
    Ok(pin.map(|pin| pin.to_string()).unwrap_or_default())
}
