//! Who makes a call: found out once, before any handler.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use mezite_core::Fault;
use mezite_core::audit::{Event, EventType};
use mezite_core::kind;
use mezite_core::kind::user::Traits;
use mezite_core::rbac::pins_certificates;
use mezite_net::clock;
use mezite_net::http::Remote;
use mezite_net::rpc::{AUTHORIZATION, CLIENT_IP};
use mezite_net::tls::{Peer, PeerRole};
use zeroize::Zeroizing;

use crate::bursts::Cause;
use crate::hub::Hub;
use crate::issue::user::refuse_locked;

/// Metadata by which agents repeat who they are; it must agree with the certificate.
const AGENT_ID: &str = "x-agent-id";
/// Longest session token looked up, in bytes.
const MAX_TOKEN: usize = 256;

/// A caller, as its credentials show it.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) who: Who,
    /// Address of the client; that of the user where a proxy relays.
    pub(crate) client_ip: IpAddr,
}

/// What kind of caller.
#[derive(Clone)]
pub(crate) enum Who {
    /// No credential.
    Nobody,
    /// A valid session token, by itself or relayed by a proxy.
    User(Arc<User>),
    /// The certificate of an agent whose node exists.
    Agent(Arc<Peer>),
    /// The certificate of a proxy, and no token.
    Proxy(Arc<Peer>),
}

/// A logged-in user, as the database has it now.
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) roles: Vec<String>,
    pub(crate) traits: Traits,
    pub(crate) token: Zeroizing<String>,
    pub(crate) expires_unix: i64,
    pub(crate) logged_in_unix: u64,
    /// Where the login came from.
    pub(crate) source: Option<IpAddr>,
    /// Whether the login is good from there only.
    pub(crate) pinned: bool,
}

impl User {
    pub(crate) fn is_admin(&self) -> bool {
        self.holds("admin")
    }

    pub(crate) fn is_auditor(&self) -> bool {
        self.holds("auditor")
    }

    fn holds(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }
}

impl Caller {
    /// Reads the credentials of a call. One that is given and not valid is a refusal, never "nobody".
    ///
    /// # Errors
    /// [`Fault::NotLoggedIn`] for a token, [`Fault::Denied`] for a certificate that is not, or no more, good here;
    /// [`Fault::Conflict`] for a locked user.
    pub(crate) async fn identify(hub: &Hub, remote: &Remote, headers: &HeaderMap) -> Result<Self, Fault> {
        let peer = remote.peer.clone();
        let token = token(headers)?;
        let is_proxy = peer.as_ref().is_some_and(|peer| peer.role == PeerRole::Proxy);
        let client_ip = match headers.get(CLIENT_IP).filter(|_| is_proxy) {
            Some(told) => told
                .to_str()
                .ok()
                .and_then(|ip| Some(ip.parse::<IpAddr>().ok()?.to_canonical()))
                .ok_or_else(|| Fault::Denied(format!("{CLIENT_IP} is not an address")))?,
            None => remote.addr.ip(),
        };
        let who = match (peer, token) {
            (None, None) => Who::Nobody,
            (Some(peer), None) => machine(hub, peer, headers).await?,
            (None, Some(token)) => Who::User(Arc::new(user(hub, token, client_ip).await?)),
            (Some(peer), Some(token)) if peer.role == PeerRole::Proxy => {
                machine(hub, peer, headers).await?;
                Who::User(Arc::new(user(hub, token, client_ip).await?))
            }
            (Some(_), Some(_)) => return Err(Fault::Denied("an agent carries no user's token".into())),
        };
        if matches!(who, Who::User(_)) {
            remote.authenticated();
        }
        Ok(Self { who, client_ip })
    }

    /// The logged-in user.
    ///
    /// # Errors
    /// [`Fault::NotLoggedIn`] when there is none.
    pub(crate) fn user(&self) -> Result<&User, Fault> {
        match &self.who {
            Who::User(user) => Ok(user),
            _ => Err(Fault::NotLoggedIn("log in first".into())),
        }
    }

    /// The agent.
    ///
    /// # Errors
    /// [`Fault::Denied`] for anybody else.
    pub(crate) fn agent(&self) -> Result<&Peer, Fault> {
        match &self.who {
            Who::Agent(peer) => Ok(peer),
            _ => Err(Fault::Denied("only agents may call this".into())),
        }
    }

    /// By whom its refusals are counted.
    pub(crate) fn cause(&self) -> Cause {
        match &self.who {
            Who::User(user) => Cause::new("users", &user.id),
            Who::Agent(peer) | Who::Proxy(peer) => Cause::new(&peer.id, ""),
            Who::Nobody => Cause::outside(self.client_ip),
        }
    }

    /// Fills in who acted and from where.
    pub(crate) fn sign(&self, event: Event) -> Event {
        let mut event = match &self.who {
            Who::User(user) => event.user(&user.name, &user.roles),
            Who::Agent(peer) | Who::Proxy(peer) => {
                let mut event = event;
                event.server_id.clone_from(&peer.id);
                event
            }
            Who::Nobody => event,
        };
        event.client_ip = self.client_ip.to_string();
        event
    }
}

/// The session token, if there is one.
fn token(headers: &HeaderMap) -> Result<Option<Zeroizing<String>>, Fault> {
    let refused = || Fault::NotLoggedIn("the session token is malformed".into());
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused());
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MAX_TOKEN {
        return Err(refused());
    }
    Ok(Some(Zeroizing::new(token.to_owned())))
}

async fn user(hub: &Hub, token: Zeroizing<String>, client_ip: IpAddr) -> Result<User, Fault> {
    let refused = || Fault::NotLoggedIn("the session has expired or was ended".into());
    let login = hub.store.login(&token, clock::now()).await?.ok_or_else(refused)?;
    let object = hub.store.find_by_id::<kind::User>(&login.user_id).await?.ok_or_else(refused)?;
    let spec = object.spec()?;
    let user = User {
        id: object.id.clone(),
        name: object.name.clone(),
        roles: spec.roles_at(clock::now()),
        traits: spec.traits.clone(),
        token,
        expires_unix: login.expires_at.unix_timestamp(),
        logged_in_unix: login.created_at.unix_timestamp().unsigned_abs(),
        source: login.source,
        pinned: login.pinned,
    };
    refuse_locked(hub, &user.name, &user.roles).await?;
    refuse_elsewhere(hub, &user, client_ip).await?;
    Ok(user)
}

/// A login that is pinned is good from its own address only, for whatever is called (F375).
async fn refuse_elsewhere(hub: &Hub, user: &User, client_ip: IpAddr) -> Result<(), Fault> {
    if user.source == Some(client_ip) {
        return Ok(());
    }
    // A role that is missing denies everything, and so counts as one that pins.
    if !user.pinned && !pins_certificates(&user.roles, &hub.roles().await?).unwrap_or(true) {
        return Ok(());
    }
    let pinned_to = user.source.map_or_else(|| "an unknown address".to_owned(), |source| source.to_string());
    let reason = format!("your login is pinned to {pinned_to}, and this call comes from {client_ip}");
    let mut event = hub.event(EventType::AccessDeniedSourceIp).user(&user.name, &user.roles);
    event = event.resource("user", &user.name).detail("pinned_to", pinned_to);
    event.client_ip = client_ip.to_string();
    event.error_message.clone_from(&reason);
    event.success = false;
    hub.audit_refusals(vec![(Cause::new("users", &user.id), event)]).await?;
    Err(Fault::NotLoggedIn(reason))
}

/// A process of ours: of this cluster, and, for an agent, with a node that was not deleted or replaced.
async fn machine(hub: &Hub, peer: Arc<Peer>, headers: &HeaderMap) -> Result<Who, Fault> {
    let refused = || Fault::Denied("this certificate is not, or no more, good in this cluster".into());
    if peer.cluster != hub.cluster() {
        return Err(refused());
    }
    if headers.get_all(AGENT_ID).iter().any(|told| told.as_bytes() != peer.id.as_bytes()) {
        return Err(Fault::Denied(format!("{AGENT_ID} does not agree with the certificate")));
    }
    match peer.role {
        PeerRole::Proxy => Ok(Who::Proxy(peer)),
        PeerRole::Agent => {
            let gone = || Fault::Denied("this node was removed from the cluster, or another took its name".into());
            hub.store.find_by_id::<kind::Node>(&peer.id).await?.ok_or_else(gone)?;
            Ok(Who::Agent(peer))
        }
    }
}
