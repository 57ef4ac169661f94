//! Objects of kinds: one implementation for all of them.

use std::collections::BTreeMap;

use mezite_core::admin::{self, Candidate};
use mezite_core::audit::{Event, EventType};
use mezite_core::decode::{decode, parse_json};
use mezite_core::identity::{Identity, Since};
use mezite_core::kind::role::BUILT_IN;
use mezite_core::kind::{Config, Kind, Lock, Node, NodeSpec, Role, Token, User, UserSpec};
use mezite_core::lock;
use mezite_core::rbac::{Policy, Resource, Roles, Target, Verb, may};
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_proto::v1::Object as Wire;
use mezite_proto::v1::{
    DeleteObjectReply, DeleteObjectRequest, GetObjectRequest, ListObjectsReply, ListObjectsRequest, PutObjectRequest,
};
use mezite_store::{Expect, Listed, Object, Page};
use serde_json::{Map, Value};

use super::{authorize, page, reads_all};
use crate::caller::{Caller, User as LoggedIn};
use crate::hub::Hub;

/// Objects read at a time when not all of them are shown.
const CHUNK: u32 = 1000;
/// Most changed fields named in one audit event.
const MAX_CHANGES: usize = 64;

/// Runs `$body` with `$K` as the kind that a request names.
macro_rules! with_kind {
    (@ $T:ty, $K:ident => $body:expr) => {{
        type $K = $T;
        $body
    }};
    ($kind:expr, $K:ident => $body:expr) => {
        match $kind {
            "user" => with_kind!(@ User, $K => $body),
            "role" => with_kind!(@ Role, $K => $body),
            "token" => with_kind!(@ Token, $K => $body),
            "node" => with_kind!(@ Node, $K => $body),
            "lock" => with_kind!(@ Lock, $K => $body),
            "config" | "cluster_config" => with_kind!(@ Config, $K => $body),
            _ => Err(Invalid::new("kind", "must be user, role, token, node, lock or config").into()),
        }
    };
}

pub(super) async fn get(hub: &Hub, caller: &Caller, request: GetObjectRequest) -> Result<Wire, Fault> {
    let GetObjectRequest { kind, name } = request;
    with_kind!(kind.as_str(), K => {
        let sight = Sight::of::<K>(hub, caller).await?;
        let found = find::<K>(hub, &name).await?.filter(|object| sight.sees(sight.policy().as_ref(), object));
        to_wire(found.ok_or_else(|| not_found::<K>(&name))?)
    })
}

pub(super) async fn list(hub: &Hub, caller: &Caller, request: ListObjectsRequest) -> Result<ListObjectsReply, Fault> {
    let ListObjectsRequest { kind, page_token, page_size } = request;
    with_kind!(kind.as_str(), K => {
        let sight = Sight::of::<K>(hub, caller).await?;
        let found = seen::<K>(hub, &sight, &page(page_token, page_size)).await?;
        let objects = found.items.into_iter().map(to_wire);
        Ok(ListObjectsReply {
            objects: objects.collect::<Result<_, _>>()?,
            next_page_token: found.next.unwrap_or_default(),
        })
    })
}

pub(super) async fn put(hub: &Hub, caller: &Caller, request: PutObjectRequest) -> Result<Wire, Fault> {
    let PutObjectRequest { kind, name, spec, expected_revision } = request;
    with_kind!(kind.as_str(), K => {
        authorize(hub, caller, Verb::Write, resource(K::KIND), &format!("put {}/{name}", K::KIND)).await?;
        let json = parse_json(&spec).map_err(|e| Invalid::new("spec", e.to_string()))?;
        let spec = decode::<<K as Kind>::Spec>(&json).map_err(|e| e.within("spec"))?;
        let mut tx = hub.store.begin(clock::now()).await?;
        let held = tx.find::<K>(&name).await?;
        let before = held.as_ref().and_then(|object| object.spec.as_ref().ok()).map(value).transpose()?;
        let after = value(&spec)?;
        check_write(K::KIND, before.as_ref(), &after)?;
        refuse_lockout(hub, K::KIND, &name, Some(&after)).await?;
        let object = tx.put::<K>(&name, &spec, Expect::from_wire(expected_revision)).await?;
        let happened = if held.is_some() { Happened::Updated } else { Happened::Created };
        let event = event(hub, K::KIND, happened, &name).detail("changed", changes(before.as_ref(), &after));
        tx.audit(&caller.sign(event)).await?;
        tx.commit().await?;
        to_wire(object)
    })
}

pub(super) async fn delete(
    hub: &Hub,
    caller: &Caller,
    request: DeleteObjectRequest,
) -> Result<DeleteObjectReply, Fault> {
    let DeleteObjectRequest { kind, name, expected_revision } = request;
    with_kind!(kind.as_str(), K => {
        authorize(hub, caller, Verb::Write, resource(K::KIND), &format!("delete {}/{name}", K::KIND)).await?;
        if K::KIND == Role::KIND && BUILT_IN.contains(&name.as_str()) {
            return Err(Fault::Conflict(format!("role {name} is built in and cannot be deleted")));
        }
        let mut tx = hub.store.begin(clock::now()).await?;
        let object = find::<K>(hub, &name).await?.ok_or_else(|| not_found::<K>(&name))?;
        refuse_lockout(hub, K::KIND, &object.name, None).await?;
        let revision = tx.delete::<K>(&object.name, Expect::from_wire(expected_revision)).await?;
        let event = event(hub, K::KIND, Happened::Deleted, &object.name).detail("id", &object.id);
        tx.audit(&caller.sign(event)).await?;
        tx.commit().await?;
        Ok(DeleteObjectReply { revision })
    })
}

/// An object as it is sent.
pub(super) fn to_wire<K: Kind>(object: Object<K>) -> Result<Wire, Fault> {
    let bug = |e: serde_json::Error| Fault::Bug(format!("{} {}: {e}", K::KIND, object.name));
    let (spec, error) = match &object.spec {
        Ok(spec) => (serde_json::to_vec(spec).map_err(bug)?, String::new()),
        Err(error) => (Vec::new(), error.clone()),
    };
    let mut status = object.status;
    if let Some(status) = status.as_object_mut() {
        status.insert("id".into(), object.id.clone().into());
    } else {
        status = serde_json::json!({ "id": object.id });
    }
    Ok(Wire {
        kind: K::KIND.into(),
        revision: object.revision,
        spec,
        created_unix: object.created_at.unix_timestamp(),
        updated_unix: object.updated_at.unix_timestamp(),
        status: status.to_string().into_bytes(),
        error,
        name: object.name,
    })
}

/// What of a kind the caller sees.
enum Sight {
    Everything,
    /// Nodes that the caller's roles reach.
    Reachable {
        identity: Box<Identity>,
        roles: Roles,
    },
    /// The caller, and the roles that the caller holds.
    Own {
        user_id: String,
        roles: Vec<String>,
    },
}

impl Sight {
    async fn of<K: Kind>(hub: &Hub, caller: &Caller) -> Result<Self, Fault> {
        let resource = resource(K::KIND);
        if reads_all(caller, resource)? {
            return Ok(Self::Everything);
        }
        if K::KIND == Node::KIND {
            let identity = Box::new(identity(hub, caller.user()?));
            return Ok(Self::Reachable { identity, roles: hub.roles().await? });
        }
        let user = caller.user()?;
        if may(&user.roles, Verb::Read, resource, true) {
            return Ok(Self::Own { user_id: user.id.clone(), roles: user.roles.clone() });
        }
        authorize(hub, caller, Verb::Read, resource, &format!("read {}", K::PLURAL)).await?;
        Ok(Self::Everything)
    }

    /// The rules by which nodes are seen, made ready once for a whole list: making them costs more than a node does.
    fn policy(&self) -> Option<Policy<'_>> {
        match self {
            Self::Reachable { identity, roles } => Some(Policy::new(identity, roles)),
            Self::Everything | Self::Own { .. } => None,
        }
    }

    fn sees<K: Kind>(&self, policy: Option<&Policy<'_>>, object: &Object<K>) -> bool {
        match (self, policy) {
            (Self::Everything, _) => true,
            (Self::Own { user_id, roles }, _) => object.id == *user_id || is_role::<K>(&object.name, roles),
            (Self::Reachable { .. }, Some(policy)) => node::<K>(object).is_some_and(|node| {
                policy.sees(Target { node_id: &node.node_id, name: &node.hostname, labels: &node.labels })
            }),
            (Self::Reachable { .. }, None) => false,
        }
    }
}

/// The spec, when the kind is that of nodes.
fn node<K: Kind>(object: &Object<K>) -> Option<&NodeSpec> {
    let spec: &dyn std::any::Any = object.spec.as_ref().ok()?;
    spec.downcast_ref()
}

fn is_role<K: Kind>(name: &str, held: &[String]) -> bool {
    K::KIND == Role::KIND && held.iter().any(|role| role == name)
}

fn identity(hub: &Hub, user: &LoggedIn) -> Identity {
    Identity {
        user_id: user.id.clone(),
        user: user.name.clone(),
        cluster: hub.cluster().to_owned(),
        roles: user.roles.clone(),
        traits: user.traits.clone(),
        principals: Vec::new(),
        pinned: true,
        valid_after: 0,
        since: Since::default(),
    }
}

/// A page of what the caller sees. The token of the next page is a name, so what is hidden is left out before the cut. No more
/// is read than it takes to fill the page.
async fn seen<K: Kind>(hub: &Hub, sight: &Sight, page: &Page) -> Result<Listed<Object<K>>, Fault> {
    if matches!(sight, Sight::Everything) {
        return hub.store.list::<K>(page).await;
    }
    let policy = sight.policy();
    let most = usize::try_from(page.limit()).unwrap_or(usize::MAX);
    let (mut seen, mut token) = (Vec::new(), page.token.clone());
    loop {
        let read = hub.store.list::<K>(&Page { token, size: CHUNK }).await?;
        seen.extend(read.items.into_iter().filter(|object| sight.sees(policy.as_ref(), object)));
        match read.next {
            Some(next) if seen.len() <= most => token = next,
            _ => return Ok(Listed::cut(seen, page, |last| last.name.clone())),
        }
    }
}

/// By name, else by id.
async fn find<K: Kind>(hub: &Hub, name: &str) -> Result<Option<Object<K>>, Fault> {
    match hub.store.find::<K>(name).await? {
        Some(object) => Ok(Some(object)),
        None => hub.store.find_by_id::<K>(name).await,
    }
}

fn not_found<K: Kind>(name: &str) -> Fault {
    Fault::NotFound(format!("{} {name} does not exist", K::KIND))
}

/// What cannot be written as an object although its spec is valid.
fn check_write(kind: &str, before: Option<&Value>, after: &Value) -> Result<(), Fault> {
    match (kind, before) {
        (Token::KIND, _) => Err(Invalid::new("kind", "a token is made by CreateToken and never changed").into()),
        (Node::KIND, None) => Err(Fault::NotFound("no such node; a machine becomes one by joining".into())),
        (Node::KIND, Some(before)) => {
            let fixed = |spec: &Value| {
                let mut spec = spec.clone();
                spec.as_object_mut().map(|fields| fields.remove("labels"));
                spec
            };
            if fixed(before) == fixed(after) {
                return Ok(());
            }
            Err(Invalid::new("spec", "only the labels of a node can be changed").into())
        }
        _ => Ok(()),
    }
}

/// Refuses a change after which nobody could administer the cluster. Call it while a transaction is held.
async fn refuse_lockout(hub: &Hub, kind: &str, name: &str, after: Option<&Value>) -> Result<(), Fault> {
    let mut locks = hub.locks().await?;
    match (kind, after) {
        (User::KIND, _) => {}
        (Lock::KIND, Some(lock)) => locks.push(lock::Lock::from_stored(name, lock)),
        _ => return Ok(()),
    }
    let mut users = users(hub).await?;
    if kind == User::KIND {
        users.remove(name);
        let changed = after.map(|spec| serde_json::from_value(spec.clone())).transpose();
        let changed = changed.map_err(|e| Fault::Bug(format!("user {name}: {e}")))?;
        users.extend(changed.map(|spec| (name.to_owned(), spec)));
    }
    somebody_remains(hub, users, &locks, None).await
}

/// Refuses to take the password of the last administrator. Call it while a transaction is held.
pub(super) async fn refuse_last_password(hub: &Hub, name: &str) -> Result<(), Fault> {
    let users = users(hub).await?;
    if !users.get(name).is_some_and(|spec| spec.roles.iter().any(|role| role == admin::ADMIN)) {
        return Ok(());
    }
    somebody_remains(hub, users, &hub.locks().await?, Some(name)).await
}

/// All users that can be read.
async fn users(hub: &Hub) -> Result<BTreeMap<String, UserSpec>, Fault> {
    let all = hub.store.all::<User>().await?.into_iter();
    Ok(all.filter_map(|user| Some((user.name, user.spec.ok()?))).collect())
}

async fn somebody_remains(
    hub: &Hub,
    mut users: BTreeMap<String, UserSpec>,
    locks: &[lock::Lock],
    without_password: Option<&str>,
) -> Result<(), Fault> {
    users.retain(|_, spec| spec.roles.iter().any(|role| role == admin::ADMIN));
    let mut candidates = Vec::new();
    for (name, spec) in users {
        let factors = hub.store.mfa_devices(&name).await?.into_iter().map(|device| device.name).collect();
        let password = without_password != Some(&name) && hub.store.password_hash(&name).await?.is_some();
        candidates.push(Candidate { name, spec, factors, password });
    }
    if admin::remains(&candidates, locks, clock::now()) {
        return Ok(());
    }
    Err(Fault::Conflict(
        "this would leave nobody to administer the cluster: nobody else holds the role admin without an end, has a password and \
         is not locked; give another user the role first, with mezctl users update NAME --roles=admin"
            .into(),
    ))
}

const fn resource(kind: &str) -> Resource {
    match kind.as_bytes() {
        b"user" => Resource::Users,
        b"role" => Resource::Roles,
        b"token" => Resource::Tokens,
        b"node" => Resource::Nodes,
        b"lock" => Resource::Locks,
        _ => Resource::Config,
    }
}

#[derive(Clone, Copy)]
enum Happened {
    Created,
    Updated,
    Deleted,
}

fn event(hub: &Hub, kind: &str, happened: Happened, name: &str) -> Event {
    use EventType as E;
    let [created, updated, deleted] = match kind {
        User::KIND => [E::UserCreated, E::UserUpdated, E::UserDeleted],
        Role::KIND => [E::RoleCreated, E::RoleUpdated, E::RoleDeleted],
        Token::KIND => [E::TokenCreated, E::TokenCreated, E::TokenDeleted],
        Node::KIND => [E::NodeUpdated, E::NodeUpdated, E::NodeDeleted],
        Lock::KIND => [E::LockCreated, E::LockCreated, E::LockDeleted],
        _ => [E::ConfigSet; 3],
    };
    let kind_of_event = match happened {
        Happened::Created => created,
        Happened::Updated => updated,
        Happened::Deleted => deleted,
    };
    hub.event(kind_of_event).resource(kind, name)
}

fn value<T: serde::Serialize>(spec: &T) -> Result<Value, Fault> {
    serde_json::to_value(spec).map_err(|e| Fault::Bug(format!("a spec as JSON: {e}")))
}

/// The fields that differ, by path: what they were and what they are.
fn changes(before: Option<&Value>, after: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    compare("", before.unwrap_or(&Value::Null), after, &mut found);
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Map<String, Value>) {
    if before == after || found.len() >= MAX_CHANGES {
        return;
    }
    let empty = Map::new();
    let fields = |value: &Value| value.as_object().cloned().or_else(|| value.is_null().then(|| empty.clone()));
    match (fields(before), fields(after)) {
        (Some(old), Some(new)) if !(old.is_empty() && new.is_empty()) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let at = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or(Value::Null);
                compare(&path, &at(&old), &at(&new), found);
            }
        }
        _ => {
            found.insert(path.to_owned(), serde_json::json!({ "from": before, "to": after }));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_diff_names_each_changed_field_once() {
        let before = json!({ "roles": ["a"], "traits": { "x": ["1"], "y": ["2"] } });
        let after = json!({ "roles": ["a", "b"], "traits": { "y": ["2"] } });
        let found = Value::Object(changes(Some(&before), &after));
        assert_eq!(
            found,
            json!({
                "roles": { "from": ["a"], "to": ["a", "b"] },
                "traits.x": { "from": ["1"], "to": null },
            })
        );
        assert_eq!(
            Value::Object(changes(None, &json!({ "value": "1h" }))),
            json!({ "value": { "from": null, "to": "1h" } })
        );
        assert!(changes(Some(&after), &after).is_empty());
    }

    #[test]
    fn only_the_labels_of_a_node_can_be_changed_and_tokens_not_at_all() {
        let node = json!({ "node_id": "n", "hostname": "web", "labels": { "a": "1" } });
        let labels = json!({ "node_id": "n", "hostname": "web", "labels": {} });
        let id = json!({ "node_id": "m", "hostname": "web", "labels": { "a": "1" } });
        assert!(check_write("node", Some(&node), &labels).is_ok());
        assert!(check_write("node", Some(&node), &id).is_err());
        assert!(check_write("node", None, &node).is_err());
        assert!(check_write("token", Some(&node), &node).is_err());
    }
}
