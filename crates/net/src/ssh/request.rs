//! What a peer asks and the application decides. Whatever is dropped undecided is refused.

use std::sync::Arc;

use bytes::Bytes;
use mezite_ssh::{
    Event as Raised,
    auth::{AuthMethod, AuthReply, Challenge, Credential, Method, Prompt},
    channel::{ChannelId, ChannelOpen, OpenFailure},
};

use super::{
    Channel,
    channel::Guard,
    shared::{Live, Slot},
};

/// Something to decide or to know.
#[derive(Debug)]
pub enum Event {
    /// A client wants to log in. Nothing more is read from it until this is answered.
    Auth(AuthRequest),
    /// The client is logged in.
    Authenticated {
        /// Its login name.
        user: String,
    },
    /// The peer wants a channel.
    Channel(ChannelRequest),
    /// The peer makes a global request.
    Global(GlobalRequest),
}

/// The engine's event as the application's; a client's challenge is given back.
pub(super) fn event(live: &Arc<Live>, raised: Raised) -> Result<Event, Challenge> {
    let live = Arc::clone(live);
    Ok(match raised {
        Raised::Auth(attempt) => Event::Auth(AuthRequest {
            user: attempt.user,
            method: attempt.method,
            proven: attempt.proven,
            verdict: Verdict(Some(live)),
        }),
        Raised::Authenticated { user } => Event::Authenticated { user },
        Raised::Open { channel, open } => {
            Event::Channel(ChannelRequest { open, offer: Offer { live, id: channel, answered: false } })
        }
        Raised::Global { token, name, data } => {
            Event::Global(GlobalRequest { name, data, owed: Owed(token.map(|token| (live, token))) })
        }
        Raised::Challenge(challenge) => return Err(challenge),
    })
}

/// A client's attempt to log in.
#[derive(Debug)]
pub struct AuthRequest {
    /// The login name asked for: the client's own words, at most 256 bytes.
    pub user: String,
    /// How it is to be proved.
    pub method: AuthMethod,
    /// What the same user proved before on this connection, each answered with [`AuthRequest::accept_partial`]. It is
    /// empty again when another user is named, so the application needs no memory of its own.
    pub proven: Vec<Credential>,
    verdict: Verdict,
}

impl AuthRequest {
    /// Lets the user in; after a query, tells the client to go on and sign.
    pub fn accept(mut self) {
        self.verdict.give(AuthReply::Accept);
    }

    /// This step is proved; one of `remaining` must follow.
    pub fn accept_partial(mut self, remaining: &[Method]) {
        self.verdict.give(AuthReply::Partial(remaining.to_vec()));
    }

    /// Refuses; `remaining` may be tried.
    pub fn reject(mut self, remaining: &[Method]) {
        self.verdict.give(AuthReply::Reject(remaining.to_vec()));
    }

    /// Asks the user. Only in answer to `KeyboardInteractive` or `KeyboardResponses`, with at most 16 prompts; anything
    /// else is a refusal.
    pub fn challenge(mut self, name: &str, instruction: &str, prompts: Vec<Prompt>) {
        let challenge = Challenge { name: name.to_owned(), instruction: instruction.to_owned(), prompts };
        self.verdict.give(AuthReply::Challenge(challenge));
    }
}

struct Verdict(Option<Arc<Live>>);

impl Verdict {
    fn give(&mut self, reply: AuthReply) {
        if let Some(live) = self.0.take() {
            live.shared.with(|state| state.engine.authenticate(reply));
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.give(AuthReply::Refuse);
    }
}

/// A channel the peer wants.
#[derive(Debug)]
pub struct ChannelRequest {
    /// What for.
    pub open: ChannelOpen,
    offer: Offer,
}

impl ChannelRequest {
    /// Opens the channel.
    #[must_use]
    pub fn accept(mut self) -> Channel {
        self.offer.accept()
    }

    /// Refuses it; the text reaches the peer's user.
    pub fn reject(mut self, failure: OpenFailure, message: &str) {
        self.offer.reject(failure, message);
    }
}

struct Offer {
    live: Arc<Live>,
    id: ChannelId,
    answered: bool,
}

impl Offer {
    fn accept(&mut self) -> Channel {
        self.answered = true;
        self.live.shared.with(|state| {
            state.slots.insert(self.id, Slot::default());
            state.engine.accept(self.id);
        });
        Channel::new(Guard::new(Arc::clone(&self.live), self.id))
    }

    fn reject(&mut self, failure: OpenFailure, message: &str) {
        if !std::mem::replace(&mut self.answered, true) {
            self.live.shared.with(|state| state.engine.reject(self.id, failure, message));
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.reject(OpenFailure::AdministrativelyProhibited, "not accepted here");
    }
}

/// A global request of the peer.
#[derive(Debug)]
pub struct GlobalRequest {
    /// Its name: the peer's own words.
    pub name: String,
    /// What belongs to it, at most 4 KiB.
    pub data: Bytes,
    owed: Owed,
}

impl GlobalRequest {
    /// Whether the peer waits for an answer.
    #[must_use]
    pub fn want_reply(&self) -> bool {
        self.owed.0.is_some()
    }

    /// Answers with data, or refuses with `None`.
    pub fn reply(mut self, answer: Option<Bytes>) {
        self.owed.pay(answer);
    }
}

struct Owed(Option<(Arc<Live>, u64)>);

impl Owed {
    fn pay(&mut self, answer: Option<Bytes>) {
        if let Some((live, token)) = self.0.take() {
            live.shared.with(|state| state.engine.global_reply(token, answer));
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.pay(None);
    }
}

impl std::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verdict")
    }
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Offer")
    }
}

impl std::fmt::Debug for Owed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owed")
    }
}
