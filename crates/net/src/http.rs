//! One server for gRPC and web: HTTP/1.1 and HTTP/2 over TLS, or HTTP/1.1 in the clear for the diagnostics port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::listener::{Admission, Conn, Listener};
use crate::tls::{self, Peer};

/// How long a peer may take to send the head of a request, the first one or the next.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an HTTP/2 peer is asked whether it lives, and how long it may take to answer.
pub const KEEPALIVE: Duration = Duration::from_secs(20);
/// Most bytes of one HTTP/2 frame of a peer that moves bulk data: a whole chunk of a tunnel, so that it is written at once.
pub const BULK_FRAME: u32 = 128 * 1024;
/// Most bytes of request headers.
pub const MAX_HEADERS: u32 = 16 * 1024;

/// Who sent a request. It is an extension of every request: `request.extensions().get::<Remote>()` in a gRPC service,
/// `ConnectInfo<Remote>` or `Extension<Remote>` in a web handler.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The peer's address.
    pub addr: SocketAddr,
    /// The process that the client certificate names; `None` without one.
    pub peer: Option<Arc<Peer>>,
    admission: Admission,
}

impl Remote {
    /// Says that a request of this connection carried a good credential; see [`Admission::authenticated`]. Connections
    /// with a client certificate need no call.
    pub fn authenticated(&self) {
        self.admission.authenticated();
    }
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// `None` serves HTTP/1.1 in the clear.
    pub tls: Option<Arc<ServerConfig>>,
    /// Large flow-control windows for peers with a certificate, which move bulk data: up to 8 MiB in flight a connection.
    /// Peers without one get few streams and small windows.
    pub bulk: bool,
    /// How long requests in progress may take after the stop.
    pub drain: Duration,
}

/// Serves `app` until `stop`; then finishes requests in progress within [`Options::drain`]. Bodies are bounded by the
/// routes themselves, streams that never end watch `stop` themselves.
pub async fn serve(listener: Listener, app: Router, options: Options, stop: CancellationToken) {
    let drain = options.drain;
    let handle = |conn| connection(conn, app.clone(), options.clone(), stop.clone());
    listener.run(stop.clone(), drain, handle).await;
}

async fn connection(conn: Conn, app: Router, options: Options, stop: CancellationToken) {
    let Conn { stream, addr, admission } = conn;
    let Some(tls) = options.tls else {
        let remote = Remote { addr, peer: None, admission };
        return http(stream, builder(false, &SMALL), app, remote, stop).await;
    };
    match tls::accept(stream, tls).await {
        Ok((stream, peer)) => {
            if peer.is_some() {
                admission.authenticated();
            }
            let room = match (options.bulk, &peer) {
                (false, _) => &SMALL,
                (true, Some(_)) => &BULK,
                (true, None) => &STRANGER,
            };
            let remote = Remote { addr, peer: peer.map(Arc::new), admission };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            http(stream, builder(http2, room), app, remote, stop).await;
        }
        Err(error) => tracing::debug!(%addr, %error, "connection refused"),
    }
}

/// What one HTTP/2 connection may fill.
struct Room {
    stream_window: u32,
    connection_window: u32,
    streams: u32,
    frame: Option<u32>,
}

const BULK: Room = Room { stream_window: 2 << 20, connection_window: 8 << 20, streams: 4096, frame: Some(BULK_FRAME) };
const SMALL: Room = Room { stream_window: 512 << 10, connection_window: 1 << 20, streams: 128, frame: None };
const STRANGER: Room = Room { streams: 16, ..SMALL };

fn builder(http2: bool, room: &Room) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(room.streams)
        .initial_stream_window_size(room.stream_window)
        .initial_connection_window_size(room.connection_window)
        .max_frame_size(room.frame);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

async fn http<S>(io: S, builder: Builder<TokioExecutor>, app: Router, remote: Remote, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let addr = remote.addr;
    let spoke = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let spoke = Arc::clone(&spoke);
        move |mut request: Request<Incoming>| {
            spoke.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(remote.clone());
            request.extensions_mut().insert(ConnectInfo(remote.clone()));
            let answer = app.clone().oneshot(request);
            async move { Ok::<Response, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        }
    });
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    // HTTP/2 has no timer of its own before the first request.
    let mut silence = pin!(tokio::time::sleep(HEADER_TIMEOUT));
    let (mut waiting, mut stopping) = (true, false);
    let result = loop {
        tokio::select! {
            result = serving.as_mut() => break result,
            () = silence.as_mut(), if waiting => {
                waiting = false;
                if !spoke.load(Ordering::Relaxed) {
                    tracing::debug!(%addr, "no request came in time");
                    return;
                }
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%addr, %error, "connection ended");
    }
}
