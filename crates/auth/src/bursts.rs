//! Keeps what one caller can write into the audit log bounded.
//!
//! Refusals are events that callers cause at will. The first [`EACH`] of a sort are written at once. The same again within
//! [`WINDOW`] is counted, and the count is written when the window is over: one event like the last of them, with `repeated` and `since` in
//! its details. A caller has [`SORTS`] sorts per window; what goes beyond them is counted by its code alone, and so is what
//! comes from more than [`CALLERS`] behind one [`Cause::door`]. Nobody uses up another's: the users of one node, and the
//! addresses of a network that fails to log in, are told apart. Counts are in memory: a hub that is killed forgets how often
//! something happened in its last window, never that it did.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mezite_core::audit::Event;
use mezite_core::when;
use mezite_net::clock;
use serde_json::Value;
use time::OffsetDateTime;

use crate::login::throttle::network;

/// How long the same is counted before it is written again.
const WINDOW: Duration = Duration::from_secs(60);
/// How many of one sort are written one by one.
const EACH: u64 = 5;
/// Sorts of refusal of one caller that are told apart in a window.
const SORTS: usize = 32;
/// Callers behind one door that are told apart.
const CALLERS: usize = 4096;
/// Largest event, in bytes, of which every detail is kept for the count.
const LARGE: usize = 8 * 1024;

/// What callers were refused lately, by door and caller.
#[derive(Default)]
pub(crate) struct Bursts(Mutex<Doors>);

type Doors = HashMap<String, HashMap<String, HashMap<Sort, Burst>>>;

/// Who causes an event.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// What vouches for the name: its bounds are its own.
    pub(crate) door: String,
    /// A name that the caller cannot choose.
    pub(crate) who: String,
}

impl Cause {
    /// Somebody whose name is vouched for by `door`.
    pub(crate) fn new(door: impl Into<String>, who: impl Into<String>) -> Self {
        Self { door: door.into(), who: who.into() }
    }

    /// A stranger, by address.
    pub(crate) fn outside(source: IpAddr) -> Self {
        Self::new("outside", network(source).to_string())
    }
}

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
pub(crate) struct Counts(Vec<(Cause, Sort, Burst)>);

impl Bursts {
    /// The event, if it is to be written now; otherwise it was counted.
    pub(crate) fn admit(&self, cause: &Cause, event: Event, now: Instant) -> Option<Event> {
        let mut doors = self.lock();
        let callers = doors.entry(cause.door.clone()).or_default();
        let strange = callers.len() >= CALLERS && !callers.contains_key(&cause.who);
        let bursts = callers.entry(if strange { String::new() } else { cause.who.clone() }).or_default();
        let own = Sort::of(&event);
        let sort = if bursts.len() < SORTS || bursts.contains_key(&own) { own } else { Sort { what: None, ..own } };
        let burst = bursts.entry(sort).or_insert_with(|| Burst {
            since: now,
            first: event.timestamp,
            last: kept(&event),
            written: 0,
            more: 0,
        });
        if burst.written < EACH {
            burst.written += 1;
            return Some(event);
        }
        burst.more += 1;
        burst.last = kept(&event);
        None
    }

    /// Takes an event back that was admitted and could not be written: the next one like it has its place.
    pub(crate) fn forget(&self, cause: &Cause, event: &Event) {
        let mut doors = self.lock();
        let Some(callers) = doors.get_mut(&cause.door) else { return };
        let who = if callers.contains_key(&cause.who) { cause.who.as_str() } else { "" };
        let Some(bursts) = callers.get_mut(who) else { return };
        let own = Sort::of(event);
        let sort = if bursts.contains_key(&own) { own } else { Sort { what: None, ..own } };
        if let Some(burst) = bursts.get_mut(&sort) {
            burst.written = burst.written.saturating_sub(1);
        }
    }

    /// Takes the counts of the windows that are over by `now`; of all of them without.
    pub(crate) fn take(&self, now: Option<Instant>) -> Counts {
        let is_over = |burst: &Burst| now.is_none_or(|now| now.saturating_duration_since(burst.since) >= WINDOW);
        let mut taken = Vec::new();
        self.lock().retain(|door, callers| {
            callers.retain(|who, bursts| {
                let over = bursts.extract_if(|_, burst| is_over(burst)).filter(|(_, burst)| burst.more > 0);
                taken.extend(over.map(|(sort, burst)| (Cause::new(door, who), sort, burst)));
                !bursts.is_empty()
            });
            !callers.is_empty()
        });
        Counts(taken)
    }

    /// Takes counts back that could not be written.
    pub(crate) fn put_back(&self, counts: Counts) {
        let mut doors = self.lock();
        for (cause, sort, burst) in counts.0 {
            let more = burst.more;
            match doors.entry(cause.door).or_default().entry(cause.who).or_default().entry(sort) {
                Entry::Occupied(mut held) => held.get_mut().more += more,
                Entry::Vacant(place) => drop(place.insert(burst)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Doors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The event as it waits for its count: a large one without what only makes it large.
fn kept(event: &Event) -> Event {
    if event.canonical().len() <= LARGE {
        return event.clone();
    }
    let (details, user_roles, resource_labels) = Default::default();
    Event { details, user_roles, resource_labels, ..event.bounded() }
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

    fn user(id: &str) -> Cause {
        Cause::new("users", id)
    }

    fn node(user: &str) -> Cause {
        Cause::new("node-1", user)
    }

    #[test]
    fn a_flood_becomes_its_first_few_and_a_count_and_nobody_elses_event_waits() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        let admitted =
            (0..1000).filter(|_| bursts.admit(&user("alice"), denied("alice", "read locks"), now).is_some()).count();
        assert_eq!(admitted, 5);
        assert!(bursts.admit(&user("alice"), denied("alice", "read tokens"), now).is_some());
        assert!(bursts.admit(&user("bob"), denied("bob", "read locks"), now).is_some());
        assert!(bursts.take(Some(now)).events().is_empty(), "the window is not over");
        let events = bursts.take(Some(now + WINDOW)).events();
        let [count] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((&count.resource_name, &count.details["repeated"]), (&"read locks".to_owned(), &995.into()));
        assert!(bursts.admit(&user("alice"), denied("alice", "read locks"), now + WINDOW).is_some(), "a new window");
    }

    #[test]
    fn targets_without_end_are_counted_together_and_none_is_lost() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        let written = (0..10_000)
            .filter(|n| bursts.admit(&node(""), denied("made up", format!("target {n}")), now).is_some())
            .count();
        assert_eq!(written, SORTS + 5);
        let events = bursts.take(None).events();
        let counted: u64 = events.iter().filter_map(|event| event.details["repeated"].as_u64()).sum();
        assert_eq!(written as u64 + counted, 10_000);
        assert_eq!(events[0].details["several"], true);
        for n in 0..CALLERS + 100 {
            bursts.admit(&user(&n.to_string()), denied("x", "y"), now);
        }
        assert!(bursts.lock()["users"].len() <= CALLERS + 1);
    }

    #[test]
    fn who_is_refused_without_end_hides_nobody_elses_refusal() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        for n in 0..1000 {
            bursts.admit(&node("mallory"), denied("mallory", format!("login {n}")), now);
        }
        assert!(bursts.admit(&node("bob"), denied("bob", "root"), now).is_some(), "another user of the same node");
        for n in 0..CALLERS + SORTS + 10 {
            let source = IpAddr::from([0x2001, 0xdb8, 0, u16::try_from(n).unwrap(), 0, 0, 0, 1]);
            bursts.admit(&Cause::outside(source), denied("", format!("{n}")), now);
        }
        assert!(bursts.admit(&user("carol"), denied("carol", "read locks"), now).is_some(), "a network without end");
    }

    #[test]
    fn large_events_are_counted_without_their_details() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        for _ in 0..10 {
            let text: Vec<String> = (0..1000).map(|n| format!("detail {n} of a large event")).collect();
            bursts.admit(&node(""), denied("made up", "x".repeat(1 << 20)).detail("reasons", text), now);
        }
        let events = bursts.take(None).events();
        let [count] = events.as_slice() else { panic!("{}", events.len()) };
        assert_eq!((count.canonical().len() < 2 * LARGE, &count.details["repeated"]), (true, &5.into()));
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        let event = bursts.admit(&user("alice"), denied("alice", "x"), now).unwrap();
        bursts.forget(&user("alice"), &event);
        let admit =
            |times| (0..times).filter(|_| bursts.admit(&user("alice"), denied("alice", "x"), now).is_some()).count();
        assert_eq!(admit(6), 5);
        let counts = bursts.take(Some(now + WINDOW));
        bursts.put_back(counts);
        assert_eq!(admit(1), 0);
        assert_eq!(bursts.take(None).events()[0].details["repeated"], 2);
    }

    #[test]
    fn what_goes_beyond_a_bound_is_taken_back_too() {
        let (bursts, now) = (Bursts::default(), Instant::now());
        for n in 0..SORTS {
            bursts.admit(&user("alice"), denied("alice", format!("{n}")), now);
        }
        for _ in 0..2 * EACH {
            let event = bursts.admit(&user("alice"), denied("alice", "x"), now).expect("none was written");
            bursts.forget(&user("alice"), &event);
        }
    }
}
