//! A session with others in it: who is there, whether it may run, and what those who joined see.
//!
//! Nobody who joined can hold the session up: each has a queue of bounded size, and whose queue runs over gets the screen as it
//! stands when there is room again. Whether the session runs is one value, read before each byte either way, so that it stops
//! before anybody hears that a participant left.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mezite_core::kind::role::{JoinMode, OnLeave};
use mezite_core::rbac::{self, Participant, Requirement, Seat};
use mezite_core::text::escape_control;
use tokio::sync::{Notify, mpsc, watch};

use crate::ssh::screen::Screen;
use crate::ssh::verdict::Verdict;

/// Participants of one session.
const MOST: usize = 64;
/// Bytes waiting for one participant, with what each piece costs besides.
const QUEUE: usize = 256 * 1024;
/// Memory of a piece besides its bytes, about.
const PIECE: usize = 64;
/// A participant whose queue ran over gets the screen after this time: drawing it is work.
const CATCH_UP: Duration = Duration::from_millis(200);
/// How long a session waits for participants, at its beginning or when one has left.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Pieces typed by peers that wait for the program.
const TYPED: usize = 16;
/// Notices waiting for the owner.
const NOTICES: usize = 64;

/// The sessions of this node, by id.
#[derive(Debug, Default)]
pub(crate) struct Rooms(Mutex<HashMap<String, Arc<Room>>>);

/// Whose session it is.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) user: String,
    pub(super) user_id: String,
    pub(super) roles: Vec<String>,
    pub(super) login: String,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Room {
    pub(super) session_id: String,
    pub(super) owner: Owner,
    phase: watch::Sender<Phase>,
    inner: Mutex<Inner>,
    /// Tells the owner's side of a notice.
    noticed: Notify,
    typed: mpsc::Sender<Bytes>,
    patience: Duration,
}

/// Whether the session runs.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Nothing has run.
    Waiting,
    /// Bytes go both ways.
    Running,
    /// No byte goes either way.
    Paused,
    /// It ends, or has ended.
    Over(Verdict),
}

#[derive(Debug)]
struct Inner {
    requirements: Arc<[Requirement]>,
    present: Vec<Present>,
    next_id: u64,
    /// Of a session with a terminal.
    screen: Option<Screen>,
    notices: VecDeque<String>,
    typed: Option<mpsc::Receiver<Bytes>>,
}

#[derive(Debug)]
struct Present {
    id: u64,
    seat: Seat,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Something is missing: the screen must come first.
    behind: bool,
    wake: Arc<Notify>,
}

impl Rooms {
    /// The session of that id, while it lives.
    pub(super) fn find(&self, session_id: &str) -> Option<Arc<Room>> {
        self.all().get(session_id).cloned()
    }

    /// Adds a session; it is there until the answer is dropped.
    pub(super) fn open(&self, room: Room) -> Open<'_> {
        let room = Arc::new(room);
        self.all().insert(room.session_id.clone(), Arc::clone(&room));
        Open { rooms: self, room }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Room>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session in the list of this node's.
#[derive(Debug)]
pub(super) struct Open<'a> {
    rooms: &'a Rooms,
    pub(super) room: Arc<Room>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.rooms.all().remove(&self.room.session_id);
        self.room.end(Verdict::new("exit", "the session has ended"));
    }
}

impl Room {
    /// A session that waits while `requirements` are not met; `terminal` is its size in columns and rows.
    pub(super) fn new(
        session_id: &str,
        owner: Owner,
        requirements: Arc<[Requirement]>,
        terminal: Option<(u16, u16)>,
    ) -> Self {
        let phase = if requirements.is_empty() { Phase::Running } else { Phase::Waiting };
        let (typed, receiver) = mpsc::channel(TYPED);
        let inner = Inner {
            requirements,
            present: Vec::new(),
            next_id: 0,
            screen: terminal.map(|(columns, rows)| Screen::new(columns, rows)),
            notices: VecDeque::new(),
            typed: Some(receiver),
        };
        Self {
            session_id: session_id.to_owned(),
            owner,
            phase: watch::Sender::new(phase),
            inner: Mutex::new(inner),
            noticed: Notify::new(),
            typed,
            patience: PATIENCE,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Running)
    }

    /// Waits until the session runs.
    pub(super) async fn running(&self) {
        self.reached(|phase| matches!(phase, Phase::Running)).await;
    }

    /// Waits until the session does not run.
    pub(super) async fn halted(&self) {
        self.reached(|phase| !matches!(phase, Phase::Running)).await;
    }

    async fn reached(&self, wanted: fn(&Phase) -> bool) {
        if !wanted(&self.phase.borrow()) {
            // The sender is ours, so it does not go.
            let _ = self.phase.subscribe().wait_for(wanted).await;
        }
    }

    /// Comes back when the session must end: by a rule, by a moderator, or because nobody came for so long.
    pub(super) async fn over(&self) -> Verdict {
        let mut phase = self.phase.subscribe();
        loop {
            let now = phase.borrow_and_update().clone();
            match now {
                Phase::Over(verdict) => return verdict,
                Phase::Running => drop(phase.changed().await),
                Phase::Waiting | Phase::Paused => {
                    if tokio::time::timeout(self.patience, phase.changed()).await.is_err() {
                        let span = mezite_core::duration::print(self.patience);
                        return Verdict::new("moderation", &format!("{} did not come within {span}", self.wanted()));
                    }
                }
            }
        }
    }

    /// Waits for the next change of whether the session runs; what it waits for then, empty when it runs.
    pub(super) async fn state_after(&self, before: &str) -> String {
        let mut phase = self.phase.subscribe();
        loop {
            phase.borrow_and_update();
            let state = self.state();
            if state != before {
                return state;
            }
            drop(phase.changed().await);
        }
    }

    /// What the session waits for, in words; empty when it runs or is over.
    pub(super) fn state(&self) -> String {
        let word = match *self.phase.borrow() {
            Phase::Waiting => "waits",
            Phase::Paused => "is paused and waits",
            Phase::Running | Phase::Over(_) => return String::new(),
        };
        format!("{word} for {}", self.wanted())
    }

    /// Who is missing.
    pub(super) fn wanted(&self) -> String {
        let requirements = self.requirements();
        missing(&self.unmet(&self.inner(), &requirements))
    }

    fn unmet<'r>(&self, inner: &Inner, requirements: &'r [Requirement]) -> Vec<rbac::Unmet<'r>> {
        let present = inner.present.iter();
        let present: Vec<_> =
            present.map(|p| Participant { identity: p.seat.identity(), mode: p.seat.mode() }).collect();
        rbac::unmet(requirements, &self.owner.user_id, &present)
    }

    /// Who must be present, now.
    pub(super) fn requirements(&self) -> Arc<[Requirement]> {
        Arc::clone(&self.inner().requirements)
    }

    /// The roles of the owner ask for others than before.
    pub(super) fn require(&self, requirements: &Arc<[Requirement]>) {
        let mut inner = self.inner();
        if inner.requirements != *requirements {
            inner.requirements = Arc::clone(requirements);
            self.assess(&mut inner);
        }
    }

    /// Lets somebody in, who was allowed to join.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn enter(self: &Arc<Self>, seat: Seat) -> Result<Place, &'static str> {
        let mut inner = self.inner();
        if inner.present.len() >= MOST {
            return Err("too many people are in this session");
        }
        if matches!(*self.phase.borrow(), Phase::Over(_)) {
            return Err("the session has ended");
        }
        let who = format!("{} joined as {}", seat.identity().user, seat.mode().as_str());
        self.tell(&mut inner, &who);
        inner.next_id += 1;
        let (id, wake, mode) = (inner.next_id, Arc::new(Notify::new()), seat.mode());
        let queue = VecDeque::new();
        inner.present.push(Present { id, seat, queue, queued: 0, behind: true, wake: Arc::clone(&wake) });
        self.assess(&mut inner);
        Ok(Place { room: Arc::clone(self), id, mode, wake, fresh: true })
    }

    fn leave(&self, id: u64) {
        let mut inner = self.inner();
        let Some(at) = inner.present.iter().position(|present| present.id == id) else { return };
        let gone = inner.present.remove(at);
        // Stopped before anybody is told.
        self.assess(&mut inner);
        self.tell(&mut inner, &format!("{} left", gone.seat.identity().user));
    }

    /// Ends the session.
    pub(super) fn end(&self, verdict: Verdict) {
        let mut inner = self.inner();
        self.finish(&mut inner, verdict);
    }

    fn finish(&self, inner: &mut Inner, verdict: Verdict) {
        let message = verdict.message.clone();
        let is_first = self.phase.send_if_modified(|phase| {
            let lives = !matches!(phase, Phase::Over(_));
            if lives {
                *phase = Phase::Over(verdict);
            }
            lives
        });
        if is_first {
            for present in &mut inner.present {
                present.behind = false;
                present.push(notice(&message));
                present.wake.notify_one();
            }
        }
    }

    /// Sets whether the session runs by who is there.
    fn assess(&self, inner: &mut Inner) {
        let requirements = Arc::clone(&inner.requirements);
        let unmet = self.unmet(inner, &requirements);
        let ends = unmet.iter().any(|unmet| unmet.requirement.on_leave() == OnLeave::Terminate);
        let (is_met, missing) = (unmet.is_empty(), missing(&unmet));
        let now = self.phase.borrow().clone();
        let told = match now {
            Phase::Waiting | Phase::Paused if is_met => {
                self.phase.send_replace(Phase::Running);
                "everybody who must be present is: the session runs".to_owned()
            }
            Phase::Running | Phase::Paused if ends => {
                let verdict = Verdict::new("moderation", &format!("the session ends, for it lacks {missing}"));
                return self.finish(inner, verdict);
            }
            Phase::Running if !is_met => {
                self.phase.send_replace(Phase::Paused);
                format!("the session is paused, for it lacks {missing}")
            }
            Phase::Waiting => format!("the session waits for {missing}"),
            Phase::Running | Phase::Paused | Phase::Over(_) => return,
        };
        self.tell(inner, &told);
    }

    /// Tells everybody in the session, the owner too.
    fn tell(&self, inner: &mut Inner, text: &str) {
        for present in &mut inner.present {
            present.push(notice(text));
        }
        if inner.notices.len() < NOTICES {
            inner.notices.push_back(text.to_owned());
            self.noticed.notify_one();
        }
    }

    /// The next notice for the owner.
    pub(super) async fn notice(&self) -> String {
        loop {
            if let Some(text) = self.inner().notices.pop_front() {
                return text;
            }
            self.noticed.notified().await;
        }
    }

    /// Output of the session, recorded already. It does not wait.
    pub(super) fn show(&self, data: &Bytes) {
        let mut inner = self.inner();
        if let Some(screen) = &mut inner.screen {
            screen.push(data);
        }
        if inner.present.is_empty() {
            return;
        }
        // One copy for all: the buffer that it came in may be much larger.
        let copy = Bytes::copy_from_slice(data);
        for present in &mut inner.present {
            present.push(copy.clone());
        }
    }

    /// The terminal has another size.
    pub(super) fn resize(&self, columns: u16, rows: u16) {
        if let Some(screen) = &mut self.inner().screen {
            screen.resize(columns, rows);
        }
    }

    /// What peers type, once.
    pub(super) fn typed(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.inner().typed.take()
    }
}

impl Present {
    fn push(&mut self, piece: Bytes) {
        if self.behind {
            return;
        }
        self.queued += piece.len() + PIECE;
        if self.queued > QUEUE {
            (self.queue, self.queued, self.behind) = (VecDeque::new(), 0, true);
        } else {
            self.queue.push_back(piece);
        }
        self.wake.notify_one();
    }
}

/// A line of ours on a terminal that somebody else writes to.
pub(super) fn notice(text: &str) -> Bytes {
    format!("\r\nmezite: {}\r\n", escape_control(text)).into()
}

fn missing(unmet: &[rbac::Unmet<'_>]) -> String {
    unmet.iter().map(ToString::to_string).collect::<Vec<_>>().join(", and ")
}

/// Somebody's place in a session; dropping it is leaving.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    id: u64,
    mode: JoinMode,
    wake: Arc<Notify>,
    fresh: bool,
}

enum Next {
    Piece(Bytes),
    Behind,
    Nothing,
    Over,
}

impl Place {
    /// What is to be shown next, as slowly as it is asked for; `None` when the session is over.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.take() {
                Next::Piece(piece) => return Some(piece),
                Next::Over => return None,
                Next::Nothing => self.wake.notified().await,
                Next::Behind => {
                    if !std::mem::take(&mut self.fresh) {
                        tokio::time::sleep(CATCH_UP).await;
                    }
                    return self.catch_up();
                }
            }
        }
    }

    fn take(&self) -> Next {
        let mut inner = self.room.inner();
        let Some(present) = inner.present.iter_mut().find(|present| present.id == self.id) else { return Next::Over };
        if let Some(piece) = present.queue.pop_front() {
            present.queued = present.queued.saturating_sub(piece.len() + PIECE);
            return Next::Piece(piece);
        }
        match *self.room.phase.borrow() {
            Phase::Over(_) => Next::Over,
            _ if present.behind => Next::Behind,
            _ => Next::Nothing,
        }
    }

    /// The screen as it stands; what comes after it is in the queue.
    fn catch_up(&self) -> Option<Bytes> {
        let screen = {
            let mut inner = self.room.inner();
            inner.present.iter_mut().find(|present| present.id == self.id)?.behind = false;
            inner.screen.clone()
        };
        let mut shown = screen.map_or_else(|| notice("from here on").to_vec(), |screen| screen.draw());
        let state = self.room.state();
        if !state.is_empty() {
            shown.extend_from_slice(&notice(&format!("the session {state}")));
        }
        Some(shown.into())
    }

    /// Hands on what a peer types; it waits for the program. What is typed while the session does not run is lost.
    pub(super) async fn type_in(&self, data: Bytes) {
        if self.mode == JoinMode::Peer && self.room.is_running() {
            let _ = self.room.typed.send(data).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.leave(self.id);
    }
}

#[cfg(test)]
mod tests;
