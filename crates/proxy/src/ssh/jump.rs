//! One jump: from a `direct-tcpip` channel to a node's agent.

use mezite_core::rbac::{self, Denied, Permit, Proof, Question, Target};
use mezite_core::route::{self, Candidate, Route};
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::ssh::{ChannelRequest, OpenFailure};
use mezite_net::watch::View;
use mezite_proto::v1;

use crate::ssh::visit::{Named, Visitor};

/// Characters of an unknown name that are said back.
const MAX_SHOWN: usize = 255;

/// Everything about one jump.
pub(super) struct Jump {
    pub(super) by: Visitor,
    pub(super) target: String,
    pub(super) login: Option<String>,
}

/// A node that was found, and what was decided about it.
struct Decided {
    node: Named,
    permit: Permit,
    revision: u64,
}

/// Why a jump does not happen.
enum Refused {
    /// The decision about a node that the user may know of.
    Denied(Named, Denied),
    /// A node that no role shows to the user, or none at all: the user cannot tell which.
    Unknown(Option<(Named, Denied)>),
    /// A name that several nodes of the user's answer to.
    Ambiguous(String),
    Unreachable(String),
}

impl Jump {
    /// Decides, dials and relays to the end.
    pub(super) async fn run(self, request: ChannelRequest) {
        // Before the view is read: what comes of an older one is waited for.
        let held = self.by.front.cluster.hold();
        let decided = match self.decide_now() {
            Ok(decided) => decided,
            Err(refused) => return self.refuse(request, refused),
        };
        let (most, grant) = (decided.permit.max_connections(), self.grant(&decided));
        let Some(way) = self.by.way(decided.node.clone(), self.login.clone(), most) else {
            let denied = Denied::too_many_connections(most.unwrap_or_default());
            return self.refuse(request, Refused::Denied(decided.node, denied));
        };
        held.settle(decided.revision);
        self.by.carry(request, way, grant, &held, |view| self.decide(view).is_ok()).await;
    }

    fn refuse(&self, request: ChannelRequest, refused: Refused) {
        let (what, node, denied) = match refused {
            Refused::Unreachable(reason) => return request.reject(OpenFailure::ConnectFailed, &reason),
            Refused::Ambiguous(reason) => return request.reject(OpenFailure::AdministrativelyProhibited, &reason),
            Refused::Denied(node, denied) => (denied.to_string(), node, Some(denied)),
            Refused::Unknown(hidden) => {
                let shown = self.shown();
                let what = format!("access denied: no role of yours opens a node named {shown}; see `msh ls`");
                match hidden {
                    Some((node, denied)) => (what, node, Some(denied)),
                    None => (what, Named { name: shown, id: String::new() }, None),
                }
            }
        };
        self.by.refuse(request, &what, &node, self.login.as_deref(), denied.as_ref());
    }

    fn decide_now(&self) -> Result<Decided, Refused> {
        let view = self.by.front.cluster.current().map_err(|e| Refused::Unreachable(e.to_string()))?;
        self.decide(&view)
    }

    /// The name asked for, fit to be said back.
    fn shown(&self) -> String {
        let shown: String = self.target.chars().take(MAX_SHOWN).collect();
        escape_control(&shown).into_owned()
    }

    fn decide(&self, view: &View) -> Result<Decided, Refused> {
        let nodes = view.nodes.iter().map(|(name, node)| Candidate { id: &node.node_id, name });
        match route::resolve(&self.target, &self.by.front.cluster_name, nodes) {
            Route::Found(found) => self.decide_for(view, found),
            Route::NotFound => Err(Refused::Unknown(None)),
            Route::Ambiguous(nodes) => Err(self.ambiguous(view, &nodes)),
        }
    }

    /// Only ids that the user may know of are shown.
    fn ambiguous(&self, view: &View, nodes: &[Candidate<'_>]) -> Refused {
        let known = |node: &&Candidate<'_>| !matches!(self.decide_for(view, **node), Err(Refused::Unknown(_)));
        let ids: Vec<&str> = nodes.iter().filter(known).map(|node| node.id).collect();
        if ids.is_empty() {
            return Refused::Unknown(None);
        }
        let shown = self.shown();
        Refused::Ambiguous(format!("{shown} means several nodes; name one by its id: {}", ids.join(", ")))
    }

    fn decide_for(&self, view: &View, node: Candidate<'_>) -> Result<Decided, Refused> {
        let now = clock::now();
        let Some(listed) = view.nodes.get(node.name) else { return Err(Refused::Unknown(None)) };
        let question = Question {
            identity: &self.by.user.identity,
            roles: &view.roles,
            target: Target { node_id: node.id, name: node.name, labels: &listed.labels },
            login: self.login.as_deref(),
            locks: &view.locks,
            // The node asks for a second factor before it lets anybody in.
            proof: Proof::AskedLater,
            now,
        };
        let named = Named { name: node.name.to_owned(), id: node.id.to_owned() };
        let bound = rbac::standing(&self.by.user.identity, &view.users, now);
        match bound.and_then(|identity| rbac::check(&Question { identity: &identity, ..question })) {
            Ok(permit) => Ok(Decided { node: named, permit, revision: view.revision }),
            Err(denied) if denied.hides_node() => Err(Refused::Unknown(Some((named, denied)))),
            Err(denied) => Err(Refused::Denied(named, denied)),
        }
    }

    fn grant(&self, decided: &Decided) -> v1::Grant {
        v1::Grant {
            port_forwarding: decided.permit.port_forwarding(),
            record: decided.permit.recording().on,
            login: self.login.clone().unwrap_or_default(),
            ..self.by.grant(decided.revision)
        }
    }
}
