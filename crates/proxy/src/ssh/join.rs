//! One joining: from a `direct-tcpip` channel to the agent of the node that runs the session.
//!
//! Who joins may have no login on that node. What this connection is for stands in the grant, and the agent, which knows the
//! session, has the last word.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use mezite_core::audit::refusal;
use mezite_core::kind::role::JoinMode;
use mezite_core::rbac::{self, Denied, Joining, Proof, Question, Target};
use mezite_net::clock;
use mezite_net::ssh::{ChannelRequest, OpenFailure};
use mezite_net::watch::View;
use mezite_proto::v1;
use tokio::sync::Semaphore;

use crate::ssh::jump::{cut, relay};
use crate::ssh::{Front, User};
use crate::tunnel::DialInfo;

/// Everything about one joining.
pub(super) struct Join {
    pub(super) front: Arc<Front>,
    pub(super) user: Arc<User>,
    pub(super) peer: SocketAddr,
    /// Id of the session.
    pub(super) session: String,
    /// One permit for each refusal that is still told of.
    pub(super) reports: Arc<Semaphore>,
}

/// Why a joining does not happen.
enum Refused {
    Denied(Arc<DialInfo>, Denied),
    Unreachable(String),
}

impl Join {
    /// Where the session is, for whoever may join it: the client believes the host certificate of that node alone.
    pub(super) fn place(&self) -> Option<Bytes> {
        let (session, _) = self.decide_now().ok()?;
        let DialInfo { user, node_name, .. } = &*session;
        Some(serde_json::json!({ "node": node_name, "user": user }).to_string().into())
    }

    /// Decides, dials and relays to the end.
    pub(super) async fn run(self, request: ChannelRequest) {
        // Before the view is read: what comes of an older one is waited for.
        let held = self.front.cluster.hold();
        let (session, revision) = match self.decide_now() {
            Ok(decided) => decided,
            Err(Refused::Unreachable(reason)) => return request.reject(OpenFailure::ConnectFailed, &reason),
            Err(Refused::Denied(session, denied)) => return self.deny(request, &session, &denied),
        };
        held.settle(revision);
        let dial_id = clock::uuid();
        let about = DialInfo {
            user: self.user.identity.user.clone(),
            identity: Arc::clone(&self.user.identity),
            login: None,
            node_id: session.node_id.clone(),
            node_name: session.node_name.clone(),
            client: self.peer,
        };
        let Some(live) = self.front.tunnels.track(&dial_id, about, None) else { return };
        match self.front.tunnels.dial(&session.node_id, dial_id, self.grant(revision)).await {
            Ok(stream) => {
                let channel = request.accept();
                tokio::select! {
                    () = relay(channel, stream) => {}
                    () = cut(&self.front, &self.user, live, &held, |view| self.decide(view, &session).is_ok()) => {}
                }
            }
            Err(error) => request.reject(OpenFailure::ConnectFailed, &format!("{}: {error}", session.node_name)),
        }
    }

    fn deny(&self, request: ChannelRequest, session: &DialInfo, denied: &Denied) {
        let what = denied.to_string();
        let Ok(report) = self.reports.try_acquire() else {
            return request.reject(OpenFailure::AdministrativelyProhibited, &what);
        };
        report.forget();
        let node = (session.node_name.as_str(), session.node_id.as_str());
        let id = self.front.reporter.denied(&self.user.identity, self.peer, node, None, Some(denied));
        request.reject(OpenFailure::AdministrativelyProhibited, &refusal(&what, &id));
    }

    fn decide_now(&self) -> Result<(Arc<DialInfo>, u64), Refused> {
        let view = self.front.cluster.current().map_err(|e| Refused::Unreachable(e.to_string()))?;
        let gone = || Refused::Unreachable("no live session has this id; see `msh sessions ls --active`".to_owned());
        let session = self.front.tunnels.dial_of(&self.session).ok_or_else(gone)?;
        match self.decide(&view, &session) {
            Ok(()) => Ok((session, view.revision)),
            Err(denied) => Err(Refused::Denied(session, denied)),
        }
    }

    /// Whether the session may be joined in some mode; in which, is told to the agent alone.
    fn decide(&self, view: &View, session: &DialInfo) -> Result<(), Denied> {
        let none = Default::default();
        let labels = view.nodes.get(&session.node_name).map_or(&none, |node| &node.labels);
        let target = Target { node_id: &session.node_id, name: &session.node_name, labels };
        // Each node asks for a factor before it lets anybody in.
        let asked = |identity, login| Question {
            identity,
            roles: &view.roles,
            target,
            login,
            locks: &view.locks,
            proof: Proof::AskedLater,
            now: clock::now(),
        };
        let bound = rbac::standing(&self.user.identity, &view.users, clock::now())?;
        // A session whose owner may not be there any more is about to end.
        let owner = rbac::check(&asked(&session.identity, session.login.as_deref()))?;
        let joining = Joining {
            mode: JoinMode::Observer,
            login: session.login.as_deref().unwrap_or_default(),
            owner_roles: &session.identity.roles,
            requirements: owner.moderation(),
        };
        rbac::may_join_somehow(&asked(&bound, None), joining)
    }

    fn grant(&self, revision: u64) -> v1::Grant {
        let identity = &self.user.identity;
        v1::Grant {
            user: identity.user.clone(),
            user_id: identity.user_id.clone(),
            client_addr: self.peer.to_string(),
            not_after_unix: i64::try_from(self.user.valid_before).unwrap_or(i64::MAX),
            revision,
            certificate_fingerprint: self.user.key.fingerprint(),
            join_session: self.session.clone(),
            ..v1::Grant::default()
        }
    }
}
