//! Sockets with the rights of the login user.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use mezite_session::{Ask, Command, Control, Place, Sockets, Starters, spawn};

use crate::support::{STARTER, User, until};

/// The helper of one user, as the agent holds it.
struct Helper {
    sockets: Option<Sockets>,
    control: UnixStream,
}

impl Helper {
    fn start(user: &User) -> Self {
        let running = spawn(&user.spec(Command::Sockets), &Starters::new(STARTER.into())).expect("spawn");
        let control = running.control;
        control.set_nonblocking(false).expect("blocking");
        control.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
        let mut first = [0; 1024];
        let count = loop {
            match (&control).read(&mut first) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other.expect("message"),
            }
        };
        let text = String::from_utf8_lossy(&first[..count]).into_owned();
        assert!(text.contains("started"), "{text}");
        (&control).write_all(&Control::Go.to_line()).expect("go");
        let sockets = Sockets::new(running.socket.expect("socket")).expect("sockets");
        Self { sockets: Some(sockets), control }
    }

    #[track_caller]
    fn ask(&mut self, ask: Ask) -> Result<(Place, Vec<OwnedFd>), String> {
        self.sockets.as_mut().expect("open").ask(&ask).expect("helper")
    }

    /// The agent goes.
    fn end(mut self) {
        self.sockets = None;
        drop(self.control);
    }
}

fn path(user: &User, name: &str) -> String {
    user.home().join(name).display().to_string()
}

#[test]
fn a_socket_is_the_users_alone_and_is_removed_at_the_end() {
    let Some(user) = User::create(&[]) else { return };
    let mut helper = Helper::start(&user);
    let at = path(&user, "s.sock");
    let (place, fds) = helper.ask(Ask::ListenAt(at.clone())).expect("listens");
    assert_eq!((place.path.as_str(), fds.len()), (at.as_str(), 1));
    let meta = fs::symlink_metadata(&at).expect("socket");
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (user.uid, 0o600));

    let listener = UnixListener::from(fds.into_iter().next().expect("listener"));
    let (_, fds) = helper.ask(Ask::Connect(at.clone())).expect("connects");
    let mut ours = UnixStream::from(fds.into_iter().next().expect("stream"));
    let mut theirs = until("a connection", || listener.accept().ok()).0;
    ours.write_all(b"x").expect("write");
    theirs.read_exact(&mut [0]).expect("read");

    let refused = helper.ask(Ask::ListenAt(at.clone())).expect_err("something is there");
    assert!(refused.contains("in use"), "{refused}");
    helper.ask(Ask::Remove(at.clone())).expect("removed");
    assert!(!Path::new(&at).exists());
    helper.ask(Ask::ListenAt(at.clone())).expect("again");
    let foreign = path(&user, "foreign");
    helper.ask(Ask::ListenAt(foreign.clone())).expect("another");
    fs::remove_file(&foreign).expect("remove");
    fs::write(&foreign, "somebody else's").expect("write");
    helper.end();
    until("the socket to be gone", || (!Path::new(&at).exists()).then_some(()));
    assert!(Path::new(&foreign).exists(), "what another put there is not ours to remove");
}

#[test]
fn what_the_user_may_not_reach_is_refused() {
    let Some(user) = User::create(&[]) else { return };
    let dir = tempfile::tempdir().expect("dir");
    let roots = dir.path().join("root.sock");
    let _listener = UnixListener::bind(&roots).expect("bind");
    let mut helper = Helper::start(&user);
    // First the way there is closed, then the socket itself.
    for mode in [0o700, 0o755] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("mode");
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).expect("mode");
        let refused = helper.ask(Ask::Connect(roots.display().to_string())).expect_err("is root's");
        assert!(refused.contains("Permission denied"), "{refused}");
    }
    let inside = dir.path().join("mine.sock").display().to_string();
    assert!(helper.ask(Ask::ListenAt(inside)).expect_err("is root's").contains("Permission denied"));
    let shadow = user.home().join("link");
    std::os::unix::fs::symlink(&roots, &shadow).expect("link");
    assert!(helper.ask(Ask::Connect(shadow.display().to_string())).is_err(), "through a link");
    for relative in ["s.sock", ""] {
        assert!(helper.ask(Ask::Connect(relative.to_owned())).is_err());
        assert!(helper.ask(Ask::ListenAt(relative.to_owned())).is_err());
    }
    assert!(helper.ask(Ask::Connect(format!("/{}", "x".repeat(5000)))).expect_err("long").contains("too long"));
    let refused = helper.ask(Ask::Listen(80)).expect_err("root's port");
    assert!(refused.contains("below 1024"), "{refused}");
}

#[test]
fn a_port_is_taken_on_loopback_only_and_only_if_it_is_free() {
    let Some(user) = User::create(&[]) else { return };
    let mut helper = Helper::start(&user);
    let (place, fds) = helper.ask(Ask::Listen(0)).expect("listens");
    assert_ne!(place.port, 0);
    for fd in &fds {
        let listener = TcpListener::from(fd.try_clone().expect("clone"));
        let address = listener.local_addr().expect("address");
        assert!(address.ip().is_loopback() && address.port() == place.port, "{address}");
    }
    TcpStream::connect(("127.0.0.1", place.port)).expect("connect");
    let refused = helper.ask(Ask::Listen(place.port)).expect_err("taken");
    assert!(refused.contains("in use"), "{refused}");
    drop(fds);
    helper.ask(Ask::Listen(place.port)).expect("free again");
}

#[test]
fn the_socket_for_keys_stands_in_a_directory_of_its_own() {
    let Some(user) = User::create(&[]) else { return };
    let mut helper = Helper::start(&user);
    let (place, _fds) = helper.ask(Ask::ListenForKeys).expect("listens");
    let directory = Path::new(&place.path).parent().expect("directory").to_path_buf();
    let meta = fs::symlink_metadata(&directory).expect("directory");
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (user.uid, 0o700));
    helper.end();
    until("the directory to be gone", || (!directory.exists()).then_some(()));
}

#[test]
fn a_full_queue_is_a_refusal_and_no_wait() {
    let Some(user) = User::create(&[]) else { return };
    let mut helper = Helper::start(&user);
    let at = path(&user, "full.sock");
    let (_, _listener) = helper.ask(Ask::ListenAt(at.clone())).expect("listens");
    let mut held = Vec::new();
    let refused = loop {
        match helper.ask(Ask::Connect(at.clone())) {
            Ok((_, fds)) => held.extend(fds),
            Err(refused) => break refused,
        }
        assert!(held.len() < 20_000);
    };
    assert!(refused.contains("too many wait there"), "{refused}");
}
