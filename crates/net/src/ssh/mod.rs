//! SSH over any byte stream: the driver of the engine in `mezite-ssh`.
//!
//! Every connection is one task that reads and writes concurrently and never waits for a consumer. Handles
//! ([`Connection`], [`Incoming`], [`Channel`], requests) act on the engine under a short lock and wake the task only
//! when there is something to write. Dropping every handle closes the connection; dropping both halves of a channel
//! closes the channel; dropping a request refuses it.
//!
//! What is queued is bounded by the engine: a channel's data by its window, which is returned when the application asks
//! for the next event; requests by a count and a size; output by a high-water mark at which senders wait.

mod channel;
mod connection;
mod driver;
mod request;
mod shared;
mod stream;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

pub use channel::{Channel, ChannelEvent, ChannelReader, ChannelReq, ChannelWriter, Closed};
pub use connection::{Asked, Connection, Incoming, Login, OpenError, RequestError};
pub use mezite_ssh::{
    CloseReason, DisconnectReason,
    auth::{AuthMethod, Challenge, Credential, Method, Prompt},
    channel::{ChannelOpen, ForwardRequest, OpenFailure, PtyRequest, SessionRequest},
    config::{Algorithms, HostKey, HostTrust, Identity, Keepalive, Limits, ServerConfig},
};
pub use request::{AuthRequest, ChannelRequest, Event, GlobalRequest};
pub use stream::ChannelStream;

/// Answers the questions of keyboard-interactive; `None` gives up. The texts are the server's: escape them.
pub type Answer = Arc<dyn Fn(Challenge) -> BoxFuture<'static, Option<Vec<Zeroizing<String>>>> + Send + Sync>;

/// Settings of one client connection.
#[derive(Clone)]
pub struct ClientConfig {
    /// Login name asked for.
    pub user: String,
    /// What to sign with; `None` leaves keyboard-interactive only.
    pub identity: Option<Identity>,
    /// Which host keys are believed.
    pub trust: HostTrust,
    /// The present, in unix seconds, for the validity of the host certificate.
    pub now_unix: u64,
    /// Who answers keyboard-interactive; `None` refuses to be asked.
    pub prompt: Option<Answer>,
    /// Send the service request and the first authentication in one flight.
    pub pipelined: bool,
    /// Time from the first byte to the end of authentication, answers of people included.
    pub login_grace: Duration,
    /// Probing of a silent server; `None` turns it off.
    pub keepalive: Option<Keepalive>,
    /// Algorithms offered.
    pub algorithms: Algorithms,
    /// Bounds.
    pub limits: Limits,
}

impl ClientConfig {
    /// Logs in as `user` on a host known by `trust`: pipelined, two minutes to log in, keepalive, default bounds.
    #[must_use]
    pub fn new(user: impl Into<String>, identity: Option<Identity>, trust: HostTrust, now_unix: u64) -> Self {
        Self {
            user: user.into(),
            identity,
            trust,
            now_unix,
            prompt: None,
            pipelined: true,
            login_grace: Duration::from_secs(120),
            keepalive: Some(Keepalive::default()),
            algorithms: Algorithms::default(),
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("user", &self.user).field("trust", &self.trust).finish_non_exhaustive()
    }
}

/// Why [`connect`] did not lead to a connection.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server refused every way to log in that was tried.
    #[error("permission denied (the server accepts: {})", .methods.join(", ").escape_debug())]
    Denied {
        /// The methods the server named last; its own words.
        methods: Vec<String>,
        /// What the server said before; its own words.
        banner: String,
    },
    /// The host key is not believed.
    #[error("the host is not who it should be: {0}")]
    Host(String),
    /// The connection ended otherwise.
    #[error(transparent)]
    Closed(CloseReason),
}

/// Serves SSH on `io`. Returns at once; the client's login is the first thing that [`Incoming`] brings.
pub async fn accept<S>(io: S, config: Arc<ServerConfig>) -> (Connection, Incoming)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    connection::start(io, mezite_ssh::Connection::server(config, std::time::Instant::now()))
}

/// Logs in over `io` and returns when the user is authenticated.
///
/// # Errors
/// If the host is not believed, the user is refused, or the connection ends.
pub async fn connect<S>(io: S, config: ClientConfig) -> Result<(Connection, Incoming), ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (connection, login) = begin(io, config);
    login.done().await.map(|incoming| (connection, incoming))
}

/// Begins to log in over `io`. What is asked of the connection meanwhile goes along with the login to a server that runs this
/// engine, and waits for it otherwise.
pub fn begin<S>(io: S, config: ClientConfig) -> (Connection, Login)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let prompt = config.prompt;
    let settings = mezite_ssh::config::ClientSettings {
        user: config.user,
        identity: config.identity,
        trust: config.trust,
        now_unix: config.now_unix,
        interactive: prompt.is_some(),
        pipelined: config.pipelined,
        login_grace: config.login_grace,
        keepalive: config.keepalive,
        algorithms: config.algorithms,
        limits: config.limits,
    };
    let engine = mezite_ssh::Connection::client(settings, std::time::Instant::now());
    let (connection, incoming) = connection::start(io, engine);
    (connection, Login::new(incoming, prompt))
}
