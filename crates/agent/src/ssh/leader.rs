//! A session's processes as the agent holds them: the starter's control socket and the leader's terminal or pipes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mezite_session::{Control, Decoder, Message, Running, SessionSpec, Starter, Starters};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// The starter looks the user up and asks PAM, which may ask servers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The leader stands; it runs after [`Leader::go`].
#[derive(Debug)]
pub(super) struct Leader<S = Streams> {
    pub(super) messages: Messages,
    pub(super) control: ControlWriter,
    pub(super) streams: S,
}

/// Where the leader's bytes go in and out.
#[derive(Debug)]
pub(super) enum Streams {
    /// One terminal; the second handle is for its size and modes.
    Terminal { output: Receiver, input: Sender, size: OwnedFd },
    /// Three pipes.
    Pipes { input: Sender, output: Receiver, errors: Receiver },
}

/// What the starter says.
#[derive(Debug)]
pub(super) struct Messages {
    socket: OwnedReadHalf,
    decoder: Decoder<Message>,
}

/// What the starter is told.
#[derive(Debug)]
pub(super) struct ControlWriter(OwnedWriteHalf);

/// How the leader ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    Code(u8),
    Signal {
        name: String,
        core: bool,
    },
    /// The starter died without a word.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::Signal { name, .. } => write!(f, "SIG{name}"),
            Self::Unknown => Ok(()),
        }
    }
}

/// What the agent holds of a leader's descriptors.
pub(super) trait Ends: Sized + Send {
    /// Takes them out of `running`.
    fn take(running: &mut Running) -> io::Result<Self>;
}

/// Of a session.
impl Ends for Streams {
    fn take(running: &mut Running) -> io::Result<Self> {
        let Running { pty_master, stdin, stdout, stderr, .. } = running;
        match (pty_master.take(), stdin.take(), stdout.take(), stderr.take()) {
            (Some(master), ..) => Ok(Self::Terminal {
                // A terminal is no pipe, but to be read, written and waited for it is like one.
                output: Receiver::from_owned_fd_unchecked(master.try_clone()?)?,
                input: Sender::from_owned_fd_unchecked(master.try_clone()?)?,
                size: master,
            }),
            (None, Some(stdin), Some(stdout), Some(stderr)) => Ok(Self::Pipes {
                input: Sender::from_owned_fd_unchecked(stdin)?,
                output: Receiver::from_owned_fd_unchecked(stdout)?,
                errors: Receiver::from_owned_fd_unchecked(stderr)?,
            }),
            _ => Err(io::Error::other("the session has neither a terminal nor pipes")),
        }
    }
}

/// Of the helper that opens sockets.
impl Ends for OwnedFd {
    fn take(running: &mut Running) -> io::Result<Self> {
        running.socket.take().ok_or_else(|| io::Error::other("the socket helper has no socket"))
    }
}

impl<S: Ends> Leader<S> {
    /// Makes the session's processes; nothing of the user runs yet.
    ///
    /// # Errors
    /// A sentence for the user: why the login is not possible on this node, or what failed.
    pub(super) async fn spawn(starters: &Arc<Starters>, spec: SessionSpec) -> Result<Self, String> {
        let starters = Arc::clone(starters);
        let running = tokio::task::spawn_blocking(move || mezite_session::spawn(&spec, &starters));
        let running = running.await.map_err(io::Error::other).and_then(|spawned| spawned);
        let (mut leader, starter) =
            running.and_then(Self::new).map_err(|e| format!("the session cannot be started: {e}"))?;
        match timeout(START_LIMIT, leader.messages.next()).await {
            Ok(Some(Message::Started { .. })) => Ok(leader),
            Ok(Some(Message::Denied { reason })) => Err(reason),
            Err(_) => {
                starter.kill();
                Err("the session did not start in 60 s; look at the node's PAM modules and name services".to_owned())
            }
            Ok(_) => Err("the session starter ended early; the agent's log may say why".to_owned()),
        }
    }

    fn new(mut running: Running) -> io::Result<(Self, Starter)> {
        let streams = S::take(&mut running)?;
        let Running { control, starter, .. } = running;
        let (read, write) = UnixStream::from_std(control)?.into_split();
        let messages = Messages { socket: read, decoder: Decoder::messages() };
        Ok((Self { messages, control: ControlWriter(write), streams }, starter))
    }

    /// Lets the leader run.
    pub(super) async fn go(&mut self) -> Result<(), String> {
        self.control.send(&Control::Go).await.map_err(|e| format!("the session starter is gone: {e}"))
    }
}

impl Messages {
    async fn next(&mut self) -> Option<Message> {
        let mut buffer = [0; 1024];
        loop {
            match self.decoder.next_value() {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "the session starter is not understood");
                    return None;
                }
            }
            match self.socket.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.decoder.push(buffer.get(..n).unwrap_or_default()),
            }
        }
    }

    /// Waits for the leader's end.
    pub(super) async fn exit(&mut self) -> Exit {
        match self.next().await {
            Some(Message::Exit { code }) => Exit::Code(code),
            Some(Message::Signal { name, core }) => Exit::Signal { name, core },
            _ => Exit::Unknown,
        }
    }

    /// Waits until the starter is gone.
    pub(super) async fn end(&mut self) {
        while self.next().await.is_some() {}
    }
}

impl ControlWriter {
    pub(super) async fn send(&mut self, control: &Control) -> io::Result<()> {
        self.0.write_all(&control.to_line()).await
    }
}

/// Sets the size of a terminal; a terminal that is gone needs none.
pub(super) fn resize(terminal: &OwnedFd, cols: u32, rows: u32, width_px: u32, height_px: u32) {
    let _ = mezite_session::resize(terminal.as_fd(), cols, rows, width_px, height_px);
}
