//! The session's control group: a child of the directory that the agent names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A group that exists. Dropping it removes it, if nothing is left in it.
pub(crate) struct Group(PathBuf);

impl Group {
    /// Makes `parent/id`.
    pub(crate) fn create(parent: &Path, id: &str) -> io::Result<Self> {
        let path = parent.join(id);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Kills all members at once where the kernel can (v2, Linux 5.14), else one by one.
    pub(crate) fn kill(&self) {
        if fs::write(self.0.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // Those forked meanwhile are met on the caller's next round.
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse::<i32>() {
                // Gone already is as good as killed.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Background jobs may live on in it; the agent sweeps empty groups when it starts.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The directory `name` below the calling process's own control group (v2, Linux 5.14), made if it is missing: give it as
/// [`crate::SessionSpec::cgroup`]. `None` where there is none or it cannot be made; a session is then ended process by process,
/// which misses one that forks and exits all the time.
pub fn session_groups(name: &str) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let parent = mounts.lines().find_map(mount_point)?.join(own).join(name);
    if let Err(error) = fs::create_dir(&parent)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return None;
    }
    parent.join("cgroup.kill").exists().then_some(parent)
}

/// Removes the groups below `parent` in which nothing is left, as at the start of an agent.
pub fn sweep_groups(parent: &Path) {
    for group in fs::read_dir(parent).into_iter().flatten().flatten() {
        // One with members stays; files of the kernel are no directories.
        let _ = fs::remove_dir(group.path());
    }
}

/// Where the whole v2 hierarchy is mounted, if this line of `/proc/self/mountinfo` says so (proc_pid_mountinfo(5)).
fn mount_point(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    // A path with blanks is written with escapes, and is none that a system has for this.
    let is_meant = filesystem.starts_with("cgroup2 ") && root == "/" && !point.contains('\\');
    is_meant.then(|| point.into())
}

/// Moves the calling process into the group.
pub(crate) fn enter(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_v2_hierarchy_is_found_and_no_other() {
        let line = |root: &str, kind: &str| {
            format!("42 32 0:27 {root} /sys/fs/cgroup/unified rw,relatime shared:9 - {kind} x rw")
        };
        assert_eq!(mount_point(&line("/", "cgroup2")), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point(&line("/", "cgroup")), None);
        assert_eq!(mount_point(&line("/docker/1", "cgroup2")), None);
        assert_eq!(mount_point("42 32"), None);
    }
}
