use std::sync::Arc;

use mezite_net::dial::Dialer;
use mezite_net::tls::{
    self, ALPN_H2, ClientAuth, LiveIdentity, Observed, Peer, PeerError, PeerRole, Pin, ServerName, TlsError,
    TlsIdentity, TlsKey, Trust, client_config,
};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::ca::{AGENT, Ca, PROXY};

/// One connection; what either side made of it. The client waits for a byte, since TLS 1.3 tells it of a refused
/// certificate only after its own handshake.
async fn meet(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &'static str,
) -> (Result<Option<Peer>, TlsError>, Result<(), String>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serving = async {
        let (mut stream, peer) = tls::accept(far, Arc::clone(server)).await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        Ok(peer)
    };
    let calling = async {
        let name = ServerName::try_from(name).unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, near).await.map_err(|e| e.to_string())?;
        stream.read_u8().await.map(|_| ()).map_err(|e| e.to_string())
    };
    tokio::join!(serving, calling)
}

fn client(trust: Trust, identity: Option<Arc<LiveIdentity>>) -> Arc<ClientConfig> {
    client_config(trust, identity, ALPN_H2, true).unwrap()
}

#[tokio::test]
async fn a_client_certificate_says_who_the_peer_is() {
    let ca = Ca::new();
    let client = client(Trust::Roots(ca.roots(), None), Some(ca.identity(AGENT)));
    for clients in [ClientAuth::Required(ca.roots()), ClientAuth::Optional(ca.roots())] {
        let (peer, called) = meet(&ca.server(clients), &client, "localhost").await;
        let peer = peer.unwrap().unwrap();
        assert_eq!((peer.cluster.as_str(), peer.role, peer.id.as_str()), ("example", PeerRole::Agent, "node-1"));
        assert_eq!(peer.fingerprint.len(), 64);
        called.unwrap();
    }
}

#[tokio::test]
async fn without_a_certificate_only_the_optional_listener_lets_in() {
    let ca = Ca::new();
    let client = client(Trust::Roots(ca.roots(), None), None);
    let (peer, called) = meet(&ca.server(ClientAuth::Optional(ca.roots())), &client, "localhost").await;
    assert_eq!(peer.unwrap(), None);
    called.unwrap();
    let (peer, called) = meet(&ca.server(ClientAuth::Required(ca.roots())), &client, "localhost").await;
    assert!(peer.is_err() && called.is_err());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_every_listener() {
    let (ca, other) = (Ca::new(), Ca::new());
    let client = client(Trust::Roots(ca.roots(), None), Some(other.identity(AGENT)));
    for clients in [ClientAuth::Required(ca.roots()), ClientAuth::Optional(ca.roots())] {
        let (peer, called) = meet(&ca.server(clients), &client, "localhost").await;
        assert!(peer.is_err() && called.is_err());
    }
}

#[tokio::test]
async fn a_verified_certificate_must_name_exactly_one_process() {
    let ca = Ca::new();
    let server = ca.server(ClientAuth::Required(ca.roots()));
    for (uris, expected) in [
        (&[][..], PeerError::Uris),
        (&[AGENT, PROXY], PeerError::Uris),
        (&[AGENT, "https://example.com"], PeerError::Uris),
        (&["spiffe://example/agent/node-1"], PeerError::Name),
        (&["mezite://example/auth/1"], PeerError::Name),
    ] {
        let identity = LiveIdentity::new(ca.issue(uris)).unwrap();
        let (peer, _) = meet(&server, &client(Trust::Roots(ca.roots(), None), Some(identity)), "localhost").await;
        assert!(matches!(peer, Err(TlsError::Peer(error)) if error == expected), "{uris:?}: {peer:?}");
    }
}

#[tokio::test]
async fn roots_and_identities_change_while_in_use() {
    let (old, new) = (Ca::new(), Ca::new());
    let (server_roots, client_roots) = (old.roots(), old.roots());
    let (server_identity, client_identity) = (old.identity(PROXY), old.identity(AGENT));
    let server = tls::ServerTls {
        identity: Arc::clone(&server_identity),
        clients: ClientAuth::Required(Arc::clone(&server_roots)),
        alpn: ALPN_H2,
        tls13_only: true,
    };
    let server = server.build().unwrap();
    let client = client(Trust::Roots(Arc::clone(&client_roots), None), Some(Arc::clone(&client_identity)));
    meet(&server, &client, "localhost").await.1.unwrap();

    assert!(server_roots.replace("").is_err(), "an empty bundle changes nothing");
    meet(&server, &client, "localhost").await.1.unwrap();

    server_roots.replace(&new.pem()).unwrap();
    assert!(meet(&server, &client, "localhost").await.0.is_err(), "the agent's certificate is of the old authority");
    client_identity.replace(new.issue(&[AGENT])).unwrap();
    meet(&server, &client, "localhost").await.1.unwrap();

    server_identity.replace(new.issue(&[PROXY])).unwrap();
    assert!(meet(&server, &client, "localhost").await.1.is_err(), "the agent trusts the old authority");
    client_roots.replace(&(old.pem() + &new.pem())).unwrap();
    meet(&server, &client, "localhost").await.1.unwrap();
}

#[tokio::test]
async fn a_server_must_have_the_role_asked_for() {
    let ca = Ca::new();
    let server = ca.server(ClientAuth::None);
    let as_role = |role| client(Trust::Roots(ca.roots(), Some(role)), None);
    meet(&server, &as_role(PeerRole::Proxy), "localhost").await.1.unwrap();
    assert!(meet(&server, &as_role(PeerRole::Agent), "localhost").await.1.is_err());
}

#[tokio::test]
async fn the_pinned_authority_is_accepted_and_no_other() {
    let (ca, other) = (Ca::new(), Ca::new());
    let pin = Pin::of_cert(ca.0.der()).unwrap();
    let pinned = client(Trust::Pin(pin), None);
    meet(&ca.server(ClientAuth::None), &pinned, "localhost").await.1.unwrap();

    let refused = meet(&other.server(ClientAuth::None), &pinned, "localhost").await.1.unwrap_err();
    assert!(refused.contains(&pin.to_string()), "{refused}");
    assert!(meet(&ca.server(ClientAuth::None), &pinned, "example.com").await.1.is_err(), "the name counts");
}

#[tokio::test]
async fn sending_the_pinned_authority_without_descending_from_it_does_not_help() {
    let (ca, other) = (Ca::new(), Ca::new());
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = Ca::params(&[PROXY]).signed_by(&key, &other.0).unwrap();
    let identity = TlsIdentity::from_pem(&(leaf.pem() + &ca.pem()), &key.serialize_pem()).unwrap();
    let server = tls::ServerTls {
        identity: LiveIdentity::new(identity).unwrap(),
        clients: ClientAuth::None,
        alpn: ALPN_H2,
        tls13_only: true,
    };
    let server = server.build().unwrap();
    let observed = Observed::default();
    for trust in [Trust::Pin(Pin::of_cert(ca.0.der()).unwrap()), Trust::FirstUse(observed.clone())] {
        assert!(meet(&server, &client(trust, None), "localhost").await.1.is_err());
    }
    assert_eq!(observed.pin(), None);
}

#[tokio::test]
async fn the_first_authority_seen_is_kept() {
    let (ca, other) = (Ca::new(), Ca::new());
    let observed = Observed::default();
    let first = client(Trust::FirstUse(observed.clone()), None);
    meet(&ca.server(ClientAuth::None), &first, "localhost").await.1.unwrap();
    assert_eq!(observed.pin(), Some(Pin::of_cert(ca.0.der()).unwrap()));
    meet(&ca.server(ClientAuth::None), &first, "localhost").await.1.unwrap();
    assert!(meet(&other.server(ClientAuth::None), &first, "localhost").await.1.is_err());
    assert_eq!(observed.pin(), Some(Pin::of_cert(ca.0.der()).unwrap()));
}

#[tokio::test]
async fn insecure_takes_any_server_and_says_which() {
    let ca = Ca::new();
    let observed = Observed::default();
    let any = client(Trust::Insecure(observed.clone()), None);
    meet(&ca.server(ClientAuth::None), &any, "not-the-name.example").await.1.unwrap();
    assert!(observed.pin().is_some_and(|pin| pin != Pin::of_cert(ca.0.der()).unwrap()), "the leaf, not the CA");
}

#[tokio::test]
async fn tls_1_2_is_refused_between_our_programs_and_spoken_with_browsers() {
    let ca = Ca::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    assert!(meet(&ca.server(ClientAuth::None), &old, "localhost").await.1.is_err());
    let web = tls::ServerTls {
        identity: ca.identity(PROXY),
        clients: ClientAuth::None,
        alpn: tls::ALPN_WEB,
        tls13_only: false,
    };
    meet(&web.build().unwrap(), &old, "localhost").await.1.unwrap();
}

#[tokio::test]
async fn extra_roots_join_the_systems() {
    let ca = Ca::new();
    let trust = Trust::System { extra_pem: Some(ca.pem()) };
    meet(&ca.server(ClientAuth::None), &client(trust, None), "localhost").await.1.unwrap();
    let bad = Trust::System { extra_pem: Some("no PEM".to_owned()) };
    assert!(matches!(client_config(bad, None, ALPN_H2, true), Err(TlsError::NoCertificate)));
}

#[tokio::test]
async fn a_generated_key_fits_the_certificate_made_for_its_public_half() {
    let ca = Ca::new();
    let key = TlsKey::generate().unwrap();
    let public = rcgen::SubjectPublicKeyInfo::from_der(&key.public).unwrap();
    let leaf = Ca::params(&[AGENT]).signed_by(&public, &ca.0).unwrap();
    let identity = TlsIdentity::from_der(vec![leaf.der().clone()], key.private.into());
    let identity = LiveIdentity::new(identity).unwrap();
    let client = client(Trust::Roots(ca.roots(), None), Some(identity));
    let (peer, called) = meet(&ca.server(ClientAuth::Required(ca.roots())), &client, "localhost").await;
    assert_eq!(peer.unwrap().unwrap().id, "node-1");
    called.unwrap();
}

#[tokio::test]
async fn a_connection_may_travel_inside_another() {
    let (ca, outer_ca) = (Ca::new(), Ca::new());
    let (inner, outer) = (ca.server(ClientAuth::Required(ca.roots())), outer_ca.server(ClientAuth::None));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let serving = async {
        let (unwrapped, _) = tls::accept(listener.accept().await.unwrap().0, outer).await.unwrap();
        let (mut stream, peer) = tls::accept(unwrapped, inner).await.unwrap();
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
        peer.unwrap().id
    };
    let inside = client(Trust::Roots(ca.roots(), Some(PeerRole::Proxy)), Some(ca.identity(AGENT)));
    let dialer = Dialer::new(vec![address], inside).unwrap();
    let dialer = dialer.wrapped_in(client(Trust::Roots(outer_ca.roots(), None), None));
    let calling = async { dialer.connect().await.unwrap().read_u8().await.unwrap() };
    assert_eq!(tokio::join!(serving, calling), ("node-1".to_owned(), b'!'));
}

#[test]
fn a_key_that_is_not_the_leafs_is_refused_and_no_key_is_shown() {
    let ca = Ca::new();
    let (key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let leaf = Ca::params(&[AGENT]).signed_by(&key, &ca.0).unwrap();
    let identity = TlsIdentity::from_pem(&leaf.pem(), &other.serialize_pem()).unwrap();
    assert_eq!(format!("{identity:?}"), "TlsIdentity { certificates: 1, .. }");
    assert!(LiveIdentity::new(identity).is_err());
    assert!(TlsIdentity::from_pem(&leaf.pem(), &leaf.pem()).is_err());
    assert!(TlsIdentity::from_pem(&key.serialize_pem(), &key.serialize_pem()).is_err());
}
