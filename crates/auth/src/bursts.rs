//! Keeps what one caller can write into the audit log bounded.
//!
//! Refusals are events that callers cause at will. The first [`EACH`] of a sort are written at once. The same again within
//! [`WINDOW`] is counted, and the count is written when the window is over: one event like the last of them, with `repeated` and `since` in
//! its details. A caller has [`SORTS`] sorts per window; what goes beyond them is counted by its code alone. Counts are in
//! memory: a hub that is killed forgets how often something happened in its last window, never that it did.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mezite_core::audit::Event;
use mezite_core::when;
use mezite_net::clock;
use serde_json::Value;
use time::OffsetDateTime;

/// How long the same is counted before it is written again.
const WINDOW: Duration = Duration::from_secs(60);
/// How many of one sort are written one by one.
const EACH: u64 = 5;
/// Sorts of refusal of one caller that are told apart in a window.
const SORTS: usize = 32;
/// Callers that are told apart.
const CALLERS: usize = 4096;

/// What callers were refused lately.
#[derive(Default)]
pub(crate) struct Bursts(Mutex<HashMap<String, HashMap<Sort, Burst>>>);

/// What counts as the same: the code, and everything that says who, where and why; nothing for what goes beyond the bound.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Sort {
    code: String,
    what: Option<String>,
}

struct Burst {
    since: Instant,
    first: OffsetDateTime,
    last: Event,
    written: u64,
    more: u64,
}

/// Counts on their way to the log.
pub(crate) struct Counts(Vec<(String, Sort, Burst)>);

impl Bursts {
    /// The event, if it is to be written now; otherwise it was counted. `caller` is somebody who cannot choose this name.
    pub(crate) fn admit(&self, caller: &str, event: Event, now: Instant) -> Option<Event> {
        let mut callers = self.lock();
        let strange = callers.len() >= CALLERS && !callers.contains_key(caller);
        let bursts = callers.entry(if strange { String::new() } else { caller.to_owned() }).or_default();
        let own = Sort::of(&event);
        let sort = if bursts.len() < SORTS || bursts.contains_key(&own) { own } else { Sort { what: None, ..own } };
        let burst = bursts.entry(sort).or_insert_with(|| Burst {
            since: now,
            first: event.timestamp,
            last: event.clone(),
            written: 0,
            more: 0,
        });
        if burst.written < EACH {
            burst.written += 1;
            return Some(event);
        }
        burst.more += 1;
        burst.last = event;
        None
    }

    /// Takes an event back that was admitted and could not be written: the next one like it has its place.
    pub(crate) fn forget(&self, caller: &str, event: &Event) {
        if let Some(burst) = self.lock().get_mut(caller).and_then(|bursts| bursts.get_mut(&Sort::of(event))) {
            burst.written = burst.written.saturating_sub(1);
        }
    }

    /// Takes the counts of the windows that are over by `now`; of all of them without.
    pub(crate) fn take(&self, now: Option<Instant>) -> Counts {
        let mut taken = Vec::new();
        self.lock().retain(|caller, bursts| {
            let is_over = |burst: &Burst| now.is_none_or(|now| now.saturating_duration_since(burst.since) >= WINDOW);
            let over = bursts.extract_if(|_, burst| is_over(burst)).filter(|(_, burst)| burst.more > 0);
            taken.extend(over.map(|(sort, burst)| (caller.clone(), sort, burst)));
            !bursts.is_empty()
        });
        Counts(taken)
    }

    /// Takes counts back that could not be written.
    pub(crate) fn put_back(&self, counts: Counts) {
        let mut callers = self.lock();
        for (caller, sort, burst) in counts.0 {
            let more = burst.more;
            match callers.entry(caller).or_default().entry(sort) {
                Entry::Occupied(mut held) => held.get_mut().more += more,
                Entry::Vacant(place) => drop(place.insert(burst)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<Sort, Burst>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// One event for each count, now.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.iter().map(|(_, sort, burst)| event(sort, burst)).collect()
    }
}

fn event(sort: &Sort, burst: &Burst) -> Event {
    let mut event = Event { id: clock::uuid(), timestamp: clock::now(), ..burst.last.clone() };
    if sort.what.is_none() {
        event = event.resource("", "").detail("several", true);
    }
    event.detail("repeated", burst.more).detail("since", when::millis(burst.first))
}

impl Sort {
    fn of(event: &Event) -> Self {
        let target = event.details.get("target").and_then(Value::as_str).unwrap_or_default();
        let what = [
            &event.user_name,
            &event.resource_type,
            &event.resource_name,
            &event.server_id,
            &event.login,
            &event.session_id,
            &event.client_ip,
            &event.error_message,
            target,
        ];
        Self { code: event.event_code.clone(), what: Some(what.join("\0")) }
    }
}

#[cfg(test)]
mod tests {
    use mezite_core::audit::EventType;

    use super::*;

    fn denied(user: &str, what: impl Into<String>) -> Event {
        Event::new(EventType::AuthzDenied, clock::uuid(), clock::now()).user(user, &[]).resource("api", what)
    }

    #[test]
    fn a_flood_becomes_its_first_few_and_a_count_and_nobody_elses_event_waits() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        let admitted =
            (0..1000).filter(|_| bursts.admit("alice", denied("alice", "read locks"), now).is_some()).count();
        assert_eq!(admitted, 5);
        assert!(bursts.admit("alice", denied("alice", "read tokens"), now).is_some());
        assert!(bursts.admit("bob", denied("bob", "read locks"), now).is_some());
        assert!(bursts.take(Some(now)).events().is_empty(), "the window is not over");
        let events = bursts.take(Some(now + WINDOW)).events();
        let [count] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((&count.resource_name, &count.details["repeated"]), (&"read locks".to_owned(), &995.into()));
        assert!(bursts.admit("alice", denied("alice", "read locks"), now + WINDOW).is_some(), "a new window");
    }

    #[test]
    fn targets_without_end_are_counted_together_and_none_is_lost() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        let written = (0..10_000)
            .filter(|n| bursts.admit("node-1", denied("made up", format!("target {n}")), now).is_some())
            .count();
        assert_eq!(written, SORTS + 5);
        let events = bursts.take(None).events();
        let counted: u64 = events.iter().filter_map(|event| event.details["repeated"].as_u64()).sum();
        assert_eq!(written as u64 + counted, 10_000);
        assert_eq!(events[0].details["several"], true);
        for n in 0..CALLERS + 100 {
            bursts.admit(&n.to_string(), denied("x", "y"), now);
        }
        assert!(bursts.lock().len() <= CALLERS + 1);
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        let event = bursts.admit("alice", denied("alice", "x"), now).unwrap();
        bursts.forget("alice", &event);
        let admit = |times| (0..times).filter(|_| bursts.admit("alice", denied("alice", "x"), now).is_some()).count();
        assert_eq!(admit(6), 5);
        let counts = bursts.take(Some(now + WINDOW));
        bursts.put_back(counts);
        assert_eq!(admit(1), 0);
        assert_eq!(bursts.take(None).events()[0].details["repeated"], 2);
    }
}
