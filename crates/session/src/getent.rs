//! Runs `getent` and reads its answer, bounded in time and size.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::users::LookupError;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Room for 65,536 group ids.
const OUTPUT_MAX: usize = 1 << 20;
/// Fixed places: no search path decides which program answers for root.
const PLACES: [&str; 2] = ["/usr/bin/getent", "/bin/getent"];

pub(crate) enum Answer {
    Found(Vec<u8>),
    Unknown,
    /// No `getent` here, or one that does not know the database (musl).
    NoSuchDatabase,
}

/// Asks `getent` for `key`, which must not begin with `-` (some implementations know no `--`).
pub(crate) fn ask(database: &'static str, key: &str) -> Result<Answer, LookupError> {
    let failed = |error| LookupError::Io { what: "getent", error };
    let Some(mut child) = start(database, key).map_err(failed)? else { return Ok(Answer::NoSuchDatabase) };
    let deadline = Instant::now() + TIMEOUT;
    let answer = child.stdout.take().map_or(Ok(Vec::new()), |out| read(out, deadline));
    let ended = answer.and_then(|output| Ok((output, wait(&mut child, deadline)?)));
    let (output, status) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            // Already gone is as good as killed.
            let _ = child.kill();
            let _ = child.wait();
            return Err(if error.kind() == io::ErrorKind::TimedOut {
                LookupError::TimedOut(database)
            } else {
                failed(error)
            });
        }
    };
    match status.code() {
        Some(0) => Ok(Answer::Found(output)),
        Some(1) => Ok(Answer::NoSuchDatabase),
        Some(2) => Ok(Answer::Unknown),
        _ => Err(LookupError::Failed { database, status: status.to_string() }),
    }
}

fn start(database: &str, key: &str) -> io::Result<Option<Child>> {
    for place in PLACES {
        let child = Command::new(place)
            .args([database, key])
            .env_clear()
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => return Ok(Some(child)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn read(mut out: ChildStdout, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut output, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let count = out.read(&mut chunk)?;
        if count == 0 {
            return Ok(output);
        }
        output.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if output.len() > OUTPUT_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is larger than 1 MiB"));
        }
    }
}

/// The output is closed, so the process is about to end; a short poll is simpler than a descriptor for it.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
