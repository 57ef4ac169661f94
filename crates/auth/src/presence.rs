//! Who is there now: tunnels as proxies report them, heartbeats as agents send them. Kept in memory; the database gets the
//! tunnels when they change and the heartbeats in batches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mezite_store::Heartbeat;

/// How often agents send a heartbeat and proxies report, in seconds.
pub(crate) const PERIOD_SECONDS: u32 = 30;
/// Silence after which somebody counts as gone: three missed periods.
pub(crate) const GONE: Duration = Duration::from_secs(3 * PERIOD_SECONDS as u64);

/// What is known of agents and proxies.
#[derive(Default)]
pub(crate) struct Presence {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    agents: HashMap<String, Agent>,
    proxies: BTreeMap<String, Proxy>,
    /// Heartbeats that the database has not got yet.
    unwritten: HashMap<String, u32>,
    /// Nodes whose tunnel went away, and when.
    away: HashMap<String, Instant>,
}

impl State {
    fn is_online(&self, node_id: &str) -> bool {
        self.proxies.values().any(|proxy| proxy.online.contains(node_id))
    }

    /// Notes which of these have no tunnel any more.
    fn look_for<'a>(&mut self, nodes: impl Iterator<Item = &'a String>, now: Instant) {
        for node in nodes {
            if !self.is_online(node) {
                self.away.entry(node.clone()).or_insert(now);
            }
        }
    }
}

struct Agent {
    heard: Instant,
    /// Since when it has said that no session lives on it.
    idle_since: Option<Instant>,
}

struct Proxy {
    heard: Instant,
    online: BTreeSet<String>,
}

impl Presence {
    /// Notes a heartbeat.
    pub(crate) fn heartbeat(&self, node_id: &str, live_sessions: u32, now: Instant) {
        let mut state = self.state();
        let idle = state.agents.get(node_id).and_then(|agent| agent.idle_since);
        let idle_since = (live_sessions == 0).then(|| idle.unwrap_or(now));
        state.agents.insert(node_id.to_owned(), Agent { heard: now, idle_since });
        state.unwritten.insert(node_id.to_owned(), live_sessions);
    }

    /// Takes the heartbeats that are to be written.
    pub(crate) fn take_heartbeats(&self) -> Vec<Heartbeat> {
        let taken = std::mem::take(&mut self.state().unwritten);
        taken.into_iter().map(|(node_id, live_sessions)| Heartbeat { node_id, live_sessions }).collect()
    }

    /// Notes the whole set of tunnels that a proxy holds; the answer is whether it differs from the last.
    pub(crate) fn report(&self, proxy: &str, online: &[String], now: Instant) -> bool {
        let online: BTreeSet<String> = online.iter().cloned().collect();
        let mut state = self.state();
        state.away.retain(|node, _| !online.contains(node));
        match state.proxies.insert(proxy.to_owned(), Proxy { heard: now, online: online.clone() }) {
            Some(before) => {
                state.look_for(before.online.difference(&online), now);
                before.online != online
            }
            None => true,
        }
    }

    /// Nodes that have had no tunnel for a while and were not told of so far.
    pub(crate) fn left(&self, now: Instant) -> Vec<String> {
        let state = self.state();
        let left = state.away.iter().filter(|(_, since)| now.saturating_duration_since(**since) > GONE);
        left.map(|(node, _)| node.clone()).collect()
    }

    /// Notes that a node that left was told of.
    pub(crate) fn told_of(&self, node_id: &str) {
        self.state().away.remove(node_id);
    }

    /// Forgets proxies that fell silent and names them.
    pub(crate) fn lost_proxies(&self, now: Instant) -> Vec<String> {
        let mut state = self.state();
        let lost = state.proxies.iter().filter(|(_, proxy)| now.saturating_duration_since(proxy.heard) > GONE);
        let lost: Vec<String> = lost.map(|(id, _)| id.clone()).collect();
        for id in &lost {
            if let Some(proxy) = state.proxies.remove(id) {
                state.look_for(proxy.online.iter(), now);
            }
        }
        lost
    }

    /// Whether a tunnel of this node is held now.
    pub(crate) fn is_online(&self, node_id: &str) -> bool {
        self.state().is_online(node_id)
    }

    /// The nodes whose tunnel is held now, and the proxies that hold them, by id.
    pub(crate) fn online(&self) -> (BTreeSet<String>, Vec<String>) {
        let state = self.state();
        let nodes = state.proxies.values().flat_map(|proxy| proxy.online.iter().cloned()).collect();
        (nodes, state.proxies.keys().cloned().collect())
    }

    /// Whether a session on this node that began at `began` cannot be alive: the node is gone altogether, or has been
    /// saying for a while that nothing lives on it.
    pub(crate) fn is_orphaned(&self, node_id: &str, began: Instant, now: Instant) -> bool {
        let online = self.is_online(node_id);
        let mut state = self.state();
        match state.agents.get_mut(node_id) {
            Some(agent) if now.saturating_duration_since(agent.heard) <= GONE => {
                agent.idle_since.is_some_and(|since| since > began && now.saturating_duration_since(since) > GONE)
            }
            _ => !online,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_node_is_online_while_a_living_proxy_holds_its_tunnel() {
        let (presence, now) = (Presence::default(), Instant::now());
        assert!(presence.report("p1", &["n1".into()], now));
        assert!(!presence.report("p1", &["n1".into()], now + SECOND));
        assert!(presence.is_online("n1") && !presence.is_online("n2"));
        assert!(presence.lost_proxies(now + GONE).is_empty());
        assert_eq!(presence.lost_proxies(now + GONE + 2 * SECOND), ["p1"]);
        assert!(!presence.is_online("n1"));
    }

    #[test]
    fn a_node_has_left_when_no_proxy_has_had_its_tunnel_for_a_while() {
        let (presence, now) = (Presence::default(), Instant::now());
        let nodes = ["n1".to_owned(), "n2".to_owned(), "n3".to_owned()];
        presence.report("p1", &nodes, now);
        presence.report("p2", &nodes[2..], now);
        presence.report("p1", &nodes[..1], now + SECOND);
        assert!(presence.left(now + GONE).is_empty());
        assert_eq!(presence.left(now + GONE + 2 * SECOND), ["n2"], "n3 is with the other proxy");
        presence.told_of("n2");
        assert!(presence.left(now + 3 * GONE).is_empty(), "told once");
        presence.report("p1", &[], now + 2 * SECOND);
        presence.report("p1", &nodes[..1], now + 3 * SECOND);
        presence.report("p2", &nodes[2..], now + 2 * GONE);
        presence.lost_proxies(now + 2 * GONE);
        assert_eq!(presence.left(now + 3 * GONE + SECOND), ["n1"], "with the proxy that fell silent");
    }

    #[test]
    fn a_session_is_orphaned_when_its_node_is_gone_or_keeps_saying_that_nothing_lives() {
        let (presence, began) = (Presence::default(), Instant::now());
        presence.heartbeat("n1", 1, began + SECOND);
        assert!(!presence.is_orphaned("n1", began, began + GONE));
        assert!(presence.is_orphaned("n1", began, began + 2 * GONE), "no heartbeat, no tunnel");
        presence.report("p1", &["n1".into()], began + 2 * GONE);
        assert!(!presence.is_orphaned("n1", began, began + 2 * GONE), "the tunnel holds");

        presence.heartbeat("n1", 0, began + 2 * GONE);
        presence.heartbeat("n1", 0, began + 3 * GONE);
        assert!(!presence.is_orphaned("n1", began, began + 3 * GONE), "not for long enough");
        assert!(presence.is_orphaned("n1", began, began + 3 * GONE + SECOND));
        assert!(!presence.is_orphaned("n1", began + 3 * GONE, began + 3 * GONE + SECOND), "began later");
    }

    #[test]
    fn heartbeats_are_written_once_with_the_last_value() {
        let (presence, now) = (Presence::default(), Instant::now());
        presence.heartbeat("n1", 1, now);
        presence.heartbeat("n1", 2, now);
        assert_eq!(presence.take_heartbeats(), [Heartbeat { node_id: "n1".into(), live_sessions: 2 }]);
        assert!(presence.take_heartbeats().is_empty());
    }
}
