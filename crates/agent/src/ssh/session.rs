//! One session: a shell, a command or a subsystem on one channel.
//!
//! Order: the recorder opens, Auth is told (`session.start`), the starter makes the session, and only then is it told to run.
//! While Auth is away the start is kept in the outbox, and a session goes on recording to this node.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mezite_core::kind::role::RecordExec;
use mezite_core::rbac::Requirement;
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{
    Channel, ChannelEvent, ChannelReader, ChannelReq, ChannelWriter, Connection, DisconnectReason, SessionRequest,
};
use mezite_net::watch::Held;
use mezite_proto::v1;
use mezite_proto::v1::control_up::Message as Up;
use mezite_record::{Content, ExecPolicy, Metadata, Mode, Recorder, exec_policy};
use mezite_session::{Command, SessionSpec};
use tokio::time::timeout;

use crate::config::RecordingMode;
use crate::ssh::command::{Prepared, Step, describe};
use crate::ssh::forward::Forwards;
use crate::ssh::gate::{self, Left};
use crate::ssh::leader::{Exit, Leader};
use crate::ssh::pump::{self, Ended};
use crate::ssh::room::{Owner, Room, notice};
pub(super) use crate::ssh::verdict::Verdict;
use crate::ssh::{Admitted, authenticate};
use crate::tunnel::up;

/// How long Auth may take to note the start of a session before the session starts without it.
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a last word may take to be sent.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// The exit status of a failure of ours, as ssh has it.
pub(super) const OURS: u32 = 255;

/// Serves a session channel to its end.
pub(super) async fn run(admitted: Arc<Admitted>, connection: Connection, channel: Channel, forwards: &Arc<Forwards>) {
    let (mut reader, writer) = channel.split();
    let mut prepared = Prepared::default();
    let Some((command, request)) = prepare(&admitted, &mut reader, &mut prepared, forwards).await else { return };
    let mut session = Session::new(Arc::clone(&admitted), &command, prepared.pty.is_some());
    let requirements = match session.requirements(&command) {
        Ok(requirements) => requirements,
        Err(reason) => {
            request.reply(true);
            return farewell(&writer, Some(&authenticate::session_denied(&admitted, &reason))).await;
        }
    };
    let open = admitted.agent.rooms.open(session.room(requirements, &prepared));
    let mut door = Door { reader, writer, request: Some(request) };
    match session.start(command, prepared, &open.room, &mut door).await {
        Ok(begun) => {
            door.answer();
            session.live(begun, &open.room, door, connection).await;
        }
        Err(not) => {
            let reason = not.reason();
            tracing::warn!(session_id = session.info.session_id, reason, "a session could not start");
            door.answer();
            farewell(&door.writer, reason).await;
        }
    }
}

/// Says why there is no session, as a session that ends at once: that text reaches the user of any client.
pub(super) async fn farewell(writer: &ChannelWriter, reason: Option<&str>) {
    if let Some(reason) = reason {
        let text = format!("mezite: {}\r\n", escape_control(reason));
        let _ = timeout(FAREWELL_TIMEOUT, writer.extended(1, text.into())).await;
    }
    let status = SessionRequest::ExitStatus(OURS);
    writer.notify(status.name(), status.payload());
    writer.eof();
    writer.close();
}

/// The client's side of a session.
struct Door {
    reader: ChannelReader,
    writer: ChannelWriter,
    /// Waits for its answer.
    request: Option<ChannelReq>,
}

impl Door {
    /// Says that the session is there.
    fn answer(&mut self) {
        if let Some(request) = self.request.take() {
            request.reply(true);
        }
    }
}

/// Why there is no session.
enum NotStarted {
    Failed(String),
    Left(Left),
}

impl NotStarted {
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Left(Left::Verdict(verdict)) => Some(&verdict.message),
            Self::Left(Left::User) => None,
        }
    }
}

impl NotStarted {
    fn ended(&self) -> Ended {
        match self {
            Self::Failed(_) => Ended::failed(),
            Self::Left(Left::User) => Ended { reason: "disconnect", ..Ended::failed() },
            Self::Left(Left::Verdict(verdict)) => Ended { reason: verdict.reason, ..Ended::failed() },
        }
    }
}

impl From<String> for NotStarted {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<Left> for NotStarted {
    fn from(left: Left) -> Self {
        Self::Left(left)
    }
}

/// Answers requests until one says what to run.
async fn prepare(
    admitted: &Admitted,
    reader: &mut ChannelReader,
    prepared: &mut Prepared,
    forwards: &Arc<Forwards>,
) -> Option<(Command, ChannelReq)> {
    while let Some(event) = reader.recv().await {
        let ChannelEvent::Request(request) = event else { continue };
        if request.request == SessionRequest::AgentForward {
            request.reply(forward_keys(admitted, prepared, forwards).await);
            continue;
        }
        match prepared.take(request.request.clone(), &admitted.permit) {
            Step::Answer(answer) => request.reply(answer),
            Step::Refuse(reason) => {
                tracing::info!(user = admitted.identity.user, reason, "a session request was refused");
                request.reply(false);
            }
            Step::Run(command) => return Some((command, request)),
        }
    }
    None
}

/// Whether the session's programs reach the user's key agent.
async fn forward_keys(admitted: &Admitted, prepared: &mut Prepared, forwards: &Arc<Forwards>) -> bool {
    match forwards.keys().await {
        Ok(socket) => {
            prepared.set_key_agent(socket);
            true
        }
        Err(reason) => {
            tracing::info!(user = admitted.identity.user, reason, "forwarding the key agent was refused");
            false
        }
    }
}

/// What runs.
struct Begun {
    leader: Leader,
    recorder: Option<Recorder>,
    /// Until its end it lives by a decision.
    held: Held,
}

struct Session {
    admitted: Arc<Admitted>,
    info: v1::SessionInfo,
}

impl Session {
    fn new(admitted: Arc<Admitted>, command: &Command, pty: bool) -> Self {
        let (kind, text) = describe(command);
        let peer = &admitted.dial.grant.client_addr;
        let client_ip = peer.parse::<std::net::SocketAddr>().map(|peer| peer.ip().to_string()).unwrap_or_default();
        let info = v1::SessionInfo {
            session_id: clock::uuid(),
            kind: kind.to_owned(),
            user: admitted.identity.user.clone(),
            user_id: admitted.identity.user_id.clone(),
            node_id: admitted.agent.node_id.clone(),
            node_name: admitted.agent.node_name.clone(),
            cluster_name: admitted.agent.cluster_name.clone(),
            login: admitted.login.clone(),
            command: text,
            client_ip,
            started_unix_ms: clock::now_unix_ms(),
            recorded: admitted.permit.recording().on || admitted.dial.grant.record,
            pty,
            roles: admitted.permit.roles().to_vec(),
            ..Default::default()
        };
        Self { admitted, info }
    }

    /// Who must be present, decided anew: the connection may be old.
    ///
    /// # Errors
    /// Why there is no session.
    fn requirements(&self, command: &Command) -> Result<Arc<[Requirement]>, String> {
        let permit = self.admitted.permit_to_begin()?;
        match (permit.moderation().first(), command) {
            (Some(first), Command::Subsystem { name, .. }) => {
                Err(format!("{first}, and {name} cannot be watched; use a shell or a command"))
            }
            _ => Ok(Arc::clone(permit.moderation())),
        }
    }

    fn room(&self, requirements: Arc<[Requirement]>, prepared: &Prepared) -> Room {
        let identity = &self.admitted.identity;
        let owner = Owner {
            user: identity.user.clone(),
            user_id: identity.user_id.clone(),
            roles: identity.roles.clone(),
            login: self.admitted.login.clone(),
        };
        let size = prepared.pty.as_ref().map(|pty| (cells(pty.cols), cells(pty.rows)));
        Room::new(&self.info.session_id, owner, requirements, size)
    }

    /// Opens the recorder, tells Auth, makes the session and lets it run, as soon as everybody is there who must be.
    async fn start(
        &mut self,
        command: Command,
        prepared: Prepared,
        room: &Room,
        door: &mut Door,
    ) -> Result<Begun, NotStarted> {
        let agent = &self.admitted.agent;
        agent.outbox.begin(&self.info).map_err(|e| format!("the session cannot be noted on this node: {e}"))?;
        let recorder = match self.recorder(&prepared).await {
            Ok(recorder) => recorder,
            Err(reason) if !pump::is_strict(self.admitted.permit.recording()) => {
                tracing::error!(
                    session_id = self.info.session_id,
                    reason,
                    "a session starts unrecorded, as its roles allow"
                );
                self.info.recorded = false;
                None
            }
            Err(reason) => {
                // Auth has not heard of it.
                agent.outbox.forget(&self.info.session_id);
                return Err(reason.into());
            }
        };
        let begun = if room.is_running() {
            self.begin(command, prepared).await.map_err(NotStarted::from)
        } else {
            self.begin_moderated(command, prepared, room, door, recorder.as_ref()).await
        };
        match begun {
            Ok((leader, held)) => {
                self.tell_proxy();
                Ok(Begun { leader, recorder, held })
            }
            Err(not) => {
                // Auth may know of a start that did not come about; it hears of the end at once.
                self.end(&not.ended());
                if let Some(recorder) = recorder {
                    let _ = recorder.finish().await;
                }
                Err(not)
            }
        }
    }

    async fn begin(&self, command: Command, prepared: Prepared) -> Result<(Leader, Held), String> {
        let spec = self.spec(command, prepared);
        let (told, leader) = tokio::join!(self.tell_auth(""), Leader::spawn(&self.admitted.agent.starters, spec));
        told?;
        let mut leader = leader?;
        // Decided at the last moment before something runs: a lock may have come while all this was made.
        let held = self.admitted.admit()?;
        leader.go().await?;
        Ok((leader, held))
    }

    /// Everybody hears of the session before there is one: it waits for them.
    async fn begin_moderated(
        &self,
        command: Command,
        mut prepared: Prepared,
        room: &Room,
        door: &mut Door,
        recorder: Option<&Recorder>,
    ) -> Result<(Leader, Held), NotStarted> {
        let held = self.admitted.admit()?;
        let (id, state) = (&self.info.session_id, room.state());
        self.tell_auth(&state).await?;
        self.tell_proxy();
        door.answer();
        let text = format!("session {id} {state}; they join by: msh sessions join {id}. Ctrl-C leaves");
        let _ = timeout(FAREWELL_TIMEOUT, door.writer.extended(1, notice(&text))).await;
        let size = |prepared: &Prepared| prepared.pty.as_ref().map(|pty| (cells(pty.cols), cells(pty.rows)));
        let asked = size(&prepared);
        gate::wait(room, &mut door.reader, &door.writer, &mut prepared, self.admitted.verdict(id, &held)).await?;
        if let (Some((cols, rows)), Some(recorder)) = (size(&prepared).filter(|now| Some(*now) != asked), recorder) {
            let _ = recorder.resize(cols, rows).await;
        }
        let mut again = Prepared { pty: prepared.pty.clone(), ..Prepared::default() };
        let mut leader = Leader::spawn(&self.admitted.agent.starters, self.spec(command, prepared)).await?;
        // Making it took a while, and somebody may have left.
        gate::wait(room, &mut door.reader, &door.writer, &mut again, self.admitted.verdict(id, &held)).await?;
        drop(held);
        let held = self.admitted.admit()?;
        leader.go().await?;
        Ok((leader, held))
    }

    /// So that the proxy finds the session, to end it and for those who join.
    fn tell_proxy(&self) {
        let started = v1::SessionStarted {
            dial_id: self.admitted.dial.dial_id.clone(),
            session_id: self.info.session_id.clone(),
        };
        let _ = self.admitted.dial.control.try_send(up(Up::SessionStarted(started)));
    }

    /// Tells Auth of the session, which waits for those whom `waiting` names.
    ///
    /// # Errors
    /// Auth's refusal. Auth being away is none: the outbox tells it later.
    async fn tell_auth(&self, waiting: &str) -> Result<(), String> {
        let session = v1::SessionInfo { waiting: waiting.to_owned(), ..self.info.clone() };
        let request = v1::StartSessionRequest { session: Some(session) };
        let mut auth = self.admitted.agent.auth.clone();
        match timeout(START_TIMEOUT, auth.start_session(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) if is_refusal(status.code()) => Err(status.message().to_owned()),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    session_id = self.info.session_id,
                    "the auth service is away; the start of the session is told later"
                );
                Ok(())
            }
        }
    }

    /// Tells Auth whenever the session begins or ceases to wait.
    async fn keep_auth_told(&self, room: &Room, mut told: String) -> Infallible {
        loop {
            told = room.state_after(&told).await;
            if let Err(reason) = self.tell_auth(&told).await {
                tracing::warn!(session_id = self.info.session_id, reason, "the state of a session could not be told");
            }
        }
    }

    async fn recorder(&self, prepared: &Prepared) -> Result<Option<Recorder>, String> {
        if !self.info.recorded {
            return Ok(None);
        }
        let agent = &self.admitted.agent;
        let size = prepared.pty.as_ref().map(|pty| (cells(pty.cols), cells(pty.rows), pty.term.clone()));
        let (width, height, term) = size.unwrap_or_default();
        let metadata = Metadata {
            session_id: self.info.session_id.clone(),
            kind: self.info.kind.clone(),
            cluster: self.info.cluster_name.clone(),
            user: self.info.user.clone(),
            user_id: self.info.user_id.clone(),
            node_id: self.info.node_id.clone(),
            node_name: self.info.node_name.clone(),
            login: self.info.login.clone(),
            command: self.info.command.clone(),
            client_ip: self.info.client_ip.clone(),
            started_unix_ms: self.info.started_unix_ms,
            width,
            height,
            term,
        };
        let content = match (self.info.pty, self.admitted.permit.recording().exec) {
            (true, _) => Content::Terminal,
            (false, RecordExec::Full) => Content::Exec(ExecPolicy::Full),
            (false, _) if self.info.kind == "subsystem" => Content::Exec(ExecPolicy::Metadata),
            (false, _) => Content::Exec(exec_policy(&self.info.command)),
        };
        let mode = match agent.recording_mode {
            RecordingMode::Node => Mode::Node,
            RecordingMode::NodeSync => Mode::NodeSync(Box::new(agent.auth.clone())),
        };
        let recorder = Recorder::open(Arc::clone(&agent.spool), mode, content, metadata).await;
        recorder.map(Some).map_err(|e| format!("the session cannot be recorded, so it is refused: {e}"))
    }

    fn spec(&self, command: Command, prepared: Prepared) -> SessionSpec {
        let peer = self.admitted.dial.grant.client_addr.parse::<std::net::SocketAddr>().ok();
        let Prepared { pty, mut env } = prepared;
        env.push(("MEZITE_SESSION_ID".to_owned(), self.info.session_id.clone()));
        SessionSpec {
            session_id: self.info.session_id.clone(),
            login: self.info.login.clone(),
            command,
            pty,
            env,
            ssh_client: peer.map(|p| format!("{} {} 22", p.ip(), p.port())).unwrap_or_default(),
            ssh_connection: peer.map(|p| format!("{} {} 127.0.0.1 22", p.ip(), p.port())).unwrap_or_default(),
            motd: true,
            cgroup: mezite_session::session_groups(&crate::groups(&self.admitted.agent.node_id)),
        }
    }

    /// The session runs: bytes are pumped until it ends by itself, by the client, or by a decision.
    async fn live(&self, begun: Begun, room: &Room, door: Door, connection: Connection) {
        let Begun { leader, recorder, held } = begun;
        let Door { reader, writer, .. } = door;
        let agent = &self.admitted.agent;
        let _counted = agent.sessions.token();
        let pumped = pump::run(
            leader,
            recorder,
            pump::Rules {
                room,
                recording: self.admitted.permit.recording(),
                idle: self.admitted.permit.client_idle_timeout(),
            },
            reader,
            writer.clone(),
            self.admitted.verdict(&self.info.session_id, &held),
        );
        let waited = if room.requirements().is_empty() { String::new() } else { "begun".to_owned() };
        let ended = tokio::select! {
            ended = pumped => ended,
            never = self.keep_auth_told(room, waited) => match never {},
        };
        drop(held);
        // The end is on disk before the client hears of it, so that it is told to Auth whatever happens.
        self.end(&ended);
        let notify = |request: SessionRequest| writer.notify(request.name(), request.payload());
        match ended.exit {
            // Ended by a decision and not by itself: what its processes died of says nothing to whoever ran it.
            _ if ended.farewell.is_some() => notify(SessionRequest::ExitStatus(OURS)),
            Exit::Code(code) => notify(SessionRequest::ExitStatus(u32::from(code))),
            Exit::Signal { name, core } => {
                notify(SessionRequest::ExitSignal { signal: name, core_dumped: core, message: String::new() });
            }
            Exit::Unknown => {}
        }
        writer.eof();
        writer.close();
        if let Some(farewell) = ended.farewell {
            connection.disconnect(DisconnectReason::ByApplication, &farewell);
            let _ = timeout(FAREWELL_TIMEOUT, connection.closed()).await;
        }
    }

    fn end(&self, ended: &Ended) {
        self.admitted.agent.outbox.end(v1::EndSessionRequest {
            session_id: self.info.session_id.clone(),
            ended_unix_ms: clock::now_unix_ms(),
            reason: ended.reason.to_owned(),
            exit: ended.exit.to_string(),
            session: Some(self.info.clone()),
        });
    }
}

fn is_refusal(code: tonic::Code) -> bool {
    use tonic::Code::{Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated};
    // `Aborted` is a conflict: a machine that is locked.
    matches!(code, PermissionDenied | InvalidArgument | FailedPrecondition | AlreadyExists | Unauthenticated | Aborted)
}

fn cells(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
