//! The environment of a session: what the client may set, and what is always there.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::spec::SessionSpec;
use crate::users::Account;

const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a client may set the variable `name` for its session (RFC 4254 6.4): `LANG`, `LC_*` and `COLORTERM` only.
/// Everything else could change what a program of the user, or a privileged one it calls, loads or trusts.
pub fn accepted_env(name: &str) -> bool {
    let locale = name.strip_prefix("LC_").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(word));
    locale || matches!(name, "LANG" | "COLORTERM")
}

/// Whether a spec may hold the variable: a client's, or one the agent sets for forwarding and for its own use.
pub(crate) fn settable(name: &str) -> bool {
    let ours = name.strip_prefix("MEZITE_").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(word));
    accepted_env(name) || ours || matches!(name, "SSH_AUTH_SOCK" | "DISPLAY")
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// `NAME=value` entries for `execve`: the base, over it the variables of the spec, over both those of the login's rules.
/// `tty` is the terminal's path.
pub(crate) fn build(
    spec: &SessionSpec,
    account: &Account,
    tty: Option<&str>,
    rules: Vec<CString>,
) -> Option<Vec<CString>> {
    let mut mail = OsString::from("/var/mail/");
    mail.push(&account.name);
    let path = if account.uid == 0 { ROOT_PATH } else { USER_PATH };
    let mut pairs: Vec<(&str, &OsStr)> = vec![
        ("HOME", account.home.as_os_str()),
        ("USER", account.name.as_ref()),
        ("LOGNAME", account.name.as_ref()),
        ("SHELL", account.shell.as_os_str()),
        ("PATH", path.as_ref()),
        ("MAIL", &mail),
    ];
    let optional = [
        ("SSH_CLIENT", Some(spec.ssh_client.as_str())),
        ("SSH_CONNECTION", Some(spec.ssh_connection.as_str())),
        ("SSH_TTY", tty),
        ("TERM", spec.pty.as_ref().map(|pty| pty.term.as_str())),
    ];
    pairs.extend(optional.into_iter().filter_map(|(name, value)| {
        let value = value.filter(|value| !value.is_empty())?;
        Some((name, value.as_ref()))
    }));
    for (name, value) in spec.env.iter().filter(|(name, _)| settable(name)) {
        pairs.retain(|(other, _)| other != name);
        pairs.push((name, value.as_ref()));
    }
    let mut entries = pairs.into_iter().map(|(name, value)| entry(name, value)).collect::<Option<Vec<_>>>()?;
    for rule in rules {
        let Some(name) = name_of(&rule) else { continue };
        entries.retain(|other| name_of(other) != Some(name));
        entries.push(rule);
    }
    Some(entries)
}

fn name_of(entry: &CStr) -> Option<&[u8]> {
    let end = entry.to_bytes().iter().position(|&b| b == b'=')?;
    entry.to_bytes().get(..end).filter(|name| !name.is_empty())
}

fn entry(name: &str, value: &OsStr) -> Option<CString> {
    let mut entry = OsString::from(name);
    entry.push("=");
    entry.push(value);
    CString::new(entry.into_vec()).ok()
}

/// The last part of `path` as bytes.
pub(crate) fn base_name(path: &std::path::Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_sets_the_locale_and_nothing_that_loads_code() {
        for name in ["LANG", "LC_ALL", "LC_CTYPE", "COLORTERM"] {
            assert!(accepted_env(name), "{name}");
        }
        let refused = "LD_PRELOAD LD_LIBRARY_PATH BASH_ENV ENV GLIBC_TUNABLES PATH HOME SHELL TERM IFS LANGUAGE LC_ LC_A=B lang \
                       PYTHONPATH PERL5LIB SSH_AUTH_SOCK LOCPATH TZ NLSPATH";
        for name in refused.split_whitespace().chain([""]) {
            assert!(!accepted_env(name), "{name}");
        }
    }

    #[test]
    fn the_agent_sets_forwarding_but_not_the_base() {
        assert!(settable("SSH_AUTH_SOCK") && settable("MEZITE_SESSION_ID") && settable("LC_ALL"));
        assert!(!settable("PATH") && !settable("MEZITE_") && !settable("MEZITE_A=B") && !settable("LD_PRELOAD"));
    }
}
