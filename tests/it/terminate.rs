//! An administrator's end is the end of every process of the session, and of none besides.

use crate::os_user::OsUser;
use crate::process::{Client, tool, wait_for};
use crate::setup::Setup;

#[test]
fn processes_that_trap_fork_and_leave_the_session_are_killed() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let script = "trap '' HUP TERM INT; setsid sleep 63.0001 & (setsid sh -c 'trap \"\" HUP TERM; sleep 63.0002 & sleep 63.0003' &) ; \
                  nohup sleep 63.0004 >/dev/null 2>&1 & echo up; while :; do sleep 63.0005; done";
    let bystander = Client::start(setup.alice.ssh_command(&[&setup.target(), "echo up; sleep 63.0009"]));
    let mut session = Client::start(user.ssh_command(&[&setup.target(), script]));
    session.expect("up");
    bystander.expect("up");
    let alive = || tool("pgrep", &["-f", r"sleep 63\.000[1-5]$"]).stdout.lines().count();
    wait_for("the processes of the session", || alive() >= 5);

    let id = setup.cluster.live(&user.name)[0]["id"].as_str().unwrap().to_owned();
    setup.cluster.mezctl(&["sessions", "terminate", &id]).ok();
    let out = session.wait();
    assert_ne!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("administrator"), "{out:?}");
    wait_for("every process to be gone", || alive() == 0);
    assert_eq!(tool("pgrep", &["-f", r"sleep 63\.0009$"]).code, 0, "another session was hit");

    let ended = setup.cluster.audit_of("session.end", &user.name);
    assert_eq!(ended.len(), 1, "{ended:#?}");
    assert!(!setup.cluster.audit("session.terminated").is_empty());
    let recording = setup.cluster.recording(&user.name);
    assert_eq!(recording["complete"], true, "{recording:#?}");
    setup.cluster.mezctl(&["recordings", "verify", &id]).ok();
}

#[test]
fn a_session_that_is_not_there() {
    let setup = Setup::shared();
    setup.cluster.mezctl(&["sessions", "terminate", "00000000-0000-4000-8000-000000000000"]).refused(3);
}

#[test]
fn no_process_of_a_session_is_left_when_it_is_terminated_on_a_terminal() {
    let setup = Setup::shared();
    let os = OsUser::create();
    let user = setup.cluster.user(&os.name, "access", &os.name);
    let mut pty = crate::pty::Pty::start(&user.msh_command(&["ssh", &format!("{}@node-1", os.name)]), 80, 24);
    pty.prompt();
    pty.send("trap '' HUP TERM; setsid sleep 1000 & sleep 1001 & cat\r");
    wait_for("the processes", || tool("pgrep", &["-u", &os.name]).stdout.lines().count() >= 4);
    let id = setup.cluster.live(&user.name)[0]["id"].as_str().unwrap().to_owned();
    setup.cluster.mezctl(&["sessions", "terminate", &id]).ok();
    assert_ne!(pty.wait(), 0);
    wait_for("no process of the OS user to be left", || tool("pgrep", &["-u", &os.name]).stdout.is_empty());
}
