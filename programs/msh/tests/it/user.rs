//! A user with a home of their own, who runs `msh`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::hub::{Hub, PASSWORD};

pub(crate) struct User {
    home: TempDir,
}

pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl User {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// Somebody who has logged in to `hub`.
    pub(crate) async fn of(hub: &Hub) -> Self {
        let user = Self::new();
        let run = user.login(hub, &[]).await;
        assert_eq!(run.code, 0, "{}", run.stderr);
        user
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    pub(crate) async fn login(&self, hub: &Hub, more: &[&str]) -> Run {
        let ca = self.path("ca.pem");
        std::fs::write(&ca, &hub.ca_pem).unwrap();
        let (proxy, ca) = (format!("--proxy={}", hub.web), format!("--ca-file={}", ca.display()));
        let args = ["login", &proxy, "--user=alice", "--password-stdin", &ca];
        self.run(&[&args, more].concat(), &format!("{PASSWORD}\n")).await
    }

    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let bin = Path::new(env!("CARGO_BIN_EXE_msh")).parent().unwrap();
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("HOME", self.home.path())
            .env("MEZITE_HOME", self.path(".mezite"))
            .env("TERM", "xterm")
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn msh(&self, args: &[&str]) -> Run {
        self.run(args, "").await
    }

    pub(crate) async fn run(&self, args: &[&str], stdin: &str) -> Run {
        let mut command = self.command(env!("CARGO_BIN_EXE_msh"));
        run(command.args(args), stdin).await
    }
}

pub(crate) async fn run(command: &mut Command, stdin: &str) -> Run {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_owned();
    let feed = tokio::spawn(async move {
        let _ = input.write_all(stdin.as_bytes()).await;
    });
    let Output { status, stdout, stderr } = child.wait_with_output().await.unwrap();
    feed.await.unwrap();
    Run {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}
