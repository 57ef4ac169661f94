//! The agent's side of the zygote: asks it for starters.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::descriptors::{receive, send};
use crate::reap;

/// A fork takes less than a millisecond; a machine may be slow.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// First argument of a program that is run as the zygote.
pub const STARTER_ARGUMENT: &str = "session-starter";

/// Where starters come from: one process that has started up once and forks itself for each session, so that they share
/// its memory. It is started anew when it is gone; sessions that run do not need it.
#[derive(Debug)]
pub struct Starters {
    exe: PathBuf,
    zygote: Mutex<Option<Zygote>>,
}

#[derive(Debug)]
struct Zygote {
    socket: UnixStream,
    process: Child,
}

/// One starter, from outside.
#[derive(Debug)]
pub struct Starter {
    /// Its process id, for the log; it may be another's by the time that it is looked at.
    pub pid: i32,
    /// Absent where the kernel has no handles of processes (before Linux 5.3).
    handle: Option<OwnedFd>,
}

impl Starters {
    /// Starters of the program `exe`, which must call [`crate::run_starter`] before anything else when its first argument is
    /// [`STARTER_ARGUMENT`].
    pub const fn new(exe: PathBuf) -> Self {
        Self { exe, zygote: Mutex::new(None) }
    }

    /// Starts the zygote, so that the first session need not.
    ///
    /// # Errors
    /// When the program cannot be run; each session tries again.
    pub fn prepare(&self) -> io::Result<()> {
        let mut zygote = self.lock();
        if zygote.is_none() {
            *zygote = Some(Zygote::launch(&self.exe)?);
        }
        Ok(())
    }

    /// A starter with this end of a control socket. Blocks for a millisecond, at most 10 s.
    pub(crate) fn fork(&self, control: &UnixStream) -> io::Result<Starter> {
        let mut place = self.lock();
        if let Some(zygote) = place.as_mut() {
            if let Ok(starter) = zygote.fork(control) {
                return Ok(starter);
            }
            // Whoever killed it, it holds nothing but itself.
            place.take();
        }
        let mut zygote = Zygote::launch(&self.exe)?;
        let starter = zygote.fork(control)?;
        *place = Some(zygote);
        Ok(starter)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Zygote>> {
        self.zygote.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Zygote {
    fn launch(exe: &PathBuf) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        socket.set_write_timeout(Some(ANSWER_LIMIT))?;
        let process = Command::new(exe)
            .arg(STARTER_ARGUMENT)
            .env_clear()
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket, process })
    }

    fn fork(&mut self, control: &UnixStream) -> io::Result<Starter> {
        send(&self.socket, &[0], &[control.as_fd()])?;
        let mut pid = [0; 4];
        let (count, handles) = receive(&self.socket, &mut pid)?;
        (&self.socket).read_exact(pid.get_mut(count..).unwrap_or_default())?;
        match i32::from_ne_bytes(pid) {
            0 => Err(io::Error::other("no process can be made")),
            pid => Ok(Starter { pid, handle: handles.into_iter().next() }),
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Gone already is as good as killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Starter {
    /// Ends one that hangs in a PAM module or a name service and does not look at its socket.
    pub fn kill(&self) {
        if let Some(handle) = &self.handle {
            reap::kill_by_handle(handle);
        }
    }

    /// Readable when the process has ended.
    pub fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref().map(AsFd::as_fd)
    }
}
