//! What nobody asks for: writing heartbeats, noticing who is gone, clearing away what has expired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mezite_core::audit::EventType;
use mezite_core::kind::{Lock, Node, Token};
use mezite_core::{Fault, kind::Kind};
use mezite_net::clock;
use mezite_store::{Expect, Page, Session, SessionFilter};
use time::OffsetDateTime;

use crate::hub::Hub;
use crate::presence::GONE;
use crate::rpc::finish_session;

/// How often heartbeats are written, all in one transaction.
const HEARTBEATS: Duration = Duration::from_secs(1);
/// How often the rest is looked at.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a join token that has expired stays in the list.
const TOKENS_SHOWN: time::Duration = time::Duration::hours(24);

/// Writes heartbeats until the stop, and what is left then.
pub(crate) async fn heartbeats(hub: Arc<Hub>) {
    loop {
        let go_on = hub.stop.run_until_cancelled(tokio::time::sleep(HEARTBEATS)).await.is_some();
        let beats = hub.presence.take_heartbeats();
        if !beats.is_empty()
            && let Err(fault) = hub.store.heartbeats(&beats, clock::now()).await
        {
            hub.report("heartbeats", &fault);
        }
        if !go_on {
            return;
        }
    }
}

/// Sweeps until the stop.
pub(crate) async fn run(hub: Arc<Hub>) {
    let started = Instant::now();
    while hub.stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
        if let Err(fault) = sweep(&hub, started, Instant::now()).await {
            hub.report("sweep", &fault);
        }
    }
}

async fn sweep(hub: &Hub, started: Instant, now: Instant) -> Result<(), Fault> {
    hub.audit_counts(Some(now)).await?;
    for proxy in hub.presence.lost_proxies(now) {
        tracing::warn!(proxy, "a proxy fell silent; its tunnels count as closed");
        hub.store.clear_tunnels(Some(&proxy), clock::now()).await?;
    }
    for node in hub.presence.left(now) {
        tell_of_leaving(hub, &node).await?;
        hub.presence.told_of(&node);
    }
    // After a start agents and proxies need time to come back.
    if now.saturating_duration_since(started) > GONE {
        end_orphans(hub, started, now).await?;
    }
    clear_locks(hub).await?;
    clear_tokens(hub).await
}

/// Writes that a node is gone, unless it was deleted.
async fn tell_of_leaving(hub: &Hub, node_id: &str) -> Result<(), Fault> {
    let Some(node) = hub.store.find_by_id::<Node>(node_id).await? else { return Ok(()) };
    let mut event = hub.event(EventType::NodeLeft).resource(Node::KIND, &node.name);
    event.server_hostname.clone_from(&node.name);
    event.server_id = node_id.to_owned();
    hub.store.audit(vec![event]).await
}

/// Ends sessions whose agent is gone.
async fn end_orphans(hub: &Hub, started: Instant, now: Instant) -> Result<(), Fault> {
    let filter = SessionFilter { active_only: true, ..SessionFilter::default() };
    let mut page = Page::default();
    loop {
        let found = hub.store.sessions(&filter, &page).await?;
        for session in found.items {
            let began = began(&session, started, now);
            if hub.presence.is_orphaned(&session.node_id, began, now) {
                let ended = Session { ended_at: Some(clock::now()), ended_reason: "agent".into(), ..session };
                let mut tx = hub.store.begin(clock::now()).await?;
                finish_session(hub, &mut tx, &ended).await?;
                tx.commit().await?;
            }
        }
        match found.next {
            Some(token) => page.token = token,
            None => return Ok(()),
        }
    }
}

/// When a session began, by this process's monotonic clock; the start of this process for older ones.
fn began(session: &Session, started: Instant, now: Instant) -> Instant {
    let age = clock::now() - session.started_at;
    let age = Duration::try_from(age).unwrap_or_default();
    now.checked_sub(age).map_or(started, |began| began.max(started))
}

async fn clear_locks(hub: &Hub) -> Result<(), Fault> {
    let now = clock::now();
    for lock in hub.store.all::<Lock>().await? {
        let expires = lock.spec.as_ref().ok().and_then(|spec| spec.expires);
        if expires.is_some_and(|end| end <= now) {
            forget::<Lock>(hub, EventType::LockDeleted, &lock.name, lock.revision, now).await?;
        }
    }
    Ok(())
}

async fn clear_tokens(hub: &Hub) -> Result<(), Fault> {
    let now = clock::now();
    for token in hub.store.all::<Token>().await? {
        if token.spec.as_ref().is_ok_and(|spec| spec.expires + TOKENS_SHOWN <= now) {
            forget::<Token>(hub, EventType::TokenDeleted, &token.name, token.revision, now).await?;
        }
    }
    Ok(())
}

async fn forget<K: Kind>(
    hub: &Hub,
    kind: EventType,
    name: &str,
    revision: u64,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let mut tx = hub.store.begin(now).await?;
    match tx.delete::<K>(name, Expect::Revision(revision)).await {
        // Somebody was faster, or changed it.
        Err(Fault::NotFound(_) | Fault::Conflict(_)) => return Ok(()),
        other => drop(other?),
    }
    tx.audit(&hub.event(kind).resource(K::KIND, name).detail("reason", "expired")).await?;
    tx.commit().await
}

#[cfg(test)]
pub(crate) mod tests {
    use mezite_core::audit::chain::ChainKey;
    use mezite_core::kind::lock::TargetType;
    use mezite_core::kind::token::JoinRole;
    use mezite_core::kind::{LockSpec, TokenSpec};
    use mezite_store::{AuditKeys, Detail, Options, Recordings, Store};

    use super::*;
    use crate::ca::Authorities;
    use crate::ca::seal::Sealer;
    use crate::event::Events;
    use crate::login::password::Passwords;

    pub(crate) async fn hub(dir: &std::path::Path) -> Hub {
        let key = ChainKey::new(b"0123456789abcdef").unwrap();
        let audit_keys = AuditKeys { current: key, former: Vec::new() };
        let store = Store::open(Options { path: dir.join("db"), readers: 1, audit_keys }).await.unwrap();
        let events = Events { cluster: "example".into() };
        let sealer = Sealer::new(None, dir.join("ca.key"));
        let authorities = Authorities::open(&store, sealer, &events).await.unwrap();
        let recordings = Recordings::open(dir.join("recordings")).await.unwrap();
        let passwords = Passwords::new(4, 1).unwrap();
        let checkpoints = crate::checkpoint::Checkpoints::new(&authorities.audit.key, dir).unwrap();
        Hub::new(store, recordings, authorities, checkpoints, events, passwords)
    }

    #[tokio::test]
    async fn what_has_expired_or_lost_its_agent_is_cleared_and_audited() {
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(dir.path()).await;
        let now = clock::now();
        let lock = |expires| LockSpec {
            target_type: TargetType::User,
            target: "alice".into(),
            message: String::new(),
            expires,
        };
        let token = |expires| TokenSpec { roles: vec![JoinRole::Node], expires, labels: Default::default() };
        let mut tx = hub.store.begin(now).await.unwrap();
        tx.put::<Lock>("over", &lock(Some(now - time::Duration::SECOND)), Expect::Absent).await.unwrap();
        tx.put::<Lock>("stands", &lock(None), Expect::Absent).await.unwrap();
        tx.put::<Token>("old", &token(now - time::Duration::hours(25)), Expect::Absent).await.unwrap();
        tx.put::<Token>("recent", &token(now - time::Duration::hours(1)), Expect::Absent).await.unwrap();
        let [dead, alive] = ["dead-node", "live-node"].map(|node_id| Session {
            id: clock::uuid(),
            kind: "shell".into(),
            user: "alice".into(),
            node_id: node_id.into(),
            login: "root".into(),
            started_at: now,
            ended_at: None,
            ended_reason: String::new(),
            exit: String::new(),
            recording_state: String::new(),
            detail: Detail::default(),
        });
        tx.start_session(&dead).await.unwrap();
        tx.start_session(&alive).await.unwrap();
        tx.commit().await.unwrap();

        let started = Instant::now();
        sweep(&hub, started, started + GONE).await.unwrap();
        assert!(hub.store.session(&dead.id).await.unwrap().unwrap().ended_at.is_none(), "too early to tell");
        let later = started + 2 * GONE;
        hub.presence.heartbeat("live-node", 1, later);
        sweep(&hub, started, later).await.unwrap();
        let ended = hub.store.session(&dead.id).await.unwrap().unwrap();
        assert_eq!(ended.ended_reason, "agent");
        assert!(hub.store.session(&alive.id).await.unwrap().unwrap().ended_at.is_none());
        let names = |names: Vec<String>| names.join(",");
        let locks = hub.store.all::<Lock>().await.unwrap().into_iter().map(|lock| lock.name).collect();
        let tokens = hub.store.all::<Token>().await.unwrap().into_iter().map(|token| token.name).collect();
        assert_eq!((names(locks), names(tokens)), ("stands".into(), "recent".into()));
        let events = hub.store.audit_events(&Default::default(), &Page::default()).await.unwrap().items;
        for kind in ["lock.delete", "token.delete", "session.end"] {
            assert!(events.iter().any(|event| event.json.contains(kind)), "{kind}");
        }
    }
}
