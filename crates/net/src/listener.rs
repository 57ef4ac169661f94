//! The accept loop that serves every port.
//!
//! A connection is *silent* from its accept until its owner says that the peer has authenticated. Silent connections
//! are capped per source and in total, and the oldest goes when the cap is reached: whoever fills the port loses what he
//! filled it with, and a newcomer always gets in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    gate: Arc<Gate>,
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
        Ok(Self { tcp, gate: Arc::new(Gate { limits, pending: Mutex::default() }) })
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
        let mut starved = false;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, addr)) => {
                    starved = false;
                    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
                    let (place, evicted) = self.gate.admit(addr.ip());
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

    fn admit(self: &Arc<Self>, address: IpAddr) -> (Place, CancellationToken) {
        let source = source_of(address);
        let evicted = CancellationToken::new();
        let id = self.pending().admit(source, evicted.clone(), self.limits);
        (Place(Admission { gate: Arc::clone(self), id }), evicted)
    }
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    by_age: BTreeMap<u64, (IpAddr, CancellationToken)>,
    by_source: HashMap<IpAddr, BTreeSet<u64>>,
}

impl Pending {
    fn admit(&mut self, source: IpAddr, evicted: CancellationToken, limits: Limits) -> u64 {
        if let Some(ids) = self.by_source.get(&source)
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
        self.by_source.entry(source).or_default().insert(id);
        id
    }

    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let (source, evicted) = self.by_age.remove(&id)?;
        if let Some(ids) = self.by_source.get_mut(&source) {
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
        pending.admit(ip(1), tokens[0].clone(), LIMITS);
        pending.admit(ip(2), tokens[1].clone(), LIMITS);
        pending.admit(ip(2), tokens[2].clone(), LIMITS);
        pending.admit(ip(2), tokens[3].clone(), LIMITS);
        let gone: Vec<_> = tokens.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(gone, [false, true, false, false]);
    }

    #[test]
    fn the_oldest_of_all_goes_when_the_port_is_full() {
        let mut pending = Pending::default();
        let tokens: Vec<_> = (0..4).map(|_| CancellationToken::new()).collect();
        for (token, last) in tokens.iter().zip(1..) {
            pending.admit(ip(last), token.clone(), LIMITS);
        }
        let gone: Vec<_> = tokens.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(gone, [true, false, false, false]);
    }

    #[test]
    fn who_authenticated_is_out_of_reach_and_leaves_nothing_behind() {
        let gate = Arc::new(Gate { limits: LIMITS, pending: Mutex::default() });
        let (first, evicted) = gate.admit(ip(1));
        first.0.authenticated();
        let places: Vec<_> = (0..8).map(|_| gate.admit(ip(1)).0).collect();
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
