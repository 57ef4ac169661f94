//! Logins that must not be.

use std::os::unix::fs::PermissionsExt;

use mezite_session::{Command, Starters};

use crate::support::{STARTER, Session, User, spec};

#[test]
fn an_unknown_user_is_denied() {
    let reason = Session::start(&spec("no-such-user-here", Command::Shell)).denied();
    assert_eq!(reason, "there is no OS user no-such-user-here on this machine");
}

#[test]
fn an_expired_account_is_denied() {
    let Some(user) = User::create(&["-e", "2001-01-01"]) else { return };
    assert!(user.exec("true").denied().contains("has expired"));
}

#[test]
fn an_account_without_a_usable_shell_is_denied() {
    for shell in ["/usr/sbin/nologin", "/bin/false", "/no/such/shell"] {
        let Some(user) = User::create(&["-s", shell]) else { return };
        assert!(user.exec("true").denied().contains(shell));
    }
}

#[test]
fn without_root_there_are_no_sessions_of_others() {
    let Some(user) = User::create(&[]) else { return };
    // The starter, run by somebody who is not root.
    let wrapper = user.home().join("starter");
    let script = format!("#!/bin/sh\nexec setpriv --reuid {0} --regid {0} --clear-groups -- {STARTER}\n", user.uid);
    std::fs::write(&wrapper, script).expect("write");
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let reason = Session::start_with(&spec("root", Command::Shell), &wrapper).denied();
    assert!(reason.starts_with("mezd does not run as root here") && reason.ends_with("not of root"), "{reason}");
    let own = user.spec(Command::Exec(b"id -un; ls /proc/$PPID/fd 2>/dev/null".to_vec()));
    let (_, out, err) = Session::start_with(&own, &wrapper).finish();
    assert_eq!((out, err.as_str()), (format!("{}\n", user.name), ""));
    let mut own = user.spec(Command::Exec(b"tty; id -un".to_vec()));
    own.pty = Some(crate::support::pty(vec![]));
    let mut session = Session::start_with(&own, &wrapper);
    session.go();
    assert!(crate::support::read_until(session.master.as_mut().expect("master"), &user.name).contains("/dev/pts/"));
    session.message().expect("end");
    session.gone();
}

#[test]
fn a_spec_out_of_bounds_is_never_sent() {
    let mut wrong = spec("root", Command::Shell);
    wrong.env.push(("LD_PRELOAD".into(), "/tmp/x.so".into()));
    let error = mezite_session::spawn(&wrong, &Starters::new(STARTER.into())).expect_err("refused");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
