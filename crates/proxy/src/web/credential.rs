//! Who is calling: a bearer token, or the cookie `mezite_session` of a browser.
//!
//! A browser sends cookies by itself, also from a page that is not ours. A cookie therefore counts for a request that changes
//! something only with the header `X-Mezite-CSRF: 1`, which no other site can set without our consent, and only when `Origin`,
//! if given, is ours. Bearer requests need neither (F501).

use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{HeaderMap, Method, header};
use mezite_net::http::Remote;
use mezite_net::rpc::{self, AUTHORIZATION, CLIENT_IP};
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::web::error::ApiError;

/// The cookie that carries the session token (F499).
pub(crate) const COOKIE: &str = "mezite_session";
/// The header that a cookie-borne change must carry.
pub(crate) const CSRF: &str = "x-mezite-csrf";
/// Longest token looked at, in bytes.
const MAX_TOKEN: usize = 256;

/// Where a request came from.
#[derive(Debug, Clone)]
pub(crate) struct Source(String);

impl Source {
    /// A gRPC request that carries the client's address.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Ok(ip) = MetadataValue::try_from(&self.0) {
            request.metadata_mut().insert(CLIENT_IP, ip);
        }
        request
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Source {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let remote =
            parts.extensions.get::<ConnectInfo<Remote>>().ok_or_else(|| ApiError::invalid("no peer address"))?;
        Ok(Self(remote.0.addr.ip().to_string()))
    }
}

/// A caller that showed a token; whether it is valid is decided by Auth at each call.
#[derive(Clone)]
pub(crate) struct Caller {
    token: String,
    source: Source,
}

impl Caller {
    /// The client's address.
    pub(crate) fn address(&self) -> &str {
        &self.source.0
    }

    /// A gRPC request in the caller's name.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.source.request(message);
        if let Ok(value) = rpc::bearer(&self.token) {
            request.metadata_mut().insert(AUTHORIZATION, value);
        }
        request
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let token = match bearer(&parts.headers) {
            Some(token) => token,
            None => {
                let token = cookie(&parts.headers).ok_or_else(ApiError::not_logged_in)?;
                if !matches!(parts.method, Method::GET | Method::HEAD) {
                    same_site(&parts.headers)?;
                }
                token
            }
        };
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ApiError::not_logged_in());
        }
        let token = token.to_owned();
        Ok(Self { token, source: Source::from_request_parts(parts, state).await? })
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn same_site(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused =
        || ApiError::denied(format!("a change made with a cookie needs the header {CSRF}: 1 and our own origin"));
    if headers.get(CSRF).is_none_or(|value| value != "1") {
        return Err(refused());
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().map_err(|_| refused())?;
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).ok_or_else(refused)?;
    let ours = origin.strip_prefix("https://").is_some_and(|from| from.eq_ignore_ascii_case(host));
    if ours { Ok(()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse::<http::HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_found_among_others_and_only_by_its_whole_name() {
        assert_eq!(cookie(&headers(&[("cookie", "a=b; mezite_session=tok; c=d")])), Some("tok"));
        assert_eq!(cookie(&headers(&[("cookie", "xmezite_session=tok; mezite_session2=no")])), None);
    }

    #[test]
    fn a_change_by_cookie_needs_the_header_and_our_origin() {
        assert!(same_site(&headers(&[("host", "hub:3080")])).is_err());
        assert!(same_site(&headers(&[("host", "hub:3080"), ("x-mezite-csrf", "1")])).is_ok());
        let from = |origin| headers(&[("host", "hub:3080"), ("x-mezite-csrf", "1"), ("origin", origin)]);
        assert!(same_site(&from("https://hub:3080")).is_ok());
        assert!(same_site(&from("https://hub:3080.evil.example")).is_err());
        assert!(same_site(&from("http://hub:3080")).is_err());
        assert!(same_site(&from("null")).is_err());
    }

    #[test]
    fn only_the_bearer_scheme_counts() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer abc")])), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
    }
}
