//! Which program starts the sessions.

use std::fs::{File, Metadata};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// This very program, also after an upgrade has replaced its file.
const OWN: &str = "/proc/self/exe";
const WITH_PAM: &str = "mezd-session";

/// The program to give to [`crate::spawn`], and a sentence for the log: `mezd-session`, which asks PAM, where it lies beside
/// the running program and nobody but root can change it, else the running program itself.
///
/// Call it once: the file that was looked at stays open and is the one that is run. Without root PAM is not asked, for most
/// modules need root.
pub fn choose_starter() -> (PathBuf, String) {
    let beside = std::fs::read_link(OWN).map(|own| own.with_file_name(WITH_PAM));
    match beside {
        Ok(path) => choose(&path),
        Err(error) => own(&format!("{OWN} cannot be read: {error}")),
    }
}

fn choose(path: &Path) -> (PathBuf, String) {
    if !nix::unistd::geteuid().is_root() {
        return own("mezd does not run as root");
    }
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (meta, file) = match opened {
        Ok(opened) => opened,
        Err(error) => return own(&format!("{}: {error}", path.display())),
    };
    if let Err(problem) = trusted(&meta) {
        return own(&format!("{} {problem}", path.display()));
    }
    let pinned = PathBuf::from(format!("/proc/self/fd/{}", file.into_raw_fd()));
    (pinned, format!("sessions are started by {}, with PAM", path.display()))
}

fn own(why: &str) -> (PathBuf, String) {
    (OWN.into(), format!("sessions are started by mezd itself, without PAM ({why})"))
}

fn trusted(meta: &Metadata) -> Result<(), &'static str> {
    match meta {
        meta if !meta.is_file() || meta.mode() & 0o111 == 0 => Err("is no program"),
        meta if meta.uid() != 0 => Err("does not belong to root"),
        meta if meta.mode() & 0o022 != 0 => Err("can be changed by others than root"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn only_a_program_that_root_alone_can_change_is_run() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(WITH_PAM);
        let chosen = || choose(&path);
        assert!(chosen().1.contains("No such file"), "{}", chosen().1);
        std::fs::write(&path, "first").expect("write");
        for (mode, owner, problem) in [
            (0o644, 0, "is no program"),
            (0o775, 0, "can be changed by others"),
            (0o757, 0, "can be changed by others"),
            (0o755, 1, "does not belong to root"),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            chown(&path, Some(owner), None).expect("chown");
            let (exe, said) = chosen();
            assert_eq!(exe, Path::new(OWN));
            assert!(said.contains(problem), "{said}");
        }
        chown(&path, Some(0), None).expect("chown");
        let (exe, said) = chosen();
        assert!(said.ends_with("mezd-session, with PAM"), "{said}");
        // What was looked at is what is run, whatever lies there later.
        std::fs::rename(&path, dir.path().join("old")).expect("rename");
        std::fs::write(&path, "second").expect("write");
        assert_eq!(std::fs::read_to_string(exe).expect("read"), "first");
    }
}
