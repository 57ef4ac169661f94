//! Lookup of OS users by name, without NSS in this process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::getent::{self, Answer};

/// Longest user name looked up, in bytes (`LOGIN_NAME_MAX` of Linux without the final zero).
const NAME_MAX: usize = 255;
/// Most groups of one user (`NGROUPS_MAX` of Linux).
const GROUPS_MAX: usize = 65_536;
/// Most bytes read of `/etc/passwd` and its kin.
pub(crate) const FILE_MAX: u64 = 16 << 20;

/// An entry of the user database, with all groups of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name, exactly as it was asked for.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory; `/` if the entry has none that is absolute.
    pub home: PathBuf,
    /// Login shell; `/bin/sh` if the entry has none (passwd(5)).
    pub shell: PathBuf,
    /// Primary and supplementary group ids, sorted, each once.
    pub groups: Vec<u32>,
}

/// Why the user database could not be asked. The answer is unknown then, and nobody may log in.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// `getent` gave no answer in time.
    #[error("getent {0} gave no answer in 2 s, check the name services in /etc/nsswitch.conf")]
    TimedOut(&'static str),
    /// `getent` failed.
    #[error("getent {database} failed ({status}), check the name services in /etc/nsswitch.conf")]
    Failed {
        /// The database asked.
        database: &'static str,
        /// How the process ended.
        status: String,
    },
    /// What came back is no entry of that database.
    #[error("unreadable {0} entry")]
    Malformed(&'static str),
    /// A file or process could not be read.
    #[error("cannot read {what}: {error}")]
    Io {
        /// File or program.
        what: &'static str,
        /// The cause.
        error: io::Error,
    },
}

/// Whether `name` can be the name of an OS user: 1 to 255 of ASCII letters, digits and `._-@+\$`, the first a letter,
/// digit or `_`, and not `.` or `..`. A name that passes is safe in an argument vector and as a file name.
pub fn valid_name(name: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.len() <= NAME_MAX
        && name.bytes().next().is_some_and(first)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@+\\$".contains(&b))
}

/// Looks up the OS user `name`; `None` if there is no such user.
///
/// Asks `getent`, so that LDAP and SSSD work, and reads `/etc/passwd` and `/etc/group` on a machine without it.
/// Blocks for at most 4 s. Any doubt is an error, never a guess.
pub fn lookup(name: &str) -> Result<Option<Account>, LookupError> {
    if !valid_name(name) {
        return Ok(None);
    }
    let entry = match getent::ask("passwd", name)? {
        Answer::Found(output) => {
            let entry = output.split(|&b| b == b'\n').next().unwrap_or_default();
            // An answer for another name (a number taken as an id, folded case) is no answer.
            if first_field(entry) != name.as_bytes() {
                return Ok(None);
            }
            parse_passwd(entry).ok_or(LookupError::Malformed("passwd"))?
        }
        Answer::Unknown => return Ok(None),
        Answer::NoSuchDatabase => match find_line("/etc/passwd", name)? {
            Some(entry) => parse_passwd(&entry).ok_or(LookupError::Malformed("passwd"))?,
            None => return Ok(None),
        },
    };
    let mut account = Account { name: name.to_owned(), ..entry };
    account.groups = groups_of(name)?;
    account.groups.push(account.gid);
    account.groups.sort_unstable();
    account.groups.dedup();
    Ok(Some(account))
}

/// Group id of `name` in `/etc/group`. Meant for system groups such as `tty`, which live in the file.
pub(crate) fn system_group(name: &str) -> Option<u32> {
    let line = find_line("/etc/group", name).ok()??;
    number(line.split(|&b| b == b':').nth(2)?)
}

/// The line of a colon-separated database file whose first field is `name`.
pub(crate) fn find_line(path: &'static str, name: &str) -> Result<Option<Vec<u8>>, LookupError> {
    let content = read_file(path).map_err(|error| LookupError::Io { what: path, error })?;
    Ok(content.split(|&b| b == b'\n').find(|line| first_field(line) == name.as_bytes()).map(<[u8]>::to_vec))
}

fn read_file(path: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is larger than 16 MiB"));
    }
    Ok(content)
}

fn groups_of(name: &str) -> Result<Vec<u32>, LookupError> {
    match getent::ask("initgroups", name)? {
        Answer::Found(output) => parse_initgroups(&output).ok_or(LookupError::Malformed("initgroups")),
        Answer::Unknown => Ok(Vec::new()),
        Answer::NoSuchDatabase => {
            let content = read_file("/etc/group").map_err(|error| LookupError::Io { what: "/etc/group", error })?;
            Ok(memberships(&content, name))
        }
    }
}

fn first_field(line: &[u8]) -> &[u8] {
    line.split(|&b| b == b':').next().unwrap_or_default()
}

fn number(field: &[u8]) -> Option<u32> {
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// passwd(5): name:password:uid:gid:gecos:home:shell. An id of all ones means "no change" to the kernel and is refused.
fn parse_passwd(line: &[u8]) -> Option<Account> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    let id = |field| number(field).filter(|&id| id != u32::MAX);
    let path = |bytes: &[u8], default: &str| match bytes {
        [] => PathBuf::from(default),
        bytes => PathBuf::from(OsStr::from_bytes(bytes)),
    };
    let home = Some(path(home, "/")).filter(|home| home.is_absolute()).unwrap_or_else(|| PathBuf::from("/"));
    Some(Account {
        name: String::from_utf8(name.to_vec()).ok()?,
        uid: id(uid)?,
        gid: id(gid)?,
        home,
        shell: path(shell, "/bin/sh"),
        groups: Vec::new(),
    })
}

/// One line: the name, then group ids.
fn parse_initgroups(output: &[u8]) -> Option<Vec<u32>> {
    let line = output.split(|&b| b == b'\n').next().unwrap_or_default();
    let ids = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).skip(1);
    let groups: Vec<u32> = ids.take(GROUPS_MAX + 1).map(number).collect::<Option<_>>()?;
    (groups.len() <= GROUPS_MAX).then_some(groups)
}

/// Ids of the groups in the text of `/etc/group` that list `name` as a member.
fn memberships(content: &[u8], name: &str) -> Vec<u32> {
    let group = |line: &[u8]| {
        let mut fields = line.split(|&b| b == b':').skip(2);
        let (gid, members) = (number(fields.next()?)?, fields.next()?);
        members.split(|&b| b == b',').any(|member| member == name.as_bytes()).then_some(gid)
    };
    content.split(|&b| b == b'\n').filter_map(group).take(GROUPS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_options_paths_or_fields_are_refused() {
        for name in ["ubuntu", "_apt", "a.b-c", "DOM\\joe", "joe@example.com", "pc$", "0day", &"a".repeat(255)] {
            assert!(valid_name(name), "{name}");
        }
        for name in ["", "-s", ".", "..", "a/b", "a:b", "a b", "a\nb", "a\0", "é", "+", "@x", &"a".repeat(256)] {
            assert!(!valid_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_passwd_line_is_read_strictly() {
        let joe = parse_passwd(b"joe:x:1000:1001:Joe,,,:/home/joe:/bin/bash").expect("entry");
        assert_eq!((joe.uid, joe.gid), (1000, 1001));
        assert_eq!((joe.home.to_str(), joe.shell.to_str()), (Some("/home/joe"), Some("/bin/bash")));
        let bare = parse_passwd(b"joe:x:1:1:::").expect("entry");
        assert_eq!((bare.home.to_str(), bare.shell.to_str()), (Some("/"), Some("/bin/sh")));
        for line in ["joe:x:1:1::/", "joe:x:-1:1:::", "joe:x:4294967295:1:::", "joe:x::1:::", "joe:x:1:1::::", ""] {
            assert_eq!(parse_passwd(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn groups_come_from_either_source() {
        assert_eq!(parse_initgroups(b"joe     4 27 1000\n"), Some(vec![4, 27, 1000]));
        assert_eq!(parse_initgroups(b"joe\n"), Some(vec![]));
        assert_eq!(parse_initgroups(b"joe x\n"), None);
        let file = b"root:x:0:\nadm:x:4:syslog,joe\nsudo:x:27:joe\njoey:x:30:joey\nbad:x:zz:joe\n";
        assert_eq!(memberships(file, "joe"), [4, 27]);
    }

    #[test]
    fn root_is_found_and_others_are_not() {
        let root = lookup("root").expect("lookup").expect("root");
        assert_eq!((root.uid, root.gid, root.groups.contains(&0)), (0, 0, true));
        assert_eq!(lookup("no-such-user-here").expect("lookup"), None);
        // getent takes a number as an id.
        assert_eq!(lookup("0").expect("lookup"), None);
        assert_eq!(lookup("-s").expect("lookup"), None);
    }
}
