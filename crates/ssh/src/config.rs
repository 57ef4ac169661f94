//! What a caller settles before a connection starts.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    auth::Method,
    cert::Certificate,
    cipher::Cipher,
    kex::KexAlgorithm,
    key::{PrivateKey, PublicKey},
};

/// Prefix of the identification line of this engine; both ends being ours allows larger windows.
pub const IDENT_PREFIX: &str = "SSH-2.0-Mezite_";

/// The identification line sent to the peer, without CR LF.
pub(crate) const IDENT: &str = concat!("SSH-2.0-Mezite_", env!("CARGO_PKG_VERSION"));

/// A round trip up to which [`Limits::window`] is enough: 200 MB/s with 2 MiB. A larger one costs OpenSSH's client more than it
/// gains, as that keeps as much as the window holds in one buffer.
pub const SHORT_TRIP: Duration = Duration::from_millis(10);

/// Bounds on what a peer may make this side do or hold. The defaults suit a server open to the internet.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Channels of one connection, counted from the open request until the application let go of them.
    pub channels: usize,
    /// Receive window of a channel towards other implementations, in bytes. Where the round trip is longer than
    /// [`SHORT_TRIP`] it is larger in proportion, up to `window_own`.
    pub window: u32,
    /// Receive window of a channel towards this engine, in bytes.
    pub window_own: u32,
    /// Largest data of one packet accepted from this engine, in bytes, at most 256 KiB. Others are told 32 KiB.
    pub packet_own: u32,
    /// Received bytes that all channels together may hold for the application (soft: each further channel still
    /// gets a window of 64 KiB).
    pub buffered: u32,
    /// Requests of the peer, in all, that wait for the application.
    pub requests: usize,
    /// Bytes either way under one key before a new key exchange is started.
    pub rekey_bytes: u64,
    /// Time under one key before a new key exchange is started.
    pub rekey_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            channels: 256,
            window: 2 << 20,
            window_own: 8 << 20,
            packet_own: 64 << 10,
            buffered: 32 << 20,
            requests: 512,
            rekey_bytes: 1 << 30,
            rekey_interval: Duration::from_secs(3600),
        }
    }
}

impl Limits {
    /// The receive window towards a peer that is this far away.
    pub(crate) fn window_towards(&self, own_peer: bool, round_trip: Duration) -> u32 {
        if own_peer {
            return self.window_own;
        }
        let trips = round_trip.as_millis() / SHORT_TRIP.as_millis();
        let window = u128::from(self.window).saturating_mul(trips.max(1));
        u32::try_from(window).unwrap_or(u32::MAX).min(self.window_own.max(self.window))
    }

    /// Bytes one connection may hold for what its peer sent or made it say, at most: every window full (and twice that,
    /// for the slack of growing buffers), requests, and messages waiting for the wire or for new keys.
    #[must_use]
    pub fn memory_bound(&self) -> usize {
        let windows = self.buffered as usize + self.channels * (64 << 10);
        2 * windows + (4 << 20)
    }
}

/// Probing of a silent peer with `keepalive@openssh.com`.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Silence after which a probe is sent, and time between probes.
    pub interval: Duration,
    /// Probes without any sign of life after which the connection is closed.
    pub count: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30), count: 3 }
    }
}

/// Algorithms offered, best first.
#[derive(Clone, Debug)]
pub struct Algorithms {
    /// Key exchange methods.
    pub kex: Vec<KexAlgorithm>,
    /// Ciphers, for both directions.
    pub ciphers: Vec<Cipher>,
}

impl Default for Algorithms {
    fn default() -> Self {
        Self {
            kex: vec![
                KexAlgorithm::MlKem768X25519Sha256,
                KexAlgorithm::Curve25519Sha256,
                KexAlgorithm::Curve25519Sha256LibSsh,
            ],
            ciphers: vec![Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305],
        }
    }
}

/// A key that proves the identity of a server.
#[derive(Clone, Debug)]
pub struct HostKey {
    /// The key that signs.
    pub key: Arc<PrivateKey>,
    /// Its host certificate; offered before the plain key.
    pub certificate: Option<Arc<Certificate>>,
}

/// Settings of the server role, shared by all its connections.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Host keys, preferred first. At least one.
    pub host_keys: Vec<HostKey>,
    /// Time from the first byte to the end of authentication; traffic does not extend it.
    pub login_grace: Duration,
    /// Failed authentication attempts after which the peer is disconnected.
    pub max_tries: u32,
    /// Methods open to a client that has proved nothing yet.
    pub methods: Vec<Method>,
    /// Probing of silent peers; `None` turns it off.
    pub keepalive: Option<Keepalive>,
    /// Text shown by the client before authentication.
    pub banner: Option<String>,
    /// Algorithms offered.
    pub algorithms: Algorithms,
    /// Bounds.
    pub limits: Limits,
}

impl ServerConfig {
    /// A server with `host_keys` that accepts public keys: 30 s to log in, six tries, keepalive, default bounds.
    #[must_use]
    pub fn new(host_keys: Vec<HostKey>) -> Self {
        Self {
            host_keys,
            login_grace: Duration::from_secs(30),
            max_tries: 6,
            methods: vec![Method::PublicKey],
            keepalive: Some(Keepalive::default()),
            banner: None,
            algorithms: Algorithms::default(),
            limits: Limits::default(),
        }
    }
}

/// What a client signs with.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A bare key.
    Key(Arc<PrivateKey>),
    /// A key and the user certificate over its public half.
    Certificate(Arc<PrivateKey>, Arc<Certificate>),
}

/// Which host keys a client believes.
#[derive(Clone, Debug)]
pub enum HostTrust {
    /// A host certificate signed by one of `keys` that names `name` exactly.
    Authorities {
        /// Keys of the authorities.
        keys: Vec<PublicKey>,
        /// The name asked for.
        name: String,
    },
    /// One of these bare keys.
    Pinned(Vec<PublicKey>),
}

/// Settings of one connection in the client role.
#[derive(Clone)]
pub struct ClientSettings {
    /// Login name asked for.
    pub user: String,
    /// What to sign with; `None` leaves keyboard-interactive only.
    pub identity: Option<Identity>,
    /// Which host keys are believed.
    pub trust: HostTrust,
    /// The present, in unix seconds, for the validity of the host certificate.
    pub now_unix: u64,
    /// Whether questions of keyboard-interactive can be answered.
    pub interactive: bool,
    /// Send the service request and the first authentication in one flight.
    pub pipelined: bool,
    /// Time from the first byte to the end of authentication.
    pub login_grace: Duration,
    /// Probing of a silent server; `None` turns it off.
    pub keepalive: Option<Keepalive>,
    /// Algorithms offered.
    pub algorithms: Algorithms,
    /// Bounds.
    pub limits: Limits,
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSettings")
            .field("user", &self.user)
            .field("identity", &self.identity)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}
