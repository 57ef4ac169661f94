//! One command on a node: its status, its signals, its streams, its environment.

use std::fs;
use std::process::Command;

use crate::process::{Client, run, tool, wait_for};
use crate::setup::Setup;

#[test]
fn exit_status_passes_through_both_clients() {
    let setup = Setup::shared();
    for code in [0, 3, 255] {
        let command = format!("exit {code}");
        assert_eq!(setup.alice.ssh(&[&setup.target(), &command]).code, code, "ssh");
        assert_eq!(setup.alice.msh(&["ssh", &setup.msh_target(), "--", &command]).code, code, "msh");
    }
}

#[test]
fn a_command_that_dies_of_a_signal_is_no_success_and_the_signal_is_named() {
    let setup = Setup::shared();
    let out = setup.alice.ssh(&["-v", &setup.target(), "kill -TERM $$"]);
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains("exit-signal"), "{out:?}");
    let out = setup.alice.msh(&["ssh", &setup.msh_target(), "--", "kill -TERM $$"]);
    assert_ne!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("TERM"), "{out:?}");
}

#[test]
fn standard_error_stays_apart() {
    let setup = Setup::shared();
    let out = setup.alice.ssh(&[&setup.target(), "echo out; echo err >&2"]);
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
}

/// The command that hangs where a window is returned on arrival: the reader begins when everything is on its way.
#[test]
fn sixty_megabytes_pass_a_slow_reader() {
    let setup = Setup::shared();
    let clients = [
        setup.alice.ssh_command(&[&setup.target(), "cat"]),
        setup.alice.msh_command(&["ssh", &setup.msh_target(), "--", "cat"]),
    ];
    for client in clients {
        let mut pipe = Command::new("sh");
        pipe.args(["-c", "head -c 60000000 /dev/zero | \"$@\" | (sleep 2; wc -c)", "sh"]);
        pipe.arg(client.get_program()).args(client.get_args()).env_clear();
        pipe.envs(client.get_envs().filter_map(|(key, value)| Some((key, value?))));
        assert_eq!(run(pipe, b"").ok().trim(), "60000000");
    }
}

#[test]
fn the_end_of_input_closes_only_the_input() {
    let setup = Setup::shared();
    let input = vec![b'x'; 300_000];
    let out = setup.alice.ssh_with(&[&setup.target(), "wc -c; echo after"], &input).ok();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["300000", "after"]);
    let out = setup.alice.msh_with(&["ssh", &setup.msh_target(), "--", "wc -c; echo after"], &input).ok();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["300000", "after"]);
    // A pipe, not a socket: it can be opened by its name.
    assert_eq!(setup.alice.ssh_with(&[&setup.target(), "cat /dev/stdin"], b"by name").ok(), "by name");
}

#[test]
fn a_background_job_that_holds_the_output_holds_the_session() {
    let setup = Setup::shared();
    let out = setup.alice.ssh(&[&setup.target(), "(sleep 1; echo late) & echo now"]).ok();
    assert_eq!(out, "now\nlate\n");
}

#[test]
fn a_background_job_that_holds_nothing_outlives_the_session() {
    let setup = Setup::shared();
    let out = setup.alice.ssh(&[&setup.target(), "nohup sleep 600 >/dev/null 2>&1 </dev/null & echo $!"]).ok();
    let pid = out.trim();
    assert!(fs::exists(format!("/proc/{pid}/stat")).unwrap(), "the job {pid} is gone");
    tool("kill", &[pid]).ok();
}

#[test]
fn a_client_that_goes_takes_its_command_along() {
    let setup = Setup::shared();
    let marker = "61.0217";
    // The command reads nothing, so what is sent fills every buffer on the way.
    let mut client =
        Client::start(setup.alice.ssh_command(&[&setup.target(), &format!("echo up; exec sleep {marker}")]));
    client.expect("up");
    let feeder = "x".repeat(1 << 16);
    for _ in 0..8 {
        client.send(&feeder);
    }
    drop(client);
    wait_for("the command to end with its client", || !running(marker));
}

/// Whether a process has this word on its command line.
fn running(word: &str) -> bool {
    tool("pgrep", &["-x", "-f", &format!("sleep {word}")]).code == 0
}

#[test]
fn of_the_environment_only_the_language_passes() {
    let setup = Setup::shared();
    let env = "SetEnv=LANG=C.UTF-8 LC_TIME=C LD_PRELOAD=/tmp/evil.so BASH_ENV=/tmp/evil PATH=/evil FOO=bar";
    let out = setup.alice.ssh(&["-o", env, &setup.target(), "env"]).ok();
    let has = |name: &str| out.lines().any(|line| line.starts_with(&format!("{name}=")));
    assert!(out.contains("LANG=C.UTF-8\n") && out.contains("LC_TIME=C\n"), "{out}");
    for name in ["LD_PRELOAD", "BASH_ENV", "FOO"] {
        assert!(!has(name), "{name} passed: {out}");
    }
    assert!(!out.contains("/evil"), "{out}");
    for name in ["HOME", "USER", "LOGNAME", "SHELL", "PATH", "SSH_CONNECTION"] {
        assert!(has(name), "{name} is missing: {out}");
    }
    assert!(!out.contains("MEZITE_JOIN_TOKEN") && !out.contains("MEZITE_DATA_DIR"), "the agent's own leaked: {out}");
}

#[test]
fn a_locked_password_does_not_stop_a_certificate() {
    let setup = Setup::shared();
    let shadow = fs::read_to_string("/etc/shadow").unwrap();
    let entry = shadow.lines().find_map(|line| line.strip_prefix(&format!("{}:", setup.os.name))).unwrap();
    assert!(entry.starts_with('!'), "the test's user has an unlocked password");
    assert_eq!(setup.alice.ssh(&[&setup.target(), "id -un"]).ok().trim(), setup.os.name);
}

#[test]
fn nothing_of_the_agent_is_open_in_a_session() {
    let setup = Setup::shared();
    let out =
        setup.alice.ssh(&[&setup.target(), "ls /proc/self/fd; grep -E 'Sig(Ign|Blk)|CapEff' /proc/self/status"]).ok();
    let words: Vec<_> = out.split_whitespace().collect();
    // 3 is ls reading the directory.
    assert_eq!(&words[..4], ["0", "1", "2", "3"], "{out}");
    assert_eq!(words.iter().filter(|w| w.bytes().all(|b| b == b'0') && w.len() == 16).count(), 3, "{out}");
}
