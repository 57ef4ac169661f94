//! What the agent asks of a starter and what it hears back.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::env;
use crate::users;

/// Longest spec as JSON, in bytes.
pub(crate) const SPEC_MAX: usize = 1 << 20;
/// Longest single argument of a program on Linux (`MAX_ARG_STRLEN` without the final zero).
const ARGUMENT_MAX: usize = (128 << 10) - 1;
const SHORT_MAX: usize = 256;
const ENV_MAX: usize = 128;
const MODES_MAX: usize = 256;
const ARGV_MAX: usize = 64;

/// One session to start. At most 1 MiB as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSpec {
    /// Id of the session: 1 to 64 letters, digits and `-`. Names its control group.
    pub session_id: String,
    /// OS user to run as.
    pub login: String,
    /// What to run.
    pub command: Command,
    /// The terminal asked for, if any.
    pub pty: Option<Pty>,
    /// Variables of the client that passed [`crate::accepted_env`], and `SSH_AUTH_SOCK`, `DISPLAY` or `MEZITE_*` of
    /// the agent. Any other name is refused. At most 128.
    pub env: Vec<(String, String)>,
    /// Value of `SSH_CLIENT`, left out if empty.
    pub ssh_client: String,
    /// Value of `SSH_CONNECTION`, left out if empty.
    pub ssh_connection: String,
    /// Whether a shell on a terminal begins with `/etc/motd` (unless the user has `~/.hushlogin`).
    pub motd: bool,
    /// A directory of a control group hierarchy (v2, or a v1 one) that root may write to. The session gets a child
    /// group named by its id, entered before [`Message::Started`] and removed at the end if it is empty by then.
    pub cgroup: Option<PathBuf>,
}

/// What a session runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// The user's login shell.
    Shell,
    /// A command line for the user's shell (`-c`), at most 131,071 bytes, any but NUL.
    Exec(#[serde(with = "text_or_bytes")] Vec<u8>),
    /// The helper that opens sockets as the user ([`crate::Sockets`]): no program, and no terminal.
    Sockets,
    /// A program of ours run as the user, without a shell.
    Subsystem {
        /// Name asked for by the client, such as `sftp`.
        name: String,
        /// The program's absolute path and its arguments. The path is opened with the starter's rights, so it need
        /// not be reachable by the user, and `/proc/self/exe` is the starter's own executable. Never a client's text.
        argv: Vec<String>,
    },
}

/// A terminal as asked for in `pty-req` (RFC 4254 6.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pty {
    /// Value of `TERM`, left out if empty.
    pub term: String,
    /// Width in characters. Each of the four sizes is cut to 65,535.
    pub cols: u32,
    /// Height in characters.
    pub rows: u32,
    /// Width in pixels.
    pub width_px: u32,
    /// Height in pixels.
    pub height_px: u32,
    /// Terminal modes (RFC 4254 8, RFC 8160) as (opcode, value); unknown opcodes are passed over.
    pub modes: Vec<(u8, u32)>,
}

/// From the starter to the agent. `Started` comes first and one of `Exit` and `Signal` last, or `Denied` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The leader stands and waits for [`Control::Go`]; nothing of the user has run.
    Started {
        /// Process id of the leader, also its process group and session.
        pid: u32,
        /// Path of the terminal, if there is one.
        tty: Option<String>,
    },
    /// There will be no session.
    Denied {
        /// For the user and the audit record. Holds text of the machine (`/etc/nologin`): escape when shown.
        reason: String,
    },
    /// The leader ended.
    Exit {
        /// Exit code, 0 to 255.
        code: u8,
    },
    /// The leader was ended by a signal.
    Signal {
        /// Name as in RFC 4254 6.10, without `SIG` (`TERM`; `RT` for a real-time signal).
        name: String,
        /// Whether a core file was written.
        core: bool,
    },
}

/// From the agent to the starter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Run what was asked for. May be sent together with the spec.
    Go,
    /// End every process of the session: hang up, then kill.
    Terminate,
    /// Send a signal to the leader's process group (RFC 4254 6.9): a name of that list without `SIG`. Other names
    /// are passed over.
    Signal(String),
}

/// A spec that no starter takes.
#[derive(Debug, thiserror::Error)]
#[error("invalid session: {field} {problem}")]
pub struct InvalidSpec {
    field: &'static str,
    problem: &'static str,
}

impl SessionSpec {
    /// Checks bounds and characters; both sides do.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let id = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let id = (1..=64).contains(&self.session_id.len()) && self.session_id.bytes().all(id);
        check(id, "session_id", "must be 1 to 64 letters, digits and '-'")?;
        check(users::valid_name(&self.login), "login", "is no name of an OS user")?;
        self.command.validate()?;
        if let Some(pty) = &self.pty {
            check(self.command != Command::Sockets, "pty", "is nothing for the socket helper")?;
            check(plain(&pty.term), "pty.term", "must be at most 256 printable ASCII characters")?;
            check(pty.modes.len() <= MODES_MAX, "pty.modes", "must be at most 256")?;
        }
        check(self.env.len() <= ENV_MAX, "env", "must be at most 128 variables")?;
        let var = |(name, value): &(String, String)| env::settable(name) && argument(value.as_bytes());
        check(self.env.iter().all(var), "env", "has a variable that sessions do not take")?;
        check(plain(&self.ssh_client) && plain(&self.ssh_connection), "ssh_client", "must be printable ASCII")?;
        let cgroup = self.cgroup.as_ref().is_none_or(|dir| dir.is_absolute());
        check(cgroup, "cgroup", "must be an absolute path")
    }
}

impl Command {
    fn validate(&self) -> Result<(), InvalidSpec> {
        match self {
            Self::Shell | Self::Sockets => Ok(()),
            Self::Exec(line) => check(argument(line), "command", "must be at most 131071 bytes without NUL"),
            Self::Subsystem { name, argv } => {
                check(plain(name), "command.name", "must be at most 256 printable ASCII characters")?;
                let program = argv.first().is_some_and(|program| program.starts_with('/'));
                let arguments = argv.len() <= ARGV_MAX && argv.iter().all(|word| argument(word.as_bytes()));
                check(program && arguments, "command.argv", "must be an absolute path and at most 63 arguments")
            }
        }
    }
}

fn check(holds: bool, field: &'static str, problem: &'static str) -> Result<(), InvalidSpec> {
    if holds { Ok(()) } else { Err(InvalidSpec { field, problem }) }
}

fn argument(bytes: &[u8]) -> bool {
    bytes.len() <= ARGUMENT_MAX && !bytes.contains(&0)
}

fn plain(text: &str) -> bool {
    text.len() <= SHORT_MAX && text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// A JSON value and a newline. These types always serialize; an empty line would be an error at the other end.
fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

impl SessionSpec {
    pub(crate) fn to_line(&self) -> Vec<u8> {
        line(self)
    }
}

impl Message {
    pub(crate) fn to_line(&self) -> Vec<u8> {
        line(self)
    }
}

impl Control {
    /// The bytes to write to the control socket.
    pub fn to_line(&self) -> Vec<u8> {
        line(self)
    }
}

/// Bytes as a JSON string where they are UTF-8, else as an array of numbers.
mod text_or_bytes {
    use std::fmt;

    use serde::de::{Error, SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => to.serialize_str(text),
            Err(_) => to.collect_seq(bytes),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_any(TextOrBytes)
    }

    struct TextOrBytes;

    impl<'de> Visitor<'de> for TextOrBytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or an array of bytes")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
            Ok(text.as_bytes().to_vec())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = seq.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SessionSpec {
        SessionSpec {
            session_id: "6d3b0c8e-1f7a-4f61-9a35-0f2b8c6f5f10".into(),
            login: "ubuntu".into(),
            command: Command::Shell,
            pty: None,
            env: vec![("LANG".into(), "C.UTF-8".into())],
            ssh_client: "10.0.0.1 50000 22".into(),
            ssh_connection: "10.0.0.1 50000 10.0.0.2 22".into(),
            motd: true,
            cgroup: None,
        }
    }

    #[test]
    fn a_command_of_any_bytes_survives_the_wire() {
        for bytes in [&b"echo '\n\"\xc3\xa9"[..], b"ls \xff\xfe", b""] {
            let spec = SessionSpec { command: Command::Exec(bytes.to_vec()), ..spec() };
            let back: SessionSpec = serde_json::from_slice(&spec.to_line()).expect("json");
            assert_eq!(back, spec);
        }
    }

    #[test]
    fn what_could_leave_its_field_is_refused() {
        assert!(spec().validate().is_ok());
        let argv = |argv: &[&str]| Command::Subsystem {
            name: "sftp".into(),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
        };
        assert!(SessionSpec { command: argv(&["/x", "y"]), ..spec() }.validate().is_ok());
        let term = Pty { term: "x\n".into(), cols: 1, rows: 1, width_px: 0, height_px: 0, modes: vec![] };
        let refused = [
            SessionSpec { session_id: "../x".into(), ..spec() },
            SessionSpec { session_id: String::new(), ..spec() },
            SessionSpec { login: "-s".into(), ..spec() },
            SessionSpec { command: Command::Exec(b"a\0b".to_vec()), ..spec() },
            SessionSpec { command: Command::Exec(vec![b'a'; ARGUMENT_MAX + 1]), ..spec() },
            SessionSpec { command: argv(&[]), ..spec() },
            SessionSpec { command: argv(&["sftp-server"]), ..spec() },
            SessionSpec { pty: Some(term), ..spec() },
            SessionSpec { env: vec![("LD_PRELOAD".into(), "x".into())], ..spec() },
            SessionSpec { env: vec![("LANG".into(), "x\0".into())], ..spec() },
            SessionSpec { ssh_client: "x\ny".into(), ..spec() },
            SessionSpec { cgroup: Some("x".into()), ..spec() },
        ];
        for spec in refused {
            assert!(spec.validate().is_err(), "{spec:?}");
        }
    }
}
