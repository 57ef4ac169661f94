//! gRPC over the connections of [`crate::dial`] and the server of [`crate::http`].

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use hyper_util::rt::TokioIo;
use tonic::metadata::errors::InvalidMetadataValue;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::dial::{DialError, Dialer, Stream};
use crate::http::{BULK_FRAME, KEEPALIVE, MAX_HEADERS};

/// Metadata of `Tunnel.Dial`: the dial request that the call answers.
pub const DIAL_ID: &str = "mezite-dial-id";
/// Metadata of a call that a proxy relays for a user: the user's address. Believed only of a peer that is a proxy.
pub const CLIENT_IP: &str = "x-mezite-client-ip";
/// Metadata that carries a user's session token.
pub const AUTHORIZATION: &str = "authorization";

/// A flow-control window as large as bulk transfer needs on a fast network.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// gRPC services as routes for [`crate::http::serve`].
pub fn router(services: Routes) -> Router {
    services.prepare().into_axum_router()
}

/// A channel that connects at the first call, and again whenever the connection was lost. Calls made while the server
/// cannot be reached fail with `Unavailable`.
#[must_use]
pub fn channel(dialer: Dialer) -> Channel {
    channel_from(dialer, None)
}

/// Like [`channel`], with the first connection made here.
///
/// # Errors
/// The dialer's.
pub async fn connect(dialer: Dialer) -> Result<Channel, DialError> {
    let first = dialer.connect_http2().await?;
    Ok(channel_from(dialer, Some(first)))
}

fn channel_from(dialer: Dialer, first: Option<Stream>) -> Channel {
    let first = Arc::new(Mutex::new(first));
    let connector = service_fn(move |_uri| {
        let made = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dialer = dialer.clone();
        async move {
            let stream = match made {
                Some(stream) => stream,
                None => dialer.connect_http2().await?,
            };
            Ok::<_, DialError>(TokioIo::new(stream))
        }
    });
    // The connector ignores the address; TLS is the dialer's.
    Endpoint::from_static("http://mezite")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(BULK_FRAME)
        .connect_with_connector_lazy(connector)
}

/// The value of [`AUTHORIZATION`] for a session token, marked sensitive so that no Debug shows it.
///
/// # Errors
/// When the token holds characters that a header cannot.
pub fn bearer(token: &str) -> Result<MetadataValue<Ascii>, InvalidMetadataValue> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The session token of a call, if it carries exactly one.
#[must_use]
pub fn token_of(metadata: &MetadataMap) -> Option<&str> {
    let mut values = metadata.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_in_and_comes_out_and_is_not_shown() {
        let mut metadata = MetadataMap::new();
        assert_eq!(token_of(&metadata), None);
        metadata.insert(AUTHORIZATION, bearer("s3cret").unwrap());
        assert_eq!(token_of(&metadata), Some("s3cret"));
        assert!(!format!("{metadata:?}").contains("s3cret"));
        metadata.append(AUTHORIZATION, bearer("other").unwrap());
        assert_eq!(token_of(&metadata), None, "two tokens are ambiguous");
        assert!(bearer("line\nbreak").is_err());
    }
}
