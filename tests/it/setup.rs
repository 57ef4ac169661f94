//! What most tests need: a hub, the online node `node-1`, an OS user, and the user `alice` who may log in as that OS user.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cluster::Cluster;
use crate::os_user::OsUser;
use crate::user::User;

pub(crate) struct Setup {
    pub(crate) cluster: Cluster,
    pub(crate) alice: User,
    pub(crate) os: OsUser,
}

static SHARED: Mutex<Weak<Setup>> = Mutex::new(Weak::new());
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with_agent(&[])
    }

    /// With more environment for the agent.
    pub(crate) fn with_agent(env: &[(&str, &str)]) -> Self {
        let os = OsUser::create();
        let mut cluster = Cluster::start();
        let mut all = vec![("MEZITE_NODE_LABELS", "env=test,team=core")];
        all.extend(env);
        cluster.add_agent("node-1", &all);
        let alice = cluster.user("alice", "access", &os.name);
        Self { cluster, alice, os }
    }

    /// One for all tests that leave it as it is, apart from users, roles and sessions of their own.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let setup = Arc::new(Self::new());
            *shared = Arc::downgrade(&setup);
            setup
        })
    }

    /// A user of this test only, logged in, with role `access` and the OS user as login.
    pub(crate) fn somebody(&self) -> User {
        self.somebody_with("access")
    }

    pub(crate) fn somebody_with(&self, roles: &str) -> User {
        let name = format!("user-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.cluster.user(&name, roles, &self.os.name)
    }

    /// How OpenSSH names the node and the OS user.
    pub(crate) fn target(&self) -> String {
        format!("{}@node-1.mezite", self.os.name)
    }

    /// How `msh ssh` names them.
    pub(crate) fn msh_target(&self) -> String {
        format!("{}@node-1", self.os.name)
    }
}
