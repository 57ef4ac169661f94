//! The block that `msh config` writes for OpenSSH.
//!
//! OpenSSH hands `ProxyCommand` to the user's shell after putting the login (`%r`) and the host (`%h`) into it unquoted.
//! Hosts are only ever the node names printed here, which are checked; logins are what somebody typed, so the block
//! begins with a `Match` that replaces the command for a login with any character a shell acts on. OpenSSH 9.2's parser has
//! no escapes inside quotes, so the list holds no `"`; between double quotes a shell acts only on what is listed. Newlines
//! cannot be listed either; `exec`, which OpenSSH puts in front, leaves no shell to read a second line.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mezite_core::name;

use crate::address::Address;
use crate::error::{Error, Result};
use crate::home;

const BEGIN: &str = "# BEGIN msh config, written by `msh config --append`; removed by `msh config --remove`";
const END: &str = "# END msh config";
const GUARD: &str =
    "Match originalhost *.mezite user \"*$*,*`*,*;*,*&*,*|*,*<*,*>*,*(*,*)*,*{*,*}*,*[*,*'*,*\\*,* *,*\t*,-*\"
    ProxyCommand echo msh: refused, the login has a character that a shell would run >&2
";

/// What the block is made from.
#[derive(Debug)]
pub struct Block<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Names of the visible nodes. Those that are no valid node names are left out, and all when the cluster's is none.
    pub nodes: Vec<&'a str>,
    /// The profile's private key; the certificate lies beside it.
    pub key: String,
    /// The `@cert-authority` file.
    pub known_hosts: String,
    /// The proxy to name on the command line; `None` for the active profile.
    pub proxy: Option<&'a Address>,
}

impl Block<'_> {
    /// The block without markers, as `msh config` prints it (F050–F056).
    pub fn render(&self) -> String {
        let mut text = String::from(GUARD);
        let command = match self.proxy {
            Some(proxy) => format!("msh --proxy={proxy} proxy ssh %r@%h:%p"),
            None => "msh proxy ssh %r@%h:%p".to_owned(),
        };
        let (cluster, key, known_hosts) = (self.cluster, quote(&self.key), quote(&self.known_hosts));
        let certificate = quote(&format!("{}-cert.pub", self.key));
        // The hub chose both names; a line break in one would be a line of the hub's in the user's configuration.
        let is_plain = |node: &&&str| name::node(node).is_ok() && name::cluster(self.cluster).is_ok();
        for node in self.nodes.iter().filter(is_plain) {
            let _ = write!(
                text,
                "\nHost {node}.{cluster}.mezite {node}.mezite
    HostName {node}
    ProxyCommand {command}
    IdentityFile {key}
    CertificateFile {certificate}
    UserKnownHostsFile {known_hosts}
"
            );
        }
        // What the user writes below must not become part of the last host.
        text.push_str("\nMatch all\n");
        text
    }
}

/// A path as it stands in the block: `~/.mezite/…` when OpenSSH would find `path` there, which is below `passwd_home`
/// whatever `$HOME` says; else absolute.
pub fn shown_path(path: &Path, passwd_home: Option<&Path>) -> String {
    match passwd_home.and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

fn quote(path: &str) -> String {
    if path.contains(char::is_whitespace) { format!("\"{path}\"") } else { path.to_owned() }
}

/// Puts the block between markers at the end of `file`, replacing the one that is there (F059, F060).
///
/// # Errors
/// When the file cannot be read or written, or holds only one of the markers.
pub fn append(file: &Path, block: &str) -> Result<()> {
    let mut text = without_block(file)?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = write!(text, "{BEGIN}\n{block}{END}\n");
    replace(file, &text)
}

/// Takes the block out of `file`; false when there is none.
///
/// # Errors
/// As for [`append`].
pub fn remove(file: &Path) -> Result<bool> {
    let text = without_block(file)?;
    let is_there = home::read(file)?.is_some_and(|before| before != text);
    if is_there {
        replace(file, &text)?;
    }
    Ok(is_there)
}

fn without_block(file: &Path) -> Result<String> {
    let text = home::read(file)?.unwrap_or_default();
    let odd = || {
        Error::Local(format!(
            "{} holds a damaged msh block; remove the lines from \"# BEGIN msh config\" on",
            file.display()
        ))
    };
    let Some((before, rest)) = text.split_once(BEGIN) else {
        return if text.contains(END) { Err(odd()) } else { Ok(text) };
    };
    let (_, after) = rest.split_once(END).ok_or_else(odd)?;
    let before = before.strip_suffix("\n\n").map_or_else(|| before.to_owned(), |text| format!("{text}\n"));
    let rest = format!("{before}{}", after.strip_prefix('\n').unwrap_or(after));
    if rest.contains(BEGIN) || rest.contains(END) { Err(odd()) } else { Ok(rest) }
}

/// Follows a symbolic link, so that a configuration kept elsewhere stays a link. OpenSSH refuses a file others can write.
fn replace(file: &Path, text: &str) -> Result<()> {
    let target: PathBuf = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    home::write(&target, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn block() -> String {
        let nodes = vec!["web-server-01", "db", "bad;name", "$(id)"];
        let key = "~/.mezite/profiles/h/keys/ssh_key".to_owned();
        Block { cluster: "production", nodes, key, known_hosts: "~/.mezite/known_hosts".into(), proxy: None }.render()
    }

    #[test]
    fn the_documented_lines() {
        let text = block();
        let wanted = "\nHost web-server-01.production.mezite web-server-01.mezite
    HostName web-server-01
    ProxyCommand msh proxy ssh %r@%h:%p
    IdentityFile ~/.mezite/profiles/h/keys/ssh_key
    CertificateFile ~/.mezite/profiles/h/keys/ssh_key-cert.pub
    UserKnownHostsFile ~/.mezite/known_hosts\n";
        assert!(text.contains(wanted), "{text}");
        assert_eq!(text.matches("\nHost ").count(), 2, "names a shell could act on are left out: {text}");
    }

    #[test]
    fn a_hub_cannot_write_lines_of_its_own_by_the_name_of_its_cluster() {
        let cluster = "x\n    ProxyCommand touch /tmp/x\nHost y";
        let known_hosts = "~/.mezite/known_hosts".to_owned();
        let text = Block { cluster, nodes: vec!["db"], key: "k".into(), known_hosts, proxy: None }.render();
        assert!(!text.contains("touch") && !text.contains("\nHost "), "{text}");
    }

    #[test]
    fn appending_twice_is_appending_once_and_removing_restores() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".ssh/config");
        let own = "Host own\n    Port 2\n";
        home::write(&file, own.as_bytes(), 0o600).unwrap();
        append(&file, &block()).unwrap();
        let once = home::read(&file).unwrap().unwrap();
        append(&file, &block()).unwrap();
        assert_eq!(home::read(&file).unwrap().unwrap(), once);
        assert!(once.starts_with(own));
        assert!(remove(&file).unwrap());
        assert!(!remove(&file).unwrap(), "nothing was there to remove");
        assert_eq!(home::read(&file).unwrap().as_deref(), Some(own));
        std::fs::write(&file, format!("{BEGIN}\nHost x\n")).unwrap();
        assert!(append(&file, &block()).is_err(), "half a block is not guessed at");
    }

    #[test]
    fn paths_follow_the_password_database() {
        let key = Path::new("/home/bob/.mezite/k");
        assert_eq!(shown_path(key, Some(Path::new("/home/bob"))), "~/.mezite/k");
        assert_eq!(shown_path(key, Some(Path::new("/root"))), "/home/bob/.mezite/k");
        assert_eq!(shown_path(key, None), "/home/bob/.mezite/k");
    }

    /// The parser under test is the installed OpenSSH; without one there is nothing to ask.
    #[test]
    fn openssh_reads_the_block_and_keeps_shell_characters_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        append(&file, &block()).unwrap();
        let ask = |login: &str, host: &str| {
            let out = Command::new("ssh").arg("-G").arg("-F").arg(&file).args(["-l", login, host]).output().ok()?;
            Some((out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned()))
        };
        for host in ["web-server-01.production.mezite", "web-server-01.mezite"] {
            let Some((ok, text)) = ask("ubuntu", host) else { return };
            assert!(ok && text.contains("\nproxycommand msh proxy ssh %r@%h:%p\n"), "{text}");
            assert!(text.contains("\nhostname web-server-01\n"), "{text}");
        }
        for login in ["a$b", "a`b", "a;b", "a&b", "a|b", "a>b", "a(b", "a{b", "a[b", "a'b", "a\\b", "a b", "a\tb"] {
            let Some((ok, text)) = ask(login, "db.mezite") else { return };
            assert!(!ok || text.contains("\nproxycommand echo msh: refused"), "{login}: {text}");
        }
        let Some((_, text)) = ask("ubuntu", "elsewhere.example.com") else { return };
        assert!(!text.contains("proxycommand"), "{text}");
    }
}
