//! The authentication protocol (RFC 4252, RFC 4256) and what both roles share of it.

mod client;
mod server;

use std::fmt;

use zeroize::Zeroizing;

pub(crate) use client::{ClientAuth, ClientStep};
pub(crate) use server::{ServerAuth, ServerStep};

use crate::{cert::Certificate, key::PublicKey};

/// Questions of one keyboard-interactive round, at most.
pub const MAX_PROMPTS: usize = 16;

/// The service before authentication.
pub(crate) const SERVICE_USERAUTH: &str = "ssh-userauth";
/// The service that is asked for.
pub(crate) const SERVICE_CONNECTION: &str = "ssh-connection";

/// An authentication method this engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `publickey`, with bare keys and OpenSSH certificates.
    PublicKey,
    /// `keyboard-interactive`.
    KeyboardInteractive,
}

impl Method {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PublicKey => "publickey",
            Self::KeyboardInteractive => "keyboard-interactive",
        }
    }
}

/// A public key, bare or certified, as a client presents it.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A bare key.
    Key(PublicKey),
    /// An OpenSSH certificate. It is parsed, not trusted: the application verifies it.
    Certificate(Box<Certificate>),
}

/// What a client asks the server to decide.
#[derive(Debug)]
pub enum AuthMethod {
    /// Would this key do? Nothing is proved.
    PublicKeyQuery(Credential),
    /// The client signed this connection with the key; the signature is verified.
    PublicKey(Credential),
    /// The client is ready to be asked.
    KeyboardInteractive,
    /// The answers to the challenge before, one for each prompt.
    KeyboardResponses(Vec<Zeroizing<String>>),
}

/// A request for authentication that waits for [`AuthReply`].
#[derive(Debug)]
pub struct AuthAttempt {
    /// The login name asked for: the client's own words.
    pub user: String,
    /// How it is to be proved.
    pub method: AuthMethod,
    /// What the same user proved before on this connection and was accepted in part.
    pub proven: Vec<Credential>,
}

/// The application's answer to an [`AuthAttempt`].
#[derive(Debug)]
pub enum AuthReply {
    /// The user is in; for a query, the key may be used.
    Accept,
    /// This step is proved, one of these methods must follow.
    Partial(Vec<Method>),
    /// No. These methods may be tried.
    Reject(Vec<Method>),
    /// No. The methods open so far stay open.
    Refuse,
    /// Ask the user (keyboard-interactive only).
    Challenge(Challenge),
}

/// One question of a [`Challenge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Whether the answer may be shown while it is typed.
    pub echo: bool,
}

/// Questions of keyboard-interactive (RFC 4256 section 3.2). On the client the texts are the server's: escape them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Heading.
    pub name: String,
    /// Explanation.
    pub instruction: String,
    /// Questions, at most [`MAX_PROMPTS`].
    pub prompts: Vec<Prompt>,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
