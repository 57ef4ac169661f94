//! The certificate of auth's own listener, exchanged while in use.

use std::sync::Arc;
use std::time::Duration;

use mezite_net::clock;
use mezite_net::tls::{LiveIdentity, TlsIdentity, TlsKey};
use time::OffsetDateTime;

use super::host::LOCAL_NAMES;
use crate::AuthError;
use crate::ca::Authority;
use crate::ca::x509::{self, Leaf};
use crate::hub::Hub;

/// Validity of the certificate; it is renewed at two thirds.
const LIFE: time::Duration = time::Duration::hours(24);
/// How often the renewal looks at the clock: a machine that slept must notice soon.
const LOOK: Duration = Duration::from_secs(30);

/// A fresh key and certificate for these names and the local ones.
pub(crate) fn identity(host: &Authority, names: &[String], now: OffsetDateTime) -> Result<TlsIdentity, AuthError> {
    let key = TlsKey::generate()?;
    let mut all: Vec<&str> = LOCAL_NAMES.to_vec();
    all.extend(names.iter().map(String::as_str).filter(|name| !LOCAL_NAMES.contains(name)));
    let sans = all.into_iter().map(x509::san).collect::<Result<Vec<_>, _>>()?;
    let chain = x509::issue(host, &Leaf::Listener { names: &sans }, &key.public, now, now + LIFE)?;
    Ok(TlsIdentity::from_der(chain.to_vec(), key.private.into()))
}

/// Renews until the stop.
pub(crate) async fn renew(hub: Arc<Hub>, live: Arc<LiveIdentity>, names: Vec<String>, issued: OffsetDateTime) {
    let mut due = issued + LIFE * 2 / 3;
    while hub.stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let now = clock::now();
        // A clock that was set back leaves a certificate that is not yet valid.
        if now < due && now >= due - LIFE {
            continue;
        }
        let renewed = identity(&hub.authorities.host, &names, now)
            .and_then(|identity| live.replace(identity).map_err(AuthError::from));
        match renewed {
            Ok(()) => {
                due = now + LIFE * 2 / 3;
                tracing::info!("renewed the certificate of the auth listener");
            }
            Err(error) => tracing::error!(%error, "the certificate of the auth listener could not be renewed"),
        }
    }
}
