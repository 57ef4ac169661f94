//! The SSH front door, :3023.
//!
//! A connection authenticates with a user certificate and may then open `direct-tcpip` channels to registered nodes; nothing
//! else is ever dialed. Inside such a channel the client speaks a second SSH, end to end with the node's agent, which this
//! proxy cannot read. The SSH user name is not trusted for anything: who somebody is stands in the certificate.

mod authenticate;
mod join;
mod jump;
mod visit;

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use mezite_core::identity::Identity;
use mezite_core::name;
use mezite_net::listener::{Admission, Conn};
use mezite_net::ssh::{ChannelOpen, Connection, DisconnectReason, Event, GlobalRequest, Incoming, OpenFailure};
use mezite_net::watch::Cluster;
use mezite_ssh::config::{HostKey, ServerConfig};
use mezite_ssh::key::PublicKey;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::Reporter;
use crate::ssh::visit::Visitor;
use crate::tunnel::Tunnels;

/// The global request by which a client names the OS login before it opens a channel.
pub(crate) const TARGET_REQUEST: &str = "target@mezite";
/// The global request by which a client names the session that it joins, before it opens a channel to it. The answer says on which
/// node that is.
const JOIN_REQUEST: &str = "join@mezite";
/// Jumps through one connection at a time.
const MAX_JUMPS: usize = 64;
/// Refusals of one connection that are told of: whoever floods does not push out the reports of others.
const MAX_REPORTS: usize = 128;
/// How long connections go on after a stop.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);
/// Longest payload of a `target@mezite` request, in bytes.
const MAX_TARGET: usize = 1024;

/// What every connection of the front door shares.
#[derive(Debug)]
pub(crate) struct Front {
    /// The cluster's name.
    pub(crate) cluster_name: String,
    /// Roles, locks, nodes, trust.
    pub(crate) cluster: Cluster,
    /// The agents.
    pub(crate) tunnels: Arc<Tunnels>,
    /// Where events go.
    pub(crate) reporter: Reporter,
    /// The host key with its certificate, replaced when renewed.
    pub(crate) host_key: RwLock<HostKey>,
}

impl Front {
    fn server_config(&self) -> Arc<ServerConfig> {
        let key = self.host_key.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Arc::new(ServerConfig::new(vec![key]))
    }
}

/// Serves one connection to its end. After `stop` it may go on for [`GOODBYE`], then it ends with a reason.
pub(crate) async fn serve(front: Arc<Front>, conn: Conn, stop: CancellationToken) {
    let Conn { stream, addr, admission } = conn;
    let (connection, incoming) = mezite_net::ssh::accept(stream, front.server_config()).await;
    let goodbye = connection.clone();
    let client =
        Client { front, connection, peer: addr, login: None, joins: None, jumps: Arc::new(Semaphore::new(MAX_JUMPS)) };
    let mut running = std::pin::pin!(client.run(incoming, admission));
    tokio::select! {
        () = &mut running => return,
        () = stop.cancelled() => {}
    }
    if tokio::time::timeout(GOODBYE, &mut running).await.is_err() {
        goodbye.disconnect(DisconnectReason::ByApplication, "the Mezite proxy is stopping; connect again in a moment");
        running.await;
    }
}

struct Client {
    front: Arc<Front>,
    connection: Connection,
    peer: SocketAddr,
    /// Named by the last `target@mezite`.
    login: Option<String>,
    /// Session named by the last `join@mezite`.
    joins: Option<String>,
    jumps: Arc<Semaphore>,
}

impl Client {
    async fn run(mut self, mut incoming: Incoming, admission: Admission) {
        let Some(user) = authenticate::run(&self, &mut incoming).await else { return };
        admission.authenticated();
        let user = Arc::new(user);
        let reports = Arc::new(Semaphore::new(MAX_REPORTS));
        while let Some(event) = incoming.next().await {
            match event {
                Event::Channel(request) => match request.open.clone() {
                    ChannelOpen::DirectTcpip { host, .. } => {
                        let Ok(permit) = Arc::clone(&self.jumps).try_acquire_owned() else {
                            request.reject(OpenFailure::ResourceShortage, "too many jumps through one connection");
                            continue;
                        };
                        if self.joins.as_ref() == Some(&host) {
                            let join = self.join(&user, &reports, host);
                            tokio::spawn(async move {
                                join.run(request).await;
                                drop(permit);
                            });
                            continue;
                        }
                        let jump =
                            jump::Jump { by: self.visitor(&user, &reports), target: host, login: self.login.clone() };
                        tokio::spawn(async move {
                            jump.run(request).await;
                            drop(permit);
                        });
                    }
                    _ => request.reject(
                        OpenFailure::AdministrativelyProhibited,
                        "this is the Mezite proxy; reach a node with `msh ssh` or `ssh -J`",
                    ),
                },
                Event::Global(request) if request.name == JOIN_REQUEST => {
                    self.joins = joined_session(&request.data);
                    let join = self.joins.clone().map(|session| self.join(&user, &reports, session));
                    request.reply(join.and_then(|join| join.place()));
                }
                Event::Global(request) => self.global(request),
                Event::Auth(request) => request.reject(&[]),
                Event::Authenticated { .. } => {}
            }
        }
    }

    fn join(&self, user: &Arc<User>, reports: &Arc<Semaphore>, session: String) -> join::Join {
        join::Join { by: self.visitor(user, reports), session }
    }

    fn visitor(&self, user: &Arc<User>, reports: &Arc<Semaphore>) -> Visitor {
        let (front, user, reports) = (Arc::clone(&self.front), Arc::clone(user), Arc::clone(reports));
        Visitor { front, user, peer: self.peer, reports }
    }

    fn global(&mut self, request: GlobalRequest) {
        let login = (request.name == TARGET_REQUEST).then(|| target_login(&request.data)).flatten();
        match login {
            Some(login) => {
                self.login = Some(login);
                request.reply(Some(Bytes::new()));
            }
            None => request.reply(None),
        }
    }
}

/// The login of a `target@mezite` payload, if it is one.
fn target_login(data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Target {
        login: String,
    }
    if data.len() > MAX_TARGET {
        return None;
    }
    let Target { login } = serde_json::from_slice(data).ok()?;
    name::login(&login).is_ok().then_some(login)
}

/// The session of a `join@mezite` payload, if it is one.
fn joined_session(data: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Joined {
        session: String,
    }
    if data.len() > MAX_TARGET {
        return None;
    }
    let Joined { session } = serde_json::from_slice(data).ok()?;
    name::is_uuid(&session).then_some(session)
}

/// A verified user.
#[derive(Debug)]
struct User {
    identity: Arc<Identity>,
    /// The key that signed.
    key: PublicKey,
    /// End of the certificate, unix seconds.
    valid_before: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_to_join_is_a_small_json_object_with_a_uuid() {
        let id = "a1b2c3d4-e5f6-4890-abcd-ef1234567890";
        assert_eq!(joined_session(format!(r#"{{"session":"{id}"}}"#).as_bytes()).as_deref(), Some(id));
        for bad in [&b"{}"[..], br#"{"session":"web-1"}"#, br#"{"session":"","x":1}"#, &[b' '; 2000]] {
            assert_eq!(joined_session(bad), None);
        }
    }

    #[test]
    fn a_target_is_a_small_json_object_with_a_valid_login() {
        assert_eq!(target_login(br#"{"login":"ubuntu"}"#).as_deref(), Some("ubuntu"));
        for bad in [&b"{}"[..], br#"{"login":""}"#, br#"{"login":"a b"}"#, br#"{"login":"x","y":1}"#, &[b' '; 2000]] {
            assert_eq!(target_login(bad), None);
        }
    }
}
