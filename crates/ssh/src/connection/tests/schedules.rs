//! Random schedules: whatever the order of things, data arrives whole, in order, and within the windows.

use proptest::prelude::*;

use super::*;

const CHANNELS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Action {
    /// An end sends some bytes on a channel.
    Send { server: bool, channel: usize, bytes: usize, stderr: bool },
    /// An end takes one item from a channel.
    Take { server: bool, channel: usize },
    /// Some bytes travel.
    Travel(usize),
    /// An end wants new keys.
    Rekey(bool),
}

fn action() -> impl Strategy<Value = Action> {
    let channel = 0..CHANNELS;
    prop_oneof![
        4 => (any::<bool>(), channel.clone(), 0usize..50_000, any::<bool>())
            .prop_map(|(server, channel, bytes, stderr)| Action::Send { server, channel, bytes, stderr }),
        4 => (any::<bool>(), channel).prop_map(|(server, channel)| Action::Take { server, channel }),
        6 => (1usize..60_000).prop_map(Action::Travel),
        1 => any::<bool>().prop_map(Action::Rekey),
    ]
}

/// What one end sent on, and got from, one channel: stdout and stderr.
#[derive(Default)]
struct Ledger {
    sent: [u64; 2],
    got: [u64; 2],
}

/// The byte at a place of a stream, so that a lost or swapped chunk shows.
fn byte(place: u64) -> u8 {
    (place % 253) as u8
}

fn check(ledger: &mut Ledger, item: &Inbound) {
    let (stream, data) = match item {
        Inbound::Data(data) => (0, data),
        Inbound::Stderr(data) => (1, data),
        other => panic!("{other:?}"),
    };
    for got in data {
        assert_eq!(*got, byte(ledger.got[stream]));
        ledger.got[stream] += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn data_arrives_whole_and_in_order(actions in proptest::collection::vec(action(), 1..300), small: bool) {
        let mut settings = client_settings();
        let mut config = server_config();
        if small {
            for limits in [&mut settings.limits, &mut config.limits] {
                limits.window_own = 64 << 10;
                limits.rekey_bytes = 40_000;
            }
        }
        let mut pair = Pair::logged_in_with(settings, config);
        let channels: Vec<_> = (0..CHANNELS).map(|_| pair.open()).collect();
        // By the end that sends: the client's, then the server's.
        let mut ledgers: [[Ledger; CHANNELS]; 2] = Default::default();
        let take = |pair: &mut Pair, ledgers: &mut [[Ledger; CHANNELS]; 2], server: bool, channel: usize| {
            let (near, far) = channels[channel];
            let item = if server { pair.server.poll_channel(far) } else { pair.client.poll_channel(near) };
            let sender = usize::from(!server);
            item.inspect(|item| check(&mut ledgers[sender][channel], item)).is_some()
        };
        for action in actions {
            match action {
                Action::Send { server, channel, bytes, stderr } => {
                    let (near, far) = channels[channel];
                    let sent = &mut ledgers[usize::from(server)][channel].sent[usize::from(stderr)];
                    let data: Vec<u8> = (*sent..*sent + bytes as u64).map(byte).collect();
                    let (end, id) = if server { (&mut pair.server, far) } else { (&mut pair.client, near) };
                    *sent += end.send_data(id, stderr, &data).unwrap() as u64;
                }
                Action::Take { server, channel } => drop(take(&mut pair, &mut ledgers, server, channel)),
                Action::Travel(bytes) => drop(pair.step(bytes)),
                Action::Rekey(server) => {
                    let end = if server { &mut pair.server } else { &mut pair.client };
                    if end.transport.idle() {
                        end.transport.start_exchange(pair.now).unwrap();
                    }
                }
            }
            prop_assert!(pair.client.closed().is_none(), "{:?}", pair.client.closed());
            prop_assert!(pair.server.closed().is_none(), "{:?}", pair.server.closed());
        }
        pair.run();
        for channel in 0..CHANNELS {
            for server in [false, true] {
                while take(&mut pair, &mut ledgers, server, channel) {}
            }
        }
        for ledger in ledgers.as_flattened() {
            prop_assert_eq!(ledger.sent, ledger.got);
        }
    }
}
