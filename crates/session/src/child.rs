//! The session's leader, between `fork` and `exec`.
#![expect(unsafe_code, reason = "signal dispositions and close_range")]

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{
    Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, execve, execveat, geteuid, getresgid, getresuid, setgid, setgroups,
    setresgid, setresuid, setsid, setuid,
};

use crate::login::Login;
use crate::sockets;
use crate::spec::{Command, SessionSpec};
use crate::users::Account;
use crate::{cgroup, env, pty};

/// What the leader writes on the gate when it stands; anything else is the reason why it cannot.
pub(crate) const READY: [u8; 1] = [0];
const LAST_SIGNAL: i32 = 64;

/// What the leader becomes, all made before the fork.
pub(crate) struct Plan {
    account: Account,
    program: Program,
    argv: Vec<CString>,
    env: Vec<CString>,
    stdio: Vec<OwnedFd>,
    terminal: bool,
    greeting: Vec<u8>,
    group: Option<PathBuf>,
}

enum Program {
    /// Opened as the user.
    Path(CString),
    /// Opened before.
    Open(OwnedFd),
    /// This very process goes on as the helper that opens sockets.
    Sockets,
}

impl Plan {
    pub(crate) fn new(
        spec: &SessionSpec,
        account: Account,
        login: &impl Login,
        tty: Option<&str>,
        stdio: Vec<OwnedFd>,
        group: Option<&Path>,
    ) -> Result<Self, String> {
        let env = env::build(spec, &account, tty, login.env()).ok_or("the user's entry has a NUL byte")?;
        let (program, argv) = program(&spec.command, &account)?;
        let terminal = tty.is_some();
        let greeted = spec.motd && terminal && spec.command == Command::Shell;
        let greeting = if greeted { login.greeting() } else { Vec::new() };
        Ok(Self { account, program, argv, env, stdio, terminal, greeting, group: group.map(Path::to_owned) })
    }

    /// The session's control group.
    pub(crate) fn group(&self) -> Option<&Path> {
        self.group.as_deref()
    }
}

/// The program and its arguments. A login shell has a name that begins with `-`.
fn program(command: &Command, account: &Account) -> Result<(Program, Vec<CString>), String> {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| "the command has a NUL byte".to_owned());
    let name = env::base_name(&account.shell);
    let shell = || Ok::<_, String>(Program::Path(text(account.shell.as_os_str().as_bytes().to_vec())?));
    match command {
        Command::Sockets => Ok((Program::Sockets, Vec::new())),
        Command::Shell => Ok((shell()?, vec![text([b"-", name].concat())?])),
        Command::Exec(line) => Ok((shell()?, vec![text(name.to_vec())?, text(b"-c".to_vec())?, text(line.clone())?])),
        Command::Subsystem { argv, .. } => {
            let path = Path::new(argv.first().ok_or("the subsystem has no program")?);
            let opened = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
            let program = opened.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
            let argv = argv.iter().map(|word| text(word.clone().into_bytes())).collect::<Result<_, _>>()?;
            Ok((Program::Open(program), argv))
        }
    }
}

/// The life of the leader, which may have been born in its control group. Never returns to the starter's code.
pub(crate) fn run(plan: &Plan, mut gate: UnixStream, is_in_group: bool) -> ! {
    match stand(plan, is_in_group) {
        Ok(()) if gate.write_all(&READY).is_ok() => {}
        Ok(()) => exit(1),
        Err(reason) => {
            let _ = gate.write_all(reason.as_bytes());
            exit(1);
        }
    }
    // End of file: the agent has gone or does not want the session any more.
    if gate.read_exact(&mut [0]).is_err() {
        exit(1);
    }
    let Err(reason) = go(plan);
    // Standard error is the session's, so the user sees it.
    let _ = writeln!(io::stderr(), "cannot start the session: {reason}");
    exit(1)
}

/// Without destructors: what the process inherited is the starter's.
fn exit(code: i32) -> ! {
    // SAFETY: _exit ends the process and touches no memory.
    unsafe { libc::_exit(code) }
}

/// As root, up to the gate: session, terminal, control group, limits.
fn stand(plan: &Plan, is_in_group: bool) -> Result<(), String> {
    let step = |what: &'static str| move |error: nix::Error| format!("cannot {what}: {error}");
    setsid().map_err(step("make a session"))?;
    let (input, output, error) = match plan.stdio.as_slice() {
        [terminal] => (terminal, terminal, terminal),
        [input, output, error] => (input, output, error),
        _ => return Err("the session has no standard streams".to_owned()),
    };
    if plan.terminal {
        pty::make_controlling(input).map_err(step("take the terminal"))?;
    }
    dup2_stdin(input).map_err(step("set standard input"))?;
    dup2_stdout(output).map_err(step("set standard output"))?;
    dup2_stderr(error).map_err(step("set standard error"))?;
    if let Some(group) = plan.group().filter(|_| !is_in_group) {
        cgroup::enter(group).map_err(|error| format!("cannot enter the session's control group: {error}"))?;
    }
    inherit_nothing(plan.account.uid);
    Ok(())
}

/// Undoes what the agent has set for itself. Best effort: a container may forbid each, and none guards anything.
fn inherit_nothing(uid: u32) {
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    // The audit id is set once and follows the user through su and sudo.
    if std::fs::read("/proc/self/loginuid").is_ok_and(|id| id == u32::MAX.to_string().as_bytes()) {
        let _ = std::fs::write("/proc/self/loginuid", uid.to_string());
    }
}

/// After the gate: become the user and run the program. Returns only an error.
fn go(plan: &Plan) -> Result<std::convert::Infallible, String> {
    become_user(&plan.account)?;
    // A starter that is killed takes its leader along. Set here, for a change of user clears it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGHUP).map_err(|error| format!("cannot follow the starter: {error}"))?;
    // After the drop: a home on NFS may be closed to root.
    let home = &plan.account.home;
    if let Err(error) = std::env::set_current_dir(home) {
        let _ = writeln!(io::stderr(), "cannot change to the home directory {}: {error}", home.display());
        std::env::set_current_dir("/").map_err(|error| format!("cannot change to /: {error}"))?;
    }
    greet(&plan.greeting, home);
    default_signals()?;
    if matches!(plan.program, Program::Sockets) {
        close_others(0, |fd| {
            // SAFETY: nothing here uses a descriptor above 2 any more, and nothing is dropped before the process ends.
            unsafe { libc::close(fd) };
        })?;
        return sockets::serve().map(|()| exit(0)).map_err(|error| error.to_string());
    }
    // Exec may still need one of them.
    close_others(libc::CLOSE_RANGE_CLOEXEC, |fd| {
        // SAFETY: the call changes a flag and touches no memory.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    })?;
    let (what, result) = match &plan.program {
        Program::Path(path) => (path.to_string_lossy(), execve(path, &plan.argv, &plan.env)),
        Program::Open(fd) => ("the subsystem".into(), execveat(fd, c"", &plan.argv, &plan.env, AtFlags::AT_EMPTY_PATH)),
        Program::Sockets => return Err("the helper has no program".to_owned()),
    };
    result.map_err(|error| format!("cannot run {what}: {error}"))
}

/// Groups, group, user, in this order and by number, then the proof that there is no way back.
fn become_user(account: &Account) -> Result<(), String> {
    let step = |what: &'static str| move |error: nix::Error| format!("cannot {what}: {error}");
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    if geteuid().is_root() {
        let groups: Vec<Gid> = account.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        setgroups(&groups).map_err(step("set the groups"))?;
        setresgid(gid, gid, gid).map_err(step("set the group"))?;
        setresuid(uid, uid, uid).map_err(step("set the user"))?;
        let gids = getresgid().map_err(step("read the group"))?;
        if gids.real != gid || gids.effective != gid || gids.saved != gid {
            return Err("the group did not change".to_owned());
        }
    }
    let uids = getresuid().map_err(step("read the user"))?;
    if uids.real != uid || uids.effective != uid || uids.saved != uid {
        return Err("the user did not change".to_owned());
    }
    let way_back =
        !uid.is_root() && (setuid(Uid::from_raw(0)).is_ok() || (account.gid != 0 && setgid(Gid::from_raw(0)).is_ok()));
    if way_back { Err("the process can become root again".to_owned()) } else { Ok(()) }
}

/// A terminal that has gone is noticed by the shell.
fn greet(text: &[u8], home: &Path) {
    if !text.is_empty() && !home.join(".hushlogin").exists() {
        let _ = io::stdout().write_all(text).and_then(|()| io::stdout().flush());
    }
}

/// Every signal as a new program expects it (Rust's own start-up ignores SIGPIPE).
fn default_signals() -> Result<(), String> {
    // All zero is the kernel's struct for the default disposition, on every architecture, and shorter than this.
    let default = [0_u64; 8];
    let nothing = std::ptr::null::<u64>();
    for number in 1..=LAST_SIGNAL {
        // SAFETY: the default disposition runs no code of ours; the kernel only reads `default`. Not by libc, which
        // leaves the two signals that it keeps for itself as they were inherited. KILL and STOP refuse, which is right.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &raw const default, nothing, size_of::<u64>()) };
    }
    SigSet::empty().thread_set_mask().map_err(|error| format!("cannot unblock signals: {error}"))
}

/// Closes every descriptor above 2, at once or, with CLOSE_RANGE_CLOEXEC, at exec; `each` does it for one.
fn close_others(flags: libc::c_uint, each: impl Fn(i32)) -> Result<(), String> {
    // SAFETY: the call touches no memory; what it closes is the caller's choice.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) };
    if done == 0 {
        return Ok(());
    }
    // Before Linux 5.11. The directory's own descriptor is among them, and closed by then.
    let entries = std::fs::read_dir("/proc/self/fd").map_err(|error| format!("cannot list descriptors: {error}"))?;
    let open: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    open.into_iter().filter(|&fd| fd > 2).for_each(each);
    Ok(())
}
