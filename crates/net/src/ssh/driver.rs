//! The task of one connection: moves bytes between the engine and the stream, and tells the engine the time.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Sleep, sleep_until},
};

use super::shared::Shared;

/// Smallest and largest space offered to one read.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 128 << 10;
/// A buffer up to this size is not worth giving back.
const KEEP: usize = 8 << 10;
/// Turns before other tasks get theirs: what was read is to be on its way while more is read.
const TURNS: usize = 2;
/// Time for the farewell to be written, and for the peer to close after it.
const LINGER: Duration = Duration::from_secs(2);

/// Runs until the connection is over and its farewell is written.
pub(super) struct Driver<S> {
    io: S,
    shared: Arc<Shared>,
    input: BytesMut,
    /// Bytes on their way to the wire.
    output: BytesMut,
    read_size: usize,
    /// Most bytes read, and written, in one go since the driver last waited.
    peak_in: usize,
    peak_out: usize,
    unflushed: bool,
    /// The engine left input unread.
    held: bool,
    eof: bool,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    ending: Option<Ending>,
}

/// What is left to do after the connection's end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Write,
    Shutdown,
    /// The peer reads our last words only if its own last words do not meet a closed socket.
    Drain,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(io: S, shared: Arc<Shared>) -> Self {
        Self {
            io,
            shared,
            input: BytesMut::new(),
            output: BytesMut::new(),
            read_size: READ_MIN,
            peak_in: 0,
            peak_out: 0,
            unflushed: false,
            held: false,
            eof: false,
            timer: Box::pin(sleep_until(tokio::time::Instant::now())),
            timer_at: None,
            ending: None,
        }
    }

    /// Moves what can be moved; true if something did.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        let wrote = self.write(cx).unwrap_or_else(|error| self.lost(&error.to_string()));
        let read = self.read(cx).unwrap_or_else(|error| self.lost(&error.to_string()));
        wrote || read
    }

    fn lost(&mut self, why: &str) -> bool {
        self.eof = true;
        self.output.clear();
        self.unflushed = false;
        self.shared.with(|state| {
            state.engine.lost(why);
            state.engine.take_output(BytesMut::new());
        });
        true
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        loop {
            if self.output.is_empty() && !self.fetch() {
                if self.unflushed && Pin::new(&mut self.io).poll_flush(cx)?.is_ready() {
                    self.unflushed = false;
                }
                return Ok(moved);
            }
            match Pin::new(&mut self.io).poll_write(cx, &self.output)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    self.output.advance(written);
                    (self.unflushed, moved) = (true, true);
                }
                Poll::Pending => return Ok(moved),
            }
        }
    }

    /// Takes the engine's output; false if there is none.
    fn fetch(&mut self) -> bool {
        let spare = std::mem::take(&mut self.output);
        self.output =
            self.shared.with(|state| if state.engine.has_output() { state.engine.take_output(spare) } else { spare });
        self.peak_out = self.peak_out.max(self.output.len());
        !self.output.is_empty()
    }

    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let unheld = self.held && self.feed();
        if self.eof || self.held {
            return Ok(unheld);
        }
        self.input.reserve(self.read_size);
        let room = self.input.capacity() - self.input.len();
        let read = match pin!(self.io.read_buf(&mut self.input)).poll(cx)? {
            Poll::Pending => return Ok(unheld),
            Poll::Ready(read) => read,
        };
        if read == 0 {
            self.eof = true;
            self.shared.with(|state| state.engine.lost("the peer closed the stream"));
            return Ok(true);
        }
        self.peak_in = self.peak_in.max(read);
        if read == room {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        } else if read < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(READ_MIN);
        }
        self.feed();
        Ok(true)
    }

    /// Gives the engine what was read; true if it looked at it.
    fn feed(&mut self) -> bool {
        let now = Instant::now();
        self.shared.with(|state| {
            let looked = state.engine.reading();
            state.engine.receive(&mut self.input, now);
            self.held = !state.engine.reading();
            looked
        })
    }

    /// Waits, unless there is news since the last turn. Returns whether it does.
    fn park(&mut self, cx: &mut Context<'_>) -> bool {
        let writing = !self.output.is_empty();
        let held = self.held;
        let (parked, deadline) = self.shared.with(|state| {
            let news = (state.engine.has_output() && !writing) || (held && state.engine.reading());
            let parked = !news && state.engine.closed().is_none();
            state.writing = writing;
            state.driver = parked.then(|| cx.waker().clone());
            (parked, state.engine.deadline())
        });
        if !parked {
            return false;
        }
        self.shrink();
        self.set_timer(deadline);
        if self.timer_at.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            self.timer_at = None;
            self.shared.with(|state| state.engine.tick(Instant::now()));
            return false;
        }
        true
    }

    /// The timer moves only to be earlier: most deadlines are put off by every packet.
    fn set_timer(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && self.timer_at.is_none_or(|set| deadline < set)
        {
            self.timer.as_mut().reset(deadline.into());
            self.timer_at = Some(deadline);
        }
    }

    /// Gives buffers back that were larger than what they are used for.
    fn shrink(&mut self) {
        if self.input.is_empty() && self.input.capacity() > KEEP.max(4 * self.peak_in) {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() && self.output.capacity() > KEEP.max(4 * self.peak_out) {
            self.output = BytesMut::new();
        }
        (self.peak_in, self.peak_out) = (0, 0);
    }

    /// The end: last words, shutdown, and a moment for the peer to read them.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ending.is_none() {
            self.ending = Some(Ending::Write);
            self.timer.as_mut().reset(tokio::time::Instant::now() + LINGER);
        }
        let done = self.wind_up(cx);
        if done.is_ready() || self.timer.as_mut().poll(cx).is_ready() {
            self.finish();
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn wind_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ending == Some(Ending::Write) {
            if self.write(cx).is_err() {
                return Poll::Ready(());
            }
            if !self.output.is_empty() || self.unflushed {
                return Poll::Pending;
            }
            self.ending = Some(Ending::Shutdown);
        }
        if self.ending == Some(Ending::Shutdown) {
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
            self.finish();
            self.ending = Some(Ending::Drain);
        }
        while !self.eof {
            self.input.clear();
            self.input.reserve(READ_MIN);
            let read = ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx));
            self.eof = !matches!(read, Ok(1..));
        }
        Poll::Ready(())
    }

    fn finish(&self) {
        self.shared.with(|state| state.finished = true);
    }
}

/// Whatever ends the task, nobody waits for it any longer.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.with(|state| {
            state.engine.lost("the driver stopped");
            state.finished = true;
        });
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        for _ in 0..TURNS {
            let closed = this.shared.with(|state| {
                state.driver = None;
                state.engine.closed().is_some()
            });
            if closed {
                return this.end(cx);
            }
            if !this.turn(cx) && this.park(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
