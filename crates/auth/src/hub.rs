//! What all calls share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mezite_core::Fault;
use mezite_core::audit::{Event, EventType};
use mezite_core::kind::config::Setting;
use mezite_core::kind::{self, Config, Role, User};
use mezite_core::lock::{self, Lock, Subject};
use mezite_core::rbac::{Roles, Standing};
use mezite_net::clock;
use mezite_store::{Object, Recordings, Store};
use tokio_util::sync::CancellationToken;

use crate::bursts::{Bursts, Cause};
use crate::ca::Authorities;
use crate::checkpoint::Checkpoints;
use crate::event::Events;
use crate::login::password::Passwords;
use crate::login::throttle::Throttle;
use crate::presence::Presence;
use crate::watchers::Watchers;

/// The Auth service's state: the database, the open CA keys, and what is kept in memory only.
pub(crate) struct Hub {
    pub(crate) store: Store,
    pub(crate) recordings: Recordings,
    pub(crate) authorities: Authorities,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) events: Events,
    pub(crate) passwords: Passwords,
    pub(crate) throttle: Throttle,
    /// Wrong codes at nodes.
    pub(crate) session_codes: Throttle,
    /// Held while a code of a session is looked at.
    pub(crate) session_code_turn: tokio::sync::Mutex<()>,
    pub(crate) presence: Presence,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) bursts: Bursts,
    /// Names that no node may take: those that clients dial proxies by.
    pub(crate) proxy_names: Mutex<BTreeSet<String>>,
    /// Where users reach the proxy's HTTPS, HOST:PORT; empty when unknown.
    pub(crate) proxy_addr: String,
    pub(crate) stop: CancellationToken,
}

impl Hub {
    pub(crate) fn new(
        store: Store,
        recordings: Recordings,
        authorities: Authorities,
        checkpoints: Checkpoints,
        events: Events,
        passwords: Passwords,
    ) -> Self {
        Self {
            store,
            recordings,
            authorities,
            checkpoints,
            events,
            passwords,
            stop: CancellationToken::new(),
            throttle: Throttle::default(),
            session_codes: Throttle::default(),
            session_code_turn: tokio::sync::Mutex::default(),
            presence: Presence::default(),
            watchers: Watchers::new(),
            bursts: Bursts::default(),
            proxy_names: Mutex::default(),
            proxy_addr: String::new(),
        }
    }

    /// Name of the cluster.
    pub(crate) fn cluster(&self) -> &str {
        &self.events.cluster
    }

    /// An audit event of this type, now.
    pub(crate) fn event(&self, kind: EventType) -> Event {
        self.events.event(kind)
    }

    /// All roles that can be read; one that cannot is absent, which denies its holders.
    pub(crate) async fn roles(&self) -> Result<Roles, Fault> {
        let mut roles = BTreeMap::new();
        for role in self.store.all::<Role>().await? {
            match role.spec {
                Ok(spec) => drop(roles.insert(role.name, spec)),
                Err(error) => tracing::error!(role = role.name, error, "a role cannot be read; its holders are denied"),
            }
        }
        Ok(roles)
    }

    /// All locks. One that cannot be read stops everybody.
    pub(crate) async fn locks(&self) -> Result<Vec<Lock>, Fault> {
        let locks = self.store.all::<kind::Lock>().await?;
        Ok(locks
            .into_iter()
            .map(|lock| match lock.spec {
                Ok(spec) => Lock::new(lock.name, spec),
                Err(error) => {
                    tracing::error!(lock = lock.name, error, "a lock cannot be read; it stops everybody");
                    Lock::from_stored(lock.name, &serde_json::Value::Null)
                }
            })
            .collect())
    }

    /// The lock that stops `subject` now. Asked while a write is held, it stays true until that is committed: a lock comes
    /// wholly before or wholly after.
    pub(crate) async fn locked(&self, subject: Subject<'_>) -> Result<Option<Lock>, Fault> {
        let locks = self.locks().await?;
        Ok(lock::first(&locks, subject, clock::now()).cloned())
    }

    /// A cluster setting in force; all of them are durations.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub(crate) async fn setting(&self, key: &str) -> Result<Duration, Fault> {
        let setting = Setting::named(key)?;
        let stored = self.store.find::<Config>(key).await?;
        let value = stored.and_then(|object| object.spec.ok()).map(|spec| spec.value);
        Ok(setting.effective(value.as_deref()))
    }

    /// Writes events that callers cause at will, each with who causes it, as often as [`Bursts`] lets them.
    ///
    /// # Errors
    /// When they could not be written.
    pub(crate) async fn audit_refusals(&self, refusals: Vec<(Cause, Event)>) -> Result<(), Fault> {
        let now = Instant::now();
        let admit = |(cause, event): (Cause, Event)| Some((self.bursts.admit(&cause, event.bounded(), now)?, cause));
        let fresh: Vec<(Event, Cause)> = refusals.into_iter().filter_map(admit).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let written = self.store.audit(fresh.iter().map(|(event, _)| event.clone()).collect()).await;
        if written.is_err() {
            fresh.iter().for_each(|(event, cause)| self.bursts.forget(cause, event));
        }
        written
    }

    /// Writes the counts of refusals whose window is over by `now`; all of them without.
    ///
    /// # Errors
    /// When they could not be written; they are kept.
    pub(crate) async fn audit_counts(&self, now: Option<Instant>) -> Result<(), Fault> {
        let counts = self.bursts.take(now);
        let events = counts.events();
        if events.is_empty() {
            return Ok(());
        }
        let written = self.store.audit(events).await;
        if written.is_err() {
            self.bursts.put_back(counts);
        }
        written
    }

    /// Looks at a fault before it is told to the caller: our own mistakes are logged.
    pub(crate) fn report(&self, call: &str, fault: &Fault) {
        match fault {
            Fault::Bug(error) => tracing::error!(call, error, "a call failed by our own mistake"),
            Fault::Unavailable(error) => tracing::warn!(call, error, "a call failed"),
            _ => tracing::debug!(call, %fault, "a call was refused"),
        }
    }
}

/// What a stored user stands for. One that cannot be read has no role.
pub(crate) fn standing(user: &Object<User>) -> Standing {
    let certificates_from = user.status.get("certificates_from").and_then(serde_json::Value::as_u64);
    Standing {
        // What cannot be read ends all certificates.
        certificates_from: certificates_from.unwrap_or(u64::MAX),
        ..Standing::new(&user.id, user.spec.clone().unwrap_or_default())
    }
}
