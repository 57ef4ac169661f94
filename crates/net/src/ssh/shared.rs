//! What the handles and the driver of one connection share: the engine, and who is to be woken.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    task::Waker,
};

use bytes::Bytes;
use mezite_ssh::{
    CloseReason, Connection as Engine, DisconnectReason, Event,
    auth::AuthReply,
    channel::{ChannelId, ChannelOpen, Notice, OpenFailure},
};
use tokio::sync::oneshot;

use super::OpenError;

/// Who waits on one channel.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) reader: Option<Waker>,
    pub(super) writers: Vec<Waker>,
    pub(super) opened: Option<oneshot::Sender<Result<(), OpenError>>>,
    /// In the order of the requests.
    pub(super) replies: VecDeque<oneshot::Sender<bool>>,
}

/// Everything under the lock.
pub(super) struct State {
    pub(super) engine: Engine,
    pub(super) slots: HashMap<ChannelId, Slot>,
    pub(super) globals: VecDeque<oneshot::Sender<Option<Bytes>>>,
    pub(super) incoming: Option<Waker>,
    /// Nobody will decide: every request is refused.
    pub(super) incoming_gone: bool,
    pub(super) closers: Vec<Waker>,
    /// The driver, while it waits.
    pub(super) driver: Option<Waker>,
    /// The driver waits for the wire, more output is no news to it.
    pub(super) writing: bool,
    /// The driver wrote what could be written and is done.
    pub(super) finished: bool,
    told_closed: bool,
}

pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn new(engine: Engine) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            engine,
            slots: HashMap::new(),
            globals: VecDeque::new(),
            incoming: None,
            incoming_gone: false,
            closers: Vec::new(),
            driver: None,
            writing: false,
            finished: false,
            told_closed: false,
        })))
    }

    /// Acts on the state, then wakes whoever has news from it, after the lock is gone.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut wakers = Vec::new();
        let result = {
            // A panic elsewhere cannot leave the engine in a state that is worse than closed.
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut state);
            state.news(&mut wakers);
            result
        };
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

impl State {
    fn news(&mut self, wakers: &mut Vec<Waker>) {
        while let Some(notice) = self.engine.poll_notice() {
            self.pass_on(notice, wakers);
        }
        if self.incoming_gone {
            self.refuse_all();
        } else if self.incoming.is_some() && self.engine.has_event() {
            wakers.extend(self.incoming.take());
        }
        if self.engine.closed().is_some() && !self.told_closed {
            self.told_closed = true;
            for slot in self.slots.values_mut() {
                wakers.extend(slot.reader.take());
                wakers.append(&mut slot.writers);
                slot.opened = None;
                slot.replies.clear();
            }
            self.globals.clear();
            wakers.extend(self.incoming.take());
            wakers.extend(self.driver.take());
        }
        if self.finished {
            wakers.append(&mut self.closers);
        }
        if self.engine.has_output() && !self.writing {
            wakers.extend(self.driver.take());
        }
    }

    fn pass_on(&mut self, notice: Notice, wakers: &mut Vec<Waker>) {
        let slots = &mut self.slots;
        match notice {
            Notice::Readable(id) => wakers.extend(slots.get_mut(&id).and_then(|slot| slot.reader.take())),
            Notice::Writable(id) => {
                if let Some(slot) = slots.get_mut(&id) {
                    wakers.append(&mut slot.writers);
                }
            }
            Notice::Drained => slots.values_mut().for_each(|slot| wakers.append(&mut slot.writers)),
            Notice::Opened(id) => {
                if let Some(opened) = slots.get_mut(&id).and_then(|slot| slot.opened.take()) {
                    let _ = opened.send(Ok(()));
                }
            }
            Notice::OpenFailed(id, failure, message) => {
                let Some(slot) = slots.get_mut(&id) else { return };
                slot.replies.clear();
                if let Some(opened) = slot.opened.take() {
                    let _ = opened.send(Err(OpenError::Refused { failure, message }));
                }
            }
            Notice::RequestReply(id, ok) => {
                if let Some(reply) = slots.get_mut(&id).and_then(|slot| slot.replies.pop_front()) {
                    let _ = reply.send(ok);
                }
            }
            Notice::Closed(id) => {
                if let Some(slot) = slots.get_mut(&id) {
                    slot.replies.clear();
                }
            }
            Notice::GlobalReply(answer) => {
                if let Some(reply) = self.globals.pop_front() {
                    let _ = reply.send(answer);
                }
            }
        }
    }

    /// The application does not listen: nothing is granted.
    fn refuse_all(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Auth(_) => self.engine.authenticate(AuthReply::Refuse),
                Event::Challenge(_) => self.engine.answer(None),
                Event::Open { channel, .. } => {
                    self.engine.reject(channel, OpenFailure::AdministrativelyProhibited, "not accepted here");
                }
                Event::Global { token: Some(token), .. } => self.engine.global_reply(token, None),
                Event::Global { token: None, .. } | Event::Authenticated { .. } => {}
            }
        }
    }

    /// Asks for a channel and keeps a place for who waits on it.
    pub(super) fn open(
        &mut self,
        open: ChannelOpen,
        opened: oneshot::Sender<Result<(), OpenError>>,
    ) -> Option<ChannelId> {
        let id = self.engine.open(open)?;
        self.slots.insert(id, Slot { opened: Some(opened), ..Slot::default() });
        Some(id)
    }
}

/// The handles of one connection; when the last goes, the connection is closed.
pub(super) struct Live {
    pub(super) shared: Arc<Shared>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.with(|state| state.engine.disconnect(DisconnectReason::ByApplication, "closed"));
    }
}

impl Live {
    /// Why the connection is over.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        self.shared.with(|state| state.engine.closed().cloned())
    }
}
