//! A small HTTPS client for the proxy's REST interface: one kept connection, bounded bodies, bounded waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use mezite_core::text::escape_control;
use mezite_core::{Fault, Invalid};
use mezite_net::dial::{DialError, Dialer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::timeout;
use tokio_rustls::rustls::AlertDescription::NoApplicationProtocol;
use tokio_rustls::rustls::{CertificateError, Error as TlsError};
use zeroize::Zeroizing;

use crate::address::Address;
use crate::error::{Error, Result, with_next};
use crate::trust::Tls;

const ANSWER: Duration = Duration::from_secs(30);
/// A recording may take a while; a peer that stops sending is caught by the kernel's keepalive and the user.
const DOWNLOAD: Duration = Duration::from_secs(600);
const MAX_JSON: usize = 16 << 20;
/// Largest recording that is played; longer ones are downloaded by `mezctl recordings download`.
pub const MAX_RECORDING: usize = 256 << 20;

/// One hub, as a client sees it.
#[derive(Debug)]
pub struct Web {
    address: Address,
    tls: Tls,
    bearer: Option<Zeroizing<String>>,
    connection: Option<SendRequest<Full<Bytes>>>,
    clock: Option<OffsetDateTime>,
}

/// The body of an answer.
#[derive(Debug)]
pub struct Body {
    /// What arrived.
    pub bytes: Bytes,
    /// Why that is not all.
    pub broken_off: Option<String>,
}

impl Body {
    fn whole(self) -> Result<Bytes> {
        self.broken_off.map_or(Ok(self.bytes), |reason| Err(Error::unavailable(reason)))
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    message: String,
}

impl Web {
    /// A client for `address`; nothing is dialed yet. `bearer` is the session token.
    pub const fn new(address: Address, tls: Tls, bearer: Option<Zeroizing<String>>) -> Self {
        Self { address, tls, bearer, connection: None, clock: None }
    }

    /// Uses `bearer` from here on.
    pub fn set_bearer(&mut self, bearer: Zeroizing<String>) {
        self.bearer = Some(bearer);
    }

    /// What TLS has seen.
    pub const fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The hub's clock at its last answer, from the `Date` header (RFC 9110 section 6.6.1).
    pub const fn clock(&self) -> Option<OffsetDateTime> {
        self.clock
    }

    /// GET of a JSON document. `path` begins with `/` and is already encoded.
    ///
    /// # Errors
    /// What the hub answered, or why it could not be reached.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let body = self.send(Method::GET, path, Bytes::new(), MAX_JSON, ANSWER).await?.whole()?;
        self.decode(&body)
    }

    /// GET of a body that is no JSON document, at most [`MAX_RECORDING`] bytes. An answer that breaks off is what arrived of it.
    ///
    /// # Errors
    /// As for [`Web::get`].
    pub async fn download(&mut self, path: &str) -> Result<Body> {
        self.send(Method::GET, path, Bytes::new(), MAX_RECORDING, DOWNLOAD).await
    }

    /// POST of a JSON document that answers with one.
    ///
    /// # Errors
    /// As for [`Web::get`].
    pub async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = self.post_for_body(path, body).await?;
        self.decode(&body)
    }

    /// POST whose answer does not matter.
    ///
    /// # Errors
    /// As for [`Web::get`].
    pub async fn post_only(&mut self, path: &str, body: &impl Serialize) -> Result<()> {
        self.post_for_body(path, body).await.map(drop)
    }

    async fn post_for_body(&mut self, path: &str, body: &impl Serialize) -> Result<Bytes> {
        let json = serde_json::to_vec(body).map_err(|error| Error::Local(error.to_string()))?;
        self.send(Method::POST, path, json.into(), MAX_JSON, ANSWER).await?.whole()
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).map_err(|error| {
            Error::unavailable(format!(
                "{} gave an answer that is not understood ({error}); is it a Mezite hub?",
                self.address
            ))
        })
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes, max: usize, wait: Duration) -> Result<Body> {
        let request = self.request(method, path, body)?;
        let address = self.address.clone();
        let broken = |what: &dyn std::fmt::Display| Error::unavailable(format!("{address} did not answer: {what}"));
        let sender = self.sender().await?;
        let exchange = async {
            let reply = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let (head, body) = reply.into_parts();
            let mut body = Limited::new(body, max);
            let (mut bytes, mut broken_off) = (BytesMut::new(), None);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], AsRef::as_ref)),
                    Err(error) => {
                        broken_off = Some(format!("{address} broke its answer off: {error}"));
                        break;
                    }
                }
            }
            Ok::<_, Error>((head, Body { bytes: bytes.freeze(), broken_off }))
        };
        let (head, body) = timeout(wait, exchange).await.map_err(|_| broken(&"timed out"))??;
        self.clock = date(&head.headers);
        if head.status.is_success() {
            return Ok(body);
        }
        Err(match refusal(head.status, &body.bytes, &self.address) {
            // At the login itself, logging in is no advice.
            Fault::NotLoggedIn(message) if self.bearer.is_some() => {
                Error::not_logged_in(with_next(message, "msh login"))
            }
            fault => fault.into(),
        })
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(USER_AGENT, concat!("mezite/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json, application/x-asciicast");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(bearer) = &self.bearer {
            let value = Zeroizing::new(format!("Bearer {}", bearer.as_str()));
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| Error::not_logged_in("the stored session is damaged; run `msh login`"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.body(Full::new(body)).map_err(|error| Error::Local(format!("cannot ask for {path}: {error}")))
    }

    /// The kept connection, or a new one when there is none or the peer closed it.
    async fn sender(&mut self) -> Result<&mut SendRequest<Full<Bytes>>> {
        let usable = match &mut self.connection {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.connection = None;
        }
        match self.connection {
            Some(ref mut sender) => Ok(sender),
            None => Ok(self.connection.insert(self.dial().await?)),
        }
    }

    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>> {
        let address = &self.address;
        let dialer = Dialer::new(vec![address.to_string()], Arc::clone(&self.tls.config)).map_err(undialed)?;
        let stream = dialer.connect().await.map_err(undialed)?;
        self.tls.check(address)?;
        let shaken = handshake(TokioIo::new(stream)).await;
        let (sender, connection) =
            shaken.map_err(|error| Error::unavailable(format!("{address} does not speak HTTP: {error}")))?;
        tokio::spawn(async move {
            // Its end is seen by the next request.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// Why a server was not reached, with the next step.
pub fn undialed(error: DialError) -> Error {
    let next = match &error {
        DialError::Tcp { .. } => "; check the address, and that the hub runs",
        DialError::Tls { source, .. } if is_untrusted(source) => {
            "; name its authority with --ca-file=FILE (on the hub: tls/ca.pem in its data directory)"
        }
        DialError::Tls { source, .. } if cause(source) == Some(&TlsError::AlertReceived(NoApplicationProtocol)) => {
            "; this is another port: the proxy's is 3080, that of Auth 3025, unless the hub's configuration says otherwise"
        }
        DialError::Tls { .. } | DialError::Address(_) | DialError::NoAddress | DialError::NotHttp2 { .. } => "",
    };
    Error::unavailable(format!("{error}{next}"))
}

fn is_untrusted(source: &std::io::Error) -> bool {
    let Some(TlsError::InvalidCertificate(cause)) = cause(source) else { return false };
    matches!(cause, CertificateError::UnknownIssuer | CertificateError::BadSignature)
}

fn cause(source: &std::io::Error) -> Option<&TlsError> {
    source.get_ref().and_then(|inner| inner.downcast_ref())
}

fn date(headers: &HeaderMap) -> Option<OffsetDateTime> {
    let text = headers.get(DATE)?.to_str().ok()?.strip_suffix(" GMT")?;
    let form = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second]"
    );
    time::PrimitiveDateTime::parse(text, form).ok().map(time::PrimitiveDateTime::assume_utc)
}

/// The fault behind an HTTP status; the message is the hub's, made harmless for a terminal.
fn refusal(status: StatusCode, body: &[u8], address: &Address) -> Fault {
    let reason = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error);
    let (code, message) = match reason {
        Ok(reason) => (reason.code, escape_control(&reason.message).into_owned()),
        Err(_) => (String::new(), format!("{address} answered with HTTP status {status}")),
    };
    match status.as_u16() {
        400 | 413 | 415 | 422 => Fault::Invalid(Invalid::new("", message)),
        401 if code.contains("mfa") => Fault::MfaNeeded(message),
        401 => Fault::NotLoggedIn(message),
        403 => Fault::Denied(message),
        404 | 405 => Fault::NotFound(message),
        409 | 423 => Fault::Conflict(message),
        429 | 502..=504 => Fault::Unavailable(message),
        _ => Fault::Bug(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_an_answer() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(date(&headers).map(OffsetDateTime::unix_timestamp), Some(784_111_777));
    }

    #[test]
    fn refusals_keep_their_meaning_and_lose_their_escapes() {
        let address = Address { host: "h".into(), port: 1 };
        let refused =
            |status: u16, body: &str| refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &address);
        let body = r#"{"error":{"code":"denied","message":"no \u001b[2J"}}"#;
        assert_eq!(refused(403, body).to_string(), "no \\u{1b}[2J");
        assert_eq!(refused(403, body).exit_code(), 4);
        assert_eq!(refused(401, body).exit_code(), 5);
        assert_eq!(refused(401, r#"{"error":{"code":"mfa_needed","message":"m"}}"#).exit_code(), 6);
        assert_eq!(refused(404, "<html>").exit_code(), 3);
        assert_eq!(refused(503, "").exit_code(), 8);
        assert_eq!(refused(500, "").exit_code(), 1);
    }
}
