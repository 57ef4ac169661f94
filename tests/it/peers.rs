//! Peers that send garbage, nothing, or one byte a second, on every port; and many of them at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::setup::Setup;

const PORTS: [&str; 5] = ["https", "ssh", "tunnel", "auth", "diag"];
/// The grace for whoever has not said who they are, and room for a slow machine.
const GRACE: Duration = Duration::from_secs(45);

/// Whether the far side ends the connection before `GRACE` is over.
fn is_dropped(mut stream: TcpStream, mut feed: impl FnMut(&mut TcpStream)) -> bool {
    let begin = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 4096];
    while begin.elapsed() < GRACE {
        feed(&mut stream);
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return true;
            }
            _ => {}
        }
    }
    false
}

#[test]
fn silence_a_trickle_and_garbage_are_dropped_on_every_port_while_work_goes_on() {
    let mut setup = Setup::new();
    let addresses: Vec<_> =
        PORTS.iter().map(|port| (*port, setup.cluster.addr[*port].parse::<SocketAddr>().unwrap())).collect();
    thread::scope(|scope| {
        let mut peers = Vec::new();
        for (port, address) in &addresses {
            let dial = || TcpStream::connect(address).unwrap();
            let (silent, slow, loud) = (dial(), dial(), dial());
            peers.push((*port, "silence", scope.spawn(move || is_dropped(silent, |_| {}))));
            let mut drip = std::iter::repeat(b"SSH-2.0-drip\r\n\x16\x03\x01").flatten();
            let trickle = move |stream: &mut TcpStream| {
                let _ = stream.write_all(&[*drip.next().unwrap()]);
            };
            peers.push((*port, "one byte a second", scope.spawn(move || is_dropped(slow, trickle))));
            let noise: Vec<u8> = (0..8192_u32).map(|n| u8::try_from(n * 7919 % 251).unwrap()).collect();
            let shout = move |stream: &mut TcpStream| {
                let _ = stream.write_all(&noise);
            };
            peers.push((*port, "garbage", scope.spawn(move || is_dropped(loud, shout))));
        }
        for _ in 0..5 {
            setup.alice.ssh(&[&setup.target(), "true"]).ok();
            setup.alice.login();
        }
        for (port, kind, peer) in peers {
            assert!(peer.join().unwrap(), "{kind} on {port} is kept for more than {GRACE:?}");
        }
    });
    assert!(setup.cluster.hub.running());
    setup.alice.ssh(&[&setup.target(), "true"]).ok();
    assert!(!setup.cluster.hub.log().contains("panic"), "{}", setup.cluster.hub.log());
}

/// From 127.0.1.1 to 127.0.1.250, so that no single source reaches its own bound.
fn silent(to: SocketAddr, n: usize) -> TcpStream {
    let from = SocketAddr::from(([127, 0, 1, u8::try_from(n % 250 + 1).unwrap()], 0));
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &from).unwrap();
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

#[test]
fn two_thousand_silent_connections_do_not_keep_anybody_out() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft.max(8192)), hard).unwrap();
    let mut setup = Setup::new();
    let front: SocketAddr = setup.cluster.addr["ssh"].parse().unwrap();
    let crowd: Vec<_> = (0..2000).map(|n| silent(front, n)).collect();
    // The bound is the issue's; the best of three tells the product from a busy machine.
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begin = Instant::now();
        setup.alice.ssh(&[&setup.target(), "true"]).ok();
        best = best.min(begin.elapsed());
    }
    assert!(best < Duration::from_secs(2), "the best login took {best:?}");
    assert!(setup.cluster.hub.running());
    drop(crowd);
}

#[test]
fn one_source_alone_cannot_take_every_place() {
    let setup = Setup::new();
    let front: SocketAddr = setup.cluster.addr["ssh"].parse().unwrap();
    let crowd: Vec<_> = (0..600).map(|_| silent(front, 7)).collect();
    setup.alice.ssh(&[&setup.target(), "true"]).ok();
    // The same source is still served: the oldest silent connection goes, not the newcomer.
    let mut stream = silent(front, 7);
    stream.set_read_timeout(Some(crate::process::PATIENCE)).unwrap();
    let mut banner = [0; 8];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-2.0-");
    drop(crowd);
}

#[test]
fn a_banner_without_end_and_a_packet_without_bound() {
    let mut setup = Setup::new();
    let front = &setup.cluster.addr["ssh"];
    let endless = TcpStream::connect(front).unwrap();
    endless.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(is_dropped(endless, |stream| {
        let _ = stream.write_all(&[b'A'; 1 << 16]);
    }));

    let mut huge = TcpStream::connect(front).unwrap();
    huge.write_all(b"SSH-2.0-test\r\n").unwrap();
    huge.write_all(&[0xff, 0xff, 0xff, 0xf0, 4, 20]).unwrap();
    assert!(is_dropped(huge, |_| {}));
    assert!(setup.cluster.hub.running());
}
