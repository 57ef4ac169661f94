//! The home directory of the password database, which is where OpenSSH expands `~`, whatever `$HOME` says.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Home directory of the user who runs this process; `None` when the database does not know them.
pub fn home() -> Option<PathBuf> {
    let uid = nix::unistd::getuid().as_raw();
    // A static program cannot use NSS; getent can, and knows LDAP and SSSD users.
    let local = std::fs::read_to_string("/etc/passwd").ok().and_then(|text| find(&text, uid));
    local.or_else(|| {
        let asked = Command::new("getent").args(["passwd", &uid.to_string()]).stdin(Stdio::null()).output().ok()?;
        find(&String::from_utf8(asked.stdout).ok()?, uid)
    })
}

/// The sixth field of the entry with this uid (passwd(5)).
fn find(text: &str, uid: u32) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let matches = fields.next()?.parse::<u32>().ok()? == uid;
        let home = fields.nth(2)?;
        (matches && home.starts_with('/')).then(|| home.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_of_a_uid() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\nbob:x:1000:1000::/home/bob:/bin/sh\nnone:x:7:7:::\n";
        assert_eq!(find(text, 1000), Some("/home/bob".into()));
        assert_eq!(find(text, 0), Some("/root".into()));
        assert_eq!(find(text, 7), None);
        assert_eq!(find(text, 8), None);
    }
}
