//! Ends that the agent brings about.

use mezite_session::{Command, Control, Message, SessionSpec};

use crate::support::{Session, User, alive, processes_of, pty, until, wait_for_file};

/// A leader that ignores signals, with children that hide: in sessions of their own, orphaned twice over.
const HIDERS: &[u8] = b"trap '' HUP TERM INT
    setsid sleep 1000 &
    (setsid sh -c 'trap \"\" HUP TERM; (setsid sh -c \"sleep 1000 & sleep 1000\" &) ; sleep 1000' &)
    (sh -c 'while :; do (sleep 0.01 &) ; sleep 0.01; done' &)
    until [ $(pgrep -c -u $(id -u) -x sleep) -ge 5 ]; do :; done; echo ready >ready
    while :; do sleep 1; done";

fn terminate(user: &User, spec: &SessionSpec) {
    let mut session = Session::start(spec);
    session.go();
    wait_for_file(user.home().join("ready"));
    session.send(Control::Terminate);
    assert_eq!(session.message(), Some(Message::Signal { name: "KILL".into(), core: false }));
    assert_eq!(processes_of(user.uid), [0; 0]);
    assert_eq!(session.message(), None);
    session.gone();
}

#[test]
fn terminate_leaves_no_process_however_it_hides() {
    let Some(user) = User::create(&[]) else { return };
    terminate(&user, &user.spec(Command::Exec(HIDERS.to_vec())));
}

#[test]
fn terminate_leaves_no_process_on_a_terminal() {
    let Some(user) = User::create(&[]) else { return };
    let spec = SessionSpec { pty: Some(pty(vec![])), ..user.spec(Command::Exec(HIDERS.to_vec())) };
    terminate(&user, &spec);
}

/// Processes that fork and exit all the time: none of them is there for long enough to be found and killed by its number.
#[test]
fn terminate_leaves_no_process_that_forks_and_exits() {
    let Some(user) = User::create(&[]) else { return };
    let name = format!("mezite-test-{}", std::process::id());
    let Some(parent) = mezite_session::session_groups(&name) else { return };
    let script = b"trap '' HUP TERM INT
        printf '#!/bin/sh\n\"$0\" & exit\n' >comet; chmod +x comet
        for n in 1 2 3 4; do setsid ./comet & done; echo ready >ready
        while :; do sleep 1; done";
    terminate(&user, &SessionSpec { cgroup: Some(parent.clone()), ..user.spec(Command::Exec(script.to_vec())) });
    mezite_session::sweep_groups(&parent);
    std::fs::remove_dir(&parent).expect("the group of the session is gone with it");
}

#[test]
fn a_leader_that_heeds_the_hang_up_ends_by_it() {
    let Some(user) = User::create(&[]) else { return };
    let mut session =
        user.exec("trap 'echo saved >saved; exit 3' HUP; echo ready >ready; while :; do sleep 0.01; done");
    session.go();
    wait_for_file(user.home().join("ready"));
    session.send(Control::Terminate);
    assert_eq!(session.message(), Some(Message::Exit { code: 3 }));
    assert_eq!(wait_for_file(user.home().join("saved")), "saved\n");
    session.gone();
}

#[test]
fn a_session_ends_with_its_agent() {
    let Some(user) = User::create(&[]) else { return };
    for terminal in [None, Some(pty(vec![]))] {
        let spec = SessionSpec { pty: terminal, ..user.spec(Command::Exec(b"echo ready >ready; sleep 1000".to_vec())) };
        let mut session = Session::start(&spec);
        let pid = session.go();
        wait_for_file(user.home().join("ready"));
        // What the kernel does for an agent that is killed.
        (session.control, session.master) = (None, None);
        session.gone();
        until("session gone", || (!alive(pid) && processes_of(user.uid).is_empty()).then_some(()));
        std::fs::remove_file(user.home().join("ready")).expect("remove");
    }
}

#[test]
fn a_signal_reaches_the_command() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("trap 'exit 9' USR1; echo ready >ready; while :; do sleep 0.01; done");
    session.go();
    wait_for_file(user.home().join("ready"));
    session.send(Control::Signal("NOSUCH".into()));
    session.send(Control::Signal("USR1".into()));
    let last = session.message();
    // The whole group gets it, so the shell may also see its sleep end by it first.
    assert_eq!(last, Some(Message::Exit { code: 9 }));
    session.gone();
}

#[test]
fn the_user_cannot_touch_the_starter() {
    let Some(user) = User::create(&[]) else { return };
    let script = "kill -0 $PPID 2>/dev/null && echo killable; ls /proc/$PPID/fd 2>/dev/null && echo readable; \
                  cat /proc/$PPID/environ 2>/dev/null && echo environ; true";
    assert_eq!(user.exec(script).finish(), (Message::Exit { code: 0 }, String::new(), String::new()));
}

#[test]
fn a_session_ends_with_its_starter() {
    let Some(user) = User::create(&[]) else { return };
    let mut session = user.exec("echo ready >ready; while :; do sleep 0.01; done");
    session.go();
    wait_for_file(user.home().join("ready"));
    session.starter.kill();
    session.gone();
    assert_eq!(session.message(), None);
    until("session gone", || processes_of(user.uid).is_empty().then_some(()));
}
