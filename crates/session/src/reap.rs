//! Ends of processes, and the killing of every descendant.
#![expect(unsafe_code, reason = "waitpid with every status, and pidfds, neither of which nix has")]

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::spec::Message;

/// How a process ended, as `waitpid` tells it.
#[derive(Clone, Copy)]
pub(crate) struct End(i32);

/// Whether the process has children left.
pub(crate) enum Children {
    None,
    Some,
}

impl End {
    /// By SIGKILL, for a leader that is not dead of it yet.
    pub(crate) const KILLED: Self = Self(libc::SIGKILL);

    /// The last message of a session.
    pub(crate) fn message(self) -> Message {
        if libc::WIFSIGNALED(self.0) {
            let signal = Signal::try_from(libc::WTERMSIG(self.0));
            let name = signal.map_or("RT", |signal| signal.as_str().trim_start_matches("SIG"));
            Message::Signal { name: name.to_owned(), core: libc::WCOREDUMP(self.0) }
        } else {
            Message::Exit { code: u8::try_from(libc::WEXITSTATUS(self.0)).unwrap_or(u8::MAX) }
        }
    }
}

/// Reaps every child that has ended and notes the leader's end.
pub(crate) fn collect(leader: Pid, end: &mut Option<End>) -> Children {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, which lives on this stack. Not nix: it knows no real-time signals and would
        // lose the status of a child ended by one.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
        match pid {
            0 => return Children::Some,
            pid if pid == leader.as_raw() => *end = Some(End(status)),
            pid if pid > 0 => {}
            _ if Errno::last() == Errno::EINTR => {}
            _ => return Children::None,
        }
    }
}

/// One line of `/proc/PID/stat`, proc(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// In ticks since boot: with the pid it names one process for ever.
    start: u64,
}

/// Sends SIGKILL to every descendant that exists now. An orphan becomes a child of this process, so calling this
/// until there are no children leaves none.
pub(crate) fn kill_descendants() {
    let me = nix::unistd::getpid().as_raw();
    let all: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| read_stat(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect();
    for process in descendants(me, &all) {
        kill(me, process);
    }
}

fn read_stat(pid: i32) -> Option<Process> {
    parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses is the user's choice and may hold anything, so fields count from the last `)`.
fn parse_stat(pid: i32, stat: &[u8]) -> Option<Process> {
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(Process { pid, parent, start })
}

fn descendants(root: i32, all: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            found.push(*process);
            parents.push(process.pid);
        }
    }
    found
}

/// Kills this very process: its number may have gone to a stranger since it was read, unless it is our own child,
/// which nobody else reaps.
fn kill(me: i32, process: Process) {
    if process.parent == me {
        let _ = nix::sys::signal::kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        return;
    }
    // Without pidfds (before Linux 5.3) it is killed when it has become our child.
    let Ok(handle) = pidfd(process.pid) else { return };
    if read_stat(process.pid).is_some_and(|current| current.start == process.start) {
        kill_by_handle(&handle);
    }
}

/// Kills the process of a handle; gone already is as good as killed.
pub(crate) fn kill_by_handle(handle: &OwnedFd) {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and a null info is what kill(2) would send.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), libc::SIGKILL, no_info, 0) };
}

pub(crate) fn pidfd(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_parent() {
        let stat = b"42 (x) S 1 (\n) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        assert_eq!(parse_stat(42, stat), Some(Process { pid: 42, parent: 7, start: 12_345 }));
        assert_eq!(parse_stat(42, b"42 (x"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_nobody_else() {
        let process = |pid, parent| Process { pid, parent, start: 0 };
        let all = [process(9, 4), process(2, 1), process(3, 2), process(4, 3), process(5, 1), process(8, 5)];
        let mut pids: Vec<i32> = descendants(2, &all).iter().map(|process| process.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [3, 4, 9]);
    }

    #[test]
    fn every_end_has_a_message() {
        assert_eq!(End(3 << 8).message(), Message::Exit { code: 3 });
        assert_eq!(End(libc::SIGTERM).message(), Message::Signal { name: "TERM".into(), core: false });
        assert_eq!(End(libc::SIGSEGV | 0x80).message(), Message::Signal { name: "SEGV".into(), core: true });
        assert_eq!(End(40).message(), Message::Signal { name: "RT".into(), core: false });
    }
}
