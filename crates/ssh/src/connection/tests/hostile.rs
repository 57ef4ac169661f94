//! Peers that break the rules: the connection ends, nothing else happens.

use proptest::prelude::*;

use super::*;
use crate::wire::{put_bool, put_string, put_u32, put_utf8};

fn about(number: u8, channel: ChannelId) -> Vec<u8> {
    let mut message = vec![number];
    put_u32(&mut message, channel);
    message
}

#[test]
fn a_server_takes_no_message_of_servers_before_login() {
    for number in [
        msg::SERVICE_ACCEPT,
        msg::USERAUTH_SUCCESS,
        msg::USERAUTH_FAILURE,
        msg::USERAUTH_BANNER,
        msg::USERAUTH_60,
        msg::USERAUTH_61,
        msg::KEX_REPLY,
        msg::CHANNEL_OPEN,
        msg::CHANNEL_OPEN_CONFIRMATION,
        msg::CHANNEL_DATA,
        msg::GLOBAL_REQUEST,
        msg::REQUEST_SUCCESS,
        msg::PING,
    ] {
        let settings = ClientSettings { pipelined: false, ..client_settings() };
        let mut pair = Pair::with(settings, server_config());
        pair.step(usize::MAX);
        pair.step(usize::MAX);
        assert!(pair.client.session_id().is_some());
        let mut message = about(number, 0);
        message.extend_from_slice(&[0; 16]);
        pair.client.transport.send(&message, b"").unwrap();
        pair.run();
        assert!(matches!(pair.server.closed(), Some(CloseReason::Fault(_))), "{number}");
        assert!(pair.server.poll_event().is_none(), "{number}");
    }
}

#[test]
fn neither_side_takes_authentication_after_login() {
    for number in [msg::USERAUTH_SUCCESS, msg::USERAUTH_FAILURE, msg::SERVICE_REQUEST, msg::SERVICE_ACCEPT, 60, 61, 31]
    {
        let mut pair = Pair::logged_in();
        send(&mut pair.client, &[number]);
        pair.assert_server_refuses("out of place");
        let mut pair = Pair::logged_in();
        send(&mut pair.server, &[number]);
        pair.run();
        assert!(matches!(pair.client.closed(), Some(CloseReason::Fault(_))), "{number}");
    }
}

#[test]
fn late_requests_for_login_are_ignored() {
    let mut pair = Pair::logged_in();
    send(&mut pair.client, &[msg::USERAUTH_REQUEST]);
    pair.open();
}

#[test]
fn an_overrun_window_ends_the_connection() {
    let mut pair = Pair::logged_in();
    let (near, far) = pair.open();
    let block = vec![0; 1 << 20];
    while pair.client.send_data(near, false, &block).unwrap() > 0 {
        pair.run();
    }
    let mut message = about(msg::CHANNEL_DATA, far);
    put_string(&mut message, b"x");
    send(&mut pair.client, &message);
    pair.assert_server_refuses("window overrun");
}

#[test]
fn an_overlong_packet_ends_the_connection() {
    let mut pair = Pair::logged_in();
    let (_, far) = pair.open();
    let mut message = about(msg::CHANNEL_DATA, far);
    put_string(&mut message, &vec![0; (64 << 10) + 1]);
    send(&mut pair.client, &message);
    pair.assert_server_refuses("more data in a packet");
}

#[test]
fn a_window_cannot_overflow() {
    let mut pair = Pair::logged_in();
    let (_, far) = pair.open();
    let mut message = about(msg::CHANNEL_WINDOW_ADJUST, far);
    put_u32(&mut message, u32::MAX);
    send(&mut pair.client, &message);
    pair.assert_server_refuses("window overflow");
}

#[test]
fn messages_for_no_channel_end_the_connection() {
    for number in [
        msg::CHANNEL_OPEN_CONFIRMATION,
        msg::CHANNEL_OPEN_FAILURE,
        msg::CHANNEL_WINDOW_ADJUST,
        msg::CHANNEL_DATA,
        msg::CHANNEL_EXTENDED_DATA,
        msg::CHANNEL_EOF,
        msg::CHANNEL_CLOSE,
        msg::CHANNEL_SUCCESS,
        msg::CHANNEL_FAILURE,
    ] {
        for channel in [99, 0] {
            let mut pair = Pair::logged_in();
            if channel == 0 {
                // Asked for, not confirmed: the peer cannot know its number.
                pair.client.open(ChannelOpen::Session).unwrap();
                pair.run();
            }
            let mut message = about(number, channel);
            message.extend_from_slice(&[0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0]);
            send(&mut pair.client, &message);
            pair.run();
            assert!(matches!(pair.server.closed(), Some(CloseReason::Fault(_))), "{number} {channel}");
        }
    }
}

#[test]
fn answers_to_nothing_end_the_connection() {
    let mut pair = Pair::logged_in();
    send(&mut pair.client, &[msg::REQUEST_SUCCESS]);
    pair.assert_server_refuses("not made");
    let mut pair = Pair::logged_in();
    let (_, far) = pair.open();
    send(&mut pair.client, &about(msg::CHANNEL_SUCCESS, far));
    pair.assert_server_refuses("not made");
}

#[test]
fn requests_cannot_pile_up() {
    let mut pair = Pair::logged_in();
    let (near, _) = pair.open();
    for _ in 0..600 {
        pair.client.request(near, "nonsense@mezite", b"", false);
    }
    pair.assert_server_refuses("too many requests");
    let mut pair = Pair::logged_in();
    for _ in 0..600 {
        pair.client.global_request("nonsense@mezite", b"", false);
    }
    pair.assert_server_refuses("too many requests");
    let mut pair = Pair::logged_in();
    let (near, _) = pair.open();
    for _ in 0..40 {
        pair.client.request(near, "nonsense@mezite", &[0; 30_000], false);
    }
    pair.assert_server_refuses("too many requests");
}

#[test]
fn a_channel_without_room_for_data_is_refused() {
    let mut pair = Pair::logged_in();
    let mut message = vec![msg::CHANNEL_OPEN];
    put_utf8(&mut message, "session");
    for number in [7, 1000, 0] {
        put_u32(&mut message, number);
    }
    send(&mut pair.client, &message);
    pair.collect();
    pair.run();
    // The client did not ask, so it takes the refusal ill; the server has nothing open.
    assert_eq!(pair.server.channel_count(), 0);
    assert!(pair.server.poll_event().is_none());
}

#[test]
fn unknown_messages_and_channel_types_are_survived() {
    let mut pair = Pair::logged_in();
    send(&mut pair.client, &[200]);
    let mut message = vec![msg::CHANNEL_OPEN];
    put_utf8(&mut message, "x11");
    for number in [0, 1000, 1000] {
        put_u32(&mut message, number);
    }
    send(&mut pair.client, &message);
    pair.collect();
    let before = pair.to_client.len();
    pair.step(usize::MAX);
    pair.collect();
    assert!(pair.server.closed().is_none());
    assert!(pair.to_client.len() > before);
    assert_eq!(pair.server.channel_count(), 0);
}

#[test]
fn the_first_line_must_be_right() {
    let long = [b"SSH-2.0-", [b'x'; 300].as_slice()].concat();
    for bad in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-\x07\r\n",
        b"\r\nSSH-2.0-x\r\n",
        b"Welcome\r\n",
        b"S\0",
        &long,
    ] {
        let mut server = Connection::server(Arc::new(server_config()), Instant::now());
        server.receive(&mut BytesMut::from(bad), Instant::now());
        assert!(matches!(server.closed(), Some(CloseReason::Fault(_))), "{}", bad.escape_ascii());
    }
    let mut client = Connection::client(client_settings(), Instant::now());
    client.receive(&mut BytesMut::from(&b"hello\r\n".repeat(33)[..]), Instant::now());
    assert!(matches!(client.closed(), Some(CloseReason::Fault(_))));
}

#[test]
fn lengths_are_not_believed() {
    for length in [0u32, 1, 7, 8, 13, 35_004, 0x7fff_ffff, 0xffff_fff0, u32::MAX] {
        let mut server = Connection::server(Arc::new(server_config()), Instant::now());
        let mut input = BytesMut::from(&b"SSH-2.0-x\r\n"[..]);
        input.extend_from_slice(&length.to_be_bytes());
        server.receive(&mut input, Instant::now());
        assert!(matches!(server.closed(), Some(CloseReason::Fault(_))), "{length}");
    }
}

#[test]
fn padding_stays_inside_the_packet() {
    for padding in [0u8, 3, 11, 12, 255] {
        let mut server = Connection::server(Arc::new(server_config()), Instant::now());
        let mut input = BytesMut::from(&b"SSH-2.0-x\r\n"[..]);
        input.extend_from_slice(&12u32.to_be_bytes());
        input.extend_from_slice(&[padding, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        server.receive(&mut input, Instant::now());
        assert!(matches!(server.closed(), Some(CloseReason::Fault(_))), "{padding}");
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    for cipher in crate::cipher::Cipher::ALL {
        let mut settings = client_settings();
        settings.algorithms.ciphers = vec![cipher];
        let mut pair = Pair::logged_in_with(settings, server_config());
        let (near, _) = pair.open();
        pair.client.send_data(near, false, b"attack at dawn");
        pair.collect();
        let middle = pair.to_server.len() / 2;
        pair.to_server[middle] ^= 1;
        pair.run();
        let Some(CloseReason::Fault(fault)) = pair.server.closed() else { panic!("{cipher:?}") };
        assert_eq!(fault.reason(), DisconnectReason::MacError);
    }
}

#[test]
fn too_many_prompts_are_refused_by_the_client() {
    let mut pair = Pair::new();
    pair.run();
    assert!(matches!(pair.server.poll_event(), Some(Event::Auth(_))));
    pair.server.authenticate(AuthReply::Partial(vec![Method::KeyboardInteractive]));
    pair.run();
    let mut message = vec![msg::USERAUTH_60];
    for _ in 0..3 {
        put_utf8(&mut message, "");
    }
    put_u32(&mut message, u32::MAX);
    put_bool(&mut message, false);
    send(&mut pair.server, &message);
    pair.run();
    assert!(matches!(pair.client.closed(), Some(CloseReason::Fault(_))));
}

proptest! {
    #[test]
    fn garbage_ends_in_a_fault_or_waits(bytes in proptest::collection::vec(any::<u8>(), 0..600), line: bool, client: bool) {
        let mut input = BytesMut::new();
        if line {
            input.extend_from_slice(b"SSH-2.0-x\r\n");
        }
        input.extend_from_slice(&bytes);
        let now = Instant::now();
        let mut end = if client {
            Connection::client(client_settings(), now)
        } else {
            Connection::server(Arc::new(server_config()), now)
        };
        end.receive(&mut input, now);
        prop_assert!(end.session_id().is_none());
        prop_assert!(end.poll_event().is_none());
    }

    #[test]
    fn any_message_after_login_is_survived(message in proptest::collection::vec(any::<u8>(), 1..80), number in 80u8..101) {
        let mut pair = Pair::logged_in();
        let (_, far) = pair.open();
        let mut message = message;
        message[0] = number;
        if message.len() > 4 && number > 90 {
            message[1..5].copy_from_slice(&far.to_be_bytes());
        }
        send(&mut pair.client, &message);
        pair.run();
        drain(&mut pair.server, far);
    }
}
