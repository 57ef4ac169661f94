//! Keys, certificates and files as a small cluster has them.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use mezite_net::ssh::{HostKey, HostTrust, Identity, ServerConfig};
use mezite_ssh::{CertKind, Certificate, CertificateBuilder, PrivateKey};

pub(crate) const HOST: &str = "node.example";
pub(crate) const USER: &str = "ubuntu";

pub(crate) struct Cluster {
    pub(crate) user_ca: PrivateKey,
    pub(crate) host_ca: PrivateKey,
    pub(crate) host: Arc<PrivateKey>,
    pub(crate) user: Arc<PrivateKey>,
    pub(crate) host_certificate: Arc<Certificate>,
    pub(crate) user_certificate: Arc<Certificate>,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn certify(authority: &PrivateKey, key: &PrivateKey, kind: CertKind, principal: &str) -> Arc<Certificate> {
    let permissions = ["permit-agent-forwarding", "permit-port-forwarding", "permit-pty"];
    let extensions = match kind {
        CertKind::User => permissions.map(|name| (name.to_owned(), Vec::new())).to_vec(),
        CertKind::Host => Vec::new(),
    };
    let builder = CertificateBuilder {
        public_key: key.public(),
        serial: 1,
        kind,
        key_id: principal.to_owned(),
        principals: vec![principal.to_owned()],
        valid_after: now_unix() - 60,
        valid_before: now_unix() + 3600,
        critical_options: Vec::new(),
        extensions,
    };
    Arc::new(builder.sign(authority).unwrap())
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::for_user(USER)
    }

    pub(crate) fn for_user(principal: &str) -> Self {
        let [user_ca, host_ca, host, user] = std::array::from_fn(|_| PrivateKey::generate().unwrap());
        let host_certificate = certify(&host_ca, &host, CertKind::Host, HOST);
        let user_certificate = certify(&user_ca, &user, CertKind::User, principal);
        let (host, user) = (Arc::new(host), Arc::new(user));
        let folder = tempfile::tempdir().unwrap();
        let cluster = Self { user_ca, host_ca, host, user, host_certificate, user_certificate, folder };
        cluster.write("id", &cluster.user.to_openssh("user"));
        cluster.write("id-cert.pub", &cluster.user_certificate.to_openssh("user"));
        cluster.write("known_hosts", &format!("@cert-authority {HOST} {}\n", cluster.host_ca.public().to_openssh("")));
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        write(&self.path(name), text)
    }

    pub(crate) fn server_config(&self) -> ServerConfig {
        let certificate = Some(Arc::clone(&self.host_certificate));
        ServerConfig::new(vec![HostKey { key: Arc::clone(&self.host), certificate }])
    }

    pub(crate) fn trust(&self) -> HostTrust {
        HostTrust::Authorities { keys: vec![self.host_ca.public()], name: HOST.to_owned() }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::Certificate(Arc::clone(&self.user), Arc::clone(&self.user_certificate))
    }
}

fn write(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    path.to_owned()
}
