//! Back-off for failed logins, per source and per user.
//!
//! Each key has an allowance that failures use up and time restores (a generic cell rate algorithm, one moment per key). An
//! attempt is charged before the password is looked at and refunded when it was right, so that parallel guesses gain
//! nothing. A source that the user has logged in from before has an allowance of its own for that user, and nothing else
//! counts there: neither who floods the user name from elsewhere nor who fails behind the same address locks the owner out.
//! So has the hub's own machine, within the bound of a source. What does not exist is charged like what does.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most keys of each sort that are remembered.
const KEPT: usize = 16_384;

/// Failures in a row, then one per period.
#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    period: Duration,
}

/// Of all users together: an office may stand behind one address.
const PER_SOURCE: Rate = Rate { burst: 100, period: Duration::from_secs(2) };
/// Of one user: from everywhere, or from one familiar source.
const PER_USER: Rate = Rate { burst: 10, period: Duration::from_secs(30) };

/// Counts failed logins.
#[derive(Default)]
pub(crate) struct Throttle {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sources: Cells<IpAddr>,
    users: Cells<String>,
    familiar: Cells<(String, IpAddr)>,
    known: HashSet<(String, IpAddr)>,
}

impl Throttle {
    /// Charges an attempt.
    ///
    /// # Errors
    /// How long to wait when the allowance is used up; nothing is charged then.
    pub(crate) fn admit(&self, user: &str, source: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let source = network(source);
        let pair = (user.to_owned(), source);
        let wait = state.wait(&pair, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        state.charge(pair, now);
        Ok(())
    }

    /// Whether this source may try a secret that names no user and cannot be guessed; only failures are charged.
    ///
    /// # Errors
    /// How long to wait when the allowance of the source is used up.
    pub(crate) fn admit_source(&self, source: IpAddr, now: Instant) -> Result<(), Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = state.sources.wait(&network(source), PER_SOURCE, now);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Charges a failure of [`Throttle::admit_source`].
    pub(crate) fn source_failed(&self, source: IpAddr, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sources.charge(network(source), PER_SOURCE, now);
    }

    /// Refunds the attempt: the password was right.
    pub(crate) fn succeeded(&self, user: &str, source: IpAddr, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let source = network(source);
        let pair = (user.to_owned(), source);
        state.refund(&pair, now);
        if state.known.len() < KEPT {
            state.known.insert(pair);
        }
    }
}

impl State {
    fn is_familiar(&self, pair: &(String, IpAddr)) -> bool {
        pair.1.is_loopback() || self.known.contains(pair)
    }

    fn wait(&self, pair: &(String, IpAddr), now: Instant) -> Duration {
        let by_user = match self.is_familiar(pair) {
            true => self.familiar.wait(pair, PER_USER, now),
            false => self.users.wait(&pair.0, PER_USER, now),
        };
        if self.known.contains(pair) { by_user } else { by_user.max(self.sources.wait(&pair.1, PER_SOURCE, now)) }
    }

    fn charge(&mut self, pair: (String, IpAddr), now: Instant) {
        if !self.known.contains(&pair) {
            self.sources.charge(pair.1, PER_SOURCE, now);
        }
        match self.is_familiar(&pair) {
            true => self.familiar.charge(pair, PER_USER, now),
            false => self.users.charge(pair.0, PER_USER, now),
        }
    }

    fn refund(&mut self, pair: &(String, IpAddr), now: Instant) {
        if !self.known.contains(pair) {
            self.sources.refund(&pair.1, PER_SOURCE, now);
        }
        match self.is_familiar(pair) {
            true => self.familiar.refund(pair, PER_USER, now),
            false => self.users.refund(&pair.0, PER_USER, now),
        }
    }
}

/// For each key the moment at which its allowance is whole again.
struct Cells<K>(HashMap<K, Instant>);

impl<K> Default for Cells<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Cells<K> {
    fn wait(&self, key: &K, rate: Rate, now: Instant) -> Duration {
        let Some(whole) = self.0.get(key) else { return Duration::ZERO };
        let used = whole.saturating_duration_since(now);
        (used + rate.period).saturating_sub(rate.period * rate.burst)
    }

    fn charge(&mut self, key: K, rate: Rate, now: Instant) {
        if self.0.len() >= KEPT && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        let whole = self.0.entry(key).or_insert(now);
        *whole = (*whole).max(now) + rate.period;
    }

    fn refund(&mut self, key: &K, rate: Rate, now: Instant) {
        if let Some(whole) = self.0.get_mut(key) {
            *whole = whole.checked_sub(rate.period).unwrap_or(now);
        }
    }

    /// Forgets what is whole again, else what is nearest to it: whoever is being guessed at stays.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, whole| *whole > now);
        if self.0.len() >= KEPT
            && let Some(key) = self.0.iter().min_by_key(|(_, whole)| **whole).map(|(key, _)| key.clone())
        {
            self.0.remove(&key);
        }
    }
}

/// One subscriber commonly holds a whole IPv6 /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn guesses_on_one_user_from_everywhere_run_dry_and_come_back_slowly() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let admitted =
            (0..200_u8).filter(|n| throttle.admit("alice", IpAddr::from([10, 0, 0, *n]), now).is_ok()).count();
        assert_eq!(admitted, 10);
        let wait = throttle.admit("alice", ip("10.1.0.1"), now).unwrap_err();
        assert!(wait <= PER_USER.period, "{wait:?}");
        assert!(throttle.admit("alice", ip("10.1.0.1"), now + PER_USER.period).is_ok());
        assert!(throttle.admit("alice", ip("10.1.0.2"), now + PER_USER.period).is_err());
    }

    #[test]
    fn a_flood_does_not_lock_out_where_the_user_logs_in_from() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        throttle.admit("alice", ip("192.0.2.1"), now).unwrap();
        throttle.succeeded("alice", ip("192.0.2.1"), now);
        for n in 0..200 {
            let _ = throttle.admit("alice", IpAddr::from([10, 0, 0, n]), now);
        }
        assert!(throttle.admit("alice", ip("10.1.0.1"), now).is_err());
        assert!(throttle.admit("alice", ip("192.0.2.1"), now).is_ok());
        assert!(throttle.admit("alice", ip("127.0.0.1"), now).is_ok());
    }

    #[test]
    fn one_source_runs_dry_over_many_users_and_right_passwords_cost_nothing() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..200 {
            throttle.admit("bob", ip("192.0.2.7"), now).unwrap();
            throttle.succeeded("bob", ip("192.0.2.7"), now);
        }
        let admitted = (0..200).filter(|n| throttle.admit(&format!("u{n}"), ip("192.0.2.7"), now).is_ok()).count();
        assert_eq!(admitted, 100);
        assert!(throttle.admit("u1", ip("2001:db8::1"), now).is_ok());
        assert!(throttle.admit("carol", ip("192.0.2.7"), now).is_err(), "never seen there");
        for _ in 0..10 {
            throttle.admit("bob", ip("192.0.2.7"), now).expect("others fail behind the address that bob logs in from");
        }
        assert!(throttle.admit("bob", ip("192.0.2.7"), now).is_err(), "guesses on bob");
    }

    #[test]
    fn memory_is_bounded_and_keeps_whoever_is_under_attack() {
        let (mut cells, now) = (Cells::default(), Instant::now());
        for _ in 0..10 {
            cells.charge("victim".to_owned(), PER_USER, now);
        }
        for n in 0..KEPT + 100 {
            cells.charge(n.to_string(), PER_USER, now);
        }
        assert_eq!(cells.0.len(), KEPT);
        assert!(!cells.wait(&"victim".to_owned(), PER_USER, now).is_zero());
    }
}
