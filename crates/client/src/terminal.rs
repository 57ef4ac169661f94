//! The user's terminal: raw mode that is always undone, its size, its modes as SSH names them, and the escape to hang up.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use rustix::termios::{
    self, ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Longest secret that is read, in bytes.
const MAX_SECRET: usize = 4096;

/// A terminal and the settings to go back to, kept where the panic hook finds them.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// Changed settings of a terminal until dropped. A panic also restores the terminal; signals are the caller's to wait for
/// with [`Ending`], because a handler must not do this work. There is one at a time.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Raw mode of standard input; `None` when it is no terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter() -> Result<Option<Self>> {
        Self::of_stdin(Termios::make_raw)
    }

    /// Single keys from standard input without echo, with output and signals as they were; `None` when it is no terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn keys() -> Result<Option<Self>> {
        Self::of_stdin(|settings| settings.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO))
    }

    fn of_stdin(change: impl FnOnce(&mut Termios)) -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if stdin.is_terminal() { Self::of(stdin.as_fd(), change).map(Some) } else { Ok(None) }
    }

    fn of(terminal: BorrowedFd<'_>, change: impl FnOnce(&mut Termios)) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Local(format!("cannot set the terminal: {error}"));
        let before = termios::tcgetattr(terminal).map_err(|error| failed(error.into()))?;
        let mut changed = before.clone();
        change(&mut changed);
        let kept = terminal.try_clone_to_owned().map_err(failed)?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some((kept, before));
        let guard = Self(());
        termios::tcsetattr(terminal, OptionalActions::Drain, &changed).map_err(|error| failed(error.into()))?;
        Ok(guard)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was before [`Raw`]; does nothing when it is.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((terminal, before)) = saved {
        let _ = termios::tcsetattr(terminal, OptionalActions::Drain, &before);
    }
}

/// Asks for a secret at the terminal of this process, wherever standard input comes from. Nothing is echoed, and a signal
/// leaves the terminal as it was.
///
/// # Errors
/// When there is no terminal, or [`Error::Ended`] by a signal.
pub async fn ask_secret(prompt: &str) -> Result<Zeroizing<String>> {
    let failed =
        |error: std::io::Error| Error::Local(format!("cannot ask at the terminal: {error}; use --password-stdin"));
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(failed)?;
    let mut ending = Ending::new()?;
    let hidden = Raw::of(terminal.as_fd(), |settings| settings.local_modes.remove(LocalModes::ECHO))?;
    terminal.write_all(prompt.as_bytes()).map_err(failed)?;
    let reader = terminal.try_clone().map_err(failed)?;
    let line = tokio::task::spawn_blocking(move || first_line(BufReader::new(reader)));
    let line = tokio::select! {
        line = line => line.unwrap_or_else(|error| Err(error.into())).map_err(failed),
        signal = ending.next() => Err(Error::Ended(signal)),
    };
    drop(hidden);
    let _ = terminal.write_all(b"\n");
    line
}

/// The first line of `from`, of at most 4 KiB, without its end.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn first_line(from: impl BufRead) -> std::io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET));
    from.take(MAX_SECRET as u64).read_until(b'\n', &mut bytes)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

/// Makes a panic restore the terminal before it prints. For `main`.
pub fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}

/// Signals that end a program: after one, the terminal is put back and the program leaves with 128 + its number.
#[derive(Debug)]
pub struct Ending([(u8, Signal); 4]);

impl Ending {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self> {
        let take = |number, kind| match signal(kind) {
            Ok(signal) => Ok((number, signal)),
            Err(error) => Err(Error::Local(format!("cannot wait for signals: {error}"))),
        };
        Ok(Self([
            take(1, SignalKind::hangup())?,
            take(2, SignalKind::interrupt())?,
            take(3, SignalKind::quit())?,
            take(15, SignalKind::terminate())?,
        ]))
    }

    /// Waits for the next of them; its number.
    pub async fn next(&mut self) -> u8 {
        std::future::poll_fn(|cx| {
            let arrived =
                self.0.iter_mut().find_map(|(number, signal)| signal.poll_recv(cx).is_ready().then_some(*number));
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Size of the terminal on standard output or input; 80 by 24 when unknown.
pub fn size() -> Winsize {
    let known = |size: &Winsize| size.ws_col > 0 && size.ws_row > 0;
    let out = termios::tcgetwinsize(std::io::stdout().as_fd()).ok().filter(known);
    let size = out.or_else(|| termios::tcgetwinsize(std::io::stdin().as_fd()).ok().filter(known));
    size.unwrap_or(Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })
}

/// The modes of the terminal on standard input, for a `pty-req` (RFC 4254 section 8); empty when there is no terminal.
pub fn modes() -> Vec<(u8, u32)> {
    termios::tcgetattr(std::io::stdin().as_fd()).map(|settings| encode(&settings)).unwrap_or_default()
}

/// A character that is switched off (`_POSIX_VDISABLE`) is 255 on the wire.
fn encode(settings: &Termios) -> Vec<(u8, u32)> {
    const CODES: [(u8, SpecialCodeIndex); 15] = [
        (1, SpecialCodeIndex::VINTR),
        (2, SpecialCodeIndex::VQUIT),
        (3, SpecialCodeIndex::VERASE),
        (4, SpecialCodeIndex::VKILL),
        (5, SpecialCodeIndex::VEOF),
        (6, SpecialCodeIndex::VEOL),
        (7, SpecialCodeIndex::VEOL2),
        (8, SpecialCodeIndex::VSTART),
        (9, SpecialCodeIndex::VSTOP),
        (10, SpecialCodeIndex::VSUSP),
        (12, SpecialCodeIndex::VREPRINT),
        (13, SpecialCodeIndex::VWERASE),
        (14, SpecialCodeIndex::VLNEXT),
        (16, SpecialCodeIndex::VSWTC),
        (18, SpecialCodeIndex::VDISCARD),
    ];
    let (input, local) = (settings.input_modes, settings.local_modes);
    let (output, control) = (settings.output_modes, settings.control_modes);
    let flags = [
        (30, input.contains(InputModes::IGNPAR)),
        (31, input.contains(InputModes::PARMRK)),
        (32, input.contains(InputModes::INPCK)),
        (33, input.contains(InputModes::ISTRIP)),
        (34, input.contains(InputModes::INLCR)),
        (35, input.contains(InputModes::IGNCR)),
        (36, input.contains(InputModes::ICRNL)),
        (37, input.contains(InputModes::IUCLC)),
        (38, input.contains(InputModes::IXON)),
        (39, input.contains(InputModes::IXANY)),
        (40, input.contains(InputModes::IXOFF)),
        (41, input.contains(InputModes::IMAXBEL)),
        (42, input.contains(InputModes::IUTF8)),
        (50, local.contains(LocalModes::ISIG)),
        (51, local.contains(LocalModes::ICANON)),
        (52, local.contains(LocalModes::XCASE)),
        (53, local.contains(LocalModes::ECHO)),
        (54, local.contains(LocalModes::ECHOE)),
        (55, local.contains(LocalModes::ECHOK)),
        (56, local.contains(LocalModes::ECHONL)),
        (57, local.contains(LocalModes::NOFLSH)),
        (58, local.contains(LocalModes::TOSTOP)),
        (59, local.contains(LocalModes::IEXTEN)),
        (60, local.contains(LocalModes::ECHOCTL)),
        (61, local.contains(LocalModes::ECHOKE)),
        (62, local.contains(LocalModes::PENDIN)),
        (70, output.contains(OutputModes::OPOST)),
        (71, output.contains(OutputModes::OLCUC)),
        (72, output.contains(OutputModes::ONLCR)),
        (73, output.contains(OutputModes::OCRNL)),
        (74, output.contains(OutputModes::ONOCR)),
        (75, output.contains(OutputModes::ONLRET)),
        (90, control.intersection(ControlModes::CSIZE) == ControlModes::CS7),
        (91, control.intersection(ControlModes::CSIZE) == ControlModes::CS8),
        (92, control.contains(ControlModes::PARENB)),
        (93, control.contains(ControlModes::PARODD)),
    ];
    let code = |(opcode, index): (u8, SpecialCodeIndex)| match settings.special_codes[index] {
        0 => (opcode, 255),
        code => (opcode, u32::from(code)),
    };
    let speeds = [(128, settings.input_speed()), (129, settings.output_speed())];
    CODES.into_iter().map(code).chain(flags.map(|(opcode, on)| (opcode, u32::from(on)))).chain(speeds).collect()
}

/// Watches typed bytes for `~.` at the start of a line, the escape of ssh(1) that hangs up; `~~` types one tilde.
#[derive(Debug)]
pub struct Escape {
    state: Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    Tilde,
    Middle,
}

impl Escape {
    /// At the start of a line.
    pub const fn new() -> Self {
        Self { state: Line::Start }
    }

    /// What is to be sent for `typed`; `None` when the user hangs up.
    pub fn pass(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        let mut sent = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            self.state = match (self.state, byte) {
                (Line::Start, b'~') => {
                    self.state = Line::Tilde;
                    continue;
                }
                (Line::Tilde, b'.') => return None,
                (Line::Tilde, b'~') => Line::Middle,
                (Line::Tilde, _) => {
                    sent.push(b'~');
                    Line::Middle
                }
                (Line::Start | Line::Middle, _) => Line::Middle,
            };
            sent.push(byte);
            if matches!(byte, b'\r' | b'\n') {
                self.state = Line::Start;
            }
        }
        Some(sent)
    }
}

impl Default for Escape {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_works_only_at_the_start_of_a_line() {
        let mut escape = Escape::new();
        let mut pass = |text: &str| escape.pass(text.as_bytes()).map(|sent| String::from_utf8(sent).unwrap());
        assert_eq!(pass("ls ~.\r").as_deref(), Some("ls ~.\r"));
        assert_eq!(pass("~~.\r").as_deref(), Some("~.\r"));
        assert_eq!(pass("~x").as_deref(), Some("~x"));
        assert_eq!(pass("\r~").as_deref(), Some("\r"));
        assert_eq!(pass("."), None);
    }
}
