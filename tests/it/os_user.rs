//! A temporary OS user, so that switching users is real. Needs root, as CI has.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct OsUser {
    pub(crate) name: String,
}

impl OsUser {
    /// A user with a home directory, `/bin/bash` and no password set (`!` in the shadow file, as cloud images have).
    pub(crate) fn create() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests switch OS users: run them as root");
        let name = format!("mzt{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let done = Command::new("/usr/sbin/useradd").args(["-m", "-s", "/bin/bash", &name]).output().unwrap();
        assert!(done.status.success(), "useradd: {}", String::from_utf8_lossy(&done.stderr));
        Self { name }
    }
}

impl Drop for OsUser {
    fn drop(&mut self) {
        // -f: a process of the user may not have been reaped yet.
        let _ = Command::new("/usr/sbin/userdel").args(["-f", "-r", &self.name]).output();
    }
}
