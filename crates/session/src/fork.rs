//! `fork`, into a control group.
#![expect(unsafe_code, reason = "clone3, which nix does not have")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::unistd::{ForkResult, Pid, fork};

/// Fields of `clone_args` (clone(2)), all of them 64 bits wide.
const FIELDS: usize = 11;
const FLAGS: usize = 0;
const EXIT_SIGNAL: usize = 4;
const CGROUP: usize = 10;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks; the flag says whether the child is in `group` from its first moment. To move a process waits for every processor to
/// pass through the kernel, up to 20 ms; to be born in a group does not. Needs v2 and Linux 5.7, else it is a plain fork.
///
/// # Safety
/// As for `fork`: the process must have one thread.
pub(crate) unsafe fn fork_into(group: Option<&Path>) -> nix::Result<(ForkResult, bool)> {
    if let Some(group) = group.and_then(|group| File::open(group).ok())
        && let Ok(descriptor) = u64::try_from(group.as_raw_fd())
    {
        let mut arguments = [0_u64; FIELDS];
        for (field, value) in
            [(FLAGS, CLONE_INTO_CGROUP), (EXIT_SIGNAL, libc::SIGCHLD.unsigned_abs().into()), (CGROUP, descriptor)]
        {
            if let Some(place) = arguments.get_mut(field) {
                *place = value;
            }
        }
        // SAFETY: without flags that share anything clone3 is fork, which the caller may call; the kernel reads the arguments.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
        match i32::try_from(pid) {
            Ok(0) => return Ok((ForkResult::Child, true)),
            Ok(pid) if pid > 0 => return Ok((ForkResult::Parent { child: Pid::from_raw(pid) }, true)),
            // An older kernel or version of groups, or a container that forbids it.
            _ => {}
        }
    }
    // SAFETY: the caller's.
    unsafe { fork() }.map(|forked| (forked, false))
}
