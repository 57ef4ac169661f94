//! When what was permitted must end: every session and every forward is decided again as long as it lives.

use std::time::Duration;

use mezite_net::clock;

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
    fn new(reason: &'static str, message: &str) -> Self {
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
    /// Comes back when it must end: an administrator, a changed decision, or time. A forward is of no session; its
    /// `session_id` is empty.
    pub(super) async fn verdict(&self, session_id: &str) -> Verdict {
        let mut cluster = self.agent.cluster.clone();
        let mut terminations = cluster.terminations();
        let left = self.valid_before.saturating_sub(clock::now_unix());
        let certificate = tokio::time::sleep(Duration::from_secs(left));
        let session = tokio::time::sleep(self.permit.max_session_ttl());
        tokio::pin!(certificate, session);
        loop {
            tokio::select! {
                () = self.agent.stop.cancelled() => return Verdict::stopping(),
                () = &mut certificate => return Verdict::new("expired", "the certificate has expired; run msh login"),
                () = &mut session => return Verdict::new("expired", "the longest session that your roles allow is over"),
                ended = terminations.recv() => match ended {
                    Ok(id) if id != session_id => {}
                    // A lag means that a termination may have been missed: it fails closed.
                    _ => return Verdict::new("terminated", "an administrator ended this session"),
                },
                () = cluster.changed() => if let Err(reason) = self.decide_again(!session_id.is_empty()) {
                    return Verdict::new("locked", &reason);
                }
            }
        }
    }

    /// The decision with what is known now, for a session or a forward that runs or is about to.
    ///
    /// # Errors
    /// Why the answer is no.
    pub(super) fn decide_again(&self, is_session: bool) -> Result<(), String> {
        let Some(view) = self.agent.cluster.last() else { return Ok(()) };
        let permit = authenticate::decide(&self.agent, &view, &self.identity, &self.login, self.proof)
            .map_err(|refused| refused.to_string())?;
        if is_session || permit.port_forwarding() { Ok(()) } else { Err("no role allows port forwarding".to_owned()) }
    }
}
