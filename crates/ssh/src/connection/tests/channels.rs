//! Channels, windows and requests.

use super::*;
use crate::channel::SessionRequest;

#[test]
fn data_flows_both_ways_and_ends() {
    let mut pair = Pair::logged_in();
    let (near, far) = pair.open();
    assert_eq!(pair.client.send_data(near, false, b"in"), Some(2));
    pair.client.eof(near);
    pair.run();
    assert_eq!(drain(&mut pair.server, far), [Inbound::Data(Bytes::from_static(b"in")), Inbound::Eof]);
    assert_eq!(pair.client.send_data(near, false, b"late"), None);
    pair.server.send_data(far, false, b"out");
    pair.server.send_data(far, true, b"err");
    pair.server.request(far, "exit-status", &[0, 0, 0, 7], false);
    pair.server.close(far);
    pair.run();
    let got = drain(&mut pair.client, near);
    let exit = Inbound::Request { request: SessionRequest::ExitStatus(7), token: None };
    assert_eq!(got, [Inbound::Data(Bytes::from_static(b"out")), Inbound::Stderr(Bytes::from_static(b"err")), exit]);
    assert_eq!(pair.client.poll_channel(near), Some(Inbound::Closed));
    pair.client.release(near);
    pair.server.release(far);
    assert_eq!((pair.client.channel_count(), pair.server.channel_count()), (0, 0));
}

#[test]
fn a_window_is_returned_when_data_is_consumed() {
    let mut pair = Pair::logged_in();
    let (near, far) = pair.open();
    let window = Limits::default().window_own as usize;
    let block = vec![1; 1 << 20];
    let mut sent = 0;
    // What fits is sent, in as many turns as the wire takes.
    loop {
        let some = pair.client.send_data(near, false, &block).unwrap();
        pair.run();
        sent += some;
        if some == 0 {
            break;
        }
    }
    assert_eq!(sent, window);
    notices(&mut pair.client);
    // To be handed a chunk returns nothing; to ask for more does, in steps of an eighth.
    let mut taken = 0;
    while taken <= window / 8 {
        assert!(notices(&mut pair.client).is_empty());
        let Some(Inbound::Data(data)) = pair.server.poll_channel(far) else { panic!() };
        taken += data.len();
        pair.run();
    }
    assert_eq!(notices(&mut pair.client), [Notice::Writable(near)]);
}

#[test]
fn one_stalled_channel_of_ten_stalls_no_other() {
    let mut pair = Pair::logged_in();
    let channels: Vec<_> = (0..10).map(|_| pair.open()).collect();
    let block = vec![1; 1 << 20];
    let mut got = [0; 10];
    while got[1..].iter().any(|bytes| *bytes < 20 << 20) {
        for (n, (near, far)) in channels.iter().enumerate() {
            pair.client.send_data(*near, false, &block).unwrap();
            pair.run();
            if n > 0 {
                got[n] += drain(&mut pair.server, *far).iter().map(length).sum::<usize>();
            }
        }
    }
    let stalled = drain(&mut pair.server, channels[0].1).iter().map(length).sum::<usize>();
    assert!(stalled <= Limits::default().window_own as usize);
}

fn length(item: &Inbound) -> usize {
    if let Inbound::Data(data) = item { data.len() } else { 0 }
}

/// An upload over 50 ms was held to 40 MB/s by the window that suits a local network.
#[test]
fn a_client_that_is_far_away_gets_a_larger_window() {
    let limits = Limits::default();
    let towards = |own, milliseconds| limits.window_towards(own, Duration::from_millis(milliseconds));
    assert_eq!([0, 9, 19].map(|trip| towards(false, trip)), [2 << 20; 3]);
    assert_eq!([30, 50, 1000].map(|trip| towards(false, trip)), [6 << 20, 8 << 20, 8 << 20]);
    assert_eq!([0, 1000].map(|trip| towards(true, trip)), [8 << 20; 2]);

    let mut pair = Pair::with(ClientSettings { pipelined: false, ..client_settings() }, server_config());
    pair.run();
    pair.let_in();
    pair.collect();
    pair.now += Duration::from_millis(50);
    pair.run();
    assert_eq!(pair.server.channels.round_trip(), Duration::ZERO, "nothing came yet");
    pair.client.open(ChannelOpen::Session).unwrap();
    pair.run();
    assert_eq!(pair.server.channels.round_trip(), Duration::from_millis(50));
    pair.now += Duration::from_millis(500);
    pair.client.open(ChannelOpen::Session).unwrap();
    pair.run();
    assert_eq!(pair.server.channels.round_trip(), Duration::from_millis(50), "only the first answer is a round trip");
}

#[test]
fn windows_shrink_as_channels_grow_in_number() {
    let mut pair = Pair::logged_in();
    let block = vec![1; 1 << 20];
    let limits = Limits::default();
    let mut total = 0;
    for n in 0..limits.channels {
        let (near, _) = pair.open();
        loop {
            let some = pair.client.send_data(near, false, &block).unwrap();
            pair.run();
            total += some;
            if some == 0 {
                break;
            }
        }
        assert!(total <= limits.buffered as usize + n * (64 << 10), "{n} {total}");
    }
    assert!(pair.client.open(ChannelOpen::Session).is_none());
}

#[test]
fn answers_keep_the_order_of_the_requests() {
    let mut pair = Pair::logged_in();
    let (near, far) = pair.open();
    for name in ["shell", "env", "nonsense@mezite"] {
        pair.client.request(near, name, b"", true);
    }
    pair.run();
    // `env` without its fields was refused by the engine, behind the answer that is still owed.
    let tokens: Vec<_> = drain(&mut pair.server, far)
        .into_iter()
        .map(|item| if let Inbound::Request { token: Some(token), .. } = item { token } else { panic!("{item:?}") })
        .collect();
    assert_eq!(tokens.len(), 2);
    pair.server.reply(far, tokens[1], true);
    pair.run();
    assert!(notices(&mut pair.client).is_empty());
    pair.server.reply(far, tokens[0], true);
    pair.run();
    let answers = [true, false, true].map(|ok| Notice::RequestReply(near, ok));
    assert_eq!(notices(&mut pair.client), answers);
}

#[test]
fn global_answers_keep_the_order_of_the_requests() {
    let mut pair = Pair::logged_in();
    for name in ["first@mezite", "keepalive@openssh.com", "second@mezite"] {
        pair.client.global_request(name, name.as_bytes(), true);
    }
    pair.run();
    let mut tokens = Vec::new();
    while let Some(Event::Global { token, name, data }) = pair.server.poll_event() {
        assert_eq!(name.as_bytes(), &data);
        tokens.push(token.unwrap());
    }
    pair.server.global_reply(tokens[1], None);
    pair.run();
    assert!(notices(&mut pair.client).is_empty());
    pair.server.global_reply(tokens[0], Some(Bytes::from_static(b"port")));
    pair.run();
    let answers = [Some(Bytes::from_static(b"port")), Some(Bytes::new()), None].map(Notice::GlobalReply);
    assert_eq!(notices(&mut pair.client), answers);
}

#[test]
fn channels_are_refused_by_direction_type_and_number() {
    let mut server = server_config();
    server.limits.channels = 2;
    let mut pair = Pair::logged_in_with(client_settings(), server);
    // A server may not ask its client for a session, nor a client its server for the agent.
    let session = pair.server.open(ChannelOpen::Session).unwrap();
    let agent = pair.client.open(ChannelOpen::Agent).unwrap();
    pair.run();
    let refused = |end: &mut Connection, id: ChannelId, why: OpenFailure| {
        let all = notices(end);
        assert!(
            matches!(all.as_slice(), [Notice::OpenFailed(failed, code, _)] if *failed == id && *code == why),
            "{all:?}"
        );
    };
    refused(&mut pair.server, session, OpenFailure::AdministrativelyProhibited);
    refused(&mut pair.client, agent, OpenFailure::AdministrativelyProhibited);
    pair.open();
    pair.open();
    let third = pair.client.open(ChannelOpen::Session).unwrap();
    pair.run();
    refused(&mut pair.client, third, OpenFailure::ResourceShortage);
    assert!(pair.server.poll_event().is_none());
}

#[test]
fn a_hundred_thousand_refused_channels_leave_nothing() {
    let mut pair = Pair::logged_in();
    for _ in 0..1000 {
        for _ in 0..100 {
            pair.client.open(ChannelOpen::Session).unwrap();
        }
        pair.run();
        while let Some(Event::Open { channel, .. }) = pair.server.poll_event() {
            pair.server.reject(channel, OpenFailure::AdministrativelyProhibited, "no");
        }
        pair.run();
        assert_eq!(notices(&mut pair.client).len(), 100);
    }
    assert_eq!((pair.client.channel_count(), pair.server.channel_count()), (0, 0));
}

#[test]
fn an_abandoned_open_is_closed_when_it_comes() {
    let mut pair = Pair::logged_in();
    let near = pair.client.open(ChannelOpen::Session).unwrap();
    pair.client.release(near);
    pair.run();
    let Some(Event::Open { channel: far, .. }) = pair.server.poll_event() else { panic!() };
    pair.server.accept(far);
    pair.run();
    assert_eq!(pair.client.channel_count(), 0);
    assert_eq!(pair.server.poll_channel(far), Some(Inbound::Closed));
    assert!(notices(&mut pair.client).is_empty());
}

#[test]
fn a_channel_nobody_reads_takes_data_for_ever() {
    let mut pair = Pair::logged_in();
    let (near, far) = pair.open();
    pair.server.discard(far);
    let block = vec![1; 1 << 20];
    let mut sent = 0;
    while sent < 64 << 20 {
        let some = pair.client.send_data(near, false, &block).unwrap();
        pair.run();
        assert_ne!(some, 0);
        sent += some;
    }
    pair.client.request(near, "shell", b"", true);
    pair.run();
    assert!(notices(&mut pair.client).contains(&Notice::RequestReply(near, false)));
}

#[test]
fn no_more_sessions_means_none() {
    let mut pair = Pair::logged_in();
    pair.client.global_request("no-more-sessions@openssh.com", b"", false);
    let near = pair.client.open(ChannelOpen::Session).unwrap();
    pair.run();
    assert!(matches!(notices(&mut pair.client).as_slice(), [Notice::OpenFailed(id, ..)] if *id == near));
}

#[test]
fn a_silent_peer_is_probed_and_given_up() {
    let mut pair = Pair::logged_in();
    let start = pair.now;
    let mut now = start;
    for probe in 1..=3 {
        now = pair.server.deadline().unwrap();
        assert_eq!(now, start + Duration::from_secs(30) * probe);
        pair.server.tick(now);
        assert!(pair.server.closed().is_none());
    }
    // An answer starts the count again.
    pair.now = now;
    pair.run();
    assert_eq!(pair.server.deadline(), Some(now + Duration::from_secs(30)));
    for _ in 0..4 {
        let now = pair.server.deadline().unwrap();
        pair.server.tick(now);
        pair.server.take_output(BytesMut::new());
    }
    assert!(matches!(pair.server.closed(), Some(CloseReason::TimedOut(_))));
}

#[test]
fn a_peer_that_never_reads_is_not_answered_for_ever() {
    let mut pair = Pair::logged_in();
    let mut rounds = 0;
    while pair.server.reading() {
        for _ in 0..100 {
            pair.client.global_request("keepalive@openssh.com", b"", true);
        }
        let output = pair.client.take_output(BytesMut::new());
        pair.server_input.extend_from_slice(&output);
        pair.server.receive(&mut pair.server_input, pair.now);
        rounds += 1;
        assert!(rounds < 10_000);
    }
    assert!(pair.server.closed().is_none());
    // It goes on as soon as the wire takes the answers.
    pair.run();
    assert!(pair.server.reading());
}

#[test]
fn nothing_follows_the_farewell() {
    let mut pair = Pair::logged_in();
    let (near, _) = pair.open();
    pair.client.disconnect(DisconnectReason::ByApplication, "bye");
    pair.client.take_output(BytesMut::new());
    assert_eq!(pair.client.send_data(near, false, b"more"), None);
    pair.client.release(near);
    assert!(pair.client.open(ChannelOpen::Session).is_none());
    assert!(!pair.client.has_output());
    // What came before a farewell stays readable.
    let mut pair = Pair::logged_in();
    let (near, far) = pair.open();
    pair.server.send_data(far, false, b"last");
    pair.server.disconnect(DisconnectReason::ByApplication, "bye");
    pair.run();
    assert!(matches!(pair.client.closed(), Some(CloseReason::Peer { .. })));
    assert_eq!(pair.client.poll_channel(near), Some(Inbound::Data(Bytes::from_static(b"last"))));
    assert_eq!(pair.client.poll_channel(near), Some(Inbound::Closed));
}
