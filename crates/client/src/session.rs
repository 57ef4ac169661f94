//! One session on a node: a shell or a command, joined to this terminal.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use mezite_core::asciicast::Filter;
use mezite_core::text::escape_control;
use mezite_net::ssh::{
    ChannelEvent, ChannelOpen, ChannelReader, ChannelWriter, CloseReason, OpenError, PtyRequest, SessionRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};
use crate::ssh_dial::{NodeConnection, NodeLogin};
use crate::terminal::{self, Ending, Escape, Raw};

/// Bytes read from standard input at once.
const CHUNK: usize = 32 << 10;
/// Bytes of output written at once, about.
const GATHERED: usize = 256 << 10;
/// What ssh(1) answers when a session ends without a status.
const NO_STATUS: u8 = 255;

/// What to run, and how.
#[derive(Debug)]
pub struct Request {
    /// A command line; `None` is the login shell.
    pub command: Option<String>,
    /// Whether to ask for a terminal.
    pub terminal: bool,
    /// Value of TERM for it.
    pub term: String,
    /// Variables to be set, as far as the node allows.
    pub env: Vec<(String, String)>,
    /// Whether the output is somebody else's: what it could do to this terminal besides its picture is left out.
    pub foreign: bool,
}

/// Runs a session and returns its exit status: 128 + n after a signal, 255 when the node gave none.
///
/// # Errors
/// When the session cannot be started or the connection is lost. The terminal is restored in every case.
pub async fn run(node: &NodeConnection, login: NodeLogin<'_>, request: Request) -> Result<u8> {
    let failed = |error: OpenError| lost(node, &error.to_string());
    let asked = node.inner.ask(ChannelOpen::Session).map_err(failed)?;
    let writer = asked.writer();
    // One flight: login, channel and command.
    let (login, channel, started) = tokio::join!(login.done(), asked.opened(), start(node, &writer, &request));
    login?;
    let (reader, writer) = channel.map_err(failed)?.split();
    started?;
    let raw = if request.terminal { Raw::enter()? } else { None };
    let is_typed = raw.is_some();
    let outcome = follow(reader, writer, is_typed, request.foreign.then(Foreign::default)).await;
    drop(raw);
    let farewell = match node.ended() {
        Some(CloseReason::Peer { message, .. }) if !matches!(outcome, Ok(Outcome::Silent)) => Some(message),
        _ => None,
    };
    if let Some(message) = &farewell {
        eprintln!("msh: the connection was closed: {}", escape_control(message));
    }
    match outcome? {
        Outcome::Exit(status) => Ok(status),
        Outcome::Signal(name) => {
            if farewell.is_none() {
                eprintln!("msh: the command was ended by SIG{}", escape_control(&name));
            }
            Ok(number(&name).map_or(NO_STATUS, |number| 128 + number))
        }
        Outcome::HungUp => {
            eprintln!("msh: connection closed");
            Ok(NO_STATUS)
        }
        Outcome::Ended(signal) => Ok(128 + signal),
        Outcome::Silent => Err(lost(node, "the session ended without a status")),
    }
}

enum Outcome {
    Exit(u8),
    Signal(String),
    /// By `~.`.
    HungUp,
    /// A signal to this program.
    Ended(u8),
    Silent,
}

/// All requests leave in one flight.
async fn start(node: &NodeConnection, writer: &ChannelWriter, request: &Request) -> Result<()> {
    for (name, value) in &request.env {
        notify(writer, &SessionRequest::Env { name: name.clone(), value: value.clone() });
    }
    let run = match &request.command {
        Some(command) => SessionRequest::Exec(command.clone().into_bytes()),
        None => SessionRequest::Shell,
    };
    let pty = request.terminal.then(|| pty(&request.term));
    let ask = async |request: &SessionRequest| writer.request(request.name(), request.payload()).await;
    let ask_pty = async {
        match &pty {
            Some(pty) => ask(pty).await,
            None => Ok(true),
        }
    };
    let (terminal, started) = tokio::join!(ask_pty, ask(&run));
    if !started.map_err(|_| lost(node, "the session was closed"))? {
        return Err(mezite_core::Fault::Denied("the node refused to start the session".to_owned()).into());
    }
    if !terminal.unwrap_or(true) {
        eprintln!("msh: the node refused a terminal");
    }
    Ok(())
}

fn pty(term: &str) -> SessionRequest {
    let size = terminal::size();
    let term = if term.is_empty() { "dumb" } else { term };
    SessionRequest::Pty(PtyRequest {
        term: term.to_owned(),
        cols: size.ws_col.into(),
        rows: size.ws_row.into(),
        width_px: size.ws_xpixel.into(),
        height_px: size.ws_ypixel.into(),
        modes: terminal::modes(),
    })
}

fn notify(writer: &ChannelWriter, request: &SessionRequest) {
    writer.notify(request.name(), request.payload());
}

/// Carries bytes and signals until the channel is closed. Reading what the node sends never waits for what is typed.
async fn follow(
    reader: ChannelReader,
    writer: ChannelWriter,
    is_typed: bool,
    foreign: Option<Foreign>,
) -> Result<Outcome> {
    let failed = |error: std::io::Error| Error::Local(format!("cannot wait for signals: {error}"));
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut ending = Ending::new()?;
    let input = send_input(writer.clone(), is_typed);
    let output = show_output(reader, foreign);
    tokio::pin!(input, output);
    let mut sending = true;
    loop {
        tokio::select! {
            outcome = &mut output => return outcome,
            hung_up = &mut input, if sending => {
                if hung_up {
                    return Ok(Outcome::HungUp);
                }
                sending = false;
            }
            _ = resized.recv(), if is_typed => {
                let size = terminal::size();
                let (cols, rows) = (size.ws_col.into(), size.ws_row.into());
                let (width_px, height_px) = (size.ws_xpixel.into(), size.ws_ypixel.into());
                notify(&writer, &SessionRequest::WindowChange { cols, rows, width_px, height_px });
            }
            signal = ending.next() => return Ok(Outcome::Ended(signal)),
        }
    }
}

/// Sends standard input to its end; true when the user hangs up. The end of input is not the end of the session.
async fn send_input(writer: ChannelWriter, is_typed: bool) -> bool {
    let mut stdin = tokio::io::stdin();
    let mut escape = Escape::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = stdin.read(&mut buffer).await.unwrap_or(0);
        let Some(typed) = buffer.get(..count).filter(|typed| !typed.is_empty()) else {
            writer.eof();
            return false;
        };
        let sent = if is_typed { escape.pass(typed) } else { Some(typed.to_vec()) };
        let Some(sent) = sent else { return true };
        if writer.data(Bytes::from(sent)).await.is_err() {
            return false;
        }
    }
}

/// Writes what the node sends. More is asked for when the last piece is written, so a slow reader slows the node.
async fn show_output(mut reader: ChannelReader, mut foreign: Option<Foreign>) -> Result<Outcome> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut outcome = Outcome::Silent;
    let mut next = reader.recv().await;
    while let Some(event) = next.take() {
        let written = match event {
            ChannelEvent::Data(data) => {
                let data = gather(data, &mut reader, &mut next);
                match &mut foreign {
                    Some(foreign) => write(&mut stdout, foreign.harmless(&data).as_bytes()).await,
                    None => write(&mut stdout, &data).await,
                }
            }
            ChannelEvent::Extended(_, data) => write(&mut stderr, &data).await,
            ChannelEvent::Eof => Ok(()),
            ChannelEvent::Request(asked) => {
                match &asked.request {
                    SessionRequest::ExitStatus(status) => {
                        outcome = Outcome::Exit(u8::try_from(status & 0xff).unwrap_or(NO_STATUS));
                    }
                    SessionRequest::ExitSignal { signal, .. } => outcome = Outcome::Signal(signal.clone()),
                    _ => {}
                }
                Ok(())
            }
        };
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Error::Closed,
            _ => Error::Local(format!("cannot write the output: {error}")),
        })?;
        if next.is_none() {
            next = reader.recv().await;
        }
    }
    if let Some(foreign) = foreign {
        let _ = write(&mut stdout, foreign.filter.restore().as_bytes()).await;
    }
    Ok(outcome)
}

/// Somebody else's output on this terminal.
#[derive(Default)]
struct Foreign {
    filter: Filter,
    /// The beginning of a character whose rest has not come.
    begun: Vec<u8>,
}

impl Foreign {
    /// The part of it that only draws.
    fn harmless(&mut self, data: &[u8]) -> String {
        self.begun.extend_from_slice(data);
        let mut shown = String::with_capacity(self.begun.len());
        let mut rest = self.begun.as_slice();
        let begun = loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.filter.push(text, &mut shown);
                    break Vec::new();
                }
                Err(error) => {
                    let (good, bad) = rest.split_at_checked(error.valid_up_to()).unwrap_or((rest, &[]));
                    self.filter.push(std::str::from_utf8(good).unwrap_or_default(), &mut shown);
                    let Some(length) = error.error_len() else { break bad.to_vec() };
                    self.filter.push("\u{fffd}", &mut shown);
                    rest = bad.get(length..).unwrap_or_default();
                }
            }
        };
        self.begun = begun;
        shown
    }
}

/// `data` with what is here already behind it, up to [`GATHERED`] bytes: each write is a way through another thread. What
/// is no data goes to `next`.
fn gather(data: Bytes, reader: &mut ChannelReader, next: &mut Option<ChannelEvent>) -> Bytes {
    let mut gathered = BytesMut::from(data);
    while gathered.len() < GATHERED {
        match reader.recv().now_or_never() {
            Some(Some(ChannelEvent::Data(more))) => gathered.extend_from_slice(&more),
            Some(other) => {
                *next = other;
                break;
            }
            None => break,
        }
    }
    gathered.freeze()
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), data: &[u8]) -> std::io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

fn lost(node: &NodeConnection, what: &str) -> Error {
    match node.ended() {
        Some(reason) => Error::unavailable(format!("the session ended: {reason}")),
        None => Error::unavailable(what),
    }
}

/// Number of a signal on Linux.
fn number(name: &str) -> Option<u8> {
    const NAMES: [(&str, u8); 15] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
    ];
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_others_draws_and_does_no_more() {
        let mut foreign = Foreign::default();
        let mut shown = String::new();
        for piece in ["a\u{1b}]52;c;eA==\u{7}b \u{20ac}".as_bytes(), b"\xff\xe2\x82", b"\xac\x1b[3", b"1mred\x1b[5n"] {
            shown.push_str(&foreign.harmless(piece));
        }
        assert_eq!(shown, "ab \u{20ac}\u{fffd}\u{20ac}\u{1b}[31mred");
    }
}
