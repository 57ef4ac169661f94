//! `msh ssh` in a terminal: no echo while it runs, restored whatever ends it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::hub::{Hub, Plan};
use crate::user::User;

const SHELL: [&str; 2] = ["ssh", "ubuntu@web"];
const READY: &str = "ready xterm 100x30";

struct Terminal {
    master: File,
    /// Kept open, so that the settings can be read after the program has gone.
    slave: OwnedFd,
    before: Termios,
    msh: Child,
}

impl Terminal {
    async fn open(user: &User, args: &[&str], greeting: &str) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        // The program's controlling terminal, as in a login.
        let mut command = user.command("setsid");
        command
            .args(["--ctty", env!("CARGO_BIN_EXE_msh")])
            .args(args)
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap());
        let msh = command.stderr(slave.try_clone().unwrap()).spawn().unwrap();
        let mut terminal = Self { master: master.into(), slave, before, msh };
        terminal.wait_for(greeting).await;
        assert!(!tcgetattr(&terminal.slave).unwrap().local_flags.contains(LocalFlags::ECHO), "no echo while it runs");
        terminal
    }

    async fn wait_for(&mut self, text: &str) {
        let mut master = self.master.try_clone().unwrap();
        let wanted = text.to_owned();
        let seen = tokio::task::spawn_blocking(move || {
            let (mut seen, mut buffer) = (String::new(), [0; 1024]);
            while !seen.contains(&wanted) {
                let count = master.read(&mut buffer).unwrap();
                seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        seen.await.unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.msh.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    fn type_keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    async fn ended(mut self) -> i32 {
        let status = self.msh.wait().await.unwrap();
        assert_eq!(tcgetattr(&self.slave).unwrap(), self.before, "the terminal is as it was");
        status.code().unwrap()
    }
}

#[tokio::test]
async fn signals_restore_the_terminal() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let terminal = Terminal::open(&user, &SHELL, READY).await;
        terminal.signal(signal);
        assert_eq!(terminal.ended().await, code);
    }
}

#[tokio::test]
async fn keys_reach_the_far_side_and_the_escape_hangs_up() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let mut terminal = Terminal::open(&user, &SHELL, READY).await;
    // Ctrl-C is a byte for the far side, not a signal here.
    terminal.type_keys("\u{3}typed\r");
    terminal.wait_for("\u{3}typed\r").await;
    terminal.type_keys("~.");
    assert_eq!(terminal.ended().await, 255);
}

#[tokio::test]
async fn a_password_is_asked_for_without_echo() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::new();
    let proxy = format!("--proxy={}", hub.web);
    let login = ["login", &proxy, "--user=alice", "--insecure"];
    let mut terminal = Terminal::open(&user, &login, "Password of alice").await;
    terminal.type_keys("correct horse\n");
    terminal.wait_for("Logged in to production").await;
    assert_eq!(terminal.ended().await, 0);

    let mut interrupted = Terminal::open(&user, &login, "Password of alice").await;
    interrupted.type_keys("corr\u{3}");
    assert_eq!(interrupted.ended().await, 130);
}
