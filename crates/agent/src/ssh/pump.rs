//! The bytes of a running session: from the client to the leader, and from the leader through the recorder to the client.
//!
//! Output is recorded before it is sent. Nothing is queued here: a client that does not read stops the program, as a terminal
//! does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mezite_core::rbac::Recording;
use mezite_net::ssh::{ChannelEvent, ChannelReader, ChannelReq, ChannelWriter, SessionRequest};
use mezite_record::{ExecStream, RecordError, Recorder};
use mezite_session::Control;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::ssh::gate::{self, INTERRUPT};
use crate::ssh::idle::Activity;
use crate::ssh::leader::{ControlWriter, Exit, Leader, Messages, Streams, resize};
use crate::ssh::room::Room;
use crate::ssh::session::Verdict;

/// Most bytes read at once: as SSH packets they fit two chunks of the tunnel.
const READ: usize = 62 * 1024;
/// The least room worth a read: a program that writes little at a time shares one buffer among several reads.
const READ_MIN: usize = 8 * 1024;
/// How long a farewell may wait for the client's window.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the starter may take to end every process.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a session ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `exit`, `disconnect`, `terminated`, `recording`, `locked`, `denied`, `expired`, `idle`, `moderation`, `agent`.
    pub(super) reason: &'static str,
    pub(super) exit: Exit,
    /// The client is told this, and the connection ends.
    pub(super) farewell: Option<String>,
}

impl Ended {
    /// A session that did not come about.
    pub(super) fn failed() -> Self {
        Self { reason: "exit", exit: Exit::Unknown, farewell: None }
    }
}

/// Where output goes on its way to the client: it is recorded before it is sent.
#[derive(Clone, Copy)]
struct Tape<'a> {
    recorder: Option<&'a Recorder>,
    /// Whether a failure ends the session; without it the session goes on unrecorded.
    strict: bool,
    activity: &'a Activity,
    /// Others who are there, and whether bytes may go.
    room: &'a Room,
}

impl Tape<'_> {
    async fn stream(&self, stream: ExecStream, data: &Bytes) -> Result<(), RecordError> {
        self.activity.note();
        let Some(recorder) = self.recorder else { return Ok(()) };
        recorder.stream(stream, data.clone()).await.or_else(|error| if self.strict { Err(error) } else { Ok(()) })
    }

    /// Comes back when the session must end.
    async fn failed(&self) -> RecordError {
        let Some(recorder) = self.recorder else { return std::future::pending().await };
        let error = recorder.failed().await;
        if !self.strict {
            tracing::error!(%error, "the recording failed; the session goes on without it, as its roles allow");
            return std::future::pending().await;
        }
        error
    }
}

/// Why output stopped before its end.
enum Stopped {
    /// The client is gone.
    Client,
    /// The recorder failed, and no unrecorded byte may leave.
    Recorder(RecordError),
}

/// What the roles say about the bytes of a session.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Who is there, and whether bytes may go.
    pub(super) room: &'a Room,
    pub(super) recording: Recording,
    /// The longest time without a byte either way.
    pub(super) idle: Option<Duration>,
}

/// Pumps a session to its end and closes its recording.
pub(super) async fn run(
    leader: Leader,
    recorder: Option<Recorder>,
    rules: Rules<'_>,
    reader: ChannelReader,
    writer: ChannelWriter,
    verdict: impl Future<Output = Verdict>,
) -> Ended {
    let Leader { mut messages, mut control, streams } = leader;
    let Rules { room, recording, idle } = rules;
    let activity = Activity::new();
    let tape = Tape { recorder: recorder.as_ref(), strict: is_strict(recording), activity: &activity, room };
    let verdict = async {
        tokio::select! {
            verdict = verdict => verdict,
            most = activity.idle(idle) => Verdict::idle(most),
            verdict = room.over() => verdict,
        }
    };
    let ended = pump(&mut messages, &mut control, streams, tape, recording.input, reader, &writer, verdict).await;
    // Closing the control socket ends the starter, and with it what is left of a session that did not end by itself.
    drop(control);
    let _ = timeout(TERMINATE_TIMEOUT, messages.end()).await;
    drop(messages);
    if let Some(recorder) = recorder
        && let Err(error) = recorder.finish().await
    {
        tracing::error!(%error, "a recording could not be closed");
    }
    ended
}

#[expect(clippy::too_many_arguments, reason = "the parts of one session, borrowed apart")]
async fn pump(
    messages: &mut Messages,
    control: &mut ControlWriter,
    streams: Streams,
    tape: Tape<'_>,
    record_input: bool,
    reader: ChannelReader,
    writer: &ChannelWriter,
    verdict: impl Future<Output = Verdict>,
) -> Ended {
    let leader_gone = CancellationToken::new();
    let (commands, mut queue) = tokio::sync::mpsc::channel(4);
    let (input, size, output) = split(streams);
    let outputs = send_outputs(output, tape, writer, &leader_gone);
    let typed = tape.recorder.filter(|_| record_input);
    let inputs = take_inputs(reader, input, size, tape, typed, commands);
    let failed = tape.failed();
    let notices = gate::notices(tape.room, writer);
    tokio::pin!(outputs, inputs, verdict, failed, notices);
    let (mut exit, mut drained, mut client_gone) = (None, false, false);
    loop {
        tokio::select! {
            stopped = &mut outputs, if !drained => match stopped {
                Ok(()) => drained = true,
                Err(Stopped::Client) => return Ended { reason: "disconnect", exit: Exit::Unknown, farewell: None },
                Err(Stopped::Recorder(error)) => return unrecorded(control, messages, writer, &error).await,
            },
            left = messages.exit(), if exit.is_none() => {
                exit = Some(left);
                leader_gone.cancel();
            }
            Some(command) = queue.recv() => {
                // A starter that is gone says so on its own socket.
                let _ = control.send(&command).await;
            }
            () = &mut inputs, if !client_gone => {
                client_gone = true;
                if exit.is_none() || !drained {
                    return Ended { reason: "disconnect", exit: exit.unwrap_or(Exit::Unknown), farewell: None };
                }
            }
            // Seen also while the program takes no input and nothing of what the client sent before can be read.
            () = writer.closed() => {
                return Ended { reason: "disconnect", exit: exit.unwrap_or(Exit::Unknown), farewell: None };
            }
            error = &mut failed => return unrecorded(control, messages, writer, &error).await,
            () = &mut notices => {}
            verdict = &mut verdict => {
                let Verdict { reason, message, kill } = verdict;
                let exit = if kill {
                    terminate(control, messages, writer, &message).await
                } else {
                    tell(writer, &message).await;
                    Exit::Unknown
                };
                return Ended { reason, exit, farewell: Some(message) };
            }
        }
        if drained && let Some(exit) = exit.take() {
            return Ended { reason: "exit", exit, farewell: None };
        }
    }
}

/// Whether a session must not run unrecorded. A proxy may ask for a recording that the agent's own view does not, and that one
/// is strict.
pub(super) fn is_strict(recording: Recording) -> bool {
    recording.strict || !recording.on
}

/// Recording failed, so the session ends: no unrecorded byte leaves.
async fn unrecorded(
    control: &mut ControlWriter,
    messages: &mut Messages,
    writer: &ChannelWriter,
    error: &RecordError,
) -> Ended {
    tracing::error!(%error, "the recording failed; the session is ended");
    let message = format!("this session can no longer be recorded, so it ends: {error}");
    let exit = terminate(control, messages, writer, &message).await;
    Ended { reason: "recording", exit, farewell: Some(message) }
}

/// Tells the user why, and ends every process of the session.
async fn terminate(
    control: &mut ControlWriter,
    messages: &mut Messages,
    writer: &ChannelWriter,
    message: &str,
) -> Exit {
    let asked = control.send(&Control::Terminate).await;
    tell(writer, message).await;
    if asked.is_err() {
        return Exit::Unknown;
    }
    timeout(TERMINATE_TIMEOUT, messages.exit()).await.unwrap_or(Exit::Unknown)
}

async fn tell(writer: &ChannelWriter, message: &str) {
    let text = Bytes::from(format!("\r\nmezite: {message}\r\n"));
    let _ = timeout(FAREWELL_TIMEOUT, writer.extended(1, text)).await;
}

enum Output {
    Terminal(Receiver),
    Pipes { output: Receiver, errors: Receiver },
}

fn split(streams: Streams) -> (Sender, Option<OwnedFd>, Output) {
    match streams {
        Streams::Terminal { output, input, size } => (input, Some(size), Output::Terminal(output)),
        Streams::Pipes { input, output, errors } => (input, None, Output::Pipes { output, errors }),
    }
}

async fn send_outputs(
    output: Output,
    tape: Tape<'_>,
    writer: &ChannelWriter,
    leader_gone: &CancellationToken,
) -> Result<(), Stopped> {
    match output {
        Output::Terminal(master) => {
            // A program in the background may hold the terminal for ever: what is there when the leader is gone is the end.
            send(&master, ExecStream::Stdout, tape, writer, Some(leader_gone)).await
        }
        Output::Pipes { output, errors } => {
            let output = send(&output, ExecStream::Stdout, tape, writer, None);
            let errors = send(&errors, ExecStream::Stderr, tape, writer, None);
            tokio::try_join!(output, errors).map(|_| ())
        }
    }
}

/// Reads to the end, or with `until` to the moment when nothing is there.
async fn send(
    from: &Receiver,
    stream: ExecStream,
    tape: Tape<'_>,
    writer: &ChannelWriter,
    until: Option<&CancellationToken>,
) -> Result<(), Stopped> {
    let mut buffer = BytesMut::new();
    let mut last = false;
    loop {
        tape.room.running().await;
        if buffer.capacity() < READ_MIN {
            buffer.reserve(READ);
        }
        match from.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                let data = buffer.split().freeze();
                tape.stream(stream, &data).await.map_err(Stopped::Recorder)?;
                tape.room.show(&data);
                let sent = match stream {
                    ExecStream::Stdout => writer.data(data).await,
                    ExecStream::Stderr => writer.extended(1, data).await,
                };
                sent.map_err(|_| Stopped::Client)?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if last {
                    return Ok(());
                }
                // An idle session holds no buffer.
                buffer = BytesMut::new();
                let gone = async {
                    match until {
                        Some(token) => token.cancelled().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    ready = from.readable() => if ready.is_err() { return Ok(()) },
                    () = gone => last = true,
                }
            }
            // A terminal without a program says EIO.
            Err(_) => return Ok(()),
        }
    }
}

/// Takes what the client sends until it closes the channel, or interrupts a session that is paused, and what peers type.
async fn take_inputs(
    mut reader: ChannelReader,
    input: Sender,
    size: Option<OwnedFd>,
    tape: Tape<'_>,
    typed: Option<&Recorder>,
    commands: tokio::sync::mpsc::Sender<Control>,
) {
    let mut input = Input { to_leader: Some(input), terminal: size.as_ref(), tape, typed };
    // Without a terminal there is nothing for peers to type into.
    let mut peers = tape.room.typed().filter(|_| size.is_some());
    loop {
        let event = tokio::select! {
            event = reader.recv() => event,
            data = typed_by_peers(&mut peers) => {
                input.take(data).await;
                continue;
            }
        };
        match event {
            Some(ChannelEvent::Data(data)) => {
                let leaves = size.is_some() && !tape.room.is_running() && data.contains(&INTERRUPT);
                if leaves {
                    return;
                }
                input.take(data).await;
            }
            // EOF closes the program's input. A terminal has no half-close.
            Some(ChannelEvent::Eof) if size.is_none() => input.to_leader = None,
            Some(ChannelEvent::Request(request)) => requested(request, size.as_ref(), tape, &commands).await,
            Some(ChannelEvent::Eof | ChannelEvent::Extended(..)) => {}
            None => return,
        }
    }
}

async fn typed_by_peers(peers: &mut Option<tokio::sync::mpsc::Receiver<Bytes>>) -> Bytes {
    match peers {
        Some(peers) => match peers.recv().await {
            Some(data) => data,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// The way in to the leader.
struct Input<'a> {
    /// `None` when the program closed its input; the client may go on.
    to_leader: Option<Sender>,
    terminal: Option<&'a OwnedFd>,
    tape: Tape<'a>,
    typed: Option<&'a Recorder>,
}

impl Input<'_> {
    /// Hands bytes on. While the session is paused, what is typed on a terminal is lost, so that nothing of it happens later;
    /// what a command reads from a pipe waits, for it must be whole.
    async fn take(&mut self, data: Bytes) {
        let Tape { activity, room, .. } = self.tape;
        activity.note();
        match self.terminal {
            Some(_) if !room.is_running() => return,
            Some(_) => {}
            None => room.running().await,
        }
        let echoed = || self.terminal.is_none_or(|size| mezite_session::echoes(size).unwrap_or(false));
        if let Some(typed) = self.typed
            && echoed()
        {
            // A recorder that failed ends the session by itself.
            let _ = typed.input(data.clone()).await;
        }
        let Some(to_leader) = &mut self.to_leader else { return };
        let written = tokio::select! {
            written = to_leader.write_all(&data) => written,
            () = room.halted(), if self.terminal.is_some() => return,
        };
        if written.is_err() {
            self.to_leader = None;
        }
    }
}

async fn requested(
    request: ChannelReq,
    size: Option<&OwnedFd>,
    tape: Tape<'_>,
    commands: &tokio::sync::mpsc::Sender<Control>,
) {
    let done = match &request.request {
        SessionRequest::WindowChange { cols, rows, width_px, height_px } => match size {
            Some(terminal) => {
                resize(terminal, *cols, *rows, *width_px, *height_px);
                let cells = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                tape.room.resize(cells(*cols), cells(*rows));
                if let Some(recorder) = tape.recorder {
                    let _ = recorder.resize(cells(*cols), cells(*rows)).await;
                }
                true
            }
            None => false,
        },
        SessionRequest::Signal(name) if tape.room.is_running() => {
            commands.send(Control::Signal(name.clone())).await.is_ok()
        }
        _ => false,
    };
    request.reply(done);
}
