//! The process of the login user that opens sockets, as a connection uses it: begun when first needed, one request at a time.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use mezite_net::clock;
use mezite_session::{Ask, Command, Place, SessionSpec, Sockets};
use tokio::sync::Mutex;

use crate::ssh::Admitted;
use crate::ssh::leader::Leader;

/// The helper of one connection, or none so far.
#[derive(Debug)]
pub(super) struct Helpers {
    admitted: Arc<Admitted>,
    running: Mutex<Option<Helper>>,
    /// The login is possible on this node.
    proven: AtomicBool,
}

/// Dropping it ends the process, which removes what it made.
#[derive(Debug)]
struct Helper {
    sockets: Arc<std::sync::Mutex<Sockets>>,
    _leader: Leader<OwnedFd>,
}

impl Helpers {
    pub(super) fn new(admitted: Arc<Admitted>) -> Self {
        Self { admitted, running: Mutex::default(), proven: AtomicBool::new(false) }
    }

    /// Looks at the login as a session does: the account exists, may log in, and PAM lets it. Once for each connection.
    ///
    /// # Errors
    /// Why not, for the user.
    pub(super) async fn prove(&self) -> Result<(), String> {
        if self.proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        let running = self.running.lock().await;
        if !self.proven.load(Ordering::Relaxed) {
            // TCP connections need no helper: it goes again.
            drop(self.start().await?);
        }
        drop(running);
        Ok(())
    }

    /// Asks the helper for one thing.
    ///
    /// # Errors
    /// Its refusal, or why there is none, for the user.
    pub(super) async fn ask(&self, ask: Ask) -> Result<(Place, Vec<OwnedFd>), String> {
        let mut running = self.running.lock().await;
        let helper = match running.take() {
            Some(helper) => helper,
            None => self.start().await?,
        };
        let sockets = Arc::clone(&helper.sockets);
        let asking =
            tokio::task::spawn_blocking(move || sockets.lock().unwrap_or_else(PoisonError::into_inner).ask(&ask));
        match asking.await.map_err(io::Error::other).and_then(|asked| asked) {
            Ok(answer) => {
                *running = Some(helper);
                answer
            }
            Err(error) => {
                tracing::warn!(%error, "the socket helper of a connection failed; it is ended");
                Err("the node could not open the socket in time".to_owned())
            }
        }
    }

    /// Removes what was made at `path`, if there is a helper.
    pub(super) async fn remove(&self, path: String) {
        let is_there = self.running.lock().await.is_some();
        if is_there {
            let _ = self.ask(Ask::Remove(path)).await;
        }
    }

    async fn start(&self) -> Result<Helper, String> {
        let Admitted { agent, dial, login, .. } = &*self.admitted;
        let peer = dial.grant.client_addr.parse::<std::net::SocketAddr>().ok();
        let spec = SessionSpec {
            session_id: clock::uuid(),
            login: login.clone(),
            command: Command::Sockets,
            pty: None,
            env: Vec::new(),
            ssh_client: peer.map(|p| format!("{} {} 22", p.ip(), p.port())).unwrap_or_default(),
            ssh_connection: String::new(),
            motd: false,
            cgroup: None,
        };
        let mut leader = Leader::<OwnedFd>::spawn(&agent.starters, spec).await?;
        leader.go().await?;
        let socket = leader.streams.try_clone().and_then(Sockets::new);
        let sockets = socket.map_err(|e| format!("the socket helper cannot be used: {e}"))?;
        self.proven.store(true, Ordering::Relaxed);
        Ok(Helper { sockets: Arc::new(std::sync::Mutex::new(sockets)), _leader: leader })
    }
}
