//! Listeners on the node: `tcpip-forward` (RFC 4254 section 7.1), `streamlocal-forward@openssh.com` (OpenSSH PROTOCOL section
//! 2.4), and the socket of the user's key agent (`auth-agent-req@openssh.com`).
//!
//! A port is listened on at the loopback addresses only, whatever address was asked for, as sshd does without `GatewayPorts`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use mezite_net::ssh::{ChannelOpen, ForwardRequest, GlobalRequest};
use mezite_session::{Ask, Place};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Forwards, MAX_LISTENERS, What, relay};

/// How long the client may take to say whether it takes a connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connection listens on.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    open: Mutex<HashMap<Name, CancellationToken>>,
    /// Path of the key agent's socket, once there is one.
    keys: tokio::sync::Mutex<Option<String>>,
}

/// What the client calls a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Tcp { host: String, port: u16 },
    Socket(String),
    Keys,
}

impl Name {
    /// The channel in which the client gets a connection.
    fn channel(&self, origin: Option<SocketAddr>) -> ChannelOpen {
        match self {
            Self::Tcp { host, port } => ChannelOpen::ForwardedTcpip {
                host: host.clone(),
                port: *port,
                origin_host: origin.map(|origin| origin.ip().to_string()).unwrap_or_default(),
                origin_port: origin.map_or(0, |origin| origin.port()),
            },
            Self::Socket(path) => ChannelOpen::ForwardedStreamlocal { path: path.clone() },
            Self::Keys => ChannelOpen::Agent,
        }
    }
}

impl Remotes {
    fn open(&self) -> MutexGuard<'_, HashMap<Name, CancellationToken>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self) -> bool {
        self.open().len() >= MAX_LISTENERS
    }
}

/// Answers the client's global requests in their order, for as long as the connection lives.
pub(super) async fn answer(forwards: Weak<Forwards>, mut queue: mpsc::Receiver<GlobalRequest>) {
    while let Some(request) = queue.recv().await {
        let Some(forwards) = forwards.upgrade() else { return };
        let answer = match ForwardRequest::parse(&request.name, &request.data) {
            Ok(Some(asked)) => tokio::select! {
                answer = serve(&forwards, asked) => answer,
                () = forwards.closed.cancelled() => return,
            },
            Ok(None) | Err(_) => None,
        };
        request.reply(answer);
        forwards.answered.send_modify(|answered| *answered += 1);
    }
}

async fn serve(forwards: &Arc<Forwards>, asked: ForwardRequest) -> Option<Bytes> {
    match asked {
        ForwardRequest::Listen { host, port } => {
            let what = What::Port(port);
            let (place, fds) = listen(forwards, &what, Ask::Listen(port)).await?;
            begin(forwards, &what, Name::Tcp { host, port: place.port }, fds, false)?;
            Some(ForwardRequest::answer(port, place.port))
        }
        ForwardRequest::ListenAt { path } => {
            let what = What::Path(path.clone());
            let (_, fds) = listen(forwards, &what, Ask::ListenAt(path.clone())).await?;
            begin(forwards, &what, Name::Socket(path), fds, true)?;
            Some(Bytes::new())
        }
        ForwardRequest::Cancel { host, port } => cancel(forwards, &Name::Tcp { host, port }).await,
        ForwardRequest::CancelAt { path } => cancel(forwards, &Name::Socket(path)).await,
    }
}

/// Decides, and has the helper listen.
async fn listen(forwards: &Forwards, what: &What, ask: Ask) -> Option<(Place, Vec<OwnedFd>)> {
    forwards.admitted.permit_to_begin().ok()?;
    if let Err(reason) = forwards.may(what) {
        forwards.refused(what, &reason);
        return None;
    }
    if forwards.remotes.is_full() {
        return None;
    }
    match forwards.helpers.ask(ask).await {
        Ok(opened) => Some(opened),
        Err(reason) => {
            tracing::info!(user = forwards.admitted.identity.user, %what, reason, "a remote forward failed");
            None
        }
    }
}

/// Takes connections from now on; `None` if the listener cannot be used.
fn begin(forwards: &Arc<Forwards>, what: &What, name: Name, fds: Vec<OwnedFd>, is_unix: bool) -> Option<()> {
    let listeners: io::Result<Vec<Listener>> = fds.into_iter().map(|fd| Listener::new(fd, is_unix)).collect();
    let listeners = listeners.ok().filter(|listeners| !listeners.is_empty())?;
    if !matches!(what, What::Keys) {
        forwards.began(what);
    }
    let stop = forwards.closed.child_token();
    forwards.remotes.open().insert(name.clone(), stop.clone());
    let (forwards, what) = (Arc::clone(forwards), what.clone());
    tokio::spawn(async move {
        let accepting = async {
            let mut tasks = tokio::task::JoinSet::new();
            for listener in listeners {
                tasks.spawn(accept(Arc::clone(&forwards), listener, what.clone(), name.clone()));
            }
            tasks.join_all().await;
        };
        tokio::select! {
            () = forwards.guard(&what, accepting) => {}
            () = stop.cancelled() => {}
        }
        forget(&forwards, &name).await;
    });
    Some(())
}

/// The listener ends; its socket is removed. What came in through it goes on.
async fn cancel(forwards: &Forwards, name: &Name) -> Option<Bytes> {
    let stop = forwards.remotes.open().remove(name)?;
    stop.cancel();
    remove(forwards, name).await;
    Some(Bytes::new())
}

async fn forget(forwards: &Forwards, name: &Name) {
    let was_open = forwards.remotes.open().remove(name).is_some();
    if was_open && !forwards.closed.is_cancelled() {
        remove(forwards, name).await;
    }
}

async fn remove(forwards: &Forwards, name: &Name) {
    let path = match name {
        Name::Tcp { .. } => None,
        Name::Socket(path) => Some(path.clone()),
        Name::Keys => forwards.remotes.keys.lock().await.take(),
    };
    if let Some(path) = path {
        forwards.helpers.remove(path).await;
    }
}

/// The path of the key agent's socket, made when first asked for.
pub(super) async fn keys(forwards: &Arc<Forwards>) -> Result<String, String> {
    if !forwards.admitted.permit_to_begin()?.agent_forwarding() {
        return Err("no role allows agent forwarding".to_owned());
    }
    let mut keys = forwards.remotes.keys.lock().await;
    if let Some(path) = &*keys {
        return Ok(path.clone());
    }
    let (place, fds) = forwards.helpers.ask(Ask::ListenForKeys).await?;
    begin(forwards, &What::Keys, Name::Keys, fds, true).ok_or("the socket of the key agent cannot be used")?;
    *keys = Some(place.path.clone());
    Ok(place.path)
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    fn new(fd: OwnedFd, is_unix: bool) -> io::Result<Self> {
        Ok(match is_unix {
            true => Self::Unix(UnixListener::from_std(fd.into())?),
            false => Self::Tcp(TcpListener::from_std(fd.into())?),
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, origin)| Stream::Tcp(stream, origin)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Takes connections for ever. Without a free place they wait here and in the listener's queue.
async fn accept(forwards: Arc<Forwards>, listener: Listener, what: What, name: Name) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let Ok(slot) = Arc::clone(&forwards.slots).acquire_owned().await else { return };
                let (forwards, what, name) = (Arc::clone(&forwards), what.clone(), name.clone());
                tokio::spawn(async move {
                    forwards.guard(&what, hand_over(&forwards, stream, &name)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting for a remote forward fails");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Gives the client a connection that came in. One that it does not take is closed.
async fn hand_over(forwards: &Forwards, stream: Stream, name: &Name) {
    let origin = match &stream {
        Stream::Tcp(_, origin) => Some(*origin),
        Stream::Unix(_) => None,
    };
    let opening = forwards.connection.open(name.channel(origin));
    let Ok(Ok(channel)) = timeout(OPEN_TIMEOUT, opening).await else { return };
    match stream {
        Stream::Tcp(stream, _) => {
            let _ = stream.set_nodelay(true);
            relay::relay(channel, stream, &forwards.activity).await;
        }
        Stream::Unix(stream) => relay::relay(channel, stream, &forwards.activity).await,
    }
}
