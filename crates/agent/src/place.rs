//! The agent's files: `agent/` under the data directory holds keys, certificates and the pinned trust.
//!
//! Every file is written whole under another name, synced and renamed, so that a crash leaves the old or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mezite_net::host::{HostError, HostIdentity, HostKeys};
use mezite_proto::v1;
use serde::{Deserialize, Serialize};

/// The agent's directory.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    data_dir: PathBuf,
}

/// Why the agent's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The data directory cannot be made.
    #[error("cannot make {path}: {source}; set MEZITE_DATA_DIR to a directory of this user")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What they hold.
    #[error("the identity in {dir} cannot be used: {source}; remove the directory and join with a fresh token")]
    Identity {
        /// The agent's directory.
        dir: PathBuf,
        /// What is wrong.
        source: HostError,
    },
    /// `node.json` is not what was written.
    #[error("{path} cannot be read: {source}; remove its directory and join with a fresh token")]
    Json {
        /// Which.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
}

/// What is kept besides keys and certificates.
#[derive(Debug, Serialize, Deserialize)]
struct NodeFile {
    host_id: String,
    cluster_name: String,
    node_name: String,
    valid_before_unix: i64,
    user_authorities: Vec<String>,
    host_authorities: Vec<String>,
    tls_ca_pem: String,
}

impl Place {
    /// Opens the data directory, making it (mode 0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, PlaceError> {
        let place = Self { data_dir: data_dir.to_path_buf() };
        for dir in [data_dir.to_path_buf(), place.agent(), place.outbox()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|source| PlaceError::DataDir { path: dir, source })?;
        }
        Ok(place)
    }

    /// Ends of sessions not told to Auth yet.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.data_dir.join("outbox")
    }

    /// The directory of the identity: without it, the node has not joined.
    pub(crate) fn agent(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.agent().join(name)
    }

    /// Whether this node has joined a cluster.
    pub(crate) fn is_joined(&self) -> bool {
        self.file("node.json").exists()
    }

    /// The identity of an agent that has joined, and the name it joined under.
    ///
    /// # Errors
    /// When there is one that cannot be used; `Ok(None)` when there is none.
    pub(crate) fn load(&self) -> Result<Option<(HostIdentity, String)>, PlaceError> {
        let node = self.file("node.json");
        let Some(json) = read(&node)? else { return Ok(None) };
        let file: NodeFile =
            serde_json::from_str(&json).map_err(|source| PlaceError::Json { path: node.clone(), source })?;
        let text = |name| {
            let path = self.file(name);
            let missing = || PlaceError::File { path: path.clone(), source: io::ErrorKind::NotFound.into() };
            read(&path)?.ok_or_else(missing)
        };
        let (ssh, tls) = (text("ssh_host_key")?, text("x509.key")?);
        let unusable = |source| PlaceError::Identity { dir: self.agent(), source };
        let keys = HostKeys::from_text(&ssh, &tls).map_err(unusable)?;
        let NodeFile {
            host_id,
            cluster_name,
            node_name,
            valid_before_unix,
            user_authorities,
            host_authorities,
            tls_ca_pem,
        } = file;
        let reply = v1::GenerateHostCertsReply {
            host_id,
            cluster_name,
            ssh_certificate: text("ssh_host_key-cert.pub")?,
            tls_certificate_pem: text("x509.pem")?,
            valid_before_unix,
            trust: Some(v1::TrustBundle { user_authorities, host_authorities, tls_ca_pem }),
        };
        Ok(Some((HostIdentity::from_reply(Arc::new(keys), reply).map_err(unusable)?, node_name)))
    }

    /// Keeps an identity. `node.json` comes last: without it the agent has not joined.
    ///
    /// # Errors
    /// When a file cannot be written; the old identity is then still whole.
    pub(crate) fn save(&self, identity: &HostIdentity, node_name: &str) -> Result<(), PlaceError> {
        let lines = |keys: &[mezite_ssh::key::PublicKey]| keys.iter().map(|k| k.to_openssh("")).collect();
        let file = NodeFile {
            host_id: identity.host_id.clone(),
            cluster_name: identity.cluster_name.clone(),
            node_name: node_name.to_owned(),
            valid_before_unix: identity.valid_before_unix,
            user_authorities: lines(&identity.trust.user_authorities),
            host_authorities: lines(&identity.trust.host_authorities),
            tls_ca_pem: identity.trust.tls_ca_pem.clone(),
        };
        let json = serde_json::to_string_pretty(&file)
            .map_err(|source| PlaceError::Json { path: self.file("node.json"), source })?;
        self.write("ssh_host_key", &identity.keys.ssh.to_openssh(node_name))?;
        self.write("ssh_host_key-cert.pub", &identity.ssh_certificate_line)?;
        self.write("x509.key", &identity.keys.tls_pem())?;
        self.write("x509.pem", &identity.tls_certificate_pem)?;
        self.write("node.json", &json)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), PlaceError> {
        let path = self.file(name);
        write_synced(&path, text.as_bytes()).map_err(|source| PlaceError::File { path, source })
    }
}

/// Writes a file of mode 0600 whole or not at all.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    if let Err(error) = written.and_then(|()| fs::rename(&fresh, path)) {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn read(path: &Path) -> Result<Option<String>, PlaceError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PlaceError::File { path: path.to_path_buf(), source }),
    }
}
