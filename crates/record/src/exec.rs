//! Commands without a terminal: how much of them is kept.

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;
use tokio::time::Instant;

use crate::chunk::hex;

/// Most bytes of each output stream that [`ExecPolicy::Head`] keeps.
pub const HEAD: u64 = 1 << 20;

/// Where the system keeps transfer programs. A program of the same name anywhere else is recorded like any other.
const DIRECTORIES: [&str; 9] = [
    "/bin",
    "/usr/bin",
    "/usr/local/bin",
    "/usr/lib",
    "/usr/libexec",
    "/usr/lib/openssh",
    "/usr/libexec/openssh",
    "/usr/lib/ssh",
    "/usr/lib/git-core",
];

/// How much of an exec session's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecPolicy {
    /// Everything (`record_exec: full`).
    Full,
    /// The first [`HEAD`] bytes of each stream; then counts, and the SHA-256 of the whole.
    Head,
    /// Counts only: a file transfer, whose bytes are not for reading.
    Metadata,
}

/// An output stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// The policy for a command line: [`ExecPolicy::Metadata`] for what is nothing but a file transfer, else
/// [`ExecPolicy::Head`].
///
/// A command line is run by the user's shell, so anything in it that could make the shell do more than start that one
/// program makes it an ordinary command.
#[must_use]
pub fn exec_policy(command: &str) -> ExecPolicy {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80 || b" -_./,:=@%+~*?[]'\"\\".contains(&byte);
    if !command.bytes().all(plain) {
        return ExecPolicy::Head;
    }
    let mut words = command.split_ascii_whitespace();
    let program = words.next().and_then(program).unwrap_or_default();
    let mut options = words.clone().take_while(|word| word.starts_with('-'));
    let transfer = match program {
        "sftp-server" => words.clone().next().is_none(),
        "scp" => {
            let mut role = false;
            let known = options.all(|option| {
                role |= option.contains(['f', 't']);
                option.len() > 1 && option.bytes().skip(1).all(|letter| b"dfpqrtv".contains(&letter)) || option == "--"
            });
            known && role
        }
        "rsync" => options.next() == Some("--server"),
        "git" => matches!(words.next(), Some("upload-pack" | "receive-pack" | "upload-archive")),
        "git-upload-pack" | "git-receive-pack" | "git-upload-archive" => true,
        _ => false,
    };
    if transfer { ExecPolicy::Metadata } else { ExecPolicy::Head }
}

/// The name of a program without a path, or with that of a system directory.
fn program(word: &str) -> Option<&str> {
    match word.rsplit_once('/') {
        None => Some(word),
        Some((directory, name)) => DIRECTORIES.contains(&directory).then_some(name),
    }
}

/// What a command's output streams amounted to. Bytes are counted where they arrive, so that those that are not kept need
/// not travel further.
pub(crate) struct Counts {
    policy: ExecPolicy,
    stdout: Count,
    stderr: Count,
    last: Option<Instant>,
}

/// The form of [`Counts`] in the recording's last marker.
#[derive(Debug, Serialize)]
pub(crate) struct Totals {
    stdout: Total,
    stderr: Total,
}

impl Counts {
    pub(crate) fn new(policy: ExecPolicy) -> Self {
        Self { policy, stdout: Count::new(policy), stderr: Count::new(policy), last: None }
    }

    /// Counts `data`, which came `at`, and says how many of its first bytes are to be kept.
    pub(crate) fn take(&mut self, at: Instant, stream: ExecStream, data: &[u8]) -> usize {
        self.last = Some(at);
        let count = match stream {
            ExecStream::Stdout => &mut self.stdout,
            ExecStream::Stderr => &mut self.stderr,
        };
        count.take(self.policy, data)
    }

    /// The moment of the last output, and the totals; nothing counts afterwards.
    pub(crate) fn finish(&mut self) -> (Option<Instant>, Totals) {
        let Self { last, stdout, stderr, .. } = std::mem::replace(self, Self::new(self.policy));
        (last, Totals { stdout: stdout.total(), stderr: stderr.total() })
    }
}

struct Count {
    bytes: u64,
    recorded: u64,
    hash: Option<Context>,
}

#[derive(Debug, Serialize)]
struct Total {
    bytes: u64,
    recorded: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Count {
    fn new(policy: ExecPolicy) -> Self {
        let hash = (policy != ExecPolicy::Metadata).then(|| Context::new(&SHA256));
        Self { bytes: 0, recorded: 0, hash }
    }

    /// Counts `data` and says how many of its first bytes are to be kept.
    fn take(&mut self, policy: ExecPolicy, data: &[u8]) -> usize {
        self.bytes += data.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(data);
        }
        let kept = match policy {
            ExecPolicy::Full => data.len(),
            ExecPolicy::Head => usize::try_from(HEAD - self.recorded).unwrap_or(usize::MAX).min(data.len()),
            ExecPolicy::Metadata => 0,
        };
        self.recorded += kept as u64;
        kept
    }

    fn total(self) -> Total {
        let sha256 = self.hash.map(|hash| hex(hash.finish().as_ref()));
        Total { bytes: self.bytes, recorded: self.recorded, sha256 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_metadata_only() {
        for command in [
            "scp -t /tmp/x",
            "scp -r -p -f 'a file'",
            "scp -v -f -- *.txt",
            "/usr/bin/scp -qdt ~/x",
            "sftp-server",
            "/usr/lib/openssh/sftp-server",
            "rsync --server -vlogDtpre.iLsfxCIvu . /srv/x",
            "rsync --server --sender -e.LsfxC . x",
            "git-upload-pack '/srv/repo.git'",
            "git receive-pack '/srv/r\u{e9}po.git'",
        ] {
            assert_eq!(exec_policy(command), ExecPolicy::Metadata, "{command}");
        }
    }

    #[test]
    fn whatever_could_be_more_than_a_transfer_is_recorded() {
        for command in [
            "",
            "ls",
            "scp",
            "scp a b",
            "scp -S /tmp/evil -t x",
            "scp -t x; cat /etc/shadow",
            "scp -t x && id",
            "scp -t x | sh",
            "scp -t `id`",
            "scp -t $(id)",
            "scp -t x\nid",
            "scp -t x &",
            "scp -t x >/etc/passwd",
            "scp -t {a,b}",
            "/tmp/scp -t x",
            "./scp -t x",
            "/usr/bin/../../tmp/scp -t x",
            "PATH=/tmp scp -t x",
            "env scp -t x",
            "rsync -e sh a b",
            "rsync -v --server",
            "/home/u/sftp-server",
            "sftp-server -x",
            "git clone x",
            "git -c core.sshCommand=sh upload-pack x",
            "git-shell",
            "sh -c 'scp -t x'",
        ] {
            assert_eq!(exec_policy(command), ExecPolicy::Head, "{command}");
        }
    }

    #[test]
    fn the_head_is_kept_and_the_whole_is_hashed() {
        let data = vec![b'x'; 700_000];
        let mut count = Count::new(ExecPolicy::Head);
        assert_eq!(count.take(ExecPolicy::Head, &data), 700_000);
        assert_eq!(count.take(ExecPolicy::Head, &data), usize::try_from(HEAD).unwrap() - 700_000);
        assert_eq!(count.take(ExecPolicy::Head, &data), 0);
        let total = count.total();
        assert_eq!((total.bytes, total.recorded), (2_100_000, HEAD));
        let whole = aws_lc_rs::digest::digest(&SHA256, &vec![b'x'; 2_100_000]);
        assert_eq!(total.sha256.unwrap(), hex(whole.as_ref()));
    }

    #[test]
    fn a_transfer_is_counted_only() {
        let mut count = Count::new(ExecPolicy::Metadata);
        assert_eq!(count.take(ExecPolicy::Metadata, b"secret"), 0);
        let total = count.total();
        assert_eq!((total.bytes, total.recorded, total.sha256), (6, 0, None));
    }
}
