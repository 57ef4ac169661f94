//! A program on a terminal of its own, typed at and read by a test.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::Duration;

use nix::pty::openpty;
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::process::{PATIENCE, Seen, within};

pub(crate) struct Pty {
    child: Child,
    master: File,
    /// Kept open, so that the terminal outlives its program and can be looked at.
    slave: OwnedFd,
    seen: Seen,
    read: usize,
}

impl Pty {
    /// Starts `command`, which must have a cleared environment, with a new terminal as its controlling one.
    pub(crate) fn start(command: &Command, cols: u16, rows: u16) -> Self {
        let pair = openpty(None, None).unwrap();
        let master = File::from(pair.master);
        resize(&master, cols, rows);
        // setsid(1) keeps its process: the program has the child's id and signals of the terminal reach it.
        let mut wrapped = Command::new("setsid");
        wrapped.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        wrapped.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let end = || pair.slave.try_clone().unwrap();
        let child = wrapped.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let seen = Seen::collect(master.try_clone().unwrap());
        Self { child, master, slave: pair.slave, seen, read: 0 }
    }

    pub(crate) fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for `text` after what was expected before.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) {
        let mut found = None;
        within(PATIENCE, || {
            let bytes = self.seen.bytes();
            found = find(&bytes[self.read..], text.as_bytes());
            found.is_some()
        });
        let Some(at) = found else {
            panic!("{text:?} did not come; seen since: {:?}", String::from_utf8_lossy(&self.seen.bytes()[self.read..]));
        };
        self.read += at + text.len();
    }

    /// A shell prompt that no echo of its own setting can be taken for.
    #[track_caller]
    pub(crate) fn prompt(&mut self) {
        self.send("PS1='rea''dy> '\r");
        self.expect("ready> ");
    }

    pub(crate) fn resize(&self, cols: u16, rows: u16) {
        resize(&self.master, cols, rows);
    }

    /// The terminal's modes, as `stty` would show them.
    pub(crate) fn modes(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        self.seen.text()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let mut status = None;
        within(PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let Some(status) = status else { panic!("it does not end; seen: {:?}", self.text()) };
        // The last words may be on their way from the terminal to us.
        let mut len = 0;
        within(Duration::from_secs(1), || {
            std::mem::replace(&mut len, self.seen.bytes().len()) == self.seen.bytes().len()
        });
        status.code().unwrap_or(-1)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(master: &File, cols: u16, rows: u16) {
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}
