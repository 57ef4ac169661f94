//! Both ends of the driver, with a narrow wire between them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use mezite_net::ssh::{
    Channel, ChannelEvent, ChannelOpen, ClientConfig, CloseReason, ConnectError, Connection, DisconnectReason, Event,
    Incoming, OpenError, OpenFailure, RequestError, SessionRequest, accept, connect,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    cluster::{Cluster, USER, now_unix},
    server::{CODE, Rules, serve},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("hangs")
}

fn client_config(cluster: &Cluster) -> ClientConfig {
    ClientConfig::new(USER, Some(cluster.identity()), cluster.trust(), now_unix())
}

/// A client logged in, and the server's end for the test to play.
async fn pair() -> (Connection, Incoming, Connection, Incoming) {
    let cluster = Cluster::new();
    let (near, far) = duplex(1000);
    let (server, mut incoming) = accept(far, Arc::new(cluster.server_config())).await;
    let deciding = async {
        loop {
            match incoming.next().await {
                Some(Event::Auth(request)) => request.accept(),
                Some(Event::Authenticated { user }) => break assert_eq!(user, USER),
                other => panic!("{other:?}"),
            }
        }
    };
    let (client, ()) = within(futures_util::future::join(connect(near, client_config(&cluster)), deciding)).await;
    let (client, client_incoming) = client.unwrap();
    assert_eq!(client.session_id(), server.session_id());
    (client, client_incoming, server, incoming)
}

async fn channel(client: &Connection, incoming: &mut Incoming) -> (Channel, Channel) {
    let accepting = async {
        match incoming.next().await {
            Some(Event::Channel(request)) => request.accept(),
            other => panic!("{other:?}"),
        }
    };
    let (near, far) = within(futures_util::future::join(client.open(ChannelOpen::Session), accepting)).await;
    (near.unwrap(), far)
}

/// The test server at one end of a wire; the other end is returned.
async fn served(cluster: &Cluster, second_factor: bool) -> DuplexStream {
    let (near, far) = duplex(1000);
    let (connection, incoming) = accept(far, Arc::new(cluster.server_config())).await;
    tokio::spawn(serve(connection, incoming, Rules { user_ca: cluster.user_ca.public(), second_factor }));
    near
}

#[tokio::test]
async fn a_command_runs() {
    let cluster = Cluster::new();
    let (client, _) = within(connect(served(&cluster, false).await, client_config(&cluster))).await.unwrap();
    let mut channel = within(client.open(ChannelOpen::Session)).await.unwrap();
    let exec = SessionRequest::Exec(b"cat; echo err >&2; exit 3".to_vec());
    // The data follows the request without waiting for its answer.
    let writer = channel.writer().clone();
    let (started, sent) =
        tokio::join!(writer.request(exec.name(), exec.payload()), writer.data(Bytes::from_static(b"in")));
    assert_eq!((started, sent), (Ok(true), Ok(())));
    writer.eof();
    let (mut out, mut err, mut status) = (Vec::new(), Vec::new(), None);
    while let Some(event) = within(channel.recv()).await {
        match event {
            ChannelEvent::Data(data) => out.extend_from_slice(&data),
            ChannelEvent::Extended(1, data) => err.extend_from_slice(&data),
            ChannelEvent::Request(request) => status = Some(request.request.clone()),
            _ => {}
        }
    }
    assert_eq!((out.as_slice(), err.as_slice()), (b"in".as_slice(), b"err\n".as_slice()));
    assert_eq!(status, Some(SessionRequest::ExitStatus(3)));
}

#[tokio::test]
async fn streams_carry_bulk_both_ways() {
    let (client, _ci, _server, mut incoming) = pair().await;
    let (near, far) = channel(&client, &mut incoming).await;
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(far.into_stream());
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let (mut reader, mut writer) = tokio::io::split(near.into_stream());
    let sent: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&copy).await.unwrap();
        writer.shutdown().await.unwrap();
        // Dropping the half earlier would close the channel before all came back.
        writer
    });
    let mut got = Vec::new();
    within(reader.read_to_end(&mut got)).await.unwrap();
    assert!(got == sent);
    drop(writing.await);
}

#[tokio::test]
async fn dropping_a_channel_closes_it() {
    let (client, _ci, _server, mut incoming) = pair().await;
    let (near, mut far) = channel(&client, &mut incoming).await;
    let (reader, writer) = near.split();
    drop(reader);
    writer.data(Bytes::from_static(b"last words")).await.unwrap();
    drop(writer);
    assert!(matches!(within(far.recv()).await, Some(ChannelEvent::Data(data)) if data == "last words"));
    assert!(within(far.recv()).await.is_none());
    assert!(within(far.writer().data(Bytes::from_static(b"to nobody"))).await.is_err());
}

#[tokio::test]
async fn dropping_every_handle_closes_the_connection() {
    let (client, client_incoming, server, mut incoming) = pair().await;
    let (near, _far) = channel(&client, &mut incoming).await;
    drop((client, client_incoming));
    // The channel is a handle too.
    assert!(server.close_reason().is_none());
    near.writer().data(Bytes::from_static(b"still here")).await.unwrap();
    drop(near);
    let reason = within(server.closed()).await;
    assert!(matches!(reason, CloseReason::Peer { reason: DisconnectReason::ByApplication, .. }), "{reason:?}");
    assert!(within(incoming.next()).await.is_none());
}

#[tokio::test]
async fn what_is_dropped_undecided_is_refused() {
    let (client, _ci, _server, mut incoming) = pair().await;
    let dropping = async {
        for _ in 0..2 {
            drop(incoming.next().await);
        }
        incoming
    };
    let asking = async {
        let open = client.open(ChannelOpen::Session).await;
        assert!(matches!(open, Err(OpenError::Refused { failure: OpenFailure::AdministrativelyProhibited, .. })));
        assert_eq!(client.global_request("x@mezite", Bytes::new()).await, Err(RequestError::Refused));
    };
    let (incoming, ()) = within(futures_util::future::join(dropping, asking)).await;
    // And the same when nobody listens at all.
    drop(incoming);
    assert!(matches!(within(client.open(ChannelOpen::Session)).await, Err(OpenError::Refused { .. })));
    assert_eq!(within(client.global_request("x@mezite", Bytes::new())).await, Err(RequestError::Refused));
}

#[tokio::test]
async fn a_login_nobody_decides_is_refused() {
    let cluster = Cluster::new();
    let (near, far) = duplex(1000);
    let (_server, incoming) = accept(far, Arc::new(cluster.server_config())).await;
    drop(incoming);
    let denied = within(connect(near, client_config(&cluster))).await;
    assert!(matches!(denied, Err(ConnectError::Denied { .. })));
}

#[tokio::test]
async fn answers_find_their_questions() {
    let (client, _ci, _server, mut incoming) = pair().await;
    let answering = async {
        let mut held = Vec::new();
        for _ in 0..3 {
            let Some(Event::Global(request)) = incoming.next().await else { panic!() };
            held.push(request);
        }
        // Answered in another order than asked.
        for request in held.into_iter().rev() {
            let data = request.data.clone();
            request.reply((request_number(&data) != 1).then_some(data));
        }
    };
    let asking = futures_util::future::join_all(
        (0..3u8).map(|n| client.global_request("n@mezite", Bytes::copy_from_slice(&[n]))),
    );
    let ((), answers) = within(futures_util::future::join(answering, asking)).await;
    let wanted = [Ok(Bytes::from_static(&[0])), Err(RequestError::Refused), Ok(Bytes::from_static(&[2]))];
    assert_eq!(answers, wanted);
}

fn request_number(data: &Bytes) -> u8 {
    data[0]
}

#[tokio::test]
async fn an_open_that_nobody_awaits_is_undone() {
    let (client, _ci, _server, mut incoming) = pair().await;
    assert!(client.open(ChannelOpen::Session).now_or_never().is_none());
    let Some(Event::Channel(request)) = within(incoming.next()).await else { panic!() };
    let mut far = request.accept();
    assert!(within(far.recv()).await.is_none());
}

#[tokio::test]
async fn a_lost_wire_is_the_end_of_everything() {
    let cluster = Cluster::new();
    let (near, far) = duplex(1000);
    let (middle_near, middle_far) = duplex(1000);
    let (server, incoming) = accept(far, Arc::new(cluster.server_config())).await;
    tokio::spawn(serve(server.clone(), incoming, Rules { user_ca: cluster.user_ca.public(), second_factor: false }));
    let wire = tokio::spawn(async move {
        let (mut near, mut middle) = (near, middle_far);
        tokio::io::copy_bidirectional(&mut near, &mut middle).await
    });
    let (client, _) = within(connect(middle_near, client_config(&cluster))).await.unwrap();
    let mut channel = within(client.open(ChannelOpen::Session)).await.unwrap();
    wire.abort();
    assert!(within(channel.recv()).await.is_none());
    assert!(matches!(within(client.closed()).await, CloseReason::Lost(_)));
    assert!(matches!(within(server.closed()).await, CloseReason::Lost(_)));
    assert!(matches!(within(client.open(ChannelOpen::Session)).await, Err(OpenError::Closed)));
    assert_eq!(within(client.global_request("x", Bytes::new())).await, Err(RequestError::Closed));
    assert!(within(channel.writer().request("shell", Bytes::new())).await.is_err());
}

#[tokio::test]
async fn the_second_factor_is_answered_by_the_callback() {
    let cluster = Cluster::new();
    for (code, lets_in) in [(CODE, true), ("000000", false)] {
        let mut config = client_config(&cluster);
        config.prompt = Some(Arc::new(move |challenge| {
            assert_eq!(challenge.prompts[0].text, "Code: ");
            Box::pin(async move { Some(vec![Zeroizing::new(code.to_owned())]) })
        }));
        let done = within(connect(served(&cluster, true).await, config)).await;
        assert_eq!(done.is_ok(), lets_in);
    }
    // Without one, nobody is asked.
    let denied = within(connect(served(&cluster, true).await, client_config(&cluster))).await;
    assert!(matches!(denied, Err(ConnectError::Denied { methods, .. }) if methods == ["keyboard-interactive"]));
}

#[tokio::test]
async fn a_farewell_is_read_by_the_peer() {
    let (client, _ci, server, _incoming) = pair().await;
    server.disconnect(DisconnectReason::ByApplication, "access revoked");
    within(server.closed()).await;
    let CloseReason::Peer { message, .. } = within(client.closed()).await else { panic!() };
    assert_eq!(message, "access revoked");
}
