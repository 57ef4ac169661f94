//! A connection that came to join somebody else's session: one channel, on which the session is watched and, by a peer, typed into.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mezite_core::audit::{self, EventType};
use mezite_core::identity::Identity;
use mezite_core::kind::role::JoinMode;
use mezite_core::rbac::Proof;
use mezite_net::clock;
use mezite_net::ssh::{
    Channel, ChannelEvent, ChannelOpen, ChannelReader, ChannelWriter, Connection, Event, Incoming, OpenFailure,
    SessionRequest,
};
use tokio::time::timeout;

use crate::Agent;
use crate::ssh::authenticate::{self, NotAllowed};
use crate::ssh::gate::INTERRUPT;
use crate::ssh::room::{Place, Room, notice};
use crate::ssh::verdict::Verdict;
use crate::ssh::{Dial, session};

/// What ends the session when a moderator types it.
const TERMINATE: u8 = b't';
/// How long a last word may take to be sent.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that may join one session.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(super) agent: Arc<Agent>,
    pub(super) dial: Dial,
    pub(super) identity: Identity,
    /// End of the certificate, unix seconds.
    pub(super) valid_before: u64,
    /// The session that the proxy let this connection join.
    pub(super) room: Arc<Room>,
    pub(super) proof: Proof,
}

/// Serves the connection to its end.
pub(super) async fn run(guest: Guest, connection: Connection, mut incoming: Incoming) {
    let channel = loop {
        match incoming.next().await {
            Some(Event::Channel(request)) if matches!(request.open, ChannelOpen::Session) => break request.accept(),
            Some(event) => refuse(event),
            None => return,
        }
    };
    let refused = async {
        while let Some(event) = incoming.next().await {
            refuse(event);
        }
    };
    tokio::select! {
        () = guest.serve(channel) => {}
        () = refused => {}
    }
    // The last word is sent; who does not hang up then is cut off.
    let _ = timeout(FAREWELL_TIMEOUT, connection.closed()).await;
}

fn refuse(event: Event) {
    match event {
        Event::Channel(request) => {
            request.reject(OpenFailure::AdministrativelyProhibited, "this connection joins one session");
        }
        Event::Global(request) => request.reply(None),
        Event::Auth(request) => request.reject(&[]),
        Event::Authenticated { .. } => {}
    }
}

/// Why somebody is no longer in a session.
enum Gone {
    /// By will, or the connection broke.
    Left,
    /// The session is over.
    Over,
    /// The joining would not be allowed now.
    Cut(String),
}

impl Guest {
    async fn serve(&self, channel: Channel) {
        let (mut reader, writer) = channel.split();
        let Some(mode) = asked_mode(&mut reader).await else { return };
        let entered = match JoinMode::from_word(&mode) {
            Some(mode) => self.enter(mode),
            None => Err("the mode is one of observer, moderator and peer".to_owned()),
        };
        match entered {
            Ok((mode, place)) => {
                let left = self.take_part(mode, place, reader, &writer).await;
                if let Gone::Cut(reason) = &left {
                    let _ = timeout(FAREWELL_TIMEOUT, writer.data(notice(reason))).await;
                }
                let code = if matches!(left, Gone::Cut(_)) { session::OURS } else { 0 };
                let status = SessionRequest::ExitStatus(code);
                writer.notify(status.name(), status.payload());
                writer.eof();
                writer.close();
            }
            Err(reason) => session::farewell(&writer, Some(&reason)).await,
        }
    }

    /// Decides, and takes a place in the session. While Auth has been away for too long, nobody comes in.
    fn enter(&self, mode: JoinMode) -> Result<(JoinMode, Place), String> {
        let view = self.agent.cluster.current().map_err(|e| e.to_string())?;
        let seat = match authenticate::decide_join(self, &view, mode) {
            Ok(seat) => seat,
            Err(NotAllowed::Denied(denied)) => {
                let event = authenticate::join_denied(self, &denied);
                let told = audit::refusal(&denied.to_string(), &event.id);
                self.agent.reports.send(event);
                return Err(told);
            }
            Err(refused @ NotAllowed::Unlisted) => return Err(refused.to_string()),
        };
        let place = self.room.enter(seat)?;
        self.report(EventType::SessionJoin, mode);
        Ok((mode, place))
    }

    /// The decision with what is known now, for somebody who is in.
    fn decide(&self, mode: JoinMode) -> Result<(), NotAllowed> {
        let view = self.agent.cluster.last().ok_or(NotAllowed::Unlisted)?;
        authenticate::decide_join(self, &view, mode).map(drop)
    }

    /// Shows the session and takes what its mode lets somebody type, until it is over or somebody leaves.
    async fn take_part(&self, mode: JoinMode, mut place: Place, reader: ChannelReader, writer: &ChannelWriter) -> Gone {
        let (typed, mut to_type) = tokio::sync::mpsc::channel(1);
        let keys = self.keys(mode, reader, typed);
        let verdict = self.verdict(mode);
        tokio::pin!(keys, verdict);
        let gone = loop {
            tokio::select! {
                () = &mut keys => break Gone::Left,
                reason = &mut verdict => break Gone::Cut(reason),
                () = writer.closed() => break Gone::Left,
                Some(data) = to_type.recv() => place.type_in(data).await,
                shown = place.next() => {
                    let Some(shown) = shown else { break Gone::Over };
                    tokio::select! {
                        sent = writer.data(shown) => if sent.is_err() { break Gone::Left },
                        () = &mut keys => break Gone::Left,
                        reason = &mut verdict => break Gone::Cut(reason),
                    }
                }
            }
        };
        drop(place);
        self.report(EventType::SessionLeave, mode);
        gone
    }

    /// Reads what is typed; comes back when somebody leaves.
    async fn keys(&self, mode: JoinMode, mut reader: ChannelReader, typed: tokio::sync::mpsc::Sender<Bytes>) {
        while let Some(event) = reader.recv().await {
            match event {
                ChannelEvent::Data(data) if mode == JoinMode::Peer => drop(typed.send(data).await),
                ChannelEvent::Data(data) if data.contains(&INTERRUPT) => return,
                ChannelEvent::Data(data) if mode == JoinMode::Moderator && data.contains(&TERMINATE) => {
                    let reason = format!("{}, a moderator, ended this session", self.identity.user);
                    self.room.end(Verdict::new("terminated", &reason));
                }
                ChannelEvent::Request(request) => request.reply(false),
                ChannelEvent::Data(_) | ChannelEvent::Extended(..) | ChannelEvent::Eof => {}
            }
        }
    }

    /// Comes back with a reason when the joining would not be allowed any more.
    async fn verdict(&self, mode: JoinMode) -> String {
        let mut cluster = self.agent.cluster.clone();
        let held = cluster.hold();
        let left = self.valid_before.saturating_sub(clock::now_unix());
        let certificate = tokio::time::sleep(Duration::from_secs(left));
        tokio::pin!(certificate);
        loop {
            let view = cluster.last();
            if let Err(refused) = self.decide(mode) {
                return refused.to_string();
            }
            held.settle(view.map(|view| view.revision).unwrap_or_default());
            tokio::select! {
                () = self.agent.stop.cancelled() => return "the agent of this node is stopping".to_owned(),
                () = &mut certificate => return "the certificate has expired; run msh login".to_owned(),
                () = cluster.changed() => {}
            }
        }
    }

    fn report(&self, kind: EventType, mode: JoinMode) {
        let state = match self.room.state() {
            state if state.is_empty() => "runs or is over".to_owned(),
            state => state,
        };
        let event =
            authenticate::join_event(self, kind, "").detail("mode", mode.as_str()).detail("session_state", state);
        self.agent.reports.send(event);
    }
}

/// The mode, which is all that is asked for on the channel: the command of an `exec`.
async fn asked_mode(reader: &mut ChannelReader) -> Option<String> {
    while let Some(event) = reader.recv().await {
        let ChannelEvent::Request(request) = event else { continue };
        match &request.request {
            SessionRequest::Exec(mode) => {
                let mode = String::from_utf8_lossy(mode).into_owned();
                request.reply(true);
                return Some(mode);
            }
            // What is shown is for the size of the session's own terminal.
            SessionRequest::Pty(_) | SessionRequest::WindowChange { .. } => request.reply(true),
            _ => request.reply(false),
        }
    }
    None
}
