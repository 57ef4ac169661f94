//! A throwaway OS user, and a session with blocking reads.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mezite_session::{Command, Control, Decoder, Message, Pty, Running, SessionSpec, Starter, Starters, spawn};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const STARTER: &str = env!("CARGO_BIN_EXE_test-starter");
const LIMIT: Duration = Duration::from_secs(60);

/// A user with a home of its own and a locked password, removed at the end.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    home: tempfile::TempDir,
}

impl User {
    /// `None`, with a note, if the test does not run as root.
    pub(crate) fn create(options: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can run sessions of other users");
            return None;
        }
        let name = format!("mzt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let home = tempfile::Builder::new().prefix("mezite-home-").tempdir().expect("home");
        until("useradd", || {
            let mut useradd = Process::new("useradd");
            useradd.args(["-M", "-s", "/bin/bash", "-d"]).arg(home.path()).args(options).arg(&name);
            // Fails while another test holds the lock of the user database.
            useradd.output().expect("useradd").status.success().then_some(())
        });
        let account = mezite_session::users::lookup(&name).expect("lookup").expect("new user");
        std::os::unix::fs::chown(home.path(), Some(account.uid), Some(account.gid)).expect("chown");
        Some(Self { name, uid: account.uid, home })
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn spec(&self, command: Command) -> SessionSpec {
        spec(&self.name, command)
    }

    pub(crate) fn exec(&self, line: &str) -> Session {
        Session::start(&self.spec(Command::Exec(line.as_bytes().to_vec())))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for pid in processes_of(self.uid) {
            // Gone already is as good as killed.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        until("userdel", || {
            let deleted = Process::new("userdel").args(["-f", &self.name]).output().expect("userdel");
            // 6: no such user, as after an attempt that removed it and failed later.
            (deleted.status.success() || deleted.status.code() == Some(6)).then_some(())
        });
    }
}

pub(crate) fn spec(login: &str, command: Command) -> SessionSpec {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    SessionSpec {
        session_id: format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
        login: login.to_owned(),
        command,
        pty: None,
        env: vec![("LANG".into(), "C.UTF-8".into())],
        ssh_client: "10.1.2.3 50000 22".into(),
        ssh_connection: "10.1.2.3 50000 10.0.0.2 22".into(),
        motd: false,
        cgroup: None,
    }
}

pub(crate) fn pty(modes: Vec<(u8, u32)>) -> Pty {
    Pty { term: "xterm-256color".into(), cols: 93, rows: 31, width_px: 0, height_px: 0, modes }
}

/// A running session. Output is gathered by threads, so that nothing ever waits for the test.
pub(crate) struct Session {
    pub(crate) control: Option<UnixStream>,
    decoder: Decoder<Message>,
    pub(crate) starter: Starter,
    pub(crate) stdin: Option<File>,
    pub(crate) stdout: Option<File>,
    pub(crate) stderr: Option<File>,
    pub(crate) master: Option<File>,
}

impl Session {
    pub(crate) fn start(spec: &SessionSpec) -> Self {
        static STARTERS: LazyLock<Starters> = LazyLock::new(|| Starters::new(STARTER.into()));
        Self::of(spec, &STARTERS)
    }

    pub(crate) fn start_with(spec: &SessionSpec, exe: &Path) -> Self {
        Self::of(spec, &Starters::new(exe.to_owned()))
    }

    pub(crate) fn of(spec: &SessionSpec, starters: &Starters) -> Self {
        let Running { control, pty_master, stdin, stdout, stderr, starter, .. } = spawn(spec, starters).expect("spawn");
        control.set_nonblocking(false).expect("blocking");
        control.set_read_timeout(Some(LIMIT)).expect("timeout");
        let file = |fd: Option<OwnedFd>| {
            fd.map(|fd| {
                let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).expect("flags"));
                assert!(flags.contains(OFlag::O_NONBLOCK));
                fcntl(&fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).expect("flags");
                File::from(fd)
            })
        };
        Self {
            control: Some(control),
            decoder: Decoder::messages(),
            starter,
            stdin: file(stdin),
            stdout: file(stdout),
            stderr: file(stderr),
            master: file(pty_master),
        }
    }

    /// The next message; `None` when the starter has closed the socket.
    pub(crate) fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.decoder.next_value().expect("valid message") {
                return Some(message);
            }
            let mut chunk = [0; 256];
            match self.control.as_mut().expect("control").read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&chunk[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "message in time"),
            }
        }
    }

    /// Waits until the starter has ended.
    pub(crate) fn gone(&self) {
        let mut fds = [PollFd::new(self.starter.handle().expect("a handle of the process"), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(LIMIT).expect("limit");
        assert_eq!(poll(&mut fds, limit).expect("poll"), 1, "the starter did not end");
    }

    pub(crate) fn started(&mut self) -> (u32, Option<String>) {
        match self.message() {
            Some(Message::Started { pid, tty }) => (pid, tty),
            other => panic!("no start: {other:?}"),
        }
    }

    pub(crate) fn denied(mut self) -> String {
        let Some(Message::Denied { reason }) = self.message() else { panic!("not denied") };
        assert_eq!(self.message(), None);
        self.gone();
        reason
    }

    pub(crate) fn send(&self, control: Control) {
        let mut stream = self.control.as_ref().expect("control");
        stream.write_all(&control.to_line()).expect("write");
    }

    /// Waits for the start and lets the leader go; its process id.
    pub(crate) fn go(&mut self) -> u32 {
        let (pid, _) = self.started();
        self.send(Control::Go);
        pid
    }

    /// Runs to the end with nothing on standard input: (last message, standard output, standard error).
    pub(crate) fn finish(mut self) -> (Message, String, String) {
        self.go();
        self.stdin = None;
        let (stdout, stderr) = (gather(self.stdout.take()), gather(self.stderr.take()));
        let last = self.message().expect("last message");
        assert_eq!(self.message(), None);
        self.gone();
        let text = |bytes: JoinHandle<Vec<u8>>| String::from_utf8(bytes.join().expect("reader")).expect("UTF-8");
        (last, text(stdout), text(stderr))
    }
}

/// Reads to the end in a thread. The end of a terminal is EIO.
pub(crate) fn gather(file: Option<File>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut all, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        let mut file = file.expect("output");
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return all,
                Ok(count) => all.extend_from_slice(&chunk[..count]),
                Err(error) if error.raw_os_error() == Some(5) => return all,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("read: {error}"),
            }
        }
    })
}

/// Reads until `mark` was seen and returns everything read.
pub(crate) fn read_until(file: &mut File, mark: &str) -> String {
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all).contains(mark) {
        await_input(file, mark, &all);
        let count = file.read(&mut chunk).expect("read");
        assert_ne!(count, 0, "end before {mark:?}: {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn await_input(file: &File, mark: &str, all: &[u8]) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let limit = PollTimeout::try_from(LIMIT).expect("limit");
    let ready = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], limit);
    assert_ne!(ready, Ok(0), "no {mark:?} in {:?}", String::from_utf8_lossy(all));
}

/// Polls until the condition holds.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the process exists and is no zombie.
pub(crate) fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

/// Process ids of the user's live processes.
pub(crate) fn processes_of(uid: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc");
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| alive(pid) && owner(pid) == Some(uid)).collect()
}

fn owner(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// The file the test waits for, written whole by a session.
pub(crate) fn wait_for_file(path: PathBuf) -> String {
    until("file", || std::fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')))
}
