//! Recordings from the recorder through the spool to an Auth service made for the test.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod auth;
mod node;
mod sync;

use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use mezite_core::asciicast::{Data, Reader};
use mezite_record::{Content, Metadata, Mode, Recorder, Spool, Uploader, reader};
use tokio::sync::oneshot;
use tracing_subscriber::fmt::MakeWriter;

use auth::{Auth, Held};

pub(crate) const ID: &str = "0b5f6c1e-9a3d-4a51-8d0e-2f1f0c9b7a64";

pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) spool: Arc<Spool>,
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        Self { dir, spool }
    }

    pub(crate) async fn record(&self, mode: Mode, content: Content, id: &str) -> Recorder {
        let metadata = Metadata {
            session_id: id.to_owned(),
            user: "alice".to_owned(),
            width: 100,
            height: 30,
            started_unix_ms: 1_700_000_000_000,
            ..Metadata::default()
        };
        Recorder::open(Arc::clone(&self.spool), mode, content, metadata).await.unwrap()
    }

    /// Uploads until the recording of `id` is sealed at Auth.
    pub(crate) async fn upload(&self, auth: &Auth, id: &str) -> Held {
        let (stop, stopped) = oneshot::channel::<()>();
        let uploader = Uploader::new(Arc::clone(&self.spool), auth.client());
        let running = tokio::spawn(uploader.run(async {
            let _ = stopped.await;
        }));
        auth.wait(|state| state.held.get(id).is_some_and(|held| held.seal.is_some())).await;
        while !self.spool.waiting().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
        running.await.unwrap();
        auth.held(id)
    }
}

/// The events of a recording that must be whole: the terminal's text, and everything else as it is.
pub(crate) async fn play(id: &str, held: &Held) -> (String, Vec<Data>) {
    let chunks = stream::iter(held.chunks.clone().into_iter().map(Ok::<_, Infallible>));
    let pieces: Vec<_> = reader::cast(id, chunks, held.seal).map(Result::unwrap).collect().await;
    let mut cast = Reader::new(std::io::Cursor::new(pieces.concat())).unwrap();
    assert_eq!((cast.header().width, cast.header().height), (100, 30));
    let (mut text, mut rest) = (String::new(), Vec::new());
    while let Some(event) = cast.next_event().unwrap() {
        match event.data {
            Data::Output(output) => text.push_str(&output),
            other => rest.push(other),
        }
    }
    (text, rest)
}

/// What was logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt().with_writer(self.clone()).with_ansi(false).finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Gives up on a test that would otherwise hang.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap()
}
