//! The server's half: parses requests, verifies signatures, keeps count; the application decides.

use zeroize::Zeroizing;

use super::{
    AuthAttempt, AuthMethod, AuthReply, Challenge, Credential, MAX_PROMPTS, Method, SERVICE_CONNECTION,
    SERVICE_USERAUTH,
};
use crate::{
    cert::Certificate,
    config::ServerConfig,
    error::{DisconnectReason, Fault},
    key::PublicKey,
    msg,
    wire::{Reader, put_bool, put_name_list, put_string, put_u8, put_u32, put_utf8},
};

/// Longest user name, in bytes.
const MAX_USER: usize = 256;
/// Longest answer to a prompt, in bytes.
const MAX_ANSWER: usize = 1024;

/// What follows from a message.
pub(crate) enum ServerStep {
    /// Nothing.
    Nothing,
    /// Send this.
    Send(Vec<u8>),
    /// The application is to decide; nothing more is read until it did.
    Ask(AuthAttempt),
}

/// The question the application is thinking about.
enum Pending {
    Query { algorithm: String, blob: Vec<u8> },
    Signed(Credential),
    Interactive,
}

pub(crate) struct ServerAuth {
    service: bool,
    banner: Option<String>,
    initial: Vec<Method>,
    tries_left: u32,
    none_seen: bool,
    /// Everything below belongs to this user and goes when another one is named.
    user: Option<String>,
    open: Vec<Method>,
    proven: Vec<Credential>,
    /// Prompts the client has yet to answer.
    prompts: Option<usize>,
    pending: Option<Pending>,
}

impl ServerAuth {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            service: false,
            banner: config.banner.clone(),
            initial: config.methods.clone(),
            tries_left: config.max_tries.max(1),
            none_seen: false,
            user: None,
            open: config.methods.clone(),
            proven: Vec::new(),
            prompts: None,
            pending: None,
        }
    }

    /// Whether the application owes an answer.
    pub(crate) fn waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether the client has asked to log in.
    pub(crate) fn tried(&self) -> bool {
        self.user.is_some()
    }

    /// The banner, once, to be sent before the first answer.
    pub(crate) fn take_banner(&mut self) -> Option<Vec<u8>> {
        let text = self.banner.take_if(|_| self.service)?;
        let mut message = vec![msg::USERAUTH_BANNER];
        put_utf8(&mut message, &text);
        put_utf8(&mut message, "");
        Some(message)
    }

    /// A message of the client.
    pub(crate) fn message(&mut self, payload: &[u8], session_id: &[u8]) -> Result<ServerStep, Fault> {
        let mut reader = Reader::new(payload);
        match reader.u8()? {
            msg::SERVICE_REQUEST => {
                if reader.string()? != SERVICE_USERAUTH.as_bytes() || self.service {
                    return Err(Fault::new(DisconnectReason::ServiceNotAvailable, "service not available"));
                }
                reader.end()?;
                self.service = true;
                let mut accept = vec![msg::SERVICE_ACCEPT];
                put_utf8(&mut accept, SERVICE_USERAUTH);
                Ok(ServerStep::Send(accept))
            }
            msg::USERAUTH_REQUEST if self.service => self.request(reader, session_id),
            msg::USERAUTH_61 if self.prompts.is_some() => self.responses(reader),
            number => Err(Fault::protocol(format!("message {number} out of place before authentication"))),
        }
    }

    fn request(&mut self, mut reader: Reader<'_>, session_id: &[u8]) -> Result<ServerStep, Fault> {
        let (user, service, method) = (reader.utf8()?, reader.string()?, reader.string()?);
        if user.len() > MAX_USER {
            return Err(Fault::protocol("user name too long"));
        }
        if service != SERVICE_CONNECTION.as_bytes() {
            return Err(Fault::new(DisconnectReason::ServiceNotAvailable, "service not available"));
        }
        self.prompts = None;
        if self.user.as_deref() != Some(user) {
            self.user = Some(user.to_owned());
            self.open.clone_from(&self.initial);
            self.proven.clear();
        }
        match method {
            b"none" if !self.none_seen => {
                self.none_seen = true;
                Ok(ServerStep::Send(self.failure(false)))
            }
            b"publickey" if self.open.contains(&Method::PublicKey) => self.public_key(reader, session_id),
            b"keyboard-interactive" if self.open.contains(&Method::KeyboardInteractive) => {
                reader.string()?;
                reader.string()?;
                reader.end()?;
                Ok(self.ask(Pending::Interactive, AuthMethod::KeyboardInteractive))
            }
            _ => self.fail(),
        }
    }

    fn public_key(&mut self, mut reader: Reader<'_>, session_id: &[u8]) -> Result<ServerStep, Fault> {
        let (signed, algorithm, blob) = (reader.bool()?, reader.utf8()?, reader.string()?);
        let signature = if signed { Some(reader.string()?) } else { None };
        reader.end()?;
        let Some((credential, signs_with)) = credential(algorithm, blob) else { return self.fail() };
        let Some(signature) = signature else {
            let pending = Pending::Query { algorithm: algorithm.to_owned(), blob: blob.to_vec() };
            return Ok(self.ask(pending, AuthMethod::PublicKeyQuery(credential)));
        };
        let user = self.user.clone().unwrap_or_default();
        let message = signed_message(session_id, &user, algorithm, blob);
        if credential.key().verify(signs_with, &message, signature).is_err() {
            return self.fail();
        }
        Ok(self.ask(Pending::Signed(credential.clone()), AuthMethod::PublicKey(credential)))
    }

    /// SSH_MSG_USERAUTH_INFO_RESPONSE (RFC 4256 section 3.4).
    fn responses(&mut self, mut reader: Reader<'_>) -> Result<ServerStep, Fault> {
        let expected = self.prompts.take().unwrap_or_default();
        if reader.u32()? as usize != expected {
            return self.fail();
        }
        let mut answers = Vec::with_capacity(expected);
        for _ in 0..expected {
            let answer = reader.utf8()?;
            if answer.len() > MAX_ANSWER {
                return self.fail();
            }
            answers.push(Zeroizing::new(answer.to_owned()));
        }
        reader.end()?;
        Ok(self.ask(Pending::Interactive, AuthMethod::KeyboardResponses(answers)))
    }

    fn ask(&mut self, pending: Pending, method: AuthMethod) -> ServerStep {
        self.pending = Some(pending);
        ServerStep::Ask(AuthAttempt {
            user: self.user.clone().unwrap_or_default(),
            method,
            proven: self.proven.clone(),
        })
    }

    /// The application's answer: the message to send, and the user if that one is in.
    pub(crate) fn reply(&mut self, reply: AuthReply) -> Result<(ServerStep, Option<String>), Fault> {
        let Some(pending) = self.pending.take() else { return Ok((ServerStep::Nothing, None)) };
        let step = match (reply, pending) {
            (AuthReply::Accept | AuthReply::Partial(_), Pending::Query { algorithm, blob }) => {
                let mut ok = vec![msg::USERAUTH_60];
                put_utf8(&mut ok, &algorithm);
                put_string(&mut ok, &blob);
                ServerStep::Send(ok)
            }
            (AuthReply::Accept, Pending::Signed(_) | Pending::Interactive) => {
                return Ok((ServerStep::Send(vec![msg::USERAUTH_SUCCESS]), self.user.clone()));
            }
            (AuthReply::Partial(remaining), pending) => {
                if let Pending::Signed(credential) = pending {
                    self.proven.push(credential);
                }
                self.open = remaining;
                ServerStep::Send(self.failure(true))
            }
            (AuthReply::Challenge(challenge), Pending::Interactive) if challenge.prompts.len() <= MAX_PROMPTS => {
                self.prompts = Some(challenge.prompts.len());
                ServerStep::Send(info_request(&challenge))
            }
            (AuthReply::Reject(remaining), _) => {
                self.open = remaining;
                self.fail()?
            }
            (AuthReply::Refuse | AuthReply::Challenge(_), _) => self.fail()?,
        };
        Ok((step, None))
    }

    /// One try less.
    fn fail(&mut self) -> Result<ServerStep, Fault> {
        self.tries_left = self.tries_left.saturating_sub(1);
        if self.tries_left == 0 {
            return Err(Fault::new(DisconnectReason::NoMoreAuthMethods, "too many authentication failures"));
        }
        Ok(ServerStep::Send(self.failure(false)))
    }

    fn failure(&self, partial: bool) -> Vec<u8> {
        let names: Vec<&str> = self.open.iter().map(|method| method.name()).collect();
        let mut message = vec![msg::USERAUTH_FAILURE];
        put_name_list(&mut message, &names);
        put_bool(&mut message, partial);
        message
    }
}

impl Credential {
    /// The key that signs.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        match self {
            Self::Key(key) => key,
            Self::Certificate(certificate) => &certificate.public_key,
        }
    }
}

/// The key in `blob` if `algorithm` is for keys like it, and the algorithm its signatures must name.
fn credential(algorithm: &str, blob: &[u8]) -> Option<(Credential, &'static str)> {
    let (plain, certified) = match algorithm.strip_suffix("-cert-v01@openssh.com") {
        Some(plain) => (plain, true),
        None => (algorithm, false),
    };
    let (key_type, signs_with) = match plain {
        "ssh-ed25519" => ("ssh-ed25519", "ssh-ed25519"),
        "ecdsa-sha2-nistp256" => ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
        "rsa-sha2-256" => ("ssh-rsa", "rsa-sha2-256"),
        "rsa-sha2-512" => ("ssh-rsa", "rsa-sha2-512"),
        _ => return None,
    };
    let credential = if certified {
        Credential::Certificate(Box::new(Certificate::from_wire(blob).ok()?))
    } else {
        Credential::Key(PublicKey::from_wire(blob).ok()?)
    };
    (credential.key().algorithm() == key_type).then_some((credential, signs_with))
}

/// What a client signs (RFC 4252 section 7).
pub(super) fn signed_message(session_id: &[u8], user: &str, algorithm: &str, blob: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(256 + blob.len());
    put_string(&mut message, session_id);
    message.extend_from_slice(&request_head(user, "publickey"));
    put_bool(&mut message, true);
    put_utf8(&mut message, algorithm);
    put_string(&mut message, blob);
    message
}

/// The beginning of SSH_MSG_USERAUTH_REQUEST.
pub(super) fn request_head(user: &str, method: &str) -> Vec<u8> {
    let mut message = Vec::new();
    put_u8(&mut message, msg::USERAUTH_REQUEST);
    put_utf8(&mut message, user);
    put_utf8(&mut message, SERVICE_CONNECTION);
    put_utf8(&mut message, method);
    message
}

/// SSH_MSG_USERAUTH_INFO_REQUEST (RFC 4256 section 3.2).
fn info_request(challenge: &Challenge) -> Vec<u8> {
    let mut message = vec![msg::USERAUTH_60];
    put_utf8(&mut message, &challenge.name);
    put_utf8(&mut message, &challenge.instruction);
    put_utf8(&mut message, "");
    put_u32(&mut message, u32::try_from(challenge.prompts.len()).unwrap_or_default());
    for prompt in &challenge.prompts {
        put_utf8(&mut message, &prompt.text);
        put_bool(&mut message, prompt.echo);
    }
    message
}
