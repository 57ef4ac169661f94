//! Whether an account may log in with a certificate: what `sshd` and `login` check besides the password.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::users::{self, Account, LookupError};

/// Most bytes shown of `/etc/nologin`.
const NOLOGIN_MAX: u64 = 1024;
const NOLOGIN_FILES: [&str; 2] = ["/etc/nologin", "/run/nologin"];

/// Why an existing account may not log in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The expiry date in shadow(5) has come.
    #[error("the account {0} has expired, ask the machine's administrator")]
    Expired(String),
    /// nologin(5): the machine takes no logins but root's. Holds the file's text, unescaped.
    #[error("the machine takes no logins at this time: {0}")]
    NoLogins(String),
    /// The shell does not exist or cannot be run.
    #[error("the login shell {0} of the account cannot be run")]
    NoShell(PathBuf),
    /// The shell is one that refuses everybody (`nologin`, `false`).
    #[error("the account has the login shell {0}, which refuses logins")]
    ShellRefuses(PathBuf),
    /// A file that decides could not be read; without it nobody may log in.
    #[error("cannot decide whether the account may log in: {0}")]
    Unreadable(String),
}

/// Checks expiry, `/etc/nologin` (not for uid 0) and the login shell of `account`.
///
/// A locked password (`!`) does not refuse: no password is used. Without root `/etc/shadow` cannot be read and the
/// expiry is not checked; the process can only be its own user then. Blocking, files only.
pub fn may_log_in(account: &Account) -> Result<(), Refusal> {
    if account.uid != 0 {
        NOLOGIN_FILES.into_iter().try_for_each(nologin)?;
    }
    shell(account)?;
    let line = match users::find_line("/etc/shadow", &account.name) {
        Ok(line) => line,
        Err(LookupError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        Err(LookupError::Io { error, .. })
            if error.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() =>
        {
            None
        }
        Err(error) => return Err(Refusal::Unreadable(error.to_string())),
    };
    let Some(line) = line else { return Ok(()) };
    match expired(&line, today()?) {
        Some(false) => Ok(()),
        Some(true) => Err(Refusal::Expired(account.name.clone())),
        None => Err(Refusal::Unreadable("unreadable expiry date in /etc/shadow".into())),
    }
}

fn nologin(path: &str) -> Result<(), Refusal> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Refusal::Unreadable(format!("{path}: {error}"))),
    };
    let mut text = Vec::new();
    // The file refuses by being there; its text is a courtesy.
    let _ = file.take(NOLOGIN_MAX).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    Err(Refusal::NoLogins(if text.trim().is_empty() { path.to_owned() } else { text.trim().to_owned() }))
}

fn shell(account: &Account) -> Result<(), Refusal> {
    let shell = &account.shell;
    if shell.file_name().is_some_and(|name| name == "nologin" || name == "false") {
        return Err(Refusal::ShellRefuses(shell.clone()));
    }
    let runs = std::fs::metadata(shell).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0);
    if runs && shell.is_absolute() { Ok(()) } else { Err(Refusal::NoShell(shell.clone())) }
}

fn today() -> Result<u64, Refusal> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.map_err(|_| Refusal::Unreadable("the clock is before 1970".into()))?.as_secs() / 86_400)
}

/// shadow(5), eighth field: the first day on which the account is expired, in days since 1970; empty or negative for
/// never. `None` if it is no number.
fn expired(line: &[u8], today: u64) -> Option<bool> {
    let Some(field) = line.split(|&b| b == b':').nth(7) else { return Some(false) };
    if field.is_empty() {
        return Some(false);
    }
    let day: i64 = std::str::from_utf8(field).ok()?.parse().ok()?;
    Some(u64::try_from(day).is_ok_and(|day| today >= day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_date_decides_and_the_password_does_not() {
        assert_eq!(expired(b"joe:!:19000:0:99999:7:::", 20_000), Some(false));
        assert_eq!(expired(b"joe:!*:19000:0:99999:7::20001:", 20_000), Some(false));
        assert_eq!(expired(b"joe:$y$x:19000:0:99999:7::20000:", 20_000), Some(true));
        assert_eq!(expired(b"joe:x:19000:0:99999:7::-1:", 20_000), Some(false));
        assert_eq!(expired(b"joe:x:19000:0:99999:7::soon:", 20_000), None);
        assert_eq!(expired(b"joe:x", 20_000), Some(false));
    }

    #[test]
    fn a_shell_must_exist_run_and_let_in() {
        let with = |shell: &str| Account {
            name: "joe".into(),
            uid: 1,
            gid: 1,
            home: "/".into(),
            shell: shell.into(),
            groups: vec![1],
        };
        assert!(shell(&with("/bin/sh")).is_ok());
        assert!(matches!(shell(&with("/usr/sbin/nologin")), Err(Refusal::ShellRefuses(_))));
        assert!(matches!(shell(&with("/bin/false")), Err(Refusal::ShellRefuses(_))));
        for missing in ["/no/such/shell", "/etc/passwd", "/etc", "bin/sh"] {
            assert!(matches!(shell(&with(missing)), Err(Refusal::NoShell(_))), "{missing}");
        }
    }
}
