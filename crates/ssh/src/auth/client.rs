//! The client's half: one signed request without asking first, then keyboard-interactive if the server wants it.

use zeroize::Zeroizing;

use super::{
    Challenge, MAX_PROMPTS, Method, Prompt, SERVICE_USERAUTH,
    server::{request_head, signed_message},
};
use crate::{
    config::{ClientSettings, Identity},
    error::Fault,
    msg,
    wire::{Reader, put_string, put_u32, put_utf8},
};

/// Rounds of keyboard-interactive that are started.
const MAX_INTERACTIVE: u32 = 3;
/// Banner text kept, in bytes.
const MAX_BANNER: usize = 8192;
/// Banners accepted.
const MAX_BANNERS: u32 = 16;

/// What follows from a message.
pub(crate) enum ClientStep {
    /// Nothing.
    Nothing,
    /// Send this.
    Send(Vec<u8>),
    /// The user is to be asked.
    Ask(Challenge),
    /// Logged in.
    Success,
    /// Nothing is left to try; these methods the server would take.
    Denied(Vec<String>),
}

/// What the server is thinking about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    PublicKey,
    Interactive,
    None,
}

pub(crate) struct ClientAuth {
    user: String,
    identity: Option<Identity>,
    interactive: bool,
    pipelined: bool,
    session_id: Option<Vec<u8>>,
    accepted: bool,
    attempt: Option<Attempt>,
    interactive_left: u32,
    /// Answers the server waits for.
    prompts: Option<usize>,
    banner: String,
    banners: u32,
}

impl ClientAuth {
    pub(crate) fn new(settings: &ClientSettings) -> Self {
        Self {
            user: settings.user.clone(),
            identity: settings.identity.clone(),
            interactive: settings.interactive,
            pipelined: settings.pipelined,
            session_id: None,
            accepted: false,
            attempt: None,
            interactive_left: MAX_INTERACTIVE,
            prompts: None,
            banner: String::new(),
            banners: 0,
        }
    }

    pub(crate) fn started(&self) -> bool {
        self.session_id.is_some()
    }

    /// Whether the first attempt is sent without waiting.
    pub(crate) fn pipelined(&self) -> bool {
        self.pipelined
    }

    /// What the server said before authentication; its own words.
    pub(crate) fn banner(&self) -> &str {
        &self.banner
    }

    /// The first messages, as soon as the connection is encrypted.
    pub(crate) fn start(&mut self, session_id: &[u8]) -> Vec<Vec<u8>> {
        self.session_id = Some(session_id.to_vec());
        let mut request = vec![msg::SERVICE_REQUEST];
        put_utf8(&mut request, SERVICE_USERAUTH);
        let mut messages = vec![request];
        if self.pipelined {
            messages.push(self.first_attempt());
        }
        messages
    }

    fn first_attempt(&mut self) -> Vec<u8> {
        match self.identity.clone() {
            Some(identity) => self.public_key(&identity),
            None if self.interactive => self.keyboard_interactive(),
            None => {
                self.attempt = Some(Attempt::None);
                request_head(&self.user, "none")
            }
        }
    }

    fn public_key(&mut self, identity: &Identity) -> Vec<u8> {
        self.attempt = Some(Attempt::PublicKey);
        let (key, algorithm, blob) = match identity {
            Identity::Key(key) => (key, "ssh-ed25519", key.public().to_wire()),
            Identity::Certificate(key, certificate) => (key, "ssh-ed25519-cert-v01@openssh.com", certificate.to_wire()),
        };
        let session_id = self.session_id.as_deref().unwrap_or_default();
        let signed = signed_message(session_id, &self.user, algorithm, &blob);
        // The request is what was signed, without the session id in front, with the signature behind.
        let mut message = signed.get(4 + session_id.len()..).unwrap_or_default().to_vec();
        put_string(&mut message, &key.sign(&signed));
        message
    }

    fn keyboard_interactive(&mut self) -> Vec<u8> {
        self.attempt = Some(Attempt::Interactive);
        self.interactive_left -= 1;
        let mut message = request_head(&self.user, Method::KeyboardInteractive.name());
        put_utf8(&mut message, "");
        put_utf8(&mut message, "");
        message
    }

    /// A message of the server.
    pub(crate) fn message(&mut self, payload: &[u8]) -> Result<ClientStep, Fault> {
        let mut reader = Reader::new(payload);
        let number = reader.u8()?;
        let out_of_place = || Fault::protocol(format!("message {number} out of place before authentication"));
        if !self.started() {
            return Err(out_of_place());
        }
        match number {
            msg::SERVICE_ACCEPT if !self.accepted && reader.string()? == SERVICE_USERAUTH.as_bytes() => {
                self.accepted = true;
                Ok(if self.pipelined { ClientStep::Nothing } else { ClientStep::Send(self.first_attempt()) })
            }
            msg::USERAUTH_BANNER => self.on_banner(reader),
            msg::USERAUTH_FAILURE if self.accepted && self.attempt.is_some() => self.on_failure(reader),
            msg::USERAUTH_SUCCESS if self.accepted && self.attempt.is_some() => Ok(ClientStep::Success),
            msg::USERAUTH_60 if self.attempt == Some(Attempt::Interactive) && self.prompts.is_none() => {
                self.on_challenge(reader)
            }
            _ => Err(out_of_place()),
        }
    }

    fn on_banner(&mut self, mut reader: Reader<'_>) -> Result<ClientStep, Fault> {
        self.banners += 1;
        let text = String::from_utf8_lossy(reader.string()?);
        if self.banners > MAX_BANNERS || self.banner.len() + text.len() > MAX_BANNER {
            return Err(Fault::protocol("the server's banner is too long"));
        }
        self.banner.push_str(&text);
        Ok(ClientStep::Nothing)
    }

    fn on_failure(&mut self, mut reader: Reader<'_>) -> Result<ClientStep, Fault> {
        let methods: Vec<String> = reader.name_list()?.into_iter().take(16).map(str::to_owned).collect();
        reader.bool()?;
        reader.end()?;
        self.prompts = None;
        self.attempt = None;
        let wanted = methods.iter().any(|method| method == Method::KeyboardInteractive.name());
        if wanted && self.interactive && self.interactive_left > 0 {
            return Ok(ClientStep::Send(self.keyboard_interactive()));
        }
        Ok(ClientStep::Denied(methods))
    }

    fn on_challenge(&mut self, mut reader: Reader<'_>) -> Result<ClientStep, Fault> {
        let (name, instruction) = (reader.utf8()?.to_owned(), reader.utf8()?.to_owned());
        reader.string()?;
        let count = reader.u32()? as usize;
        if count > MAX_PROMPTS {
            return Err(Fault::protocol("too many prompts"));
        }
        let mut prompts = Vec::with_capacity(count);
        for _ in 0..count {
            prompts.push(Prompt { text: reader.utf8()?.to_owned(), echo: reader.bool()? });
        }
        reader.end()?;
        self.prompts = Some(count);
        Ok(ClientStep::Ask(Challenge { name, instruction, prompts }))
    }

    /// The user's answers; `None` if they do not fit the question, which gives up.
    pub(crate) fn answer(&mut self, answers: &[Zeroizing<String>]) -> Option<Zeroizing<Vec<u8>>> {
        let count = self.prompts.take_if(|count| *count == answers.len())?;
        let length: usize = answers.iter().map(|answer| 4 + answer.len()).sum();
        // Reserved in one piece: growing would leave copies of the answers behind.
        let mut message = Zeroizing::new(Vec::with_capacity(5 + length));
        message.push(msg::USERAUTH_61);
        put_u32(&mut message, u32::try_from(count).ok()?);
        for answer in answers {
            put_utf8(&mut message, answer);
        }
        Some(message)
    }
}
