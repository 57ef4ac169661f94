//! Where the recorder's chunks go: to the spool always, and to Auth as they are made when asked for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mezite_proto::v1::auth_client::AuthClient;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::Channel;

use crate::chunk::Chunk;
use crate::metadata::Metadata;
use crate::recorder::RecordError;
use crate::seal::Seal;
use crate::spool::{Spool, Writing};
use crate::upload::{Upload, UploadError};

/// When Auth gets the recording (`MEZITE_RECORDING_MODE`).
#[derive(Debug, Clone)]
pub enum Mode {
    /// `node`: after the session, by the [`crate::Uploader`].
    Node,
    /// `node-sync`: while it is made. A stream that cannot be opened is logged and the mode is `node` for this session
    /// (F398, F399); one that breaks later is [`RecordError::Stream`].
    NodeSync(Box<AuthClient<Channel>>),
}

/// What the encoder asks of the store.
pub(crate) enum Order {
    Chunk(Vec<u8>),
    Seal { complete: bool, duration: Duration, reply: Option<oneshot::Sender<Result<Seal, RecordError>>> },
}

/// Writes orders one by one.
pub(crate) struct Store {
    spool: Arc<Spool>,
    session_id: String,
    writing: Writing,
    upload: Option<Upload>,
    failure: watch::Sender<Option<RecordError>>,
}

impl Store {
    pub(crate) async fn open(
        spool: Arc<Spool>,
        mode: Mode,
        metadata: Metadata,
        failure: watch::Sender<Option<RecordError>>,
    ) -> Result<Self, RecordError> {
        let session_id = metadata.session_id.clone();
        let writing = tokio::task::spawn_blocking({
            let spool = Arc::clone(&spool);
            move || spool.create(&metadata)
        });
        let writing = writing.await.map_err(io::Error::other).and_then(|made| made).map_err(RecordError::storage)?;
        let upload = match mode {
            Mode::Node => None,
            Mode::NodeSync(mut client) => {
                tracing::debug!(%session_id, "opening recording stream");
                match open_stream(&mut client, &session_id, &writing).await {
                    Ok(upload) => Some(upload),
                    Err(error) => {
                        tracing::error!(%session_id, %error, "opening recording stream (falling back to local-only)");
                        None
                    }
                }
            }
        };
        Ok(Self { spool, session_id, writing, upload, failure })
    }

    /// Works until the seal, or until the disk fails. Without a seal the directory stays for recovery.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                error = broken(self.upload.as_mut()) => {
                    self.stream_failed(error);
                    continue;
                }
            };
            match order {
                Some(Order::Chunk(text)) => {
                    let written = self.blocking(move |writing| writing.append(&text)).await;
                    match written {
                        Ok((store, chunk)) => {
                            self = store;
                            self.send(chunk).await;
                        }
                        Err(()) => return,
                    }
                }
                Some(Order::Seal { complete, duration, reply }) => {
                    let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
                    let failure = self.failure.clone();
                    let sealed = self.blocking(move |writing| writing.seal(complete, ms)).await;
                    let answer = match &sealed {
                        Ok((_, seal)) => Ok(*seal),
                        Err(()) => Err(failure.borrow().clone().unwrap_or(RecordError::Closed)),
                    };
                    // Nobody waits any more when the session was dropped.
                    let _ = reply.map(|reply| reply.send(answer));
                    if let Ok((store, seal)) = sealed {
                        store.finish(seal).await;
                    }
                    return;
                }
                None => return,
            }
        }
    }

    /// Runs file work where it may block. A failure is made known, and ends the store.
    async fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce(&mut Writing) -> io::Result<T> + Send + 'static,
    ) -> Result<(Self, T), ()> {
        let Self { spool, session_id, mut writing, upload, failure } = self;
        let done = tokio::task::spawn_blocking(move || work(&mut writing).map(|done| (writing, done))).await;
        match done.map_err(io::Error::other).and_then(|done| done) {
            Ok((writing, done)) => Ok((Self { spool, session_id, writing, upload, failure }, done)),
            Err(error) => {
                tracing::error!(%session_id, %error, "writing the session recording");
                failure.send_replace(Some(RecordError::storage(error)));
                Err(())
            }
        }
    }

    async fn send(&mut self, chunk: Chunk) {
        if let Some(upload) = &mut self.upload
            && let Err(error) = upload.send(chunk).await
        {
            self.stream_failed(error);
        }
    }

    /// The session has to end. What it shows until then is still kept in the spool, for the uploader.
    fn stream_failed(&mut self, error: UploadError) {
        tracing::error!(session_id = %self.session_id, %error, "the recording stream broke, ending the session");
        self.upload = None;
        self.failure.send_replace(Some(RecordError::Stream(error)));
    }

    /// A seal that Auth did not acknowledge leaves the recording to the uploader.
    async fn finish(self, seal: Seal) {
        let Self { spool, session_id, writing, upload, .. } = self;
        let Some(upload) = upload else { return };
        match upload.seal(seal).await {
            Ok(()) => {
                let id = session_id.clone();
                let removed = tokio::task::spawn_blocking(move || {
                    // Still marked as live, so that the uploader does not come between.
                    let removed = spool.remove(&id);
                    drop(writing);
                    removed
                });
                if let Err(error) = removed.await.map_err(io::Error::other).and_then(|removed| removed) {
                    tracing::warn!(%session_id, %error, "deleting an uploaded session recording");
                }
            }
            Err(error) => tracing::error!(%session_id, %error, "uploading session recording"),
        }
    }
}

async fn open_stream(
    client: &mut AuthClient<Channel>,
    session_id: &str,
    writing: &Writing,
) -> Result<Upload, UploadError> {
    let upload = Upload::open(client, session_id, writing.metadata.clone()).await?;
    match upload.next() {
        0 => Ok(upload),
        acked => Err(UploadError::Ack { acked, sent: 0 }),
    }
}

/// Reads acknowledgements while there is nothing to send; comes back with the error that ended the stream.
async fn broken(upload: Option<&mut Upload>) -> UploadError {
    let Some(upload) = upload else { return std::future::pending().await };
    loop {
        if let Err(error) = upload.acknowledged().await {
            return error;
        }
    }
}
