//! One joining: from a `direct-tcpip` channel to the agent of the node that runs the session.
//!
//! Who joins may have no login on that node. What this connection is for stands in the grant, and the agent, which knows the
//! session, has the last word.

use std::sync::Arc;

use bytes::Bytes;
use mezite_core::kind::role::JoinMode;
use mezite_core::rbac::{self, Denied, Joining, Proof, Question, Target};
use mezite_net::clock;
use mezite_net::ssh::{ChannelRequest, OpenFailure};
use mezite_net::watch::View;
use mezite_proto::v1;

use crate::ssh::visit::{Named, Visitor};
use crate::tunnel::DialInfo;

/// Everything about one joining.
pub(super) struct Join {
    pub(super) by: Visitor,
    /// Id of the session.
    pub(super) session: String,
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
        let held = self.by.front.cluster.hold();
        let (session, revision) = match self.decide_now() {
            Ok(decided) => decided,
            Err(Refused::Unreachable(reason)) => return request.reject(OpenFailure::ConnectFailed, &reason),
            Err(Refused::Denied(session, denied)) => {
                return self.by.refuse(request, &denied.to_string(), &node(&session), None, Some(&denied));
            }
        };
        held.settle(revision);
        // Joinings have no bound of their own, so there is a way.
        let Some(way) = self.by.way(node(&session), None, None) else { return };
        let grant = v1::Grant { join_session: self.session.clone(), ..self.by.grant(revision) };
        self.by.carry(request, way, grant, &held, |view| self.decide(view, &session).is_ok()).await;
    }

    fn decide_now(&self) -> Result<(Arc<DialInfo>, u64), Refused> {
        let view = self.by.front.cluster.current().map_err(|e| Refused::Unreachable(e.to_string()))?;
        let gone = || Refused::Unreachable("no live session has this id; see `msh sessions ls --active`".to_owned());
        let session = self.by.front.tunnels.dial_of(&self.session).ok_or_else(gone)?;
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
        let bound = rbac::standing(&self.by.user.identity, &view.users, clock::now())?;
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
}

fn node(session: &DialInfo) -> Named {
    Named { name: session.node_name.clone(), id: session.node_id.clone() }
}
