//! What nobody asks for: writing heartbeats, noticing who is gone, clearing away what has expired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mezite_core::audit::EventType;
use mezite_core::kind::{Lock, Token};
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
        if let Err(fault) = sweep(&hub, started).await {
            hub.report("sweep", &fault);
        }
    }
}

async fn sweep(hub: &Hub, started: Instant) -> Result<(), Fault> {
    let now = Instant::now();
    for proxy in hub.presence.lost_proxies(now) {
        tracing::warn!(proxy, "a proxy fell silent; its tunnels count as closed");
        hub.store.clear_tunnels(Some(&proxy), clock::now()).await?;
    }
    // After a start agents and proxies need time to come back.
    if now.saturating_duration_since(started) > GONE {
        end_orphans(hub, started, now).await?;
    }
    clear_locks(hub).await?;
    clear_tokens(hub).await
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
        other => other?,
    }
    tx.audit(&hub.event(kind).resource(K::KIND, name).detail("reason", "expired")).await?;
    tx.commit().await
}
