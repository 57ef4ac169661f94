//! The live view of the cluster that agents and proxies decide with: trust, roles, locks and nodes, fed by `Auth.Watch`.
//!
//! Readers get a whole, consistent [`View`] without a round trip. When the stream breaks, the last view stays in use for
//! [`GRACE`]; after that [`Cluster::current`] refuses, and with it every new session. A role that cannot be read is absent, which
//! denies its holders; a lock that cannot be read stops everybody.
//!
//! Whoever lets something live takes a [`Held`] first. A revision is confirmed to Auth when the view has it and nothing is held
//! by an older one: then no new decision is made without it, and what it forbids has ended here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezite_core::kind::{self, Kind, NodeSpec};
use mezite_core::lock::Lock;
use mezite_core::rbac::{Roles, Users};
use mezite_proto::v1;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_ssh::key::PublicKey;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::backoff::Backoff;
pub use crate::held::Held;
use crate::held::Holders;

/// How long the last view may be used after the stream from Auth broke.
pub const GRACE: Duration = Duration::from_secs(60);
/// Terminations that a slow reader may lag behind; it then ends every session it cannot account for.
const TERMINATIONS: usize = 1024;
/// The longest wait before the next attempt while something lives by a decision: a lock waits for it at most this long.
const HURRY: Duration = Duration::from_secs(1);
/// The wait after a confirmation that was not taken.
const CONFIRM_AGAIN: Duration = Duration::from_millis(500);
/// The pseudo-kinds of the watch.
const TRUST: &str = "trust";
const TERMINATION: &str = "termination";

/// Whom the cluster trusts.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Keys that sign user certificates.
    pub user_authorities: Vec<PublicKey>,
    /// Keys that sign host certificates.
    pub host_authorities: Vec<PublicKey>,
    /// The X.509 bundle of the Host CA, PEM.
    pub tls_ca_pem: String,
}

impl Trust {
    /// Reads a bundle as sent by Auth.
    ///
    /// # Errors
    /// A sentence naming the key that cannot be read; a bundle is used whole or not at all.
    pub fn from_bundle(bundle: &v1::TrustBundle) -> Result<Self, String> {
        let keys = |lines: &[String]| {
            lines
                .iter()
                .map(|line| {
                    PublicKey::from_openssh(line).map(|(key, _)| key).map_err(|e| format!("authority key: {e}"))
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            user_authorities: keys(&bundle.user_authorities)?,
            host_authorities: keys(&bundle.host_authorities)?,
            tls_ca_pem: bundle.tls_ca_pem.clone(),
        })
    }
}

/// Everything a decision needs, at one moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Grows with every change.
    pub revision: u64,
    /// Whom the cluster trusts.
    pub trust: Arc<Trust>,
    /// Roles by name.
    pub roles: Arc<Roles>,
    /// All locks.
    pub locks: Arc<Vec<Lock>>,
    /// Users by name, with what they hold.
    pub users: Arc<Users>,
    /// Nodes by name; an agent knows its own only.
    pub nodes: Arc<BTreeMap<String, NodeSpec>>,
}

/// There is no view to decide with: the first one has not arrived, or the last one is too old. Refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the auth service cannot be reached, so nothing can be decided; try again later")]
pub struct NoView;

/// A shared, live [`View`].
#[derive(Debug, Clone)]
pub struct Cluster {
    state: watch::Receiver<State>,
    terminations: broadcast::Sender<String>,
    holders: Holders,
}

#[derive(Debug, Clone, Default)]
struct State {
    view: Option<Arc<View>>,
    lost_at: Option<Instant>,
}

impl State {
    fn revision(&self) -> Option<u64> {
        self.view.as_ref().map(|view| view.revision)
    }
}

impl Cluster {
    /// Watches Auth for the given kinds until `stop`; comes back by itself when the stream breaks.
    pub fn watch(auth: AuthClient<Channel>, kinds: &[&str], stop: CancellationToken) -> Self {
        let (sender, state) = watch::channel(State::default());
        let terminations = broadcast::Sender::new(TERMINATIONS);
        let holders = Holders::new();
        let cluster = Self { state, terminations: terminations.clone(), holders: holders.clone() };
        let kinds: Vec<String> = kinds.iter().map(|k| (*k).to_owned()).collect();
        tokio::spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    ended = follow(auth.clone(), &kinds, &sender, &terminations, &holders) => {
                        if sender.borrow().lost_at.is_none() {
                            backoff.reset();
                            tracing::warn!(reason = ended, "the watch of the auth service broke; trying again");
                        }
                        sender.send_modify(|state| state.lost_at = state.lost_at.or_else(|| Some(Instant::now())));
                    }
                }
                let wait = backoff.next(None);
                let wait = if holders.is_empty() { wait } else { wait.min(HURRY) };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
        cluster
    }

    /// Holds what is about to be decided, before its view is read.
    pub fn hold(&self) -> Held {
        self.holders.hold()
    }

    /// The view to decide with now.
    ///
    /// # Errors
    /// [`NoView`]: decide nothing, refuse.
    pub fn current(&self) -> Result<Arc<View>, NoView> {
        let state = self.state.borrow();
        let stale = state.lost_at.is_some_and(|lost| lost.elapsed() > GRACE);
        state.view.as_ref().filter(|_| !stale).map(Arc::clone).ok_or(NoView)
    }

    /// The last view, however old: for live sessions, which go on while Auth is away.
    pub fn last(&self) -> Option<Arc<View>> {
        self.state.borrow().view.clone()
    }

    /// Waits for the next change of the view (or of its age).
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the first whole view is there.
    pub async fn ready(&mut self) {
        if self.state.wait_for(|state| state.view.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ids of sessions that an administrator ends, from now on.
    pub fn terminations(&self) -> broadcast::Receiver<String> {
        self.terminations.subscribe()
    }
}

/// One run of the watch; returns why it ended.
async fn follow(
    auth: AuthClient<Channel>,
    kinds: &[String],
    sender: &watch::Sender<State>,
    terminations: &broadcast::Sender<String>,
    holders: &Holders,
) -> String {
    let confirming = confirm(auth.clone(), sender.subscribe(), holders);
    tokio::select! {
        reason = read(auth, kinds, sender, terminations) => reason,
        never = confirming => match never {},
    }
}

/// Tells Auth of each revision that is in force here, of many at once the newest.
async fn confirm(
    mut auth: AuthClient<Channel>,
    mut state: watch::Receiver<State>,
    holders: &Holders,
) -> std::convert::Infallible {
    let mut told = None;
    loop {
        let is_new = |state: &State| state.lost_at.is_none() && state.revision() > told;
        let Ok(found) = state.wait_for(is_new).await.map(|state| state.revision()) else {
            return std::future::pending().await;
        };
        let Some(revision) = found else { continue };
        holders.settled(revision).await;
        match auth.confirm_revision(v1::ConfirmRevisionRequest { revision }).await {
            Ok(_) => told = Some(revision),
            // An older hub does not wait for anybody.
            Err(status) if status.code() == tonic::Code::Unimplemented => return std::future::pending().await,
            Err(status) => {
                tracing::debug!(revision, error = status.message(), "a revision could not be confirmed");
                tokio::time::sleep(CONFIRM_AGAIN).await;
            }
        }
    }
}

/// Reads one stream to its end.
async fn read(
    mut auth: AuthClient<Channel>,
    kinds: &[String],
    sender: &watch::Sender<State>,
    terminations: &broadcast::Sender<String>,
) -> String {
    let mut events = match auth.watch(v1::WatchRequest { kinds: kinds.to_vec() }).await {
        Ok(reply) => reply.into_inner(),
        Err(status) => return status.message().to_owned(),
    };
    let mut view = View::default();
    let mut synced = false;
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return "the auth service ended it".to_owned(),
            Err(status) => return status.message().to_owned(),
        };
        if event.kind == TERMINATION {
            let _ = terminations.send(event.name);
            continue;
        }
        let revision = event.revision;
        synced |= event.synced;
        if let Err(reason) = view.apply(event) {
            return reason;
        }
        // What is listed is older or newer: the revision of the whole list comes with its end.
        if synced {
            view.revision = view.revision.max(revision);
        }
        if synced {
            let view = Some(Arc::new(view.clone()));
            sender.send_replace(State { view, lost_at: None });
        }
    }
}

impl View {
    fn apply(&mut self, event: v1::WatchEvent) -> Result<(), String> {
        let v1::WatchEvent { revision: _, kind, name, json, deleted, synced: _ } = event;
        match kind.as_str() {
            TRUST => self.trust = Arc::new(trust(&json)?),
            kind::Role::KIND => put::<kind::Role>(Arc::make_mut(&mut self.roles), name, &json, deleted),
            kind::Node::KIND => put::<kind::Node>(Arc::make_mut(&mut self.nodes), name, &json, deleted),
            kind::User::KIND => {
                let users = Arc::make_mut(&mut self.users);
                users.remove(&name);
                if !deleted {
                    match serde_json::from_slice(&json) {
                        Ok(standing) => drop(users.insert(name, standing)),
                        Err(error) => tracing::error!(user = name, %error, "a user cannot be read"),
                    }
                }
            }
            kind::Lock::KIND => {
                let locks = Arc::make_mut(&mut self.locks);
                locks.retain(|lock| lock.name != name);
                if !deleted {
                    locks.push(Lock::from_stored(name, &serde_json::from_slice(&json).unwrap_or_default()));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn put<K: Kind>(map: &mut BTreeMap<String, K::Spec>, name: String, json: &[u8], deleted: bool) {
    map.remove(&name);
    if deleted {
        return;
    }
    match serde_json::from_slice(json) {
        Ok(spec) => drop(map.insert(name, spec)),
        Err(error) => tracing::error!(kind = K::KIND, name, %error, "an object cannot be read"),
    }
}

fn trust(json: &[u8]) -> Result<Trust, String> {
    #[derive(serde::Deserialize)]
    struct Wire {
        user_authorities: Vec<String>,
        host_authorities: Vec<String>,
        tls_ca_pem: String,
    }
    let Wire { user_authorities, host_authorities, tls_ca_pem } =
        serde_json::from_slice(json).map_err(|e| format!("the trust bundle cannot be read: {e}"))?;
    Trust::from_bundle(&v1::TrustBundle { user_authorities, host_authorities, tls_ca_pem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, name: &str, json: &str) -> v1::WatchEvent {
        v1::WatchEvent {
            revision: 1,
            kind: kind.into(),
            name: name.into(),
            json: json.as_bytes().to_vec(),
            deleted: json.is_empty(),
            synced: false,
        }
    }

    #[test]
    fn an_unreadable_role_is_absent_and_an_unreadable_lock_stays_until_deleted() {
        let mut view = View::default();
        view.apply(event("role", "dev", "{}")).unwrap();
        assert!(view.roles.contains_key("dev"));
        view.apply(event("role", "dev", "{\"allow\":7}")).unwrap();
        assert!(!view.roles.contains_key("dev"));
        view.apply(event("lock", "l1", "{\"what\":1}")).unwrap();
        assert_eq!(view.locks.len(), 1);
        view.apply(event("lock", "l1", "")).unwrap();
        assert!(view.locks.is_empty());
    }

    #[test]
    fn a_user_is_known_until_deleted_and_an_unreadable_one_is_absent() {
        let mut view = View::default();
        view.apply(event("user", "alice", r#"{"user_id":"u1","roles":["access"],"traits":{}}"#)).unwrap();
        assert_eq!(view.users["alice"].roles, ["access"]);
        view.apply(event("user", "alice", "null")).unwrap();
        assert!(view.users.is_empty());
        view.apply(event("user", "bob", r#"{"user_id":"u2","roles":[],"traits":{}}"#)).unwrap();
        assert!(view.users.contains_key("bob"));
        view.apply(event("user", "bob", "")).unwrap();
        assert!(view.users.is_empty());
    }

    #[test]
    fn a_trust_bundle_with_one_bad_key_is_not_used_at_all() {
        let mut view = View::default();
        let json = r#"{"user_authorities":["ssh-ed25519 nonsense"],"host_authorities":[],"tls_ca_pem":""}"#;
        assert!(view.apply(event("trust", "", json)).is_err());
    }
}
