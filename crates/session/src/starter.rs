//! The starter itself: takes the spec, prepares, forks the leader, watches it.
#![expect(unsafe_code, reason = "fork and malloc_trim")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, umask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fchown, geteuid, ttyname};

use crate::account::may_log_in;
use crate::cgroup::Group;
use crate::child::{self, Plan};
use crate::descriptors::{self, FDS_MAX};
use crate::fork::fork_into;
use crate::line::Decoder;
use crate::login::Login;
use crate::monitor::Monitor;
use crate::pty;
use crate::spec::{Command, Control, Message, Pty, SPEC_MAX, SessionSpec};
use crate::users::{self, Account};
use crate::zygote;

/// The agent sends the spec at once.
const SPEC_TIMEOUT: Duration = Duration::from_secs(10);
/// Soft limit of open files that programs expect; the agent's own is higher.
const NOFILE_SOFT: u64 = 1024;

/// Runs as the zygote, and in each of its forks as the starter of one session; returns the exit code of the process. Standard
/// input must be the socket pair that [`crate::Starters`] makes. Call it first in `main`, while the process has one thread,
/// with nothing set up.
pub fn run_starter() -> i32 {
    zygote::run(|control| serve(control, |_, _, account| Ok((account, ()))))
}

/// Like [`run_starter`], with the PAM stack of `service` ([`crate::pam_service`]) on top of the other checks. Without PAM on
/// the machine every session is refused.
#[cfg(feature = "pam")]
pub fn run_starter_with_pam(service: &str) -> i32 {
    zygote::run(|control| {
        serve(control, |spec, tty, _| {
            let remote = spec.ssh_client.split(' ').next().filter(|address| !address.is_empty());
            let opened = crate::pam::Session::open(service, &spec.login, tty, remote)?;
            // A module may have changed the account.
            Ok((admit(&spec.login)?, opened))
        })
    })
}

/// `enter` is given the account that the files admit, and the terminal.
fn serve<L: Login>(
    control: UnixStream,
    enter: impl Fn(&SessionSpec, Option<&str>, Account) -> Result<(Account, L), String>,
) -> i32 {
    match run(control, enter) {
        Ok(()) => 0,
        Err(error) => {
            // The agent's log is on the other end, if anything is.
            let _ = writeln!(io::stderr(), "a session starter failed: {error}");
            1
        }
    }
}

fn run<L: Login>(
    control: UnixStream,
    enter: impl Fn(&SessionSpec, Option<&str>, Account) -> Result<(Account, L), String>,
) -> io::Result<()> {
    prepare()?;
    let mut controls = Decoder::controls();
    let (spec, stdio) = receive(&control, &mut controls)?;
    let (mut monitor, login, started) = match start(&spec, stdio, enter) {
        Ok(started) => started,
        Err(reason) => return (&control).write_all(&Message::Denied { reason }.to_line()),
    };
    (&control).write_all(&started.to_line())?;
    trim();
    let last = monitor.watch(&control, controls);
    let told = match last.and_then(|last| last.map_or(Ok(()), |message| (&control).write_all(&message.to_line()))) {
        // An agent that has gone meanwhile needs no last word.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told,
    };
    // The agent need not wait for what the login's end may take.
    drop(control);
    // Helpers of PAM modules inherit the mask and expect to hear of their children.
    SigSet::empty().thread_set_mask()?;
    drop(login);
    told
}

/// What a starter needs beside what the zygote has done.
fn prepare() -> io::Result<()> {
    // A process whose parent dies becomes a child of the starter and not of init, so that none can hide.
    nix::sys::prctl::set_child_subreaper(true)?;
    umask(Mode::from_bits_truncate(0o022));
    // Before PAM, which may set limits of its own.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, NOFILE_SOFT.min(soft), hard);
    }
    Ok(())
}

/// Reads the spec and the descriptors that came with it. What follows the spec goes into `controls`.
fn receive(mut control: &UnixStream, controls: &mut Decoder<Control>) -> io::Result<(SessionSpec, Vec<OwnedFd>)> {
    control.set_read_timeout(Some(SPEC_TIMEOUT))?;
    let mut chunk = vec![0; 16 << 10];
    let (count, fds) = descriptors::receive(control, &mut chunk)?;
    let mut buffer = chunk.get(..count).unwrap_or_default().to_vec();
    let end = loop {
        if let Some(end) = buffer.iter().position(|&b| b == b'\n') {
            break end;
        }
        if buffer.len() > SPEC_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the spec is larger than 1 MiB"));
        }
        match control.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    control.set_read_timeout(None)?;
    let (line, rest) = buffer.split_at(end);
    controls.push(rest.get(1..).unwrap_or_default());
    Ok((serde_json::from_slice(line)?, fds))
}

/// Everything up to a leader that waits for the word to go. An error is the reason for the user.
fn start<L: Login>(
    spec: &SessionSpec,
    stdio: Vec<OwnedFd>,
    enter: impl Fn(&SessionSpec, Option<&str>, Account) -> Result<(Account, L), String>,
) -> Result<(Monitor, L, Message), String> {
    spec.validate().map_err(|error| error.to_string())?;
    let is_helper = spec.command == Command::Sockets;
    let wanted = if spec.pty.is_some() || is_helper { 1 } else { FDS_MAX };
    if stdio.len() != wanted {
        return Err(format!("the session came with {} descriptors, {wanted} are needed", stdio.len()));
    }
    let slave = spec.pty.as_ref().zip(stdio.first());
    let tty = slave.map(|(_, slave)| terminal_name(slave)).transpose();
    let tty = tty.map_err(|error| format!("cannot name the terminal: {error}"))?;
    let (account, login) = enter(spec, tty.as_deref(), admit(&spec.login)?)?;
    match slave {
        Some((request, slave)) => prepare_terminal(request, slave, &account)
            .map_err(|error| format!("cannot prepare the terminal: {error}"))?,
        None if is_helper => {}
        None => stdio
            .iter()
            .try_for_each(|pipe| own_pipe(pipe, &account))
            .map_err(|error| format!("cannot hand over the pipes: {error}"))?,
    }
    let group =
        match &spec.cgroup {
            Some(parent) => Some(Group::create(parent, &spec.session_id).map_err(|error| {
                format!("cannot make the session's control group under {}: {error}", parent.display())
            })?),
            None => None,
        };
    let stdio = if is_helper { for_helper(stdio)? } else { stdio };
    let plan = Plan::new(spec, account, &login, tty.as_deref(), stdio, group.as_ref().map(Group::path))?;
    let children = watch_children().map_err(|error| format!("cannot watch the session: {error}"))?;
    let (leader, gate) = launch(&plan)?;
    let pid = leader.as_raw().unsigned_abs();
    Ok((Monitor::new(leader, gate, children, group), login, Message::Started { pid, tty }))
}

/// The helper speaks on standard input, and has nothing to print.
fn for_helper(mut stdio: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, String> {
    for _ in 1..FDS_MAX {
        stdio.push(File::options().write(true).open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?.into());
    }
    Ok(stdio)
}

fn admit(login: &str) -> Result<Account, String> {
    let account = users::lookup(login).map_err(|error| format!("cannot look up the OS user {login}: {error}"))?;
    let account = account.ok_or_else(|| format!("there is no OS user {login} on this machine"))?;
    let own = geteuid();
    if !own.is_root() && own != Uid::from_raw(account.uid) {
        return Err(format!(
            "mezd does not run as root here (uid {own}): it can start sessions of its own user only, not of {login}"
        ));
    }
    may_log_in(&account).map_err(|refusal| refusal.to_string())?;
    Ok(account)
}

/// Size, modes, owner. The mount options of devpts are not relied on for the owner and mode.
fn prepare_terminal(request: &Pty, slave: &OwnedFd, account: &Account) -> io::Result<()> {
    pty::apply(request, slave)?;
    let (gid, mode) = users::system_group("tty").map_or((account.gid, 0o600), |gid| (gid, 0o620));
    Ok(own(slave, account.uid, gid, mode)?)
}

fn terminal_name(slave: &OwnedFd) -> io::Result<String> {
    ttyname(slave)?.into_os_string().into_string().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A pipe is openable by name (`/dev/stdin`) only for its owner. Nothing but a pipe is given away.
fn own_pipe(pipe: &OwnedFd, account: &Account) -> nix::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(pipe)?.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFIFO { own(pipe, account.uid, account.gid, 0o600) } else { Err(Errno::EINVAL) }
}

/// Gives a terminal or pipe to the user. Without root it is the user's already.
fn own(fd: &OwnedFd, uid: u32, gid: u32, mode: u32) -> nix::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(fd, Mode::from_bits_truncate(mode))
}

/// `SIGCHLD` as a descriptor. The leader unblocks it again.
fn watch_children() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Forks the leader and waits until it stands at the gate.
fn launch(plan: &Plan) -> Result<(Pid, UnixStream), String> {
    let failed = |error: io::Error| format!("cannot start the session's process: {error}");
    let (gate, theirs) = UnixStream::pair().map_err(failed)?;
    // SAFETY: this process has one thread, so the child may go on like any program.
    let (forked, is_in_group) = unsafe { fork_into(plan.group()) }.map_err(|error| failed(error.into()))?;
    match forked {
        ForkResult::Child => {
            drop(gate);
            child::run(plan, theirs, is_in_group)
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut first = [0];
            (&gate).read_exact(&mut first).map_err(failed)?;
            if first == child::READY {
                return Ok((child, gate));
            }
            let mut word = first.to_vec();
            (&gate).take(4096).read_to_end(&mut word).map_err(failed)?;
            Err(String::from_utf8_lossy(&word).into_owned())
        }
    }
}

/// Gives the heap of the preparation back: a starter waits for as long as its session lives.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only returns free pages to the kernel.
    unsafe {
        libc::malloc_trim(0);
    }
}
