//! When what was permitted must end: every session and every connection is decided again as long as it lives.

use std::time::Duration;

use mezite_core::rbac::Permit;
use mezite_net::clock;
use mezite_net::watch::{Held, View};

use crate::ssh::authenticate::NotAllowed;
use crate::ssh::{Admitted, authenticate};

/// Why something that runs must end, and what its user is told.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Every process of the session is killed; without it they get what a lost connection gives them.
    pub(super) kill: bool,
}

impl Verdict {
    pub(super) fn new(reason: &'static str, message: &str) -> Self {
        Self { reason, message: message.to_owned(), kill: true }
    }

    /// Nothing was sent for longer than the roles allow.
    pub(super) fn idle(most: Duration) -> Self {
        let most = mezite_core::duration::print(most);
        Self::new("idle", &format!("nothing was sent for {most}, the longest pause that your roles allow"))
    }

    fn stopping() -> Self {
        Self { reason: "agent", message: "the agent of this node is stopping".to_owned(), kill: false }
    }
}

impl Admitted {
    /// Comes back when it must end: an administrator, a changed decision, or time. A connection without a
    /// session has an empty `session_id`.
    pub(super) async fn verdict(&self, session_id: &str, held: &Held) -> Verdict {
        let mut cluster = self.agent.cluster.clone();
        let mut terminations = cluster.terminations();
        let left = self.valid_before.saturating_sub(clock::now_unix());
        let certificate = tokio::time::sleep(Duration::from_secs(left));
        let session = tokio::time::sleep(self.permit.max_session_ttl());
        tokio::pin!(certificate, session);
        loop {
            let mut role_ends = None;
            if let Some(view) = cluster.last() {
                match self.permit_by(&view) {
                    Err(refused) => return Verdict::new(refused.reason(), &refused.to_string()),
                    Ok(permit) => {
                        if let Some(room) = self.agent.rooms.find(session_id) {
                            room.require(permit.moderation());
                        }
                    }
                }
                held.settle(view.revision);
                role_ends = self.next_end(&view);
            }
            tokio::select! {
                () = self.agent.stop.cancelled() => return Verdict::stopping(),
                () = &mut certificate => return Verdict::new("expired", "the certificate has expired; run msh login"),
                () = &mut session => return Verdict::new("expired", "the longest session that your roles allow is over"),
                ended = terminations.recv() => match ended {
                    Ok(id) if id != session_id => {}
                    // A lag means that a termination may have been missed: it fails closed.
                    _ => return Verdict::new("terminated", "an administrator ended this session"),
                },
                () = cluster.changed() => {}
                () = clock::sleep_until(role_ends) => {}
            }
        }
    }

    /// When a role of the user runs out next.
    fn next_end(&self, view: &View) -> Option<time::OffsetDateTime> {
        view.users.get(&self.identity.user)?.next_end(clock::now())
    }

    /// The decision for a session that is about to begin. What it lets live holds what is answered.
    ///
    /// # Errors
    /// Why the answer is no; while Auth has been away for too long it is.
    pub(super) fn admit(&self) -> Result<Held, String> {
        // Before the view is read: what comes of an older one is waited for.
        let held = self.agent.cluster.hold();
        let view = self.agent.cluster.current().map_err(|none| none.to_string())?;
        self.permit_by(&view).map_err(|refused| refused.to_string())?;
        held.settle(view.revision);
        Ok(held)
    }

    /// The decision with what is known now, for something that runs.
    ///
    /// # Errors
    /// Why the answer is no.
    pub(super) fn permit_now(&self) -> Result<Permit, String> {
        let Some(view) = self.agent.cluster.last() else { return Ok(self.permit.clone()) };
        self.permit_by(&view).map_err(|refused| refused.to_string())
    }

    /// The decision for something that is about to begin: while Auth has been away for too long it is no.
    ///
    /// # Errors
    /// Why the answer is no.
    pub(super) fn permit_to_begin(&self) -> Result<Permit, String> {
        let view = self.agent.cluster.current().map_err(|e| e.to_string())?;
        self.permit_by(&view).map_err(|refused| refused.to_string())
    }

    fn permit_by(&self, view: &View) -> Result<Permit, NotAllowed> {
        let permit = authenticate::decide(&self.agent, view, &self.identity, &self.login, self.proof)?;
        Ok(permit.narrowed(self.dial.grant.port_forwarding))
    }
}
