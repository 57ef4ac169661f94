//! One process that every starter comes from.

use mezite_session::{Command, Message, Starters};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{STARTER, Session, User, until};

/// The fourth field of proc_pid_stat(5); the name before it holds no blank here.
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    stat.split(' ').nth(3).expect("parent").parse().expect("number")
}

fn children(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children")
}

#[test]
fn starters_come_from_one_process_and_leave_nothing_in_it() {
    let Some(user) = User::create(&[]) else { return };
    let starters = Starters::new(STARTER.into());
    starters.prepare().expect("zygote");
    let spec = user.spec(Command::Exec(b"cat".to_vec()));
    let mut sessions: Vec<Session> = (0..3).map(|_| Session::of(&spec, &starters)).collect();
    let zygote = parent(sessions[0].starter.pid);
    for session in &mut sessions {
        session.go();
        assert_eq!(parent(session.starter.pid), zygote);
    }
    // Above the standard streams there is the agent's socket; those of a session go when it is forked.
    let sockets = || {
        let fds = std::fs::read_dir(format!("/proc/{zygote}/fd")).expect("fds").flatten();
        let above = fds.filter(|fd| fd.file_name().to_string_lossy().parse::<u32>().is_ok_and(|number| number > 2));
        let links = above.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.filter(|to| to.to_string_lossy().starts_with("socket:")).count()
    };
    until("one socket", || (sockets() == 1).then_some(()));
    for session in &mut sessions {
        session.stdin = None;
        assert_eq!(session.message(), Some(Message::Exit { code: 0 }));
        session.gone();
    }
    until("no child", || children(zygote).is_empty().then_some(()));
}

#[test]
fn a_zygote_that_is_killed_is_replaced_and_its_sessions_live_on() {
    let Some(user) = User::create(&[]) else { return };
    let starters = Starters::new(STARTER.into());
    let spec = user.spec(Command::Exec(b"cat; exit 7".to_vec()));
    let mut first = Session::of(&spec, &starters);
    first.go();
    let zygote = parent(first.starter.pid);
    kill(Pid::from_raw(zygote), Signal::SIGKILL).expect("kill");
    until("its end", || (parent(first.starter.pid) != zygote).then_some(()));

    let mut second = Session::of(&spec, &starters);
    second.go();
    assert_ne!(parent(second.starter.pid), zygote);
    for mut session in [second, first] {
        session.stdin = None;
        assert_eq!(session.message(), Some(Message::Exit { code: 7 }));
        session.gone();
    }
}
