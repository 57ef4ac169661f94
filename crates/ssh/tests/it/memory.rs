//! What a peer can make the engine hold.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use mezite_ssh::{
    Connection, Event, PrivateKey,
    auth::AuthReply,
    channel::{ChannelOpen, Notice},
    config::{Algorithms, ClientSettings, HostKey, HostTrust, Identity, Limits, ServerConfig},
};

/// Counts the bytes that are allocated.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator can be written no other way; all is passed on to the system's")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the system's precondition.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the system's precondition.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Pair {
    client: Connection,
    server: Connection,
    to_client: BytesMut,
    to_server: BytesMut,
    now: Instant,
}

impl Pair {
    fn new(limits: &Limits) -> Self {
        let (host, user) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let trust = HostTrust::Pinned(vec![host.public()]);
        let mut config = ServerConfig::new(vec![HostKey { key: Arc::new(host), certificate: None }]);
        config.limits = limits.clone();
        let settings = ClientSettings {
            user: "user".to_owned(),
            identity: Some(Identity::Key(Arc::new(user))),
            trust,
            now_unix: 0,
            interactive: false,
            pipelined: true,
            login_grace: Duration::from_secs(30),
            keepalive: None,
            algorithms: Algorithms::default(),
            limits: limits.clone(),
        };
        let now = Instant::now();
        let (client, server) = (Connection::client(settings, now), Connection::server(Arc::new(config), now));
        let mut pair = Self { client, server, to_client: BytesMut::new(), to_server: BytesMut::new(), now };
        pair.run();
        assert!(matches!(pair.server.poll_event(), Some(Event::Auth(_))));
        pair.server.authenticate(AuthReply::Accept);
        pair.run();
        assert!(matches!(pair.server.poll_event(), Some(Event::Authenticated { .. })));
        pair
    }

    fn run(&mut self) {
        while self.client.has_output() || self.server.has_output() {
            self.to_server.extend_from_slice(&self.client.take_output(BytesMut::new()));
            self.to_client.extend_from_slice(&self.server.take_output(BytesMut::new()));
            self.client.receive(&mut self.to_client, self.now);
            self.server.receive(&mut self.to_server, self.now);
        }
        while self.client.poll_notice().is_some() {}
    }
}

#[test]
fn tiny_packets_of_a_server_cost_no_more_than_the_bound() {
    let limits = Limits { channels: 4, window_own: 256 << 10, buffered: 512 << 10, ..Limits::default() };
    let mut pair = Pair::new(&limits);
    let mut channels = Vec::new();
    for _ in 0..limits.channels {
        let near = pair.client.open(ChannelOpen::Session).unwrap();
        pair.run();
        let Some(Event::Open { channel, .. }) = pair.server.poll_event() else { panic!() };
        pair.server.accept(channel);
        pair.run();
        channels.push((near, channel));
    }
    let before = LIVE.load(Relaxed);
    // One byte of stdout, one of stderr, by turns, until every window is used up; nobody consumes.
    let mut sent = 0;
    loop {
        let mut moved = 0;
        for (_, far) in &channels {
            for _ in 0..500 {
                moved += pair.server.send_data(*far, false, b"o").unwrap()
                    + pair.server.send_data(*far, true, b"e").unwrap();
            }
        }
        pair.run();
        while pair.server.poll_notice().is_some_and(|notice| notice != Notice::Drained) {}
        sent += moved;
        if moved == 0 {
            break;
        }
    }
    assert!(sent >= limits.buffered as usize / 2, "{sent}");
    let held = LIVE.load(Relaxed).saturating_sub(before);
    assert!((sent..limits.memory_bound()).contains(&held), "{held} for {sent}");
    // Tighter than the promise: twice the data and the odd buffer.
    assert!(held <= 2 * sent + (1 << 20), "{held} for {sent}");
}
