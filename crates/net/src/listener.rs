//! The accept loop that serves every port.
//!
//! A connection is *silent* from its accept until its owner says that the peer has authenticated. Silent connections
//! are capped per source and in total, and the oldest goes when the cap is reached: whoever fills the port loses what he
//! filled it with, and a newcomer always gets in.
//!
//! Where load balancers are listed ([`Listener::behind`]), their connections begin with a header of the PROXY protocol, and
//! from then on the client that it names is the peer. A listed peer without a header is refused; a header of anybody else is
//! just bytes that no protocol here begins with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mezite_core::network::Network;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::proxy_protocol;

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Caps on connections that have not authenticated yet.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From one source: an IPv4 address or an IPv6 /64.
    pub per_source: usize,
    /// From all sources.
    pub total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_source: 256, total: 4096 }
    }
}

/// How long a load balancer may take to send its header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of load balancers that wait for the accept loop, once their client is known.
const ARRIVALS: usize = 64;

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    gate: Arc<Gate>,
    /// Load balancers that say who their client is.
    balancers: Vec<Network>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Conn {
    /// The socket, with TCP_NODELAY set.
    pub stream: TcpStream,
    /// The peer's address. An IPv4 peer of an IPv6 socket shows its IPv4 address.
    pub addr: SocketAddr,
    /// The connection's place among the silent ones.
    pub admission: Admission,
}

/// A connection's place among the silent ones.
#[derive(Debug, Clone)]
pub struct Admission {
    gate: Arc<Gate>,
    id: u64,
}

impl Admission {
    /// Says that the peer has authenticated: the connection counts no more and is not dropped for a newcomer.
    pub fn authenticated(&self) {
        self.gate.pending().remove(self.id);
    }
}

impl Listener {
    /// Binds `address`; port 0 chooses a free one.
    ///
    /// # Errors
    /// When the address is in use, not ours, or not permitted.
    pub async fn bind(address: impl ToSocketAddrs, limits: Limits) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let gate = Arc::new(Gate { limits, pending: Mutex::default() });
        Ok(Self { tcp, gate, balancers: Vec::new() })
    }

    /// Believes the PROXY protocol of these peers, and demands it of them.
    #[must_use]
    pub fn behind(mut self, balancers: Vec<Network>) -> Self {
        self.balancers = balancers;
        self
    }

    /// The address bound, with the port that was chosen.
    ///
    /// # Errors
    /// When the socket cannot be asked.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until `stop`, one task per connection running `handle`, then waits at most `drain` for the tasks and
    /// drops those that are left. A handler that has more to do than to be dropped watches `stop` itself.
    ///
    /// Dropping the returned future drops every connection.
    pub async fn run<F, Fut>(self, stop: CancellationToken, drain: Duration, handle: F)
    where
        F: Fn(Conn) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let kill = CancellationToken::new();
        let _kill_on_drop = kill.clone().drop_guard();
        let begin = |stream: TcpStream, addr: SocketAddr| {
            let (place, evicted) = self.gate.admit(Some(addr.ip()));
            // Fails only on a socket that is dead already, which its handler will notice.
            let _ = stream.set_nodelay(true);
            let conn = Conn { stream, addr, admission: place.0.clone() };
            let (handling, kill) = (handle(conn), kill.clone());
            tasks.spawn(async move {
                let _place = place;
                tokio::select! {
                    () = handling => {}
                    () = evicted.cancelled() => tracing::debug!(%addr, "silent connection dropped for a newcomer"),
                    () = kill.cancelled() => {}
                }
            });
        };
        let (named, mut arrivals) = mpsc::channel(ARRIVALS);
        let mut starved = false;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some((stream, client)) = arrivals.recv() => {
                    begin(stream, client);
                    continue;
                }
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, addr)) => {
                    starved = false;
                    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
                    if self.balancers.iter().any(|balancer| balancer.contains(addr.ip())) {
                        let (place, evicted) = self.gate.admit(None);
                        let (named, kill) = (named.clone(), kill.clone());
                        tasks.spawn(async move {
                            tokio::select! {
                                () = name(stream, addr, named) => {}
                                () = evicted.cancelled() => {}
                                () = kill.cancelled() => {}
                            }
                            drop(place);
                        });
                    } else {
                        begin(stream, addr);
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !starved {
                        tracing::warn!(%error, "accepting connections fails, dropping silent ones");
                    }
                    starved = true;
                    self.gate.pending().evict_oldest();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.tcp);
        tasks.close();
        if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
            tracing::info!(connections = tasks.len(), "dropping connections that did not end in time");
            kill.cancel();
            tasks.wait().await;
        }
    }
}

/// Reads who the client of a load balancer is, the balancer itself where it speaks for itself, and hands the connection on.
async fn name(mut stream: TcpStream, balancer: SocketAddr, named: mpsc::Sender<(TcpStream, SocketAddr)>) {
    let late = || Err(io::ErrorKind::TimedOut.into());
    let header = tokio::time::timeout(HEADER_TIMEOUT, proxy_protocol::read(&mut stream)).await;
    match header.unwrap_or_else(|_| late()) {
        Ok(client) => drop(named.send((stream, client.unwrap_or(balancer))).await),
        Err(error) => tracing::info!(%balancer, %error, "a connection of a load balancer is refused"),
    }
}

/// Errors of `accept(2)` that tell about the connection that was waiting, not about the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Who is silent, oldest first.
#[derive(Debug)]
struct Gate {
    limits: Limits,
    pending: Mutex<Pending>,
}

/// Gives the place back when the connection's task ends, in whatever way.
struct Place(Admission);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.authenticated();
    }
}

impl Gate {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection whose client is not known yet counts for no source.
    fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> (Place, CancellationToken) {
        let source = address.map(source_of);
        let evicted = CancellationToken::new();
        let id = self.pending().admit(source, evicted.clone(), self.limits);
        (Place(Admission { gate: Arc::clone(self), id }), evicted)
    }
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    by_age: BTreeMap<u64, (Option<IpAddr>, CancellationToken)>,
    by_source: HashMap<IpAddr, BTreeSet<u64>>,
}

impl Pending {
    fn admit(&mut self, source: Option<IpAddr>, evicted: CancellationToken, limits: Limits) -> u64 {
        if let Some(ids) = source.and_then(|source| self.by_source.get(&source))
            && ids.len() >= limits.per_source
            && let Some(&oldest) = ids.first()
        {
            self.evict(oldest);
        }
        if self.by_age.len() >= limits.total {
            self.evict_oldest();
        }
        let id = self.next;
        self.next += 1;
        self.by_age.insert(id, (source, evicted));
        if let Some(source) = source {
            self.by_source.entry(source).or_default().insert(id);
        }
        id
    }

    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let (source, evicted) = self.by_age.remove(&id)?;
        if let Some(source) = source
            && let Some(ids) = self.by_source.get_mut(&source)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_source.remove(&source);
            }
        }
        Some(evicted)
    }

    fn evict(&mut self, id: u64) {
        if let Some(evicted) = self.remove(id) {
            evicted.cancel();
        }
    }

    fn evict_oldest(&mut self) {
        if let Some(&oldest) = self.by_age.keys().next() {
            self.evict(oldest);
        }
    }
}

/// One subscriber commonly holds a whole IPv6 /64.
fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { per_source: 2, total: 3 };

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_oldest_of_a_full_source_goes_and_others_stay() {
        let mut pending = Pending::default();
        let tokens: Vec<_> = (0..4).map(|_| CancellationToken::new()).collect();
        pending.admit(Some(ip(1)), tokens[0].clone(), LIMITS);
        pending.admit(Some(ip(2)), tokens[1].clone(), LIMITS);
        pending.admit(Some(ip(2)), tokens[2].clone(), LIMITS);
        pending.admit(Some(ip(2)), tokens[3].clone(), LIMITS);
        let gone: Vec<_> = tokens.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(gone, [false, true, false, false]);
    }

    #[test]
    fn the_oldest_of_all_goes_when_the_port_is_full() {
        let mut pending = Pending::default();
        let tokens: Vec<_> = (0..4).map(|_| CancellationToken::new()).collect();
        for (token, last) in tokens.iter().zip(1..) {
            pending.admit(Some(ip(last)), token.clone(), LIMITS);
        }
        let gone: Vec<_> = tokens.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(gone, [true, false, false, false]);
    }

    #[test]
    fn who_authenticated_is_out_of_reach_and_leaves_nothing_behind() {
        let gate = Arc::new(Gate { limits: LIMITS, pending: Mutex::default() });
        let (first, evicted) = gate.admit(Some(ip(1)));
        first.0.authenticated();
        let places: Vec<_> = (0..8).map(|_| gate.admit(Some(ip(1))).0).collect();
        assert!(!evicted.is_cancelled());
        drop((first, places));
        assert!(gate.pending().by_age.is_empty() && gate.pending().by_source.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_addresses_is_one_source() {
        let parse = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_ne!(parse("192.0.2.1"), parse("192.0.2.2"));
    }
}
