//! What a session's pump writes to, and waits for, before it writes to the client.

use std::future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mezite_core::asciicast::{Header, Writer};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::exec::{Counts, ExecPolicy, ExecStream};
use crate::metadata::Metadata;
use crate::seal::Seal;
use crate::sink::{Mode, Order, Store};
use crate::spool::Spool;
use crate::upload::UploadError;

/// Text of this length is cut into a chunk as soon as the store is free.
const CUT: usize = 64 * 1024;
/// Text of this length stops the session until the store is free.
const FULL: usize = 512 * 1024;
/// Text of this age is cut into a chunk.
const AGE: Duration = Duration::from_secs(1);
/// Events on their way to the encoder, and most bytes of each.
const QUEUE: usize = 8;
const PIECE: usize = 64 * 1024;

/// What a session shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A terminal, recorded whole.
    Terminal,
    /// A command without a terminal.
    Exec(ExecPolicy),
}

/// Why recording failed. The session must not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordError {
    /// The spool cannot be written: a full disk, mostly.
    #[error("the session recording cannot be stored: {0}; free space in the agent's data directory")]
    Storage(Arc<io::Error>),
    /// The stream to Auth broke (`node-sync`).
    #[error("the session recording cannot be sent: {0}")]
    Stream(UploadError),
    /// The recording has ended.
    #[error("the session recording has ended")]
    Closed,
}

impl RecordError {
    pub(crate) fn storage(error: io::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

/// Records one session. Clones record the same session.
///
/// Each method returns once the recorder has taken its argument, in a queue of bounded size; what it took is on disk at
/// most one second and one write later. Dropping every clone without [`Recorder::finish`] closes the recording as
/// incomplete.
#[derive(Clone)]
pub struct Recorder {
    /// Absent for a terminal.
    counts: Option<Arc<Mutex<Counts>>>,
    events: mpsc::Sender<(Instant, Event)>,
    failure: watch::Receiver<Option<RecordError>>,
}

#[derive(Debug)]
enum Event {
    Output(ExecStream, Bytes),
    Input(Bytes),
    Resize(u16, u16),
    Finish(oneshot::Sender<Result<Seal, RecordError>>),
}

impl Recorder {
    /// Begins a recording: its directory and description are on disk, and with [`Mode::NodeSync`] Auth was asked, when
    /// this returns. Nothing of the session may start before.
    ///
    /// # Errors
    /// [`RecordError::Storage`], also when this session was recorded already.
    pub async fn open(
        spool: Arc<Spool>,
        mode: Mode,
        content: Content,
        metadata: Metadata,
    ) -> Result<Self, RecordError> {
        let counts = match content {
            Content::Terminal => None,
            Content::Exec(policy) => Some(Arc::new(Mutex::new(Counts::new(policy)))),
        };
        let encoder = Encoder::new(counts.clone(), &metadata);
        let (failed, failure) = watch::channel(None);
        let store = Store::open(spool, mode, metadata, failed).await?;
        let (orders, incoming) = mpsc::channel(1);
        let (events, queue) = mpsc::channel(QUEUE);
        tokio::spawn(store.run(incoming));
        tokio::spawn(encode(encoder, queue, orders));
        Ok(Self { counts, events, failure })
    }

    /// Records what the terminal shows, or a command's standard output. To be awaited before the bytes go on.
    ///
    /// # Errors
    /// The failure that ended the recording.
    pub async fn output(&self, data: Bytes) -> Result<(), RecordError> {
        self.stream(ExecStream::Stdout, data).await
    }

    /// Records one of a command's output streams. To be awaited before the bytes go on.
    ///
    /// # Errors
    /// The failure that ended the recording.
    pub async fn stream(&self, stream: ExecStream, mut data: Bytes) -> Result<(), RecordError> {
        if let Some(counts) = &self.counts {
            self.check()?;
            let kept = counts.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), stream, &data);
            data.truncate(kept);
        }
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.event(Event::Output(stream, piece)).await?;
        }
        Ok(())
    }

    /// Records what the user typed. The caller knows whether that is wanted (`record_input`) and whether echo is on.
    ///
    /// # Errors
    /// The failure that ended the recording.
    pub async fn input(&self, mut data: Bytes) -> Result<(), RecordError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.event(Event::Input(piece)).await?;
        }
        Ok(())
    }

    /// Records a new size of the terminal, in columns and rows.
    ///
    /// # Errors
    /// The failure that ended the recording.
    pub async fn resize(&self, width: u16, height: u16) -> Result<(), RecordError> {
        self.event(Event::Resize(width, height)).await
    }

    /// Closes the recording. What clones record afterwards is refused.
    ///
    /// # Errors
    /// [`RecordError::Storage`] when the end could not be written. A stream to Auth that broke is no error here: the
    /// spool has everything.
    pub async fn finish(self) -> Result<Seal, RecordError> {
        let (reply, sealed) = oneshot::channel();
        let asked = self.events.send((Instant::now(), Event::Finish(reply))).await;
        match asked {
            Ok(()) => sealed.await.unwrap_or_else(|_| Err(self.reason())),
            Err(_) => Err(self.reason()),
        }
    }

    /// Waits until the recording fails; the session is to be ended then. Never returns for one that ends well.
    pub async fn failed(&self) -> RecordError {
        let mut failure = self.failure.clone();
        let found = failure.wait_for(Option::is_some).await.map(|failure| failure.clone());
        match found {
            Ok(Some(error)) => error,
            Ok(None) | Err(_) => future::pending().await,
        }
    }

    async fn event(&self, event: Event) -> Result<(), RecordError> {
        self.check()?;
        self.events.send((Instant::now(), event)).await.map_err(|_| self.reason())
    }

    fn check(&self) -> Result<(), RecordError> {
        if self.failure.borrow().is_some() || self.events.is_closed() { Err(self.reason()) } else { Ok(()) }
    }

    fn reason(&self) -> RecordError {
        self.failure.borrow().clone().unwrap_or(RecordError::Closed)
    }
}

/// Turns events into text and cuts the text, while the store works on the piece before.
async fn encode(mut encoder: Encoder, mut events: mpsc::Receiver<(Instant, Event)>, orders: mpsc::Sender<Order>) {
    let mut due = Some(Instant::now() + AGE);
    let mut finish = None;
    let mut open = true;
    while open || !encoder.text.is_empty() {
        let cut = !open || encoder.text.len() >= CUT || due.is_some_and(|due| due <= Instant::now());
        tokio::select! {
            biased;
            permit = orders.reserve(), if cut && !encoder.text.is_empty() => {
                // The store is gone; it said why.
                let Ok(permit) = permit else { return };
                permit.send(Order::Chunk(std::mem::take(&mut encoder.text)));
                due = None;
            }
            event = events.recv(), if open && encoder.text.len() < FULL => match event {
                Some((_, Event::Finish(reply))) => {
                    finish.get_or_insert(reply);
                    events.close();
                }
                Some((at, event)) => {
                    encoder.event(at, event);
                    due.get_or_insert_with(|| Instant::now() + AGE);
                }
                None => {
                    open = false;
                    encoder.finish();
                }
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if !cut && due.is_some() => {}
        }
    }
    let order = Order::Seal { complete: finish.is_some(), duration: encoder.last, reply: finish };
    // The store is gone; it said why.
    let _ = orders.send(order).await;
}

/// The text of a recording as it grows.
struct Encoder {
    text: Vec<u8>,
    started: Instant,
    last: Duration,
    /// Absent for a terminal.
    counts: Option<Arc<Mutex<Counts>>>,
    /// Standard error has split characters of its own.
    stdout: Writer,
    stderr: Writer,
}

impl Encoder {
    fn new(counts: Option<Arc<Mutex<Counts>>>, metadata: &Metadata) -> Self {
        let (width, height) = match (metadata.width, metadata.height) {
            (0, _) | (_, 0) => (80, 24),
            size => size,
        };
        let mut header = Header::new(width, height);
        header.timestamp = Some(metadata.started_unix_ms.div_euclid(1000));
        header.command = Some(metadata.command.clone()).filter(|command| !command.is_empty());
        if !metadata.term.is_empty() {
            header.env.insert("TERM".to_owned(), metadata.term.clone());
        }
        let mut text = Vec::new();
        Writer::header(&header, &mut text);
        Self {
            text,
            started: Instant::now(),
            last: Duration::ZERO,
            counts,
            stdout: Writer::new(),
            stderr: Writer::new(),
        }
    }

    fn event(&mut self, at: Instant, event: Event) {
        self.reached(at);
        match event {
            Event::Output(stream, data) => self.output(stream, &data),
            Event::Input(data) => self.stdout.input(self.last, &data, &mut self.text),
            Event::Resize(width, height) => self.stdout.resize(self.last, width, height, &mut self.text),
            Event::Finish(_) => {}
        }
    }

    fn reached(&mut self, at: Instant) {
        self.last = self.last.max(at.saturating_duration_since(self.started));
    }

    fn output(&mut self, stream: ExecStream, data: &[u8]) {
        let writer = match stream {
            ExecStream::Stdout => &mut self.stdout,
            ExecStream::Stderr => &mut self.stderr,
        };
        writer.output(self.last, data, &mut self.text);
    }

    /// Split characters come out, and a marker says what an exec amounted to.
    fn finish(&mut self) {
        let counted = self.counts.take().map(|counts| counts.lock().unwrap_or_else(PoisonError::into_inner).finish());
        if let Some((Some(last), _)) = counted {
            self.reached(last);
        }
        for writer in [&mut self.stdout, &mut self.stderr] {
            std::mem::take(writer).finish(self.last, &mut self.text);
        }
        if let Some((_, totals)) = counted {
            marker(self.last, &totals, &mut self.text);
        }
    }
}

/// An event `m` whose label is JSON.
fn marker(at: Duration, label: &impl Serialize, text: &mut Vec<u8>) {
    let label = serde_json::to_string(label).and_then(|label| serde_json::to_string(&label)).unwrap_or_default();
    text.extend_from_slice(format!("[{}.{:03}, \"m\", {label}]\n", at.as_secs(), at.subsec_millis()).as_bytes());
}
