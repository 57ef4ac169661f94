//! Bringing recordings to Auth: one `UploadRecording` call each, resumed from what Auth acknowledges.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_proto::v1::recording_part::Part;
use mezite_proto::v1::{RecordingAck, RecordingOpen, RecordingPart};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::chunk::Chunk;
use crate::seal::Seal;
use crate::spool::{LoadError, Spool, Waiting};

/// Chunks on the way that Auth has not acknowledged.
const WINDOW: u64 = 8;
/// How long Auth may take to open a recording, and to acknowledge when the window is full.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the spool is looked through when nothing announces itself.
const SCAN: Duration = Duration::from_secs(60);
/// First and longest ceiling of the wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Why an upload did not come to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UploadError {
    /// The call failed, or Auth refused.
    #[error("the Auth service answered {:?}: {}", .0.code(), .0.message())]
    Refused(Status),
    /// The stream ended early.
    #[error("the Auth service ended the recording stream")]
    Ended,
    /// An acknowledgement did not come within 30 s.
    #[error("the Auth service does not acknowledge")]
    Silent,
    /// Auth acknowledged what was not sent.
    #[error("the Auth service acknowledged {acked} chunks of {sent}")]
    Ack {
        /// What it said.
        acked: u64,
        /// What it may have.
        sent: u64,
    },
    /// The recording in the spool cannot be read.
    #[error("{0}")]
    Spool(String),
}

impl From<Status> for UploadError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl UploadError {
    /// Whether Auth says that this is not a recording of this node: one of an identity it had before it joined anew.
    fn is_foreign(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::NotFound)
    }

    /// Whether the next recording would fail the same way.
    fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(status.code(), Code::Unavailable | Code::Unauthenticated | Code::Unknown),
            Self::Ended | Self::Silent => true,
            Self::Ack { .. } | Self::Spool(_) => false,
        }
    }
}

/// What a look through the spool left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Recordings that failed by themselves: they hold up no other.
    Some,
    /// Auth cannot be reached: no other would arrive either.
    All,
}

/// One open call.
#[derive(Debug)]
pub(crate) struct Upload {
    parts: mpsc::Sender<RecordingPart>,
    acks: Streaming<RecordingAck>,
    sent: u64,
    acked: u64,
}

impl Upload {
    /// Opens the recording at Auth. The next chunk to send is [`Upload::next`].
    pub(crate) async fn open(
        client: &mut AuthClient<Channel>,
        session_id: &str,
        metadata: Bytes,
    ) -> Result<Self, UploadError> {
        let (parts, outgoing) = mpsc::channel(2);
        let open = RecordingOpen { session_id: session_id.to_owned(), resume_from: 0, metadata: metadata.to_vec() };
        let first = RecordingPart { part: Some(Part::Open(open)) };
        parts.send(first).await.map_err(|_| UploadError::Ended)?;
        let opening = async {
            let mut acks = client.upload_recording(ReceiverStream::new(outgoing)).await?.into_inner();
            let ack = acks.message().await?.ok_or(UploadError::Ended)?;
            Ok(Self { parts, acks, sent: ack.chunks, acked: ack.chunks })
        };
        tokio::time::timeout(ACK_TIMEOUT, opening).await.unwrap_or(Err(UploadError::Silent))
    }

    /// The number of the first chunk that Auth does not hold.
    pub(crate) const fn next(&self) -> u64 {
        self.sent
    }

    /// Sends the next chunk, once the window has room for it.
    pub(crate) async fn send(&mut self, chunk: Chunk) -> Result<(), UploadError> {
        while self.sent - self.acked >= WINDOW {
            self.acknowledged_in_time().await?;
        }
        self.sent = chunk.number + 1;
        self.part(Part::Chunk(chunk.into())).await
    }

    /// Sends the seal and waits until Auth has sealed the recording.
    pub(crate) async fn seal(mut self, seal: Seal) -> Result<(), UploadError> {
        self.part(Part::Seal(seal.into())).await?;
        while !self.acknowledged_in_time().await? {}
        Ok(())
    }

    /// Waits for the next acknowledgement; true when it is the seal's. To be polled while nothing is sent, so that a
    /// stream that breaks is noticed. Cancel-safe.
    pub(crate) async fn acknowledged(&mut self) -> Result<bool, UploadError> {
        let ack = self.acks.message().await?.ok_or(UploadError::Ended)?;
        if ack.chunks < self.acked || ack.chunks > self.sent {
            return Err(UploadError::Ack { acked: ack.chunks, sent: self.sent });
        }
        self.acked = ack.chunks;
        Ok(ack.sealed)
    }

    async fn acknowledged_in_time(&mut self) -> Result<bool, UploadError> {
        tokio::time::timeout(ACK_TIMEOUT, self.acknowledged()).await.unwrap_or(Err(UploadError::Silent))
    }

    /// A part that cannot be handed over means that the call has ended; its status says why.
    async fn part(&mut self, part: Part) -> Result<(), UploadError> {
        let sending = self.parts.send(RecordingPart { part: Some(part) });
        match tokio::time::timeout(ACK_TIMEOUT, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => loop {
                self.acknowledged_in_time().await?;
            },
            Err(_) => Err(UploadError::Silent),
        }
    }
}

/// Empties the spool: what sessions just sealed, and what an earlier process left.
#[derive(Debug)]
pub struct Uploader {
    spool: Arc<Spool>,
    client: AuthClient<Channel>,
}

impl Uploader {
    /// An uploader for `spool`. There must be one only.
    #[must_use]
    pub const fn new(spool: Arc<Spool>, client: AuthClient<Channel>) -> Self {
        Self { spool, client }
    }

    /// Uploads until `stop`. Failures are logged and tried again with full jitter; the recording stays meanwhile (F397).
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut attempt = 0_u32;
        let spool = Arc::clone(&self.spool);
        if let Err(error) = blocking(move || spool.sweep()).await {
            tracing::warn!(%error, "cleaning the recording spool");
        }
        loop {
            let left = tokio::select! {
                () = &mut stop => return,
                left = self.pass() => left,
            };
            attempt = if left == Left::Nothing { 0 } else { attempt.saturating_add(1) };
            let pause = if left == Left::Nothing { SCAN } else { jitter(attempt) };
            tokio::select! {
                () = &mut stop => return,
                () = self.spool.ready.notified(), if left != Left::All => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tries every recording that waits, once.
    async fn pass(&mut self) -> Left {
        let spool = Arc::clone(&self.spool);
        let waiting = match blocking(move || spool.waiting()).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "reading the recording spool");
                return Left::All;
            }
        };
        let mut left = Left::Nothing;
        for id in waiting {
            let Err(error) = self.upload(&id).await else { continue };
            if error.is_foreign() && self.set_aside(&id, &error).await {
                continue;
            }
            tracing::error!(session_id = %id, %error, "uploading session recording");
            left = Left::Some;
            if error.is_of_the_connection() {
                return Left::All;
            }
        }
        left
    }

    /// Moves a recording that Auth will never take to quarantine. False when that fails.
    async fn set_aside(&self, id: &str, error: &UploadError) -> bool {
        let (spool, name) = (Arc::clone(&self.spool), id.to_owned());
        let moved = blocking(move || spool.quarantine(&name)).await;
        tracing::error!(session_id = %id, %error, moved = moved.is_ok(), "session recording is not of this node, moving it to quarantine");
        moved.is_ok()
    }

    async fn upload(&mut self, id: &str) -> Result<(), UploadError> {
        let Some(waiting) = self.load(id).await? else { return Ok(()) };
        let waiting = Arc::new(waiting);
        let mut upload = Upload::open(&mut self.client, id, waiting.metadata.clone()).await?;
        if upload.next() > waiting.seal.chunks {
            return Err(UploadError::Ack { acked: upload.next(), sent: waiting.seal.chunks });
        }
        for number in upload.next()..waiting.seal.chunks {
            let source = Arc::clone(&waiting);
            upload.send(blocking(move || source.chunk(number)).await?).await?;
        }
        upload.seal(waiting.seal).await?;
        let (spool, gone) = (Arc::clone(&self.spool), id.to_owned());
        blocking(move || spool.remove(&gone)).await?;
        tracing::info!(session_id = %id, chunks = waiting.seal.chunks, "session recording uploaded");
        Ok(())
    }

    /// `None` when there is nothing to upload: a recording that cannot be one is moved to quarantine.
    async fn load(&self, id: &str) -> Result<Option<Waiting>, UploadError> {
        let (spool, name) = (Arc::clone(&self.spool), id.to_owned());
        blocking(move || match spool.load(&name) {
            Ok(waiting) => Ok(Some(waiting)),
            Err(LoadError::Io(error)) => Err(LoadError::Io(error)),
            Err(LoadError::Empty) => {
                spool.remove(&name)?;
                Ok(None)
            }
            Err(error @ (LoadError::Metadata | LoadError::Corrupt(_))) => {
                tracing::error!(session_id = %name, %error, "session recording is damaged, moving it to quarantine");
                spool.quarantine(&name)?;
                Ok(None)
            }
        })
        .await
    }
}

/// Runs file work where it may block.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, UploadError>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| UploadError::Spool(error.to_string())),
        Err(error) => Err(UploadError::Spool(error.to_string())),
    }
}

/// An even draw from zero to the ceiling after this many failures.
fn jitter(attempt: u32) -> Duration {
    let (base, cap) = RETRY;
    let mut random = [0; 4];
    // Without randomness the wait is the longest.
    let draw = aws_lc_rs::rand::fill(&mut random).map_or(u32::MAX, |()| u32::from_be_bytes(random));
    let ceiling = base.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1))).min(cap);
    ceiling.mul_f64(f64::from(draw) / f64::from(u32::MAX))
}
