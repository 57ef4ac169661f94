//! The Auth service's gRPC interface, as an administrator uses it.

use std::sync::Arc;
use std::time::Duration;

use mezite_core::Fault;
use mezite_core::text::escape_control;
use mezite_net::dial::Dialer;
use mezite_net::rpc;
use mezite_net::tls::ALPN_H2;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_proto::v1::{self, Object};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use crate::address::Address;
use crate::error::{Error, Result, with_next};
use crate::http::undialed;
use crate::trust::Trust;

/// How long one call may take; streams are bounded by their reader.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest message that is read: a page of the longest lists.
const MAX_MESSAGE: usize = 64 << 20;
const PAGE: u32 = 500;
/// The token has to go where the next command finds it.
const LOGIN: &str = "export MEZITE_AUTH_TOKEN=$(mezctl login --username=NAME)";

/// A connected Auth service.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The generated client; pass its calls requests made by [`Admin::request`].
    pub auth: AuthClient<Channel>,
    token: Option<Zeroizing<String>>,
}

impl Admin {
    /// Connects to `address`.
    ///
    /// # Errors
    /// "Unavailable" that says why and what to do.
    pub async fn connect(address: &Address, trust: &Trust, token: Option<Zeroizing<String>>) -> Result<Self> {
        let tls = trust.tls(ALPN_H2)?;
        let dialer = Dialer::new(vec![address.to_string()], Arc::clone(&tls.config)).map_err(undialed)?;
        let channel = rpc::connect(dialer).await.map_err(undialed)?;
        let auth = AuthClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { auth, token })
    }

    /// A call with the session token.
    ///
    /// # Errors
    /// "Not logged in" when there is no token, or one that cannot be sent.
    pub fn request<T>(&self, message: T) -> Result<Request<T>> {
        let token = self.token.as_ref().filter(|token| !token.is_empty()).ok_or_else(no_token)?;
        let mut request = Request::new(message);
        let value = rpc::bearer(token)
            .map_err(|_| Error::not_logged_in(with_next("the session token is malformed".to_owned(), LOGIN)))?;
        request.metadata_mut().insert(rpc::AUTHORIZATION, value);
        request.set_timeout(ANSWER);
        Ok(request)
    }

    /// Every object of a kind, in the server's order.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn list(&mut self, kind: &str) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListObjectsRequest { kind: kind.to_owned(), page_token, page_size: PAGE };
            let reply = self.auth.list_objects(self.request(request)?).await.map_err(refused)?.into_inner();
            objects.extend(reply.objects);
            if reply.next_page_token.is_empty() {
                return Ok(objects);
            }
            page_token = reply.next_page_token;
        }
    }

    /// One object.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn get(&mut self, kind: &str, name: &str) -> Result<Object> {
        let request = v1::GetObjectRequest { kind: kind.to_owned(), name: name.to_owned() };
        Ok(self.auth.get_object(self.request(request)?).await.map_err(refused)?.into_inner())
    }

    /// Writes an object. `expected` is the revision it must still have: 0 for none yet, `None` for any.
    ///
    /// # Errors
    /// What the server answered; a conflict when the revision is another.
    pub async fn put(&mut self, kind: &str, name: &str, spec: Vec<u8>, expected: Option<u64>) -> Result<Object> {
        let request =
            v1::PutObjectRequest { kind: kind.to_owned(), name: name.to_owned(), spec, expected_revision: expected };
        Ok(self.auth.put_object(self.request(request)?).await.map_err(refused)?.into_inner())
    }

    /// Deletes an object; answers the revision of the change.
    ///
    /// # Errors
    /// What the server answered; a conflict while something refers to it.
    pub async fn delete(&mut self, kind: &str, name: &str) -> Result<u64> {
        let request = v1::DeleteObjectRequest { kind: kind.to_owned(), name: name.to_owned(), expected_revision: None };
        Ok(self.auth.delete_object(self.request(request)?).await.map_err(refused)?.into_inner().revision)
    }
}

/// What a command without a token answers (F231).
pub fn no_token() -> Error {
    Error::not_logged_in(with_next("no session token".to_owned(), LOGIN) + ", or give --token")
}

/// The fault behind a gRPC status, its text made harmless for a terminal.
pub fn refused(status: Status) -> Error {
    // Only a failure on the way has a source: a server's answer is all text.
    let mut source = std::error::Error::source(&status);
    while let Some(deeper) = source.and_then(std::error::Error::source) {
        source = Some(deeper);
    }
    if let Some(source) = source {
        return Error::unavailable(format!(
            "the connection to Auth broke: {source}; check the address, and that the hub runs"
        ));
    }
    // Another service answered, or another release.
    if status.code() == Code::Unimplemented {
        return Error::unavailable(escape_control(status.message()).into_owned());
    }
    match Fault::from_grpc(status.code().into(), escape_control(status.message())) {
        Fault::NotLoggedIn(message) => Error::not_logged_in(with_next(message, LOGIN)),
        fault => fault.into(),
    }
}

/// As [`refused`], for the login itself, where logging in is no advice.
pub fn refused_login(status: Status) -> Error {
    Fault::from_grpc(status.code().into(), escape_control(status.message())).into()
}
