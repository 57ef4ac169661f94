//! The helper, in a process of the login user.
#![expect(unsafe_code, reason = "signal dispositions")]

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{geteuid, mkdtemp};

use super::{Answer, Ask, PACKET_MAX, Place};
use crate::descriptors;

/// Sockets in the file system that one helper keeps.
const MADE_MAX: usize = 64;
/// The first port that is not root's (IPPORT_RESERVED).
const FIRST_FREE_PORT: u16 = 1024;
/// How often a port that is free in both families is looked for.
const PORT_TRIES: usize = 16;
/// As sshd names it, so that what looks for such sockets finds ours.
const KEYS_DIRECTORY: &str = "/tmp/ssh-XXXXXXXXXX";

/// Serves the agent on standard input until it is gone.
pub(crate) fn serve() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    nix::sys::prctl::set_name(c"mezd-sockets")?;
    // The starter hangs up when the agent goes; what was made is removed first.
    for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: setting a disposition to "ignore" runs no code of ours.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    umask(Mode::from_bits_truncate(0o177));
    let agent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut made = Made::default();
    let mut packet = vec![0; PACKET_MAX];
    loop {
        let (count, _) = descriptors::receive(&agent, &mut packet)?;
        if count == 0 {
            return Ok(());
        }
        let ask = serde_json::from_slice(packet.get(..count).unwrap_or_default())?;
        let (answer, fds) = match made.serve(ask) {
            Ok((place, fds)) => (Answer::Done(place), fds),
            Err(reason) => (Answer::Refused(reason), Vec::new()),
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        descriptors::send(&agent, &serde_json::to_vec(&answer)?, &fds)?;
    }
}

type Opened = Result<(Place, Vec<OwnedFd>), String>;

/// What was made in the file system. Dropping it removes all of it.
#[derive(Default)]
struct Made(Vec<Entry>);

struct Entry {
    path: PathBuf,
    /// What lies there later may be somebody else's.
    file: File,
    directory: Option<PathBuf>,
}

/// Which file: the number of one that is gone is given again, so its time counts too. Use does not change it.
#[derive(PartialEq, Eq)]
struct File {
    device: u64,
    inode: u64,
    made: (i64, i64),
    is_socket: bool,
}

impl File {
    fn at(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        let made = (meta.mtime(), meta.mtime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), made, is_socket: meta.file_type().is_socket() })
    }
}

impl Made {
    fn serve(&mut self, ask: Ask) -> Opened {
        match ask {
            Ask::Connect(path) => connect_to(&path),
            Ask::ListenAt(path) => self.listen_at(path.into(), None),
            Ask::Listen(port) => listen(port),
            Ask::ListenForKeys => self.listen_for_keys(),
            Ask::Remove(path) => {
                self.0.retain(|entry| entry.path != Path::new(&path));
                Ok((Place::default(), Vec::new()))
            }
        }
    }

    fn listen_for_keys(&mut self) -> Opened {
        let directory = mkdtemp(KEYS_DIRECTORY).map_err(|e| format!("cannot make a directory under /tmp: {e}"))?;
        // The mask would take the right to enter away.
        let enter = fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let path = directory.join(format!("agent.{}", std::process::id()));
        let opened = enter.map_err(|e| e.to_string()).and_then(|()| self.listen_at(path, Some(directory.clone())));
        if opened.is_err() {
            let _ = fs::remove_dir(directory);
        }
        opened
    }

    fn listen_at(&mut self, path: PathBuf, directory: Option<PathBuf>) -> Opened {
        absolute(&path)?;
        if self.0.len() >= MADE_MAX {
            return Err(format!("more than {MADE_MAX} sockets of one connection"));
        }
        let failed = |error: io::Error| format!("cannot listen at {}: {error}", path.display());
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let file = File::at(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let place = Place { port: 0, path: path.display().to_string() };
        self.0.push(Entry { path, file, directory });
        Ok((place, vec![listener.into()]))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let still = File::at(&self.path).is_ok_and(|file| file == self.file);
        // What cannot be removed is left to its owner.
        if still {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn absolute(path: &Path) -> Result<(), String> {
    if path.is_absolute() { Ok(()) } else { Err(format!("{} is no absolute path", path.display())) }
}

fn connect_to(path: &str) -> Opened {
    absolute(Path::new(path))?;
    let failed = |error: Errno| match error {
        Errno::EAGAIN => format!("cannot connect to {path}: too many wait there"),
        error => format!("cannot connect to {path}: {}", io::Error::from(error)),
    };
    let address = UnixAddr::new(path).map_err(failed)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    connect(stream.as_raw_fd(), &address).map_err(failed)?;
    Ok((Place::default(), vec![stream]))
}

fn listen(port: u16) -> Opened {
    if port != 0 && port < FIRST_FREE_PORT && !geteuid().is_root() {
        return Err(format!("cannot listen on port {port}: ports below {FIRST_FREE_PORT} are root's"));
    }
    let mut last = Errno::EADDRINUSE.into();
    for _ in 0..if port == 0 { PORT_TRIES } else { 1 } {
        match listen_on_both(port) {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(format!("cannot listen on port {port}: {last}"))
}

/// On 127.0.0.1, and on ::1 where there is one. A port that another holds in either family is not taken: whoever connects to
/// `localhost` may try both.
fn listen_on_both(port: u16) -> io::Result<(Place, Vec<OwnedFd>)> {
    let bind = |ip: IpAddr, port| {
        let listener = TcpListener::bind(SocketAddr::new(ip, port))?;
        listener.set_nonblocking(true)?;
        Ok::<_, io::Error>(listener)
    };
    let first = bind(Ipv4Addr::LOCALHOST.into(), port)?;
    let port = first.local_addr()?.port();
    let mut fds = vec![first.into()];
    match bind(Ipv6Addr::LOCALHOST.into(), port) {
        Ok(second) => fds.push(second.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // A machine without IPv6.
        Err(_) => {}
    }
    Ok((Place { port, path: String::new() }, fds))
}
