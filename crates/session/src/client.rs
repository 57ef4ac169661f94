//! The agent's side: runs a starter and hands it the session's descriptors.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::descriptors::send;
use crate::pty;
use crate::spec::{Command, SPEC_MAX, SessionSpec};
use crate::starters::{Starter, Starters};

/// Bytes that a program may be ahead of the agent.
const OUTPUT_PIPE: i32 = 256 * 1024;
/// A starter that takes the spec slower than this is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A session's processes and descriptors, as the agent holds them. Every descriptor is non-blocking and closes on
/// exec. Dropping `control` ends the session: the starter hangs up on it.
#[derive(Debug)]
pub struct Running {
    /// Lines of [`crate::Control`] out, lines of [`crate::Message`] in, end of file when the starter is gone. An end
    /// without a last message means that the starter was killed: drop everything, which hangs up on the session.
    pub control: UnixStream,
    /// The terminal, with a pty. After the last message, read on until `EIO` or `EAGAIN`.
    pub pty_master: Option<OwnedFd>,
    /// Write end of the session's standard input, without a pty. Closing it is the end of file.
    pub stdin: Option<OwnedFd>,
    /// Read end of its standard output, without a pty.
    pub stdout: Option<OwnedFd>,
    /// Read end of its standard error, without a pty.
    pub stderr: Option<OwnedFd>,
    /// The agent's end of the helper's socket pair, for [`crate::Sockets::new`]; it blocks, as that is asked to.
    pub socket: Option<OwnedFd>,
    /// The starter, which ends when `control` does.
    pub starter: Starter,
}

/// Starts a session for `spec`.
///
/// Returns when the starter has taken the spec; whether there is a session is told on `control`. Blocks for some
/// milliseconds, at most 10 s.
pub fn spawn(spec: &SessionSpec, starters: &Starters) -> io::Result<Running> {
    spec.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let line = spec.to_line();
    if line.len() > SPEC_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "invalid session: larger than 1 MiB"));
    }
    let (control, theirs) = UnixStream::pair()?;
    let ends = Ends::open(spec)?;
    let starter = starters.fork(&theirs)?;
    drop(theirs);
    let fds: Vec<BorrowedFd<'_>> = ends.theirs.iter().map(AsFd::as_fd).collect();
    if let Err(error) = hand_over(&control, &line, &fds) {
        starter.kill();
        return Err(error);
    }
    let Ends { pty_master, stdin, stdout, stderr, socket, theirs: _ } = ends;
    control.set_nonblocking(true)?;
    Ok(Running { control, pty_master, stdin, stdout, stderr, socket, starter })
}

/// Sends the line, and the descriptors with its first byte.
fn hand_over(mut control: &UnixStream, line: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    control.set_write_timeout(Some(SEND_TIMEOUT))?;
    let sent = send(control, line, fds)?;
    control.write_all(line.get(sent..).unwrap_or_default())?;
    control.set_write_timeout(None)
}

/// Both sides of the session's standard streams.
#[derive(Default)]
struct Ends {
    pty_master: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    socket: Option<OwnedFd>,
    /// The session's: a terminal, or standard input, output and error, or the helper's socket.
    theirs: Vec<OwnedFd>,
}

impl Ends {
    fn open(spec: &SessionSpec) -> io::Result<Self> {
        if spec.pty.is_some() {
            let (master, slave) = pty::open()?;
            nonblocking(&master)?;
            return Ok(Self { pty_master: Some(master), theirs: vec![slave], ..Self::default() });
        }
        if spec.command == Command::Sockets {
            let kind = (AddressFamily::Unix, SockType::SeqPacket);
            let (ours, theirs) = socketpair(kind.0, kind.1, None, SockFlag::SOCK_CLOEXEC)?;
            return Ok(Self { socket: Some(ours), theirs: vec![theirs], ..Self::default() });
        }
        // Pipes and no socket pair: /dev/stdin of a socket cannot be opened.
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
        let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) = (pipe()?, pipe()?, pipe()?);
        [&in_write, &out_read, &err_read].into_iter().try_for_each(nonblocking)?;
        // A wider pipe lets program and agent work at the same time; a system that grants less has its way.
        let _ = fcntl(&out_read, FcntlArg::F_SETPIPE_SZ(OUTPUT_PIPE));
        Ok(Self {
            stdin: Some(in_write),
            stdout: Some(out_read),
            stderr: Some(err_read),
            theirs: vec![in_read, out_write, err_write],
            ..Self::default()
        })
    }
}

/// Our end only: the two ends of a pipe or terminal have flags of their own.
fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
