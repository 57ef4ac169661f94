//! Stopping in order: signals become one [`CancellationToken`], and the service manager is told how it stands.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once with status 1, for whoever does
/// not want to wait for the drain.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(1);
            }
            tracing::info!("stopping");
            stop.cancel();
        }
    });
    Ok(token)
}

/// What the service manager is told (`sd_notify(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Every listener is up.
    Ready,
    /// The drain has begun.
    Stopping,
}

/// Sends `notice` to the socket named by `$NOTIFY_SOCKET`, which the caller read. A leading `@` names an abstract socket.
///
/// # Errors
/// When the address is not valid or nothing listens there. The caller logs it and goes on.
pub fn notify(socket: &Path, notice: Notice) -> io::Result<()> {
    let message: &[u8] = match notice {
        Notice::Ready => b"READY=1",
        Notice::Stopping => b"STOPPING=1",
    };
    let address = match socket.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_reaches_a_path_and_an_abstract_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("mezite-test-{}", crate::clock::uuid());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap(),
                format!("@{abstract_name}").into(),
            ),
        ];
        for (socket, name) in sockets {
            for (notice, expected) in [(Notice::Ready, "READY=1"), (Notice::Stopping, "STOPPING=1")] {
                notify(&name, notice).unwrap();
                let mut buffer = [0; 32];
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], expected.as_bytes());
            }
        }
    }

    #[test]
    fn nobody_listening_is_an_error_and_no_panic() {
        assert!(notify(Path::new("/nonexistent/notify"), Notice::Ready).is_err());
        assert!(notify(Path::new(""), Notice::Ready).is_err());
    }
}
