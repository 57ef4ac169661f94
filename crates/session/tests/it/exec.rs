//! Commands without a terminal.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mezite_session::{Command, Message};

use crate::support::{Session, User, alive, gather, until, wait_for_file};

#[test]
fn a_command_runs_as_the_user_and_nothing_more() {
    let Some(user) = User::create(&["-G", "tty,games"]) else { return };
    // A password that is locked: a certificate logs in, not a password.
    let shadow = std::fs::read_to_string("/etc/shadow").expect("shadow");
    assert!(shadow.lines().any(|line| line.starts_with(&format!("{}:!", user.name))));

    let script = "id -un; id -Gn; pwd; umask; ulimit -Sn; cat /proc/self/status";
    let (last, out, err) = user.exec(script).finish();
    assert_eq!((last, err.as_str()), (Message::Exit { code: 0 }, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], user.name);
    let mut groups: Vec<&str> = lines[1].split(' ').collect();
    groups.sort_unstable();
    let mut expected = vec!["games", "tty", user.name.as_str()];
    expected.sort_unstable();
    assert_eq!(groups, expected);
    assert_eq!(lines[2..5], [user.home().to_str().expect("path"), "0022", "1024"]);
    for field in ["CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk", "SigIgn", "SigCgt"] {
        let clean = format!("{field}:\t{:016x}", 0);
        assert!(lines.contains(&clean.as_str()), "{field} in {out}");
    }
}

#[test]
fn the_environment_is_made_here_and_the_locale_is_the_clients() {
    let Some(user) = User::create(&[]) else { return };
    let mut spec = user.spec(Command::Exec(b"exec env".to_vec()));
    spec.env.push(("MEZITE_SESSION_ID".into(), "x1".into()));
    let (_, out, _) = Session::start(&spec).finish();
    let mut lines: Vec<&str> =
        out.lines().filter(|line| !line.starts_with("SHLVL=") && !line.starts_with("_=")).collect();
    lines.sort_unstable();
    let home = user.home().to_str().expect("path");
    let expected = [
        format!("HOME={home}"),
        "LANG=C.UTF-8".into(),
        format!("LOGNAME={}", user.name),
        format!("MAIL=/var/mail/{}", user.name),
        "MEZITE_SESSION_ID=x1".into(),
        "PATH=/usr/local/bin:/usr/bin:/bin".into(),
        format!("PWD={home}"),
        "SHELL=/bin/bash".into(),
        "SSH_CLIENT=10.1.2.3 50000 22".into(),
        "SSH_CONNECTION=10.1.2.3 50000 10.0.0.2 22".into(),
        format!("USER={}", user.name),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn nothing_of_the_agents_environment_is_inherited() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("exec cat");
    let (pid, _) = session.started();
    let environ = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("environ");
    assert_ne!(environ(std::process::id()), "");
    assert_eq!((environ(session.starter.pid.unsigned_abs()), environ(pid)), (String::new(), String::new()));
    session.control = None;
    session.gone();
}

#[test]
fn the_session_holds_three_descriptors() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("exec cat");
    let pid = session.go();
    until("cat", || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("cat")).then_some(()));
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fds");
    let mut fds: Vec<_> = fds.map(|fd| fd.expect("fd").file_name().into_string().expect("number")).collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
    session.stdin = None;
    assert_eq!(session.message(), Some(Message::Exit { code: 0 }));
    session.gone();
}

#[test]
fn the_end_is_reported_as_it_was() {
    let Some(user) = User::create(&[]) else { return };
    for code in [0, 7, 255] {
        assert_eq!(user.exec(&format!("exit {code}")).finish().0, Message::Exit { code });
    }
    let signal = |name: &str, core| Message::Signal { name: name.into(), core };
    assert_eq!(user.exec("kill -TERM $$").finish().0, signal("TERM", false));
    assert_eq!(user.exec("ulimit -c 0; kill -SEGV $$").finish().0, signal("SEGV", false));
    assert_eq!(user.exec("kill -35 $$").finish().0, signal("RT", false));
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("pattern");
    if !pattern.starts_with(['|', '/']) {
        assert_eq!(user.exec("ulimit -c unlimited; kill -ABRT $$").finish().0, signal("ABRT", true));
    }
}

#[test]
fn a_command_may_hold_bytes_that_are_no_text() {
    let Some(user) = User::create(&[]) else { return };
    let spec = user.spec(Command::Exec(b"printf %s '\xff\xfe' | od -An -tx1".to_vec()));
    assert_eq!(Session::start(&spec).finish().1.trim(), "ff fe");
}

#[test]
fn sixty_megabytes_pass_through() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("cat");
    session.go();
    let (stdout, stderr) = (gather(session.stdout.take()), gather(session.stderr.take()));
    let block: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut stdin = session.stdin.take().expect("stdin");
    for _ in 0..60 {
        stdin.write_all(&block).expect("write");
    }
    drop(stdin);
    let out = stdout.join().expect("reader");
    assert!(out.len() == 60_000_000 && out.chunks(block.len()).all(|chunk| chunk == block));
    assert_eq!(session.message(), Some(Message::Exit { code: 0 }));
    assert!(stderr.join().expect("reader").is_empty());
    session.gone();
}

#[test]
fn end_of_file_closes_standard_input_only() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("cat; echo after-eof; echo oops >&2; head -c 3 /dev/stdin; exit 4");
    session.stdin.as_mut().expect("stdin").write_all(b"before\n").expect("write");
    let (last, out, err) = session.finish();
    assert_eq!((last, out.as_str(), err.as_str()), (Message::Exit { code: 4 }, "before\nafter-eof\n", "oops\n"));
}

#[test]
fn a_background_job_outlives_the_leader_and_keeps_the_pipe_open() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("mkfifo gate; (read x <gate; echo late) & echo early $!");
    session.go();
    assert_eq!(session.message(), Some(Message::Exit { code: 0 }));
    assert_eq!(session.message(), None);
    session.gone();
    let mut out = session.stdout.take().expect("stdout");
    let early = crate::support::read_until(&mut out, "\n");
    let pid = early.trim().strip_prefix("early ").expect("pid").parse().expect("number");
    assert!(alive(pid));
    std::fs::write(user.home().join("gate"), "go\n").expect("gate");
    let mut late = String::new();
    out.read_to_string(&mut late).expect("read");
    assert_eq!(late, "late\n");
}

#[test]
fn a_subsystem_need_not_be_reachable_by_the_user() {
    let Some(user) = User::create(&[]) else { return };
    let closed = tempfile::tempdir().expect("dir");
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).expect("mode");
    let program = closed.path().join("program");
    std::fs::copy("/usr/bin/id", &program).expect("copy");
    let argv = vec![program.to_str().expect("path").to_owned(), "-un".into()];
    let spec = user.spec(Command::Subsystem { name: "sftp".into(), argv });
    assert_eq!(Session::start(&spec).finish(), (Message::Exit { code: 0 }, format!("{}\n", user.name), String::new()));
}

#[test]
fn a_missing_home_is_told_and_survived() {
    let Some(user) = User::create(&[]) else { return };
    std::fs::remove_dir(user.home()).expect("remove");
    let (last, out, err) = user.exec("pwd").finish();
    std::fs::create_dir(user.home()).expect("create");
    assert_eq!((last, out.as_str()), (Message::Exit { code: 0 }, "/\n"));
    assert!(err.starts_with("cannot change to the home directory "), "{err}");
}

#[test]
fn the_audit_id_is_the_users() {
    let Some(user) = User::create(&[]) else { return };
    if std::fs::read_to_string("/proc/self/loginuid").is_ok_and(|id| id == u32::MAX.to_string()) {
        assert_eq!(user.exec("cat /proc/self/loginuid").finish().1, user.uid.to_string());
    }
}

#[test]
fn nothing_runs_before_the_word() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("touch ran");
    let (pid, tty) = session.started();
    assert_eq!(tty, None);
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("exe");
    assert_eq!(exe, Path::new(crate::support::STARTER).canonicalize().expect("path"));
    // The agent goes away instead.
    session.control = None;
    session.gone();
    until("leader gone", || (!alive(pid)).then_some(()));
    assert!(!user.home().join("ran").exists());
}

#[test]
fn a_control_group_is_entered_before_the_start_and_removed_after() {
    let Some(user) = User::create(&[]) else { return };
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer"] {
        let Ok(parent) = tempfile::Builder::new().prefix("mezite-test-").tempdir_in(hierarchy) else { continue };
        if !parent.path().join("cgroup.procs").exists() {
            continue;
        }
        let mut spec = user.spec(Command::Exec(b"echo here >ready; cat".to_vec()));
        spec.cgroup = Some(parent.path().to_owned());
        let group = parent.path().join(&spec.session_id);
        let mut session = Session::start(&spec);
        let (pid, _) = session.started();
        assert_eq!(std::fs::read_to_string(group.join("cgroup.procs")).expect("members"), format!("{pid}\n"));
        session.send(mezite_session::Control::Go);
        wait_for_file(user.home().join("ready"));
        session.send(mezite_session::Control::Terminate);
        assert!(matches!(session.message(), Some(Message::Signal { .. })));
        session.gone();
        assert!(!group.exists());
        std::fs::remove_dir(parent.keep()).expect("remove");
        std::fs::remove_file(user.home().join("ready")).expect("remove");
    }
}
