//! Programs under a test's control. Whatever is started here is ended when its handle goes.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take before a test calls it hung. Generous: machines are small and noisy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a finished program left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// The message of a program that must have failed with `code` and said nothing on standard output.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "stderr: {}", self.stderr);
        self.stderr
    }
}

/// Polls a condition; fails the test when it does not come true in [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, &mut condition), "waited {} s for {what}", PATIENCE.as_secs());
}

/// Whether the condition came true in `bound`.
pub(crate) fn within(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begin.elapsed() > bound {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A daemon that logs to a file.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn wait(&mut self) -> i32 {
        wait_status(&mut self.child).code().unwrap_or(-1)
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            eprintln!("--- end of {}:\n{}", self.log.display(), log.get(from..).unwrap_or(&log));
        }
    }
}

#[track_caller]
fn wait_status(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_for("a program to end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// A client that runs while the test goes on.
pub(crate) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) out: Seen,
    pub(crate) err: Seen,
}

impl Client {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (out, err) = (Seen::collect(child.stdout.take().unwrap()), Seen::collect(child.stderr.take().unwrap()));
        Self { stdin: child.stdin.take(), child, out, err }
    }

    /// Whether the input could be written.
    pub(crate) fn send(&mut self, input: &str) -> bool {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(input.as_bytes()).and_then(|()| stdin.flush()).is_ok()
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    #[track_caller]
    pub(crate) fn expect(&self, text: &str) {
        wait_for(&format!("{text:?}, seen so far: {:?} {:?}", self.out.text(), self.err.text()), || {
            self.out.text().contains(text)
        });
    }

    /// Waits for its end; what it printed is complete then.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Output {
        let status = wait_status(&mut self.child);
        wait_for("the end of its output", || self.out.ended() && self.err.ended());
        Output { code: status.code().unwrap_or(-1), stdout: self.out.text(), stderr: self.err.text() }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a stream brought so far, collected by a thread.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<(Vec<u8>, bool)>>);

impl Seen {
    pub(crate) fn collect(mut from: impl Read + Send + 'static) -> Self {
        let seen = Self::default();
        let to = seen.clone();
        thread::spawn(move || {
            let mut buffer = [0; 32 * 1024];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                to.lock().0.extend_from_slice(&buffer[..n]);
            }
            to.lock().1 = true;
        });
        seen
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<u8>, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().0.clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().0).into_owned()
    }

    pub(crate) fn ended(&self) -> bool {
        self.lock().1
    }
}

/// Runs a program to its end, fed with `input`; fails the test when it hangs.
#[track_caller]
pub(crate) fn run(command: Command, input: &[u8]) -> Output {
    let mut client = Client::start(command);
    let (mut stdin, input) = (client.stdin.take().unwrap(), input.to_vec());
    thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    client.wait()
}

/// Runs a program of the system.
#[track_caller]
pub(crate) fn tool(name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(name);
    command.args(args);
    run(command, b"")
}
