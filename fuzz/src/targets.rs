//! What is fuzzed: a function of bytes that must not panic, and good inputs to begin with.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mezite_core::asciicast::Filter;
use mezite_core::predicate::{Predicate, Subject};
use mezite_core::{duration, labels, name, rbac, route, when};
use mezite_record::Chunk;
use mezite_session::Decoder;
use mezite_ssh::channel::{ForwardRequest, SessionRequest};
use mezite_ssh::config::{Algorithms, ClientSettings, HostKey, HostTrust, Identity, Limits, ServerConfig};
use mezite_ssh::key::PrivateKey;
use mezite_ssh::{Connection, fuzz};
use serde_json::Value;

/// One target.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "ssh-certificate", run: fuzz::certificate, seeds: certificates },
    Target { name: "ssh-key", run: fuzz::public_key, seeds: keys },
    Target { name: "ssh-text", run: fuzz::text, seeds: key_texts },
    Target { name: "ssh-key-exchange", run: fuzz::key_exchange, seeds: shares },
    Target { name: "ssh-wire", run: fuzz::wire, seeds: keys },
    Target { name: "ssh-server", run: server, seeds: client_bytes },
    Target { name: "ssh-client", run: client, seeds: server_bytes },
    Target { name: "ssh-session-request", run: session_request, seeds: requests },
    Target { name: "ssh-forward-request", run: forward_request, seeds: forwards },
    Target { name: "proxy-protocol", run: proxy_header, seeds: headers },
    Target { name: "role", run: role, seeds: roles },
    Target { name: "predicate", run: predicate, seeds: predicates },
    Target { name: "small-texts", run: small_texts, seeds: texts },
    Target { name: "playback-filter", run: playback_filter, seeds: terminal },
    Target { name: "recording-chunk", run: recording_chunk, seeds: chunks },
    Target { name: "starter-messages", run: starter_messages, seeds: messages },
];

/// Bytes of a peer, before and after the key exchange, at the server.
fn server(data: &[u8]) {
    let Some(config) = server_config() else { return };
    feed(Connection::server(config, Instant::now()), data);
}

/// The same at the client.
fn client(data: &[u8]) {
    let Some(settings) = client_settings() else { return };
    feed(Connection::client(settings, Instant::now()), data);
}

fn feed(mut connection: Connection, data: &[u8]) {
    let mut input = BytesMut::from(data);
    connection.receive(&mut input, Instant::now());
    while let Some(event) = connection.poll_event() {
        drop(event);
    }
    drop(connection.take_output(BytesMut::new()));
    connection.lost("the end of the input");
}

fn session_request(data: &[u8]) {
    let (name, payload) = data.split_at(data.len().min(usize::from(data.first().copied().unwrap_or_default() % 32)));
    let Ok(name) = std::str::from_utf8(name) else { return };
    for name in [name, "pty-req", "env", "exec", "subsystem", "window-change", "signal", "exit-signal"] {
        drop(SessionRequest::parse(name, payload));
    }
}

fn forward_request(data: &[u8]) {
    for name in ["tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com"] {
        drop(ForwardRequest::parse(name, data));
    }
}

fn forwards() -> Vec<Vec<u8>> {
    vec![b"\0\0\0\x09localhost\0\0\x1f\x90".to_vec(), b"\0\0\0\x06/tmp/s".to_vec()]
}

/// What a listed load balancer may send; the bytes are all there, so that it never waits.
fn proxy_header(mut data: &[u8]) {
    let mut reading = std::pin::pin!(mezite_net::proxy_protocol::read(&mut data));
    let polled = reading.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready(), "it waits at the end of the input");
}

fn headers() -> Vec<Vec<u8>> {
    let second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x13\x88\x01\xbb";
    vec![b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n".to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), second.to_vec()]
}

fn role(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    drop(mezite_core::kind::parse_role(&value));
}

fn predicate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(predicate) = Predicate::parse(text) else { return };
    let (roles, traits) = (["auditor".to_owned()], [("team".to_owned(), vec!["ops".to_owned()])].into());
    predicate.matches(Subject { name: "alice", roles: &roles, traits: &traits });
    assert!(Predicate::parse(&predicate.to_string()) == Ok(predicate), "what is shown can be read");
}

fn small_texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(labels::parse(text));
    drop(text.parse::<mezite_core::network::Network>());
    drop(duration::parse(text));
    drop(when::parse(text));
    let _ = (name::user(text), name::node(text), name::login(text));
    drop(route::resolve(text, "example", [route::Candidate { id: "1", name: "web" }]));
    drop(rbac::template::Template::parse(text));
    drop(mezite_core::text::escape_control(text));
}

fn playback_filter(data: &[u8]) {
    let (mut filter, mut shown) = (Filter::new(), String::new());
    for part in data.chunks(7) {
        filter.push(&String::from_utf8_lossy(part), &mut shown);
    }
    assert!(!shown.contains("\x1b]52"), "the clipboard is out of reach");
}

fn recording_chunk(data: &[u8]) {
    if let Ok(chunk) = Chunk::from_bytes(0, Bytes::copy_from_slice(data)) {
        drop(chunk.text());
    }
}

fn starter_messages(data: &[u8]) {
    let mut decoder = Decoder::messages();
    for part in data.chunks(5) {
        decoder.push(part);
        while let Ok(Some(message)) = decoder.next_value() {
            drop(message);
        }
    }
}

fn key() -> Option<PrivateKey> {
    PrivateKey::from_seed([7; 32]).ok()
}

fn server_config() -> Option<Arc<ServerConfig>> {
    Some(Arc::new(ServerConfig::new(vec![HostKey { key: Arc::new(key()?), certificate: None }])))
}

fn client_settings() -> Option<ClientSettings> {
    let trust = HostTrust::Pinned(vec![key()?.public()]);
    Some(ClientSettings {
        user: "root".to_owned(),
        identity: Some(Identity::Key(Arc::new(key()?))),
        trust,
        now_unix: 1_800_000_000,
        interactive: true,
        pipelined: true,
        login_grace: Duration::from_secs(30),
        keepalive: None,
        algorithms: Algorithms::default(),
        limits: Limits::default(),
    })
}

/// What two good ends say to each other until they wait for somebody: (client's bytes, server's bytes).
fn conversation() -> Option<(Vec<u8>, Vec<u8>)> {
    let now = Instant::now();
    let mut server = Connection::server(server_config()?, now);
    let mut client = Connection::client(client_settings()?, now);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut said = client.take_output(BytesMut::new());
        up.extend_from_slice(&said);
        server.receive(&mut said, now);
        let mut said = server.take_output(BytesMut::new());
        down.extend_from_slice(&said);
        client.receive(&mut said, now);
    }
    Some((up, down))
}

fn client_bytes() -> Vec<Vec<u8>> {
    conversation().into_iter().map(|(up, _)| up).collect()
}

fn server_bytes() -> Vec<Vec<u8>> {
    conversation().into_iter().map(|(_, down)| down).collect()
}

fn keys() -> Vec<Vec<u8>> {
    key().map(|key| key.public().to_wire()).into_iter().collect()
}

fn certificate() -> Option<mezite_ssh::cert::Certificate> {
    let key = key()?;
    mezite_ssh::cert::CertificateBuilder {
        public_key: key.public(),
        serial: 1,
        kind: mezite_ssh::cert::CertKind::User,
        key_id: "alice".to_owned(),
        principals: vec!["root".to_owned(), "ubuntu".to_owned()],
        valid_after: 1_700_000_000,
        valid_before: 1_900_000_000,
        critical_options: vec![("source-address".to_owned(), b"10.0.0.0/8,::1/128".to_vec())],
        extensions: vec![("permit-pty".to_owned(), Vec::new()), ("roles@mezite".to_owned(), b"[\"admin\"]".to_vec())],
    }
    .sign(&key)
    .ok()
}

fn certificates() -> Vec<Vec<u8>> {
    certificate().map(|certificate| certificate.to_wire()).into_iter().collect()
}

fn key_texts() -> Vec<Vec<u8>> {
    let key = key().map(|key| [key.public().to_openssh("a comment"), key.to_openssh("x").to_string()]);
    let certificate = certificate().map(|certificate| certificate.to_openssh("c"));
    key.into_iter().flatten().chain(certificate).map(String::into_bytes).collect()
}

fn shares() -> Vec<Vec<u8>> {
    mezite_ssh::kex::KexAlgorithm::ALL
        .into_iter()
        .filter_map(|algorithm| mezite_ssh::kex::ClientKex::start(algorithm).ok().map(|(_, share)| share))
        .collect()
}

fn requests() -> Vec<Vec<u8>> {
    let pty = b"\x00\x00\x00\x05xterm\x00\x00\x00\x50\x00\x00\x00\x18\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x06\x35\x00\x00\x00\x01\x00";
    let exec = b"\x00\x00\x00\x04true";
    vec![pty.to_vec(), exec.to_vec()]
}

fn roles() -> Vec<Vec<u8>> {
    let text = r#"{"kind":"role","version":"v1","metadata":{"name":"dev","description":"d"},"spec":{"options":{"max_session_ttl":"12h",
        "port_forwarding":true,"require_session_mfa":"totp"},"allow":{"node_labels":{"env":["a","^b.*$"],"*":"*"},
        "logins":["{{internal.logins}}","{{external.team}}"],"request":{"roles":["x"],"max_duration":"4h"}},"deny":{"logins":["root"]}}}"#;
    vec![text.as_bytes().to_vec()]
}

fn predicates() -> Vec<Vec<u8>> {
    let texts = [
        r#"contains(user.roles, "auditor") && !(equals(user.name, "bob") || contains(user.traits.team, "ops"))"#,
        r#"contains(user.traits["a b"], user.name) || equals("\"", "\\")"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn texts() -> Vec<Vec<u8>> {
    [
        "env=prod,team=core",
        "1h30m",
        "2026-03-24T15:00:00Z",
        "web-server-01.example.mezite",
        "{{external.team}}-x",
        "alice@example.com",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn terminal() -> Vec<Vec<u8>> {
    [
        "\x1b]0;title\x07text\x1b[31mred\x1b[0m\x1b[2J\x1b[10;5H",
        "\x1b]52;c;aGVsbG8=\x1b\\\x1bPq#0\x1b\\\u{9b}5n\u{202e}rtl",
        "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn chunks() -> Vec<Vec<u8>> {
    let mut chain = mezite_record::Chain::new("0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64");
    let chunk = chain.append(b"{\"version\":2,\"width\":80,\"height\":24}\n[0.1,\"o\",\"hello\\r\\n\"]\n");
    chunk.map(|chunk| chunk.to_bytes().to_vec()).into_iter().collect()
}

fn messages() -> Vec<Vec<u8>> {
    let lines = "{\"started\":{\"pid\":7,\"tty\":\"/dev/pts/1\"}}\n{\"exit\":{\"code\":3}}\n{\"signal\":{\"name\":\"TERM\",\"core\":false}}\n";
    vec![lines.as_bytes().to_vec()]
}
