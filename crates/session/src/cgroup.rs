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

/// Moves the calling process into the group.
pub(crate) fn enter(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}
