//! Connections from the node: `direct-tcpip` (RFC 4254 section 7.2) and `direct-streamlocal@openssh.com`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mezite_net::ssh::{ChannelOpen, ChannelRequest, OpenFailure};
use mezite_session::Ask;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::{Forwards, What, offered, relay};

/// How long looking a name up and connecting may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 16;

/// Why a connection does not come about.
enum Refusal {
    /// It is not granted.
    Denied(What, String),
    /// Its user may not be here at all; the connection is about to end.
    NotHere(String),
    /// There is nobody to connect to.
    Failed(String),
}

/// Answers one request of the client, in a task of its own.
pub(super) fn open(forwards: &Arc<Forwards>, request: ChannelRequest) {
    let Ok(slot) = Arc::clone(&forwards.slots).try_acquire_owned() else {
        return request.reject(OpenFailure::ResourceShortage, "too many forwarded connections");
    };
    let (forwards, settled) = (Arc::clone(forwards), forwards.settled());
    tokio::spawn(async move {
        let run = async {
            settled.await;
            match request.open.clone() {
                ChannelOpen::DirectTcpip { host, port, .. } => tcp(&forwards, request, host, port).await,
                ChannelOpen::DirectStreamlocal { path } => socket(&forwards, request, path).await,
                _ => request.reject(OpenFailure::UnknownChannelType, "this kind of channel is not offered"),
            }
        };
        tokio::select! {
            () = run => {}
            () = forwards.closed.cancelled() => {}
        }
        drop(slot);
    });
}

async fn tcp(forwards: &Forwards, request: ChannelRequest, host: String, port: u16) {
    match connect(forwards, &host, port).await {
        Ok((what, stream)) => {
            forwards.began(&what);
            let _ = stream.set_nodelay(true);
            let relayed = relay::relay(request.accept(), stream, &forwards.activity);
            forwards.guard(&what, relayed).await;
        }
        Err(refusal) => refuse(forwards, request, refusal),
    }
}

/// The name is looked up once, and only addresses that are granted are connected to.
async fn connect(forwards: &Forwards, host: &str, port: u16) -> Result<(What, TcpStream), Refusal> {
    let at = |address: IpAddr| What::Tcp { host: host.to_owned(), address, port };
    let permit = forwards.admitted.permit_to_begin().map_err(Refusal::NotHere)?;
    offered(&permit).map_err(|reason| Refusal::Denied(at(IpAddr::from([0; 4])), reason))?;
    forwards.helpers.prove().await.map_err(Refusal::NotHere)?;
    let connecting = async {
        let found = lookup_host((host, port)).await.map_err(|e| Refusal::Failed(e.to_string()))?;
        let (mut denied, mut failed) = (None, None);
        for address in found.take(MAX_ADDRESSES) {
            let address = SocketAddr::new(address.ip().to_canonical(), port);
            let what = at(address.ip());
            if let Err(reason) = forwards.may(&what) {
                denied = Some(Refusal::Denied(what, reason));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok((what, stream)),
                Err(error) => failed = Some(Refusal::Failed(error.to_string())),
            }
        }
        Err(failed.or(denied).unwrap_or_else(|| Refusal::Failed("the name has no address".to_owned())))
    };
    let late = || Err(Refusal::Failed("the target did not answer in time".to_owned()));
    timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| late())
}

async fn socket(forwards: &Forwards, request: ChannelRequest, path: String) {
    let what = What::Socket(path);
    match connect_socket(forwards, &what).await {
        Ok(stream) => {
            forwards.began(&what);
            let relayed = relay::relay(request.accept(), stream, &forwards.activity);
            forwards.guard(&what, relayed).await;
        }
        Err(refusal) => refuse(forwards, request, refusal),
    }
}

async fn connect_socket(forwards: &Forwards, what: &What) -> Result<UnixStream, Refusal> {
    let denied = |reason| Refusal::Denied(what.clone(), reason);
    forwards.admitted.permit_to_begin().map_err(Refusal::NotHere)?;
    forwards.may(what).map_err(denied)?;
    forwards.helpers.prove().await.map_err(Refusal::NotHere)?;
    let What::Socket(path) = what else { return Err(Refusal::Failed("no socket was asked for".to_owned())) };
    let (_, fds) = forwards.helpers.ask(Ask::Connect(path.clone())).await.map_err(Refusal::Failed)?;
    let fd = fds.into_iter().next().ok_or_else(|| Refusal::Failed("the helper gave no socket".to_owned()))?;
    UnixStream::from_std(fd.into()).map_err(|e| Refusal::Failed(e.to_string()))
}

fn refuse(forwards: &Forwards, request: ChannelRequest, refusal: Refusal) {
    match refusal {
        Refusal::Denied(what, reason) => {
            forwards.refused(&what, &reason);
            request.reject(OpenFailure::AdministrativelyProhibited, &reason);
        }
        Refusal::NotHere(reason) => request.reject(OpenFailure::AdministrativelyProhibited, &reason),
        Refusal::Failed(reason) => request.reject(OpenFailure::ConnectFailed, &reason),
    }
}
