//! Sessions on a terminal.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use mezite_session::{Command, Message, SessionSpec, resize};

use crate::support::{Session, User, gather, processes_of, pty, read_until, until};

fn shell(user: &User, modes: Vec<(u8, u32)>) -> SessionSpec {
    SessionSpec { pty: Some(pty(modes)), ..user.spec(Command::Shell) }
}

/// Types a line and reads up to the mark that it prints.
fn ask(session: &mut Session, line: &str) -> String {
    let master = session.master.as_mut().expect("master");
    // The mark is typed in two parts, so that the echo of the line is not taken for the answer.
    writeln!(master, "{line}; echo do''ne.").expect("type");
    read_until(master, "done.")
}

#[test]
fn a_login_shell_has_its_terminal() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = Session::start(&shell(&user, vec![(42, 1), (53, 0), (1, 7), (59, 1)]));
    let (_, tty) = session.started();
    let tty = tty.expect("tty");
    let meta = std::fs::metadata(&tty).expect("terminal");
    let group = std::fs::read_to_string("/etc/group").expect("group");
    let has_tty_group = group.lines().any(|line| line.starts_with("tty:"));
    assert_eq!((meta.uid(), meta.mode() & 0o777), (user.uid, if has_tty_group { 0o620 } else { 0o600 }));
    session.send(mezite_session::Control::Go);
    let answer = ask(&mut session, "stty size; tty; echo $0 $SSH_TTY $TERM; shopt login_shell");
    for part in ["31 93", &format!("-bash {tty} xterm-256color"), "login_shell    \ton"] {
        assert!(answer.contains(part), "{part:?} not in {answer:?}");
    }
    let answer = ask(&mut session, "cat <(stty -a </dev/tty)");
    for part in ["intr = ^G", "iutf8", "-echo "] {
        assert!(answer.contains(part), "{part:?} not in {answer:?}");
    }
    resize(session.master.as_ref().expect("master"), 120, 40, 0, 0).expect("resize");
    assert!(ask(&mut session, "stty size").contains("40 120"));
    let fds = ask(&mut session, "sh -c 'ls -l /proc/$$/fd'");
    assert_eq!(fds.matches("-> /dev/pts/").count(), 3, "{fds}");
    assert_eq!(fds.matches(" -> ").count(), 3, "{fds}");
    writeln!(session.master.as_mut().expect("master"), "exit 5").expect("type");
    assert_eq!(session.message(), Some(Message::Exit { code: 5 }));
    session.gone();
}

#[test]
fn typing_the_interrupt_character_interrupts() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = Session::start(&shell(&user, vec![]));
    session.go();
    let master = session.master.as_mut().expect("master");
    writeln!(master, "sh -c 'trap \"echo got''-it; exit\" INT; echo re''ady; while :; do sleep 0.01; done'")
        .expect("type");
    read_until(master, "ready");
    write!(master, "\x03").expect("type");
    read_until(master, "got-it");
    writeln!(session.master.as_mut().expect("master"), "exit 0").expect("type");
    assert!(matches!(session.message(), Some(Message::Exit { .. })));
    session.gone();
}

#[test]
fn all_output_of_a_terminal_arrives() {
    let Some(user) = User::create(&[]) else { return };
    let mut spec = user.spec(Command::Exec(b"seq 200000".to_vec()));
    spec.pty = Some(pty(vec![]));
    let mut session = Session::start(&spec);
    session.go();
    let out = gather(session.master.take());
    assert_eq!(session.message(), Some(Message::Exit { code: 0 }));
    let out = String::from_utf8(out.join().expect("reader")).expect("UTF-8");
    assert!(out.lines().eq((1..=200_000).map(|n| n.to_string())));
    session.gone();
}

#[test]
fn a_daemon_on_the_terminal_does_not_keep_the_session() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = Session::start(&shell(&user, vec![]));
    session.go();
    ask(&mut session, "nohup setsid sleep 1000 >/dev/tty 2>&1 & until pgrep -u $UID -x sleep; do :; done");
    writeln!(session.master.as_mut().expect("master"), "exit 0").expect("type");
    assert_eq!(session.message(), Some(Message::Exit { code: 0 }));
    assert_eq!(session.message(), None);
    session.gone();
    assert_eq!(processes_of(user.uid).len(), 1);
}

#[test]
fn the_message_of_the_day_greets_unless_hushed() {
    let Some(user) = User::create(&[]) else { return };
    let motd = std::fs::read_to_string("/etc/motd").unwrap_or_default();
    let Some(first) = motd.lines().find(|line| !line.trim().is_empty()) else { return };
    let spec = SessionSpec { motd: true, ..shell(&user, vec![]) };
    let mut greeted = Session::start(&spec);
    greeted.go();
    assert!(ask(&mut greeted, "true").contains(first));
    std::fs::write(user.home().join(".hushlogin"), "").expect("hush");
    let mut hushed = Session::start(&spec);
    hushed.go();
    assert!(!ask(&mut hushed, "true").contains(first));
    for session in [&mut greeted, &mut hushed] {
        session.control = None;
        session.master = None;
        session.gone();
    }
    until("shells gone", || processes_of(user.uid).is_empty().then_some(()));
}
