//! Sessions under a PAM stack written for the test. They need root and libpam; without these they say so and pass.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use mezite_session::{Command, Control, SessionSpec};

use crate::support::{STARTER, Session, User, pty, read_until};

/// A PAM service of its own, the starter that uses it, and a user.
struct Stack {
    user: User,
    service: PathBuf,
    dir: tempfile::TempDir,
}

impl Stack {
    /// `{dir}` in the lines is a directory for the modules' files.
    fn create(lines: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !has_pam() {
            // Past the test harness, which keeps the output of what passes.
            let _ = writeln!(std::io::stderr(), "skipped: this machine has no libpam.so.0");
            return None;
        }
        let user = User::create(&[])?;
        let dir = tempfile::Builder::new().prefix("mezite-pam-").tempdir().expect("dir");
        let name = format!("mezd-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let service = Path::new("/etc/pam.d").join(&name);
        // Credentials that need nothing: what is missing here would come from the machine's `other`.
        let lines =
            format!("auth required pam_permit.so\n{lines}\n").replace("{dir}", dir.path().to_str().expect("path"));
        std::fs::write(&service, lines).expect("service");
        let stack = Self { user, service, dir };
        stack.script("starter", &format!("exec {STARTER} \"$@\" {name}"));
        Some(stack)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("write");
        path
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.file(name, &format!("#!/bin/sh\n{body}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    }

    fn start(&self, spec: &SessionSpec) -> Session {
        Session::start_with(spec, &self.dir.path().join("starter"))
    }

    fn exec(&self, line: &str) -> Session {
        self.start(&self.user.spec(Command::Exec(line.as_bytes().to_vec())))
    }

    fn service(&self) -> &str {
        self.service.file_name().expect("name").to_str().expect("name")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        std::fs::remove_file(&self.service).expect("remove");
    }
}

fn has_pam() -> bool {
    #[expect(unsafe_code, reason = "whether the library is there")]
    // SAFETY: libpam's constructors do nothing that matters here.
    unsafe { libloading::Library::new("libpam.so.0") }.is_ok()
}

/// Notes what PAM tells its modules.
const NOTE: &str = r#"echo "$PAM_TYPE $PAM_USER $PAM_TTY $PAM_RHOST" >>"$(dirname "$0")/log""#;

#[test]
fn a_stack_that_denies_denies_the_session() {
    let Some(stack) = Stack::create("account required pam_deny.so\nsession required pam_permit.so") else { return };
    // Also one that only opens sockets for a client.
    for command in [Command::Exec(b"true".to_vec()), Command::Sockets] {
        let reason = stack.start(&stack.user.spec(command)).denied();
        assert!(reason.starts_with(&format!("PAM service {} refused the account: ", stack.service())), "{reason}");
    }
    let lines =
        "account required pam_permit.so\nsession optional pam_motd.so motd={dir}/motd\nsession required pam_deny.so";
    let Some(stack) = Stack::create(lines) else { return };
    stack.file("motd", "welcome\n");
    let reason = stack.exec("true").denied();
    assert!(reason.starts_with(&format!("PAM service {} refused to open a session: ", stack.service())), "{reason}");
    assert!(!reason.contains("welcome"), "{reason}");
}

#[test]
fn a_denial_gives_the_modules_words() {
    let lines = "account required pam_nologin.so file={dir}/nologin successok\nsession required pam_permit.so";
    let Some(stack) = Stack::create(lines) else { return };
    let nologin = stack.file("nologin", "down for repairs\n");
    assert!(stack.exec("true").denied().ends_with(": down for repairs"));
    std::fs::remove_file(nologin).expect("remove");
    assert_eq!(stack.exec("echo in").finish().1, "in\n");
}

#[test]
fn the_files_still_refuse_whom_pam_admits() {
    let Some(stack) = Stack::create("account required pam_permit.so\nsession required pam_permit.so") else { return };
    let done = std::process::Command::new("chage").args(["-E", "2001-01-01", &stack.user.name]).status();
    assert!(done.expect("chage").success());
    assert!(stack.exec("true").denied().contains("has expired"));
}

#[test]
fn variables_of_pam_arrive_and_are_the_last_word() {
    let lines = "account required pam_permit.so\nsession required pam_env.so conffile={dir}/env envfile={dir}/none";
    let Some(stack) = Stack::create(lines) else { return };
    stack.file("none", "");
    stack.file("env", "SITE DEFAULT=berlin\nLANG DEFAULT=de_DE.UTF-8\nPATH DEFAULT=/opt/site:/bin\n");
    let (_, out, _) = stack.exec("exec /usr/bin/env").finish();
    for line in ["SITE=berlin", "LANG=de_DE.UTF-8", "PATH=/opt/site:/bin"] {
        let name = line.split_inclusive('=').next().expect("name");
        let got: Vec<&str> = out.lines().filter(|got| got.starts_with(name)).collect();
        assert_eq!(got, [line]);
    }
}

#[test]
fn what_modules_say_greets_a_login_shell_and_nobody_else() {
    let lines =
        "account required pam_permit.so\nsession optional pam_motd.so motd={dir}/motd\nsession required pam_permit.so";
    let Some(stack) = Stack::create(lines) else { return };
    stack.file("motd", "be kind\nto the disks\n");
    let shell = SessionSpec { pty: Some(pty(vec![])), motd: true, ..stack.user.spec(Command::Shell) };
    let seen = |spec: &SessionSpec| {
        let mut session = stack.start(spec);
        session.go();
        let master = session.master.as_mut().expect("master");
        writeln!(master, "echo do''ne.; exit").expect("type");
        let seen = read_until(master, "done.");
        session.message().expect("end");
        session.gone();
        seen
    };
    assert!(seen(&shell).contains("be kind\r\nto the disks\r\n"));
    let command = Command::Exec(b"echo done.".to_vec());
    assert!(!seen(&SessionSpec { command, ..shell.clone() }).contains("kind"));
    assert_eq!(stack.exec("echo x").finish().1, "x\n");
    std::fs::write(stack.user.home().join(".hushlogin"), "").expect("hush");
    assert!(!seen(&shell).contains("kind"));
}

#[test]
fn limits_of_pam_hold_in_the_session() {
    let lines = "account required pam_permit.so\nsession required pam_limits.so conf={dir}/limits";
    let Some(stack) = Stack::create(lines) else { return };
    stack.file("limits", "* - nofile 2222\n* - core 0\n");
    assert_eq!(stack.exec("ulimit -Sn; ulimit -Hn; ulimit -Sc").finish().1, "2222\n2222\n0\n");
}

#[test]
fn a_session_is_opened_before_its_leader_and_closed_however_it_ends() {
    let lines = "account required pam_exec.so {dir}/note\nsession required pam_exec.so {dir}/note";
    let Some(stack) = Stack::create(lines) else { return };
    stack.script("note", NOTE);
    let log = stack.dir.path().join("log");
    let noted = || std::fs::read_to_string(&log).unwrap_or_default();
    let name = &stack.user.name;
    let ends: [fn(&mut Session); 3] =
        [|session| session.stdin = None, |session| session.send(Control::Terminate), |session| session.control = None];
    for end in ends {
        let mut session = stack.exec("exec cat");
        session.started();
        let begun = format!("account {name} ssh 10.1.2.3\nopen_session {name} ssh 10.1.2.3\n");
        assert_eq!(noted(), begun);
        session.send(Control::Go);
        end(&mut session);
        session.gone();
        assert_eq!(noted(), format!("{begun}close_session {name} ssh 10.1.2.3\n"));
        std::fs::remove_file(&log).expect("remove");
    }
    let mut session = stack.start(&SessionSpec { pty: Some(pty(vec![])), ..stack.user.spec(Command::Shell) });
    let (_, tty) = session.started();
    assert!(noted().starts_with(&format!("account {name} {} 10.1.2.3\n", tty.expect("tty"))), "{}", noted());
    session.control = None;
    session.gone();
}

#[test]
fn an_account_that_pam_alters_is_looked_up_again() {
    let lines = "account required pam_permit.so\nsession required pam_exec.so {dir}/alter";
    let Some(stack) = Stack::create(lines) else { return };
    // Fails while another test holds the lock of the user database.
    let alter = "until /usr/sbin/usermod -s /usr/sbin/nologin \"$PAM_USER\"; do :; done";
    stack.script("alter", &format!("{NOTE}\n[ $PAM_TYPE = open_session ] || exit 0\n{alter}"));
    assert!(stack.exec("touch ran").denied().contains("/usr/sbin/nologin"));
    let log = std::fs::read_to_string(stack.dir.path().join("log")).expect("log");
    assert!(log.contains("open_session ") && log.contains("close_session "), "{log}");
}

#[test]
fn helpers_of_modules_hold_nothing_of_the_session() {
    let lines = "account required pam_permit.so
        session required pam_exec.so log={dir}/log /bin/ls -l /proc/self/fd
        session required pam_exec.so log={dir}/log /bin/grep SigBlk /proc/self/status";
    let Some(stack) = Stack::create(lines) else { return };
    stack.exec("true").finish();
    let log = std::fs::read_to_string(stack.dir.path().join("log")).expect("log");
    assert!(!log.contains("socket:") && !log.contains("/dev/pts/"), "{log}");
    let unblocked = format!("SigBlk:\t{:016x}\n", 0);
    assert_eq!(log.matches(&unblocked).count(), 2, "{log}");
}
