//! Sessions whose end Auth has not confirmed. One small file per session, written before the session starts and again when it
//! ends; so an end is told to Auth also after a crash of the agent or while Auth is away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mezite_core::name::is_uuid;
use mezite_net::backoff::Backoff;
use mezite_net::clock;
use mezite_proto::v1;
use mezite_proto::v1::auth_client::AuthClient;
use prost::Message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::place::write_synced;

/// The reason of a session whose agent died.
const AGENT_DIED: &str = "agent";

/// The outbox.
#[derive(Debug)]
pub(crate) struct Outbox {
    dir: PathBuf,
    /// Ends that the disk had no room for; at most one for each session of this process.
    unkept: Mutex<Vec<v1::EndSessionRequest>>,
    wake: Notify,
}

impl Outbox {
    /// Opens the directory. Sessions that are still open in it belonged to an agent that died: they ended when it did, as
    /// far as anybody knows by now.
    pub(crate) fn open(dir: PathBuf) -> std::io::Result<Arc<Self>> {
        let outbox = Self { dir, unkept: Mutex::default(), wake: Notify::new() };
        for (path, mut end) in outbox.entries()? {
            if end.ended_unix_ms == 0 {
                end.ended_unix_ms = clock::now_unix_ms();
                end.reason = AGENT_DIED.to_owned();
                write_synced(&path, &end.encode_to_vec())?;
            }
        }
        Ok(Arc::new(outbox))
    }

    /// Notes a session that is about to start.
    pub(crate) fn begin(&self, session: &v1::SessionInfo) -> std::io::Result<()> {
        let open = v1::EndSessionRequest {
            session_id: session.session_id.clone(),
            session: Some(session.clone()),
            ..Default::default()
        };
        write_synced(&self.path(&session.session_id), &open.encode_to_vec())
    }

    /// Forgets a session that did not start, or whose end is told.
    pub(crate) fn forget(&self, session_id: &str) {
        let _ = fs::remove_file(self.path(session_id));
        self.unkept().retain(|end| end.session_id != session_id);
    }

    fn unkept(&self) -> std::sync::MutexGuard<'_, Vec<v1::EndSessionRequest>> {
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the end of a session; it is told to Auth soon. An end that cannot be written is kept in memory.
    pub(crate) fn end(&self, end: v1::EndSessionRequest) {
        if let Err(error) = write_synced(&self.path(&end.session_id), &end.encode_to_vec()) {
            tracing::error!(session_id = end.session_id, %error, "the end of a session could not be written");
            self.unkept().push(end);
        }
        self.wake.notify_one();
    }

    /// Tells Auth every end, until `stop`.
    pub(crate) async fn deliver(self: Arc<Self>, mut auth: AuthClient<Channel>, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        loop {
            let all = self.deliver_all(&mut auth).await;
            let pause = if all { Duration::from_secs(60) } else { backoff.next(None) };
            if all {
                backoff.reset();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified(), if all => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn deliver_all(&self, auth: &mut AuthClient<Channel>) -> bool {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, "the outbox cannot be read");
                return false;
            }
        };
        let unkept: Vec<_> = self.unkept().iter().map(|end| (self.path(&end.session_id), end.clone())).collect();
        for (path, end) in unkept.into_iter().chain(entries).filter(|(_, end)| end.ended_unix_ms != 0) {
            let session_id = end.session_id.clone();
            match auth.end_session(end).await {
                Ok(_) => self.forget(&session_id),
                Err(status)
                    if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::NotFound) =>
                {
                    tracing::error!(error = status.message(), path = %path.display(), "the auth service refuses the end of a session");
                    self.forget(&session_id);
                }
                Err(status) => {
                    tracing::debug!(error = status.message(), "the end of a session is told later");
                    return false;
                }
            }
        }
        true
    }

    fn entries(&self) -> std::io::Result<Vec<(PathBuf, v1::EndSessionRequest)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "end") {
                continue;
            }
            match fs::read(&path).ok().and_then(|bytes| v1::EndSessionRequest::decode(bytes.as_slice()).ok()) {
                Some(end) if is_uuid(&end.session_id) => entries.push((path, end)),
                _ => {
                    tracing::error!(path = %path.display(), "an unreadable entry of the outbox is set aside");
                    let _ = fs::rename(&path, path.with_extension("bad"));
                }
            }
        }
        Ok(entries)
    }

    fn path(&self, session_id: &str) -> PathBuf {
        self.dir.join(Path::new(session_id)).with_extension("end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_open_at_start_up_ended_with_its_agent() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path().to_path_buf()).unwrap();
        let session_id = "a1b2c3d4-e5f6-4890-abcd-ef1234567890".to_owned();
        outbox.begin(&v1::SessionInfo { session_id: session_id.clone(), ..Default::default() }).unwrap();
        let entries = Outbox::open(dir.path().to_path_buf()).unwrap().entries().unwrap();
        let [(_, end)] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!((end.session_id.as_str(), end.reason.as_str()), (session_id.as_str(), "agent"));
        assert_ne!(end.ended_unix_ms, 0);
    }

    #[test]
    fn an_end_that_the_disk_does_not_take_is_kept_until_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(dir.path().to_path_buf()).unwrap();
        let end = v1::EndSessionRequest { session_id: "s".to_owned(), ended_unix_ms: 1, ..Default::default() };
        dir.close().unwrap();
        outbox.end(end.clone());
        assert_eq!(*outbox.unkept(), [end]);
        outbox.forget("s");
        assert!(outbox.unkept().is_empty());
    }

    #[test]
    fn an_unreadable_entry_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.end"), [0xff; 9]).unwrap();
        let outbox = Outbox::open(dir.path().to_path_buf()).unwrap();
        assert!(outbox.entries().unwrap().is_empty());
        assert!(dir.path().join("x.bad").exists());
    }
}
