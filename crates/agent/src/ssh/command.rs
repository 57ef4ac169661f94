//! What a client asks a session to run, and what it sends along.

use mezite_core::rbac::Permit;
use mezite_net::ssh::{PtyRequest, SessionRequest};
use mezite_session::{Command, Pty, accepted_env};

/// Variables of one session.
const MAX_ENV: usize = 64;
/// Bytes of one variable's value.
const MAX_ENV_VALUE: usize = 4096;
/// Where Debian, Fedora and Arch keep OpenSSH's SFTP server.
const SFTP_SERVERS: [&str; 4] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
];

/// What was asked for before the program starts.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The terminal.
    pub(super) pty: Option<Pty>,
    /// Variables that passed the allow-list.
    pub(super) env: Vec<(String, String)>,
}

/// What a request before the start means.
#[derive(Debug)]
pub(super) enum Step {
    /// Answer it and wait for more.
    Answer(bool),
    /// Run this.
    Run(Command),
    /// Refuse, with a reason for the log.
    Refuse(&'static str),
}

impl Prepared {
    /// Takes one request.
    pub(super) fn take(&mut self, request: SessionRequest, permit: &Permit) -> Step {
        match request {
            SessionRequest::Pty(pty) => {
                let first = self.pty.is_none();
                if first {
                    self.pty = Some(terminal(pty));
                }
                Step::Answer(first)
            }
            SessionRequest::Env { name, value } => Step::Answer(self.set(&name, &value)),
            SessionRequest::WindowChange { .. } => Step::Answer(self.resize(&request)),
            SessionRequest::Shell => Step::Run(Command::Shell),
            SessionRequest::Exec(command) => {
                if !permit.file_copy() && is_file_copy(&command) {
                    return Step::Refuse("a role forbids copying files");
                }
                Step::Run(Command::Exec(command))
            }
            SessionRequest::Subsystem(name) if name == "sftp" => {
                if !permit.file_copy() {
                    return Step::Refuse("a role forbids copying files");
                }
                match SFTP_SERVERS.iter().find(|path| std::path::Path::new(path).is_file()) {
                    Some(path) => Step::Run(Command::Subsystem { name, argv: vec![(*path).to_owned()] }),
                    None => Step::Refuse("this node has no SFTP server: install OpenSSH's"),
                }
            }
            SessionRequest::Subsystem(_) => Step::Refuse("there is no such subsystem"),
            _ => Step::Answer(false),
        }
    }

    /// The socket of the user's key agent, for the session's programs.
    pub(super) fn set_key_agent(&mut self, socket: String) {
        const NAME: &str = "SSH_AUTH_SOCK";
        self.env.retain(|(known, _)| known != NAME);
        self.env.push((NAME.to_owned(), socket));
    }

    /// Takes a new size of the terminal; whether there is one, and this is one.
    pub(super) fn resize(&mut self, request: &SessionRequest) -> bool {
        let SessionRequest::WindowChange { cols, rows, width_px, height_px } = *request else { return false };
        let Some(pty) = &mut self.pty else { return false };
        (pty.cols, pty.rows, pty.width_px, pty.height_px) = (cols, rows, width_px, height_px);
        true
    }

    fn set(&mut self, name: &str, value: &str) -> bool {
        // A line break would be a variable of its own to whoever reads the output of `env`.
        let plain = value.len() <= MAX_ENV_VALUE && !value.chars().any(char::is_control);
        if !accepted_env(name) || !plain || self.env.len() >= MAX_ENV {
            return false;
        }
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        true
    }
}

fn terminal(request: PtyRequest) -> Pty {
    let PtyRequest { term, cols, rows, width_px, height_px, modes } = request;
    // A name that could reach a path or a terminal of ours is dropped; programs then take the terminal for a dumb one.
    let plain = term.len() <= 64 && term.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b));
    Pty { term: if plain { term } else { String::new() }, cols, rows, width_px, height_px, modes }
}

/// Commands that clients use to copy files. A shell can copy files in many other ways: this closes the tools, and
/// `file_copy: false` together with a login's own restrictions is what closes the rest.
fn is_file_copy(command: &[u8]) -> bool {
    let text = String::from_utf8_lossy(command);
    let mut words = text.split_ascii_whitespace();
    let program = words.next().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
    match program {
        "scp" => words.any(|word| word.starts_with('-') && word.contains(['t', 'f'])),
        "sftp-server" => true,
        "rsync" => words.any(|word| word == "--server"),
        _ => false,
    }
}

/// `shell`, `exec` or `subsystem`, and the text of it for the record.
pub(super) fn describe(command: &Command) -> (&'static str, String) {
    match command {
        Command::Shell => ("shell", String::new()),
        Command::Exec(line) => ("exec", String::from_utf8_lossy(line).into_owned()),
        Command::Subsystem { name, .. } => ("subsystem", name.clone()),
        Command::Sockets => ("sockets", String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_variables_pass_and_their_number_is_bounded() {
        let mut prepared = Prepared::default();
        assert!(prepared.set("LANG", "C.UTF-8"));
        assert!(!prepared.set("LD_PRELOAD", "/tmp/x.so"));
        assert!(!prepared.set("LC_X", &"a".repeat(5000)));
        assert!(!prepared.set("LANG", "C\nPATH=/tmp"));
        for n in 0..200 {
            prepared.set(&format!("LC_{n}"), "x");
        }
        assert_eq!(prepared.env.len(), MAX_ENV);
    }

    #[test]
    fn file_copy_tools_are_known_by_their_server_side() {
        for copy in ["scp -t /tmp", "/usr/bin/scp -v -f x", "rsync --server -e.x . /", "/usr/lib/openssh/sftp-server"] {
            assert!(is_file_copy(copy.as_bytes()), "{copy}");
        }
        for other in ["ls", "scp a b:c", "rsync -a x y", ""] {
            assert!(!is_file_copy(other.as_bytes()), "{other}");
        }
    }
}
