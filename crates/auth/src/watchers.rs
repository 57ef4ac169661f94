//! Who follows the watch, and up to which revision each has confirmed: what "it is in force" means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a change waits for those who follow it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The streams of agents and proxies that hear of roles, locks and users.
pub(crate) struct Watchers(watch::Sender<Streams>);

#[derive(Default)]
struct Streams {
    next: u64,
    by_id: BTreeMap<u64, Stream>,
}

struct Stream {
    peer: Peer,
    confirmed: u64,
}

/// An agent or a proxy: its id, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A stream that is followed; it counts until this is dropped.
pub(crate) struct Following {
    watchers: Arc<Watchers>,
    id: u64,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.watchers.0.send_modify(|streams| drop(streams.by_id.remove(&self.id)));
    }
}

/// What came of waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) confirmed: usize,
    /// Names of those that have not confirmed.
    pub(crate) missing: Vec<String>,
}

impl Watchers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::default()))
    }

    /// A stream begins. To be called before the first read for it, so that no change falls between.
    pub(crate) fn follow(self: &Arc<Self>, peer: Peer) -> Following {
        let mut id = 0;
        self.0.send_modify(|streams| {
            id = streams.next;
            streams.next += 1;
            streams.by_id.insert(id, Stream { peer, confirmed: 0 });
        });
        Following { watchers: Arc::clone(self), id }
    }

    /// A machine says that nothing lives there by an older revision.
    pub(crate) fn confirm(&self, peer_id: &str, revision: u64) {
        self.0.send_modify(|streams| {
            for stream in streams.by_id.values_mut().filter(|stream| stream.peer.id == peer_id) {
                stream.confirmed = stream.confirmed.max(revision);
            }
        });
    }

    /// Waits until everybody that follows, and everybody in `expected`, has confirmed `revision`; at most [`PATIENCE`].
    pub(crate) async fn settled(&self, revision: u64, expected: &BTreeSet<Peer>) -> Settled {
        let mut changes = self.0.subscribe();
        let all = changes.wait_for(|streams| streams.settled(revision, expected).missing.is_empty());
        // The sender is ours, so there is an answer or the time is over.
        let _ = timeout_at(Instant::now() + PATIENCE, all).await;
        self.0.borrow().settled(revision, expected)
    }
}

impl Streams {
    fn settled(&self, revision: u64, expected: &BTreeSet<Peer>) -> Settled {
        // A machine that came back has two streams for a while: the one that it reads counts.
        let has = |id: &str| self.by_id.values().any(|s| s.peer.id == id && s.confirmed >= revision);
        let known = self.by_id.values().map(|stream| &stream.peer);
        let all: BTreeMap<&str, &str> =
            expected.iter().chain(known).map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let missing: BTreeSet<&str> = all.iter().filter(|(id, _)| !has(id)).map(|(_, name)| *name).collect();
        Settled { confirmed: all.len() - missing.len(), missing: missing.into_iter().map(str::to_owned).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str) -> Peer {
        Peer { id: id.into(), name: format!("node {id}") }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_everybody_and_names_who_is_silent() {
        let watchers = Watchers::new();
        let nobody = BTreeSet::new();
        assert_eq!(watchers.settled(7, &nobody).await, Settled { confirmed: 0, missing: vec![] });
        let (_a, b) = (watchers.follow(peer("a")), watchers.follow(peer("b")));
        watchers.confirm("a", 7);
        watchers.confirm("b", 6);
        let begin = Instant::now();
        assert_eq!(watchers.settled(7, &nobody).await, Settled { confirmed: 1, missing: names(&["node b"]) });
        assert_eq!(begin.elapsed(), PATIENCE);

        let waiting = tokio::spawn({
            let watchers = Arc::clone(&watchers);
            async move { watchers.settled(7, &BTreeSet::new()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        watchers.confirm("b", 8);
        assert_eq!(waiting.await.unwrap(), Settled { confirmed: 2, missing: vec![] });
        assert_eq!(begin.elapsed(), PATIENCE, "an answer as soon as all have confirmed");

        drop(b);
        let expected = BTreeSet::from([peer("a"), peer("b")]);
        assert_eq!(watchers.settled(7, &expected).await.missing, ["node b"], "expected, and not there");
        // It came back: what it has confirmed before says nothing about what it decides by now.
        let _b = watchers.follow(peer("b"));
        assert_eq!(watchers.settled(7, &nobody).await.missing, ["node b"]);
    }
}
