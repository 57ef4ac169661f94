//! The starter while its session lives: waits for the leader's end and for the agent's word.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::cgroup::Group;
use crate::line::Decoder;
use crate::reap::{self, Children, End};
use crate::spec::{Control, Message};

/// What a hung-up leader has to save its work before it is killed.
const GRACE: Duration = Duration::from_millis(200);
/// After this a process that does not die of SIGKILL (stuck in the kernel) is left to it.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const KILL_ROUND: Duration = Duration::from_millis(10);

/// One session being watched.
pub(crate) struct Monitor {
    leader: Pid,
    /// Closed when the leader was let go; closing it unused ends the leader.
    gate: Option<UnixStream>,
    children: SignalFd,
    group: Option<Group>,
}

/// Why waiting stopped.
enum Woken {
    LeaderEnded(End),
    Agent,
    Timeout,
}

impl Monitor {
    pub(crate) fn new(leader: Pid, gate: UnixStream, children: SignalFd, group: Option<Group>) -> Self {
        Self { leader, gate: Some(gate), children, group }
    }

    /// Watches until the session is over. The message is the last one; there is none if the agent has gone.
    pub(crate) fn watch(
        &mut self,
        mut control: &UnixStream,
        mut controls: Decoder<Control>,
    ) -> io::Result<Option<Message>> {
        let mut chunk = [0; 512];
        loop {
            while let Some(word) = controls.next_value().map_err(io::Error::other)? {
                if let Some(end) = self.obey(word)? {
                    return Ok(Some(end.message()));
                }
            }
            match self.wait(Some(control), None)? {
                Woken::LeaderEnded(end) => return Ok(Some(end.message())),
                Woken::Timeout => {}
                Woken::Agent => match control.read(&mut chunk) {
                    Ok(0) => {
                        self.hang_up();
                        return Ok(None);
                    }
                    Ok(count) => controls.push(chunk.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => {
                        self.hang_up();
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// Does what the agent asks; `Some` when that ended the session.
    fn obey(&mut self, word: Control) -> io::Result<Option<End>> {
        match word {
            Control::Go => {
                if let Some(mut gate) = self.gate.take() {
                    // A leader that has died meanwhile is reported by its end.
                    let _ = gate.write_all(&[0]);
                }
                Ok(None)
            }
            Control::Signal(name) => {
                if let Some(signal) = deliverable(&name) {
                    let _ = killpg(self.leader, signal);
                }
                Ok(None)
            }
            Control::Terminate => self.terminate().map(Some),
        }
    }

    /// Hangs up, gives the leader a moment, and kills all descendants until there is none.
    fn terminate(&mut self) -> io::Result<End> {
        self.hang_up();
        let mut end = match self.wait(None, Some(GRACE))? {
            Woken::LeaderEnded(end) => Some(end),
            _ => None,
        };
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            if let Some(group) = &self.group {
                group.kill();
            }
            reap::kill_descendants();
            match self.collect(&mut end) {
                Children::None => break,
                Children::Some if Instant::now() >= deadline => break,
                Children::Some => self.sleep(KILL_ROUND)?,
            }
        }
        Ok(end.unwrap_or(End::KILLED))
    }

    /// What a terminal does to its programs when its line drops. The foreground group of a pty hears it from the
    /// kernel when the agent closes the master.
    fn hang_up(&mut self) {
        self.gate = None;
        let _ = killpg(self.leader, Signal::SIGHUP);
        let _ = killpg(self.leader, Signal::SIGCONT);
    }

    /// Waits for the leader's end, for bytes from the agent if it is listened to, or for the time to pass.
    fn wait(&mut self, control: Option<&UnixStream>, limit: Option<Duration>) -> io::Result<Woken> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let (child, agent) = self.poll(control, left)?;
            if child {
                let mut end = None;
                self.collect(&mut end);
                if let Some(end) = end {
                    return Ok(Woken::LeaderEnded(end));
                }
            }
            if agent {
                return Ok(Woken::Agent);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Woken::Timeout);
            }
        }
    }

    /// Whether (a child changed, the agent spoke).
    fn poll(&self, control: Option<&UnixStream>, left: Option<Duration>) -> io::Result<(bool, bool)> {
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
        fds.extend(control.map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        Ok((ready(0), ready(1)))
    }

    fn sleep(&self, time: Duration) -> io::Result<()> {
        self.poll(None, Some(time)).map(drop)
    }

    /// Reaps what has ended: the leader, and orphans of the session, which are the starter's children too.
    fn collect(&mut self, end: &mut Option<End>) -> Children {
        while let Ok(Some(_)) = self.children.read_signal() {}
        reap::collect(self.leader, end)
    }
}

/// The signals of RFC 4254 6.10.
fn deliverable(name: &str) -> Option<Signal> {
    Some(match name {
        "ABRT" => Signal::SIGABRT,
        "ALRM" => Signal::SIGALRM,
        "FPE" => Signal::SIGFPE,
        "HUP" => Signal::SIGHUP,
        "ILL" => Signal::SIGILL,
        "INT" => Signal::SIGINT,
        "KILL" => Signal::SIGKILL,
        "PIPE" => Signal::SIGPIPE,
        "QUIT" => Signal::SIGQUIT,
        "SEGV" => Signal::SIGSEGV,
        "TERM" => Signal::SIGTERM,
        "USR1" => Signal::SIGUSR1,
        "USR2" => Signal::SIGUSR2,
        _ => return None,
    })
}
