//! The process that starters are forked from. It has run through a program's start-up once, so that no session pays for it,
//! in time or in memory; it knows nothing of any session.
#![expect(unsafe_code, reason = "fork and signal dispositions")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid, dup2_stdin, fork, setpgid};

use crate::descriptors::{receive, send};
use crate::reap;

/// Serves the agent on standard input until it closes its end: one descriptor in for each session, a process id out, 0 when
/// there is none, with a handle of the process. `starter` is run in each fork and returns the exit code.
pub(crate) fn run(starter: impl Fn(UnixStream) -> i32) -> i32 {
    match serve(&starter) {
        Ok(code) => code,
        Err(error) => {
            // The agent's log is on the other end, if anything is.
            let _ = writeln!(io::stderr(), "session starter failed, it is run by mezd only: {error}");
            1
        }
    }
}

fn serve(starter: &impl Fn(UnixStream) -> i32) -> io::Result<i32> {
    let agent = isolate()?;
    let mut byte = [0];
    loop {
        let (count, controls) = receive(&agent, &mut byte)?;
        if count == 0 {
            return Ok(0);
        }
        let Some(control) = controls.into_iter().next().map(UnixStream::from) else {
            return Err(io::Error::other("a request came without a socket"));
        };
        // SAFETY: this process has one thread, so the child may go on like any program.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                drop(agent);
                return begin().map(|()| starter(control));
            }
            Ok(ForkResult::Parent { child }) => {
                // Without a handle the agent cannot end a starter that hangs, and that is all.
                let handle = reap::pidfd(child.as_raw()).ok();
                let handles: Vec<_> = handle.iter().map(AsFd::as_fd).collect();
                send(&agent, &child.as_raw().to_ne_bytes(), &handles)?;
            }
            Err(_) => {
                send(&agent, &0_i32.to_ne_bytes(), &[])?;
            }
        }
    }
}

/// Makes the process deaf to terminals and users, and returns the agent's socket under a number above 2.
fn isolate() -> io::Result<UnixStream> {
    nix::sys::prctl::set_dumpable(false)?;
    // It may be run by the path of a descriptor, which is no name for `ps`.
    nix::sys::prctl::set_name(c"mezd-session")?;
    std::env::set_current_dir("/")?;
    // The agent ends a session by the control socket; no stray signal may leave the leader unwatched.
    for number in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGPIPE, Signal::SIGTSTP] {
        // SAFETY: setting a disposition to "ignore" runs no code of ours.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    // Starters that have ended are nobody's to wait for.
    // SAFETY: as above.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    let agent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What this process becomes must not hold the agent's socket.
    dup2_stdin(&File::open("/dev/null")?)?;
    Ok(agent)
}

/// The first steps of a starter.
fn begin() -> io::Result<()> {
    // SAFETY: the default disposition runs no code of ours. A starter waits for its children.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    Ok(())
}
