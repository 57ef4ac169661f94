//! Key exchange: strictness, new keys under load, and a host key that stays.

use super::*;
use crate::transport::Side;

#[test]
fn keys_change_with_data_in_flight_in_both_directions() {
    let mut settings = client_settings();
    settings.limits.rekey_bytes = 100_000;
    let mut server = server_config();
    server.limits.rekey_bytes = 70_000;
    let mut pair = Pair::logged_in_with(settings, server);
    let (near, far) = pair.open();
    let id = pair.client.session_id();
    let block: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (mut sent_up, mut sent_down) = (0, 0);
    while up.len() < block.len() || down.len() < block.len() {
        sent_up += pair.client.send_data(near, false, &block[sent_up..]).unwrap();
        sent_down += pair.server.send_data(far, false, &block[sent_down..]).unwrap();
        pair.step(1000);
        for (end, id, got) in [(&mut pair.server, far, &mut up), (&mut pair.client, near, &mut down)] {
            for item in drain(end, id) {
                let Inbound::Data(data) = item else { panic!("{item:?}") };
                got.extend_from_slice(&data);
            }
        }
        assert!(pair.client.closed().is_none() && pair.server.closed().is_none());
    }
    assert_eq!((&up, &down), (&block, &block));
    assert_eq!(pair.client.session_id(), id);
}

#[test]
fn keys_change_with_time() {
    let mut pair = Pair::logged_in();
    let old = pair.client.transport.writer.usage().packets;
    assert!(old > 0);
    pair.now += Duration::from_secs(3600);
    pair.client.heard = pair.now;
    pair.client.tick(pair.now);
    pair.run();
    assert!(pair.client.transport.writer.usage().packets < old);
    pair.open();
}

#[test]
fn what_is_said_during_a_key_exchange_follows_it() {
    let mut pair = Pair::logged_in();
    let (near, far) = pair.open();
    pair.client.transport.start_exchange(pair.now).unwrap();
    assert_eq!(pair.client.send_data(near, false, b"early"), Some(0));
    pair.client.request(near, "shell", b"", true);
    pair.run();
    assert!(notices(&mut pair.client).contains(&Notice::Drained));
    assert!(matches!(drain(&mut pair.server, far).as_slice(), [Inbound::Request { .. }]));
    assert_eq!(pair.client.send_data(near, false, b"later"), Some(5));
}

#[test]
fn a_key_exchange_that_does_not_end_ends_the_connection() {
    let mut pair = Pair::logged_in();
    pair.server.transport.start_exchange(pair.now).unwrap();
    let deadline = pair.server.deadline().unwrap();
    pair.server.heard = deadline;
    pair.server.tick(deadline.max(pair.now + Duration::from_secs(120)));
    assert!(matches!(pair.server.closed(), Some(CloseReason::Fault(_))), "{:?}", pair.server.closed());
}

#[test]
fn the_host_key_stays_the_same() {
    let mut pair = Pair::logged_in();
    let other = key(5);
    let certificate = Some(Arc::new(certify(&key(1), &other, CertKind::Host, HOST)));
    let config = ServerConfig::new(vec![HostKey { key: Arc::new(other), certificate }]);
    pair.server.transport.side = Side::Server(Arc::new(config));
    pair.client.transport.start_exchange(pair.now).unwrap();
    pair.run();
    let Some(CloseReason::Fault(fault)) = pair.client.closed() else { panic!() };
    assert_eq!(fault.message(), "host key changed during rekey");
}

#[test]
fn a_renewed_certificate_of_the_same_key_is_fine() {
    let mut pair = Pair::logged_in();
    // Signed by nobody who is trusted: after the first exchange the key alone counts.
    let certificate = Some(Arc::new(certify(&key(9), &key(2), CertKind::Host, "renamed")));
    let config = ServerConfig::new(vec![HostKey { key: Arc::new(key(2)), certificate }]);
    pair.server.transport.side = Side::Server(Arc::new(config));
    pair.client.transport.start_exchange(pair.now).unwrap();
    pair.run();
    pair.open();
}

#[test]
fn strict_key_exchange_takes_nothing_else() {
    for (number, before) in [(msg::IGNORE, true), (msg::DEBUG, false), (msg::IGNORE, false), (msg::EXT_INFO, false)] {
        let mut pair = Pair::new();
        if before {
            // In front of the offer: the identification line goes first, then the injected packet.
            let all = pair.client.take_output(BytesMut::new());
            let line = all.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let mut injected = BytesMut::from(&all[..line]);
            let mut writer = crate::packet::PacketWriter::new();
            writer.write(&[number, 0, 0, 0, 0], b"").unwrap();
            injected.extend_from_slice(&writer.out);
            injected.extend_from_slice(&all[line..]);
            pair.to_server = injected;
        } else {
            pair.client.transport.writer.write(&[number, 0, 0, 0, 0], b"").unwrap();
        }
        pair.run();
        assert!(matches!(pair.server.closed(), Some(CloseReason::Fault(_))), "{number} {before}");
        assert!(pair.server.session_id().is_none() || !before);
    }
}

#[test]
fn exchanges_in_a_row_are_limited() {
    let mut pair = Pair::logged_in();
    for n in 0..10_000 {
        if pair.server.closed().is_some() {
            assert!((100..1000).contains(&n));
            return;
        }
        pair.client.transport.start_exchange(pair.now).unwrap();
        pair.run();
    }
    panic!("no limit");
}

#[test]
fn new_keys_start_the_sequence_numbers_over() {
    let mut pair = Pair::new();
    pair.run();
    // The client has sent the request for the service and its login since; strict key exchange started at zero.
    assert_eq!(pair.client.transport.writer.usage().packets, 2);
    assert_eq!(pair.server.transport.sequence_in(), 2);
}
