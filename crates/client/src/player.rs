//! Playing a recording in the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use mezite_core::asciicast::{BREAKS_OFF, CastError, Data, Filter, Reader};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep_until};

use crate::error::{Error, Result, invalid};
use crate::terminal::{self, Raw};

/// How far an arrow key goes.
const STEP: Duration = Duration::from_secs(5);
/// Clears the screen before the past is shown again.
const CLEAR: &str = "\x1b[2J\x1b[3J\x1b[H";

/// How to play.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Times as fast, 0.01 to 1000.
    pub speed: f64,
    /// Without the filter of escape sequences.
    pub raw: bool,
}

/// The output of a recording.
#[derive(Debug)]
pub struct Cast {
    events: Vec<(Duration, String)>,
    /// Columns and rows at the start.
    pub size: (u16, u16),
    /// What is missing from it, in words.
    pub damage: Option<String>,
    /// It is whole, but shorter than the session.
    breaks_off: bool,
}

impl Cast {
    /// Reads asciicast v2, with pauses cut to `idle_limit`. What can be read of a damaged recording is, and the rest is told
    /// of in [`Cast::damage`].
    ///
    /// # Errors
    /// When it is no recording.
    pub fn read(source: impl BufRead, idle_limit: Option<Duration>) -> Result<Self> {
        let mut reader = Reader::new(source).map_err(|error| Error::Local(format!("cannot play: {error}")))?;
        let size = (reader.header().width, reader.header().height);
        let mut cast = Self { events: Vec::new(), size, damage: None, breaks_off: false };
        let (mut last, mut cut) = (Duration::ZERO, Duration::ZERO);
        loop {
            let event = match reader.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(cast),
                Err(error @ (CastError::Malformed(_) | CastError::TooLong(_))) => {
                    cast.damage.get_or_insert_with(|| format!("{error}; bad lines are left out"));
                    continue;
                }
                Err(error) => {
                    cast.damage = Some(error.to_string());
                    return Ok(cast);
                }
            };
            let pause = event.at.saturating_sub(last);
            cut += idle_limit.map_or(Duration::ZERO, |limit| pause.saturating_sub(limit));
            last = event.at;
            match event.data {
                Data::Output(text) => cast.events.push((event.at.saturating_sub(cut), text)),
                Data::Marker(name) => cast.breaks_off |= name == BREAKS_OFF,
                Data::Input(_) | Data::Resize { .. } => {}
            }
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Pause,
    Back,
    Forward,
    Quit,
}

/// The keys in what was typed; what is no key of ours is passed over.
fn keys(typed: &[u8]) -> Vec<Key> {
    let mut rest = typed;
    let mut keys = Vec::new();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b' ' => keys.push(Key::Pause),
            b'q' | 3 => keys.push(Key::Quit),
            0x1b => {
                if let Some(tail) = rest.strip_prefix(b"[C").or_else(|| rest.strip_prefix(b"OC")) {
                    keys.push(Key::Forward);
                    rest = tail;
                } else if let Some(tail) = rest.strip_prefix(b"[D").or_else(|| rest.strip_prefix(b"OD")) {
                    keys.push(Key::Back);
                    rest = tail;
                }
            }
            _ => {}
        }
    }
    keys
}

/// Where playing stands, without a clock.
#[derive(Debug)]
struct Position<'a> {
    events: &'a [(Duration, String)],
    raw: bool,
    filter: Filter,
    /// How many events have been shown.
    shown: usize,
}

impl Position<'_> {
    /// When the next event is due; `None` at the end.
    fn next(&self) -> Option<Duration> {
        self.events.get(self.shown).map(|(at, _)| *at)
    }

    /// Output that leads from here to `to`. Backwards, everything is shown again from the start.
    fn advance(&mut self, to: Duration) -> String {
        let mut text = String::new();
        if self.shown > 0 && self.events.get(self.shown - 1).is_some_and(|(at, _)| *at > to) {
            text.push_str(self.finish());
            text.push_str(CLEAR);
            self.shown = 0;
        }
        while let Some((_, output)) = self.events.get(self.shown).filter(|(at, _)| *at <= to) {
            self.shown += 1;
            let mut harmless = String::new();
            self.filter.push(output, &mut harmless);
            text.push_str(if self.raw { output } else { &harmless });
        }
        text
    }

    /// Output that leaves the terminal as it was found; the filter begins anew.
    fn finish(&mut self) -> &'static str {
        std::mem::take(&mut self.filter).restore()
    }
}

/// Plays to the end, or until the user or a signal ends it.
///
/// # Errors
/// When the speed is out of bounds or the terminal cannot be used; and, when all that is there was played, for a recording
/// that is damaged.
pub async fn play(cast: &Cast, options: Options) -> Result<()> {
    if !(0.01..=1000.0).contains(&options.speed) {
        return Err(invalid("--speed", "must be between 0.01 and 1000"));
    }
    let size = terminal::size();
    if size.ws_col < cast.size.0 || size.ws_row < cast.size.1 {
        eprintln!(
            "msh: recorded at {}x{}, this terminal has {}x{}",
            cast.size.0, cast.size.1, size.ws_col, size.ws_row
        );
    }
    let keyboard = Raw::keys()?;
    let mut position = Position { events: &cast.events, raw: options.raw, filter: Filter::new(), shown: 0 };
    let played = follow(&mut position, options.speed, keyboard.is_some()).await;
    let left = if std::io::stdout().is_terminal() { show(position.finish()) } else { Ok(()) };
    drop(keyboard);
    played.and(left)?;
    if cast.breaks_off {
        eprintln!("msh: {BREAKS_OFF}");
    }
    match &cast.damage {
        Some(damage) => Err(Error::Local(format!("the recording is damaged: {damage}"))),
        None if cast.events.is_empty() => {
            eprintln!("msh: the recording holds no output");
            Ok(())
        }
        None => Ok(()),
    }
}

async fn follow(position: &mut Position<'_>, speed: f64, has_keys: bool) -> Result<()> {
    let mut typed = [0_u8; 256];
    let mut stdin = tokio::io::stdin();
    let mut ended = terminal::Ending::new()?;
    let (mut origin, mut from, mut paused) = (Instant::now(), Duration::ZERO, false);
    let mut open = has_keys;
    while let Some(next) = position.next() {
        let due = origin + next.saturating_sub(from).div_f64(speed);
        tokio::select! {
            () = sleep_until(due), if !paused => show(&position.advance(next))?,
            read = stdin.read(&mut typed), if open => {
                let count = read.unwrap_or(0);
                open = count > 0;
                for key in keys(typed.get(..count).unwrap_or_default()) {
                    from += if paused { Duration::ZERO } else { origin.elapsed().mul_f64(speed) };
                    origin = Instant::now();
                    match key {
                        Key::Quit => return Ok(()),
                        Key::Pause => paused = !paused,
                        Key::Forward => from += STEP,
                        Key::Back => from = from.saturating_sub(STEP),
                    }
                    show(&position.advance(from))?;
                }
            }
            _ = ended.next() => return Ok(()),
        }
    }
    Ok(())
}

fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Local(format!("cannot write to the terminal: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAST: &str = "{\"version\":2,\"width\":80,\"height\":24}\n[0.5,\"o\",\"a\"]\n[1,\"i\",\"x\"]\n[100.5,\"o\",\"b\\u001b]52;c;evil\\u0007\"]\n[101,\"o\",\"c\"]\n";

    fn at(cast: &Cast) -> Vec<f64> {
        cast.events.iter().map(|(at, _)| at.as_secs_f64()).collect()
    }

    #[test]
    fn pauses_are_cut() {
        assert_eq!(at(&Cast::read(CAST.as_bytes(), None).unwrap()), [0.5, 100.5, 101.0]);
        assert_eq!(at(&Cast::read(CAST.as_bytes(), Some(Duration::from_secs(2))).unwrap()), [0.5, 3.0, 3.5]);
    }

    #[test]
    fn a_recording_without_an_end_plays_up_to_there() {
        let cast = Cast::read(&CAST.as_bytes()[..CAST.len() - 8], None).unwrap();
        assert_eq!(cast.damage.as_deref(), Some("the recording ends in the middle of line 5"));
        assert_eq!(cast.events.len(), 2);
        assert!(Cast::read(&b"hello\n"[..], None).is_err());
    }

    #[test]
    fn what_stands_around_a_bad_line_is_played() {
        let cast = Cast::read(CAST.replace("[1,\"i\"", "[oops").as_bytes(), None).unwrap();
        assert_eq!(cast.damage.as_deref(), Some("line 3 of the recording is not an event; bad lines are left out"));
        assert_eq!(at(&cast), [0.5, 100.5, 101.0]);
    }

    #[test]
    fn seeking_shows_what_was_on_the_screen() {
        let cast = Cast::read(CAST.as_bytes(), None).unwrap();
        let mut position = Position { events: &cast.events, raw: false, filter: Filter::new(), shown: 0 };
        assert_eq!(position.advance(Duration::from_secs(200)), "abc", "the clipboard sequence is left out");
        assert_eq!(position.next(), None);
        let back = position.advance(Duration::from_secs(1));
        assert!(back.ends_with(&format!("{CLEAR}a")), "{back:?}");
        assert_eq!(position.next(), Some(Duration::from_millis(100_500)));
    }

    #[test]
    fn keys_are_found_among_others() {
        assert_eq!(keys(b"x \x1b[C\x1b[Dq"), [Key::Pause, Key::Forward, Key::Back, Key::Quit]);
        assert_eq!(keys(b"\x1b\x1b[A\x03"), [Key::Quit]);
    }
}
