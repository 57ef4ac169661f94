//! What lives by a decision. Each such thing holds the revision that it was decided with last, so that a revision can be
//! confirmed: it is in force when nothing lives on by an older one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Everything held by one process.
#[derive(Debug, Clone)]
pub(crate) struct Holders(Arc<watch::Sender<BTreeMap<u64, usize>>>);

/// Something that lives by a decision, until this is dropped. Take it before the view that is decided with is read: what is
/// held by an older view then keeps the newer revision from being confirmed.
#[derive(Debug)]
#[must_use = "what is not held is not waited for"]
pub struct Held {
    holders: Holders,
    revision: AtomicU64,
}

impl Holders {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    /// Holds, by no revision so far.
    pub(crate) fn hold(&self) -> Held {
        self.0.send_modify(|counts| *counts.entry(0).or_default() += 1);
        Held { holders: self.clone(), revision: AtomicU64::new(0) }
    }

    /// Comes back when nothing is held by a revision older than this one.
    pub(crate) async fn settled(&self, revision: u64) {
        let is_settled = |counts: &BTreeMap<u64, usize>| counts.keys().next().is_none_or(|oldest| *oldest >= revision);
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(is_settled).await;
    }

    /// Whether anything is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    fn exchange(&self, old: u64, new: Option<u64>) {
        self.0.send_modify(|counts| {
            if let Some(count) = counts.get_mut(&old) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&old);
                }
            }
            if let Some(new) = new {
                *counts.entry(new).or_default() += 1;
            }
        });
    }
}

impl Held {
    /// The decision was made with the view of this revision, and the answer is yes. An older one than before changes nothing.
    pub fn settle(&self, revision: u64) {
        let old = self.revision.fetch_max(revision, Ordering::AcqRel);
        if old < revision {
            self.holders.exchange(old, Some(revision));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.holders.exchange(self.revision.load(Ordering::Acquire), None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    async fn is_settled(holders: &Holders, revision: u64) -> bool {
        timeout(Duration::from_secs(60), holders.settled(revision)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_is_settled_when_nothing_lives_by_an_older_one() {
        let holders = Holders::new();
        assert!(holders.is_empty() && is_settled(&holders, 9).await);
        let (one, two) = (holders.hold(), holders.hold());
        assert!(!is_settled(&holders, 1).await, "held, and not decided so far");
        one.settle(5);
        two.settle(7);
        assert!(is_settled(&holders, 5).await && !is_settled(&holders, 6).await);
        one.settle(4);
        assert!(is_settled(&holders, 5).await, "a late word of an older revision");
        one.settle(7);
        assert!(is_settled(&holders, 7).await && !is_settled(&holders, 8).await);
        drop(two);
        assert!(!is_settled(&holders, 8).await);
        drop(one);
        assert!(is_settled(&holders, 8).await && holders.is_empty());
    }
}
