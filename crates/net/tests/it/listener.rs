use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use mezite_net::dial::Dialer;
use mezite_net::http::{self, Options, Remote};
use mezite_net::listener::{Limits, Listener};
use mezite_net::tls::{ALPN_WEB, ClientAuth, ServerTls, Trust, client_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::ca::{Ca, PROXY};

const DRAIN: Duration = Duration::from_secs(60);

async fn bind(per_source: usize) -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0", Limits { per_source, total: 64 }).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Whether the peer closed the connection, waiting until it does.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn the_oldest_silent_connection_makes_room_and_authenticated_ones_stay() {
    let (listener, address) = bind(2).await;
    let stop = CancellationToken::new();
    let (accepted, mut accepts) = mpsc::channel(16);
    // `+` authenticates, anything is echoed.
    let running = tokio::spawn(listener.run(stop.clone(), DRAIN, move |mut conn| {
        let accepted = accepted.clone();
        async move {
            accepted.send(()).await.unwrap();
            while let Ok(byte) = conn.stream.read_u8().await {
                if byte == b'+' {
                    conn.admission.authenticated();
                }
                conn.stream.write_u8(byte).await.unwrap();
            }
        }
    }));
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(TcpStream::connect(address).await.unwrap());
        accepts.recv().await.unwrap();
        if streams.len() == 1 {
            streams[0].write_u8(b'+').await.unwrap();
            assert_eq!(streams[0].read_u8().await.unwrap(), b'+');
        }
    }
    let mut newcomer = TcpStream::connect(address).await.unwrap();
    accepts.recv().await.unwrap();

    assert!(is_closed(&mut streams[1]).await, "the oldest silent one");
    for stream in [&mut newcomer, &mut streams[2]] {
        stream.write_u8(b'x').await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
    streams[0].write_u8(b'y').await.unwrap();
    assert_eq!(streams[0].read_u8().await.unwrap(), b'y');
    stop.cancel();
    drop((streams, newcomer));
    running.await.unwrap();
}

#[tokio::test]
async fn a_handler_that_does_not_end_is_dropped_when_the_drain_is_over() {
    let (listener, address) = bind(2).await;
    let stop = CancellationToken::new();
    let (accepted, mut accepts) = mpsc::channel(1);
    let running = tokio::spawn(listener.run(stop.clone(), Duration::ZERO, move |conn| {
        let accepted = accepted.clone();
        async move {
            accepted.send(()).await.unwrap();
            std::future::pending::<()>().await;
            drop(conn);
        }
    }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    accepts.recv().await.unwrap();
    stop.cancel();
    running.await.unwrap();
    assert!(is_closed(&mut stream).await);
    assert!(TcpStream::connect(address).await.is_err());
}

struct Web {
    address: SocketAddr,
    ca: Ca,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

async fn web() -> Web {
    let (listener, address) = bind(64).await;
    let ca = Ca::new();
    let tls = ServerTls { identity: ca.identity(PROXY), clients: ClientAuth::None, alpn: ALPN_WEB, tls13_only: false };
    let whoami = |ConnectInfo(remote): ConnectInfo<Remote>| async move { remote.addr.to_string() };
    let app = Router::new().route("/whoami", get(whoami));
    let stop = CancellationToken::new();
    let options = Options { tls: Some(tls.build().unwrap()), bulk: false, drain: DRAIN };
    let running = tokio::spawn(http::serve(listener, app, options, stop.clone()));
    Web { address, ca, stop, running }
}

impl Web {
    async fn get(&self) -> String {
        let tls = client_config(Trust::Roots(self.ca.roots(), None), None, &[b"http/1.1"], true).unwrap();
        let dialer = Dialer::new(vec![format!("localhost:{}", self.address.port())], tls).unwrap();
        let mut stream = dialer.connect().await.unwrap();
        stream.write_all(b"GET /whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_web_request_knows_where_it_came_from() {
    let web = web().await;
    let answer = web.get().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\r\n\r\n127.0.0.1:"), "{answer}");
}

#[tokio::test]
async fn garbage_on_the_port_is_refused_and_others_are_served() {
    let web = web().await;
    for garbage in
        [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], &[0x16, 3, 1, 0xff, 0xff]]
    {
        let mut stream = TcpStream::connect(web.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        // It may send an alert, and then closes.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 64);
    }
    assert!(web.get().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_the_listener() {
    let web = web().await;
    let tls = client_config(Trust::Roots(web.ca.roots(), None), None, &[b"http/1.1"], true).unwrap();
    let dialer = Dialer::new(vec![format!("localhost:{}", web.address.port())], tls).unwrap();
    let mut stream = dialer.connect().await.unwrap();
    stream.write_all(b"GET /whoami HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    web.stop.cancel();
    web.running.await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(TcpStream::connect(web.address).await.is_err());
}

#[tokio::test]
async fn the_next_address_is_tried_and_the_last_failure_told() {
    let web = web().await;
    let closed = {
        let (listener, address) = bind(1).await;
        drop(listener);
        address
    };
    let tls = client_config(Trust::Roots(web.ca.roots(), None), None, ALPN_WEB, true).unwrap();
    let (dead, live) = (format!("localhost:{}", closed.port()), format!("localhost:{}", web.address.port()));
    let dialer = Dialer::new(vec![dead.clone(), live, dead.clone()], Arc::clone(&tls)).unwrap();
    dialer.connect().await.unwrap();
    let error = Dialer::new(vec![dead.clone()], tls).unwrap().connect().await.unwrap_err();
    assert!(error.to_string().contains(&dead), "{error}");
}

#[tokio::test]
async fn a_listed_balancer_names_its_client_and_nobody_else_does() {
    let (listener, address) = bind(1).await;
    let listener = listener.behind(vec!["127.0.0.1".parse().unwrap()]);
    let stop = CancellationToken::new();
    let (accepted, mut accepts) = mpsc::channel(16);
    let running = tokio::spawn(listener.run(stop.clone(), DRAIN, move |mut conn| {
        let accepted = accepted.clone();
        async move {
            accepted.send(conn.addr).await.unwrap();
            while let Ok(byte) = conn.stream.read_u8().await {
                conn.stream.write_u8(byte).await.unwrap();
            }
        }
    }));
    // More connections of one balancer than one source may have, of different clients; the byte after the header is theirs.
    let mut held = Vec::new();
    for last in 1..4 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("PROXY TCP4 192.0.2.{last} 10.0.0.1 5000 443\r\n+").as_bytes()).await.unwrap();
        assert_eq!(accepts.recv().await.unwrap().to_string(), format!("192.0.2.{last}:5000"));
        assert_eq!(stream.read_u8().await.unwrap(), b'+');
        held.push(stream);
    }
    // The named client is what is capped.
    let mut again = TcpStream::connect(address).await.unwrap();
    again.write_all(b"PROXY TCP4 192.0.2.1 10.0.0.1 5001 443\r\n").await.unwrap();
    accepts.recv().await.unwrap();
    assert!(is_closed(&mut held[0]).await, "the older one of the same client");
    // No header, or no whole one, gets nowhere.
    for bytes in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"PROXY TCP4 nonsense\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
    // A second header is data.
    let mut twice = TcpStream::connect(address).await.unwrap();
    twice.write_all(b"PROXY UNKNOWN\r\nPROXY TCP4 192.0.2.9 10.0.0.1 5001 443\r\n").await.unwrap();
    assert_eq!(accepts.recv().await.unwrap(), twice.local_addr().unwrap());
    assert_eq!(twice.read_u8().await.unwrap(), b'P');
    drop((held, again, twice));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn an_unlisted_peer_speaks_for_itself() {
    let (listener, address) = bind(16).await;
    let listener = listener.behind(vec!["192.0.2.0/24".parse().unwrap()]);
    let stop = CancellationToken::new();
    let (accepted, mut accepts) = mpsc::channel(16);
    let running = tokio::spawn(listener.run(stop.clone(), DRAIN, move |mut conn| {
        let accepted = accepted.clone();
        async move { accepted.send((conn.addr, conn.stream.read_u8().await.unwrap())).await.unwrap() }
    }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"PROXY TCP4 192.0.2.9 10.0.0.1 5001 443\r\n").await.unwrap();
    assert_eq!(accepts.recv().await.unwrap(), (stream.local_addr().unwrap(), b'P'));
    stop.cancel();
    running.await.unwrap();
}
