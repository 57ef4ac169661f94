//! Both roles against each other, and each against a peer that does not keep the rules.

mod channels;
mod hostile;
mod keys;
mod login;
mod schedules;

use std::sync::Arc;

use super::*;
use crate::{
    auth::{AuthMethod, Credential, Method},
    cert::{CertKind, Certificate, CertificateBuilder},
    config::{Algorithms, HostKey, HostTrust, Identity, Limits},
    key::PrivateKey,
};

const NOW_UNIX: u64 = 1_800_000_000;
const HOST: &str = "node";
const USER: &str = "ubuntu";

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed([seed; 32]).unwrap()
}

fn certify(authority: &PrivateKey, key: &PrivateKey, kind: CertKind, principal: &str) -> Certificate {
    let builder = CertificateBuilder {
        public_key: key.public(),
        serial: 1,
        kind,
        key_id: "id".to_owned(),
        principals: vec![principal.to_owned()],
        valid_after: NOW_UNIX - 60,
        valid_before: NOW_UNIX + 60,
        critical_options: Vec::new(),
        extensions: Vec::new(),
    };
    builder.sign(authority).unwrap()
}

fn server_config() -> ServerConfig {
    let host = key(2);
    let certificate = Some(Arc::new(certify(&key(1), &host, CertKind::Host, HOST)));
    ServerConfig::new(vec![HostKey { key: Arc::new(host), certificate }])
}

fn client_settings() -> ClientSettings {
    let user = key(4);
    let certificate = certify(&key(3), &user, CertKind::User, USER);
    ClientSettings {
        user: USER.to_owned(),
        identity: Some(Identity::Certificate(Arc::new(user), Arc::new(certificate))),
        trust: HostTrust::Authorities { keys: vec![key(1).public()], name: HOST.to_owned() },
        now_unix: NOW_UNIX,
        interactive: true,
        pipelined: true,
        login_grace: Duration::from_secs(120),
        keepalive: Some(Keepalive::default()),
        algorithms: Algorithms::default(),
        limits: Limits::default(),
    }
}

/// A client and a server with a wire between them.
struct Pair {
    client: Connection,
    server: Connection,
    /// On the wire, by the end it goes to.
    to_client: BytesMut,
    to_server: BytesMut,
    /// Delivered, not understood yet.
    client_input: BytesMut,
    server_input: BytesMut,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        Self::with(client_settings(), server_config())
    }

    fn with(client: ClientSettings, server: ServerConfig) -> Self {
        let now = Instant::now();
        Self {
            client: Connection::client(client, now),
            server: Connection::server(Arc::new(server), now),
            to_client: BytesMut::new(),
            to_server: BytesMut::new(),
            client_input: BytesMut::new(),
            server_input: BytesMut::new(),
            now,
        }
    }

    /// A pair with the user logged in by certificate and nothing left to do.
    fn logged_in() -> Self {
        Self::logged_in_with(client_settings(), server_config())
    }

    fn logged_in_with(client: ClientSettings, server: ServerConfig) -> Self {
        let mut pair = Self::with(client, server);
        pair.run();
        pair.let_in();
        pair.run();
        assert!(matches!(pair.client.poll_event(), Some(Event::Authenticated { user }) if user == USER));
        assert!(matches!(pair.server.poll_event(), Some(Event::Authenticated { user }) if user == USER));
        pair
    }

    /// The server's application accepts the signed certificate.
    fn let_in(&mut self) {
        let Some(Event::Auth(attempt)) = self.server.poll_event() else { panic!("{:?}", self.server.closed()) };
        assert!(matches!(attempt.method, AuthMethod::PublicKey(Credential::Certificate(_))));
        self.server.authenticate(AuthReply::Accept);
    }

    fn collect(&mut self) {
        for (end, wire) in [(&mut self.client, &mut self.to_server), (&mut self.server, &mut self.to_client)] {
            if end.has_output() {
                wire.extend_from_slice(&end.take_output(BytesMut::new()));
            }
        }
    }

    /// Delivers up to `most` bytes each way; false if there was nothing to do.
    fn step(&mut self, most: usize) -> bool {
        self.collect();
        let mut moved = false;
        for (wire, input, end) in [
            (&mut self.to_client, &mut self.client_input, &mut self.client),
            (&mut self.to_server, &mut self.server_input, &mut self.server),
        ] {
            let before = input.len();
            let some = wire.split_to(wire.len().min(most));
            input.extend_from_slice(&some);
            end.receive(input, self.now);
            moved |= !some.is_empty() || input.len() != before;
        }
        moved || self.client.has_output() || self.server.has_output()
    }

    /// Until nothing moves.
    fn run(&mut self) {
        while self.step(usize::MAX) {}
    }

    /// Opens a session channel; its number at the client and at the server.
    fn open(&mut self) -> (ChannelId, ChannelId) {
        let near = self.client.open(ChannelOpen::Session).unwrap();
        self.run();
        let Some(Event::Open { channel: far, open: ChannelOpen::Session }) = self.server.poll_event() else {
            panic!("no open request")
        };
        self.server.accept(far);
        self.run();
        assert!(notices(&mut self.client).contains(&Notice::Opened(near)));
        (near, far)
    }

    /// The client breaks a rule: the server must end the connection, with `words` in the reason.
    fn assert_server_refuses(&mut self, words: &str) {
        self.run();
        match self.server.closed() {
            Some(CloseReason::Fault(fault)) => assert!(fault.message().contains(words), "{fault}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(self.client.closed(), Some(CloseReason::Peer { .. } | CloseReason::Fault(_))));
    }
}

fn notices(end: &mut Connection) -> Vec<Notice> {
    std::iter::from_fn(|| end.poll_notice()).collect()
}

/// Everything that waits on a channel.
fn drain(end: &mut Connection, channel: ChannelId) -> Vec<Inbound> {
    std::iter::from_fn(|| end.poll_channel(channel).filter(|item| *item != Inbound::Closed)).collect()
}

fn send(end: &mut Connection, message: &[u8]) {
    end.transport.send(message, b"").unwrap();
}
