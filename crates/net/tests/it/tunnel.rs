use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use mezite_net::dial::{DialError, Dialer};
use mezite_net::http::{self, Options, Remote};
use mezite_net::listener::{Limits, Listener};
use mezite_net::rpc;
use mezite_net::tls::{ALPN_H2, ClientAuth, PeerRole, Trust, client_config};
use mezite_net::tunnel::{TunnelStream, queue};
use mezite_proto::v1::tunnel_client::TunnelClient;
use mezite_proto::v1::tunnel_server::{Tunnel, TunnelServer};
use mezite_proto::v1::{ControlDown, ControlUp, TunnelChunk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::ca::{AGENT, Ca};

type Replies<T> = futures_util::stream::BoxStream<'static, Result<T, Status>>;

/// Hands the server's end of each call to the test.
struct Server {
    streams: mpsc::Sender<(Remote, String, TunnelStream)>,
}

#[tonic::async_trait]
impl Tunnel for Server {
    type ControlStream = Replies<ControlDown>;
    type DialStream = Replies<TunnelChunk>;

    async fn control(&self, _: Request<Streaming<ControlUp>>) -> Result<Response<Self::ControlStream>, Status> {
        Err(Status::unimplemented("not tested"))
    }

    async fn dial(&self, request: Request<Streaming<TunnelChunk>>) -> Result<Response<Self::DialStream>, Status> {
        let remote = request.extensions().get::<Remote>().cloned().unwrap();
        let id = request.metadata().get(rpc::DIAL_ID).unwrap().to_str().unwrap().to_owned();
        let (sender, receiver) = queue();
        let stream = TunnelStream::new(request.into_inner(), sender);
        self.streams.send((remote, id, stream)).await.unwrap();
        Ok(Response::new(ReceiverStream::new(receiver).map(Ok).boxed()))
    }
}

struct Hub {
    channel: Channel,
    calls: Mutex<mpsc::Receiver<(Remote, String, TunnelStream)>>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

async fn hub() -> Hub {
    let ca = Ca::new();
    let listener = Listener::bind("127.0.0.1:0", Limits::default()).await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (streams, calls) = mpsc::channel(1);
    let app = rpc::router(Routes::new(TunnelServer::new(Server { streams })));
    let options =
        Options { tls: Some(ca.server(ClientAuth::Required(ca.roots()))), bulk: true, drain: Duration::from_secs(60) };
    let stop = CancellationToken::new();
    let running = tokio::spawn(http::serve(listener, app, options, stop.clone()));
    let trust = Trust::Roots(ca.roots(), Some(PeerRole::Proxy));
    let tls = client_config(trust, Some(ca.identity(AGENT)), ALPN_H2, true).unwrap();
    let channel = rpc::connect(Dialer::new(vec![address], tls).unwrap()).await.unwrap();
    Hub { channel, calls: Mutex::new(calls), stop, running }
}

/// A service at a free port; it ends with the test.
async fn serve(ca: &Ca, clients: ClientAuth) -> String {
    let listener = Listener::bind("127.0.0.1:0", Limits::default()).await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (streams, _) = mpsc::channel(1);
    let app = rpc::router(Routes::new(TunnelServer::new(Server { streams })));
    let options = Options { tls: Some(ca.server(clients)), bulk: true, drain: Duration::ZERO };
    tokio::spawn(http::serve(listener, app, options, CancellationToken::new()));
    address
}

#[tokio::test]
async fn a_door_that_wants_a_certificate_is_told_from_one_that_does_not() {
    let ca = Ca::new();
    let tls = client_config(Trust::Roots(ca.roots(), None), None, ALPN_H2, true).unwrap();
    for (clients, demands) in [(ClientAuth::Required(ca.roots()), true), (ClientAuth::Optional(ca.roots()), false)] {
        let dialer = Dialer::new(vec![serve(&ca, clients).await], Arc::clone(&tls)).unwrap();
        assert_eq!(dialer.demands_certificate().await.unwrap(), demands);
    }
}

/// What each stream sends is held in memory: without a certificate there are few.
#[tokio::test]
async fn a_stranger_at_a_bulk_port_gets_few_streams() {
    let ca = Ca::new();
    let address = serve(&ca, ClientAuth::Optional(ca.roots())).await;
    for (identity, expected) in [(None, 16), (Some(ca.identity(AGENT)), 4096)] {
        let tls = client_config(Trust::Roots(ca.roots(), None), identity, ALPN_H2, true).unwrap();
        let mut stream = Dialer::new(vec![address.clone()], tls).unwrap().connect().await.unwrap();
        // The preface and empty settings (RFC 9113 section 3.4); the server's settings come first.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4, "{head:?}");
        let mut settings = vec![0; usize::from(head[2])];
        stream.read_exact(&mut settings).await.unwrap();
        let most = settings.chunks(6).find(|entry| entry[..2] == [0, 3]).map(|entry| entry[2..].to_vec());
        assert_eq!(most, Some(u32::to_be_bytes(expected).to_vec()));
    }
}

impl Hub {
    /// Both ends of one call: the agent's, and the hub's.
    async fn call(&self) -> (TunnelStream, TunnelStream) {
        let (sender, receiver) = queue();
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert(rpc::DIAL_ID, "dial-7".parse().unwrap());
        let mut client = TunnelClient::new(self.channel.clone());
        let incoming = client.dial(request).await.unwrap().into_inner();
        let (remote, id, theirs) = self.calls.lock().unwrap().try_recv().unwrap();
        assert_eq!(id, "dial-7");
        assert_eq!(remote.peer.unwrap().id, "node-1");
        (TunnelStream::new(incoming, sender), theirs)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_data_comes_back_whole_and_little_is_in_flight() {
    const TOTAL: u64 = 64 << 20;
    /// Both directions' windows, HTTP/2's send buffers and the queues.
    const IN_FLIGHT: u64 = 16 << 20;
    let hub = hub().await;
    let (ours, theirs) = hub.call().await;
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(theirs);
        tokio::io::copy_buf(&mut tokio::io::BufReader::with_capacity(1 << 16, &mut read), &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let (mut read, mut write) = tokio::io::split(ours);
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let writing = tokio::spawn(async move {
        let block: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_be_bytes).collect();
        for _ in 0..TOTAL / block.len() as u64 {
            for part in block.chunks(1 << 16) {
                write.write_all(part).await.unwrap();
                counter.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
        }
        write.shutdown().await.unwrap();
    });
    // A slow reader: small pieces, and everybody else first.
    let (mut total, mut buffer) = (0_u64, vec![0; 4096]);
    loop {
        tokio::task::yield_now().await;
        let ahead = written.load(Ordering::Relaxed).saturating_sub(total);
        assert!(ahead <= IN_FLIGHT, "{ahead} bytes in flight");
        let length = read.read(&mut buffer).await.unwrap();
        if length == 0 {
            break;
        }
        for (at, byte) in (total..).zip(&buffer[..length]) {
            let word = u32::try_from(at / 4 % (1 << 18)).unwrap();
            assert_eq!(*byte, word.to_be_bytes()[usize::try_from(at % 4).unwrap()], "at {at}");
        }
        total += length as u64;
    }
    assert_eq!(total, TOTAL);
    writing.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn either_side_may_end_its_direction_and_go_on_reading() {
    let hub = hub().await;
    let (mut ours, mut theirs) = hub.call().await;
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    text.clear();
    ours.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");

    let (mut ours, mut theirs) = hub.call().await;
    theirs.write_all(b"first").await.unwrap();
    theirs.shutdown().await.unwrap();
    text.clear();
    ours.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "first");
    ours.write_all(b"second").await.unwrap();
    ours.shutdown().await.unwrap();
    text.clear();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "second");
}

#[tokio::test]
async fn an_end_that_is_dropped_is_noticed_at_the_other() {
    let hub = hub().await;
    let (mut ours, theirs) = hub.call().await;
    drop(theirs);
    assert!(matches!(ours.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    let (ours, mut theirs) = hub.call().await;
    drop(ours);
    assert!(matches!(theirs.read(&mut [0; 1]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn stopping_waits_for_calls_in_progress() {
    let hub = hub().await;
    let (mut ours, mut theirs) = hub.call().await;
    hub.stop.cancel();
    ours.write_all(b"late").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut text = String::new();
    theirs.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "late");
    drop((ours, theirs));
    hub.running.await.unwrap();
}

#[tokio::test]
async fn a_server_without_http2_is_none_of_ours() {
    let ca = Ca::new();
    let listener = Listener::bind("127.0.0.1:0", Limits::default()).await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let mut server = (*ca.server(ClientAuth::None)).clone();
    server.alpn_protocols.clear();
    let options = Options { tls: Some(Arc::new(server)), bulk: false, drain: Duration::ZERO };
    tokio::spawn(http::serve(listener, axum::Router::new(), options, CancellationToken::new()));
    let tls = client_config(Trust::Roots(ca.roots(), None), None, ALPN_H2, true).unwrap();
    let error = rpc::connect(Dialer::new(vec![address], tls).unwrap()).await.unwrap_err();
    assert!(matches!(error, DialError::NotHttp2 { .. }), "{error}");
}
