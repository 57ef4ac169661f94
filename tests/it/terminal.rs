//! A login shell on a terminal, with programs that use one, by both clients.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::tool;
use crate::pty::Pty;
use crate::setup::Setup;

fn clients(setup: &Setup) -> [Command; 2] {
    [setup.alice.ssh_command(&[&setup.target()]), setup.alice.msh_command(&["ssh", &setup.msh_target()])]
}

#[test]
fn the_shell_is_a_login_shell_on_a_terminal_of_its_own() {
    let setup = Setup::shared();
    for client in clients(&setup) {
        let mut pty = Pty::start(&client, 80, 24);
        pty.prompt();
        pty.send("echo \"[$0] [$TERM] [$(tty)] [$SSH_TTY]\"; stty size\r");
        pty.expect("[-bash] [xterm] [/dev/pts/");
        pty.expect("24 80");
        pty.send("exit 5\r");
        assert_eq!(pty.wait(), 5);
    }
}

#[test]
fn vim_edits_a_file() {
    let setup = Setup::shared();
    for (n, client) in clients(&setup).iter().enumerate() {
        let mut pty = Pty::start(client, 80, 24);
        pty.prompt();
        pty.send(&format!("vim.tiny note-{n}\r"));
        pty.expect("[New");
        pty.send("ihello from vim\x1b");
        pty.send(":wq\r");
        pty.expect("written");
        pty.expect("ready> ");
        pty.send(&format!("cat note-{n} | tr a-z A-Z\r"));
        pty.expect("HELLO FROM VIM");
        pty.send("exit\r");
        assert_eq!(pty.wait(), 0);
    }
}

#[test]
fn top_draws_and_a_new_size_arrives() {
    let setup = Setup::shared();
    for client in clients(&setup) {
        let mut pty = Pty::start(&client, 80, 24);
        pty.prompt();
        pty.send("top\r");
        pty.expect("load average");
        pty.expect("PID");
        pty.resize(101, 37);
        pty.expect("PID");
        pty.send("q");
        pty.expect("ready> ");
        pty.send("until [ \"$(stty size)\" = '37 101' ]; do :; done; echo re''sized\r");
        pty.expect("resized");
        pty.send("exit\r");
        assert_eq!(pty.wait(), 0);
    }
}

#[test]
fn control_keys_reach_the_far_side() {
    let setup = Setup::shared();
    for client in clients(&setup) {
        let mut pty = Pty::start(&client, 80, 24);
        pty.prompt();
        pty.send("echo beg''un; sleep 1000\r");
        pty.expect("begun");
        pty.send("\x03");
        pty.expect("ready> ");
        pty.send("echo status=$?\r");
        pty.expect("status=130");
        // Stop, list, kill, and the end of input.
        pty.send("sh -c 'echo sta\"\"rted; exec sleep 1001'\r");
        pty.expect("started");
        pty.send("\x1a");
        pty.expect("Stopped");
        pty.send("kill %1; wait; echo go''ne\r");
        pty.expect("gone");
        pty.send("\x04");
        assert_eq!(pty.wait(), 0);
    }
}

#[test]
fn the_local_terminal_is_restored() {
    let setup = Setup::shared();
    for client in clients(&setup) {
        let mut pty = Pty::start(&client, 80, 24);
        let before = format!("{:?}", pty.modes());
        pty.prompt();
        assert_ne!(format!("{:?}", pty.modes()), before, "the client did not set the terminal raw");
        pty.send("stty raw -echo; exit\r");
        pty.wait();
        assert_eq!(format!("{:?}", pty.modes()), before, "{:?}", pty.text());
    }
    // Also when the client is ended by a signal.
    let mut pty = Pty::start(&setup.alice.msh_command(&["ssh", &setup.msh_target()]), 80, 24);
    let before = format!("{:?}", pty.modes());
    pty.prompt();
    kill(Pid::from_raw(pty.pid()), Signal::SIGTERM).unwrap();
    assert_ne!(pty.wait(), 0);
    assert_eq!(format!("{:?}", pty.modes()), before, "{:?}", pty.text());
    // And when the session is ended from outside.
    let user = setup.somebody();
    let mut pty = Pty::start(&user.msh_command(&["ssh", &setup.msh_target()]), 80, 24);
    let before = format!("{:?}", pty.modes());
    pty.prompt();
    let id = setup.cluster.live(&user.name)[0]["id"].as_str().unwrap().to_owned();
    setup.cluster.mezctl(&["sessions", "terminate", &id]).ok();
    assert_ne!(pty.wait(), 0);
    assert_eq!(format!("{:?}", pty.modes()), before, "{:?}", pty.text());
    assert!(pty.text().contains("administrator"), "{:?}", pty.text());
}

#[test]
fn a_daemon_that_holds_the_terminal_does_not_hold_the_session() {
    let setup = Setup::shared();
    let mut pty = Pty::start(&setup.alice.ssh_command(&["-tt", &setup.target()]), 80, 24);
    pty.prompt();
    pty.send("nohup setsid sleep 62.0113 & disown; exit 0\r");
    assert_eq!(pty.wait(), 0);
    tool("pkill", &["-x", "-f", "sleep 62.0113"]);
}

#[test]
fn a_command_gets_a_terminal_when_asked() {
    let setup = Setup::shared();
    for args in [["ssh", "-t"], ["ssh", "-T"]] {
        let wanted = args[1] == "-t";
        let target = setup.msh_target();
        let out = setup.alice.msh(&[args[0], args[1], &target, "--", "tty"]);
        assert_eq!(out.stdout.starts_with("/dev/pts/"), wanted, "{out:?}");
        assert_eq!(out.code, i32::from(!wanted), "{out:?}");
    }
}
