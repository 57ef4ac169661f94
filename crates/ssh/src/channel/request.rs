//! Requests within a channel (RFC 4254 sections 6 and 6.10, OpenSSH PROTOCOL sections 2.1 and 2.3).

use bytes::Bytes;

use crate::wire::{Reader, WireError, put_bool, put_string, put_u32, put_utf8};

/// Terminal modes of one pty-req, at most.
const MAX_MODES: usize = 256;

/// `pty-req` (RFC 4254 section 6.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PtyRequest {
    /// Value of TERM.
    pub term: String,
    /// Width in characters.
    pub cols: u32,
    /// Height in rows.
    pub rows: u32,
    /// Width in pixels, 0 if unknown.
    pub width_px: u32,
    /// Height in pixels, 0 if unknown.
    pub height_px: u32,
    /// Encoded terminal modes (RFC 4254 section 8): opcode 1 to 159 and value.
    pub modes: Vec<(u8, u32)>,
}

/// A request within a session channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionRequest {
    /// `pty-req`
    Pty(PtyRequest),
    /// `env`: one variable.
    Env {
        /// Name of the variable, as the peer wrote it.
        name: String,
        /// Its value.
        value: String,
    },
    /// `shell`
    Shell,
    /// `exec`: a command line, any bytes.
    Exec(Vec<u8>),
    /// `subsystem`
    Subsystem(String),
    /// `window-change`
    WindowChange {
        /// Width in characters.
        cols: u32,
        /// Height in rows.
        rows: u32,
        /// Width in pixels.
        width_px: u32,
        /// Height in pixels.
        height_px: u32,
    },
    /// `signal`: name without SIG.
    Signal(String),
    /// `auth-agent-req@openssh.com`
    AgentForward,
    /// `x11-req`; known so that it can be refused by name.
    X11,
    /// `break` (RFC 4335), length in milliseconds.
    Break(u32),
    /// `exit-status`
    ExitStatus(u32),
    /// `exit-signal`
    ExitSignal {
        /// Name without SIG.
        signal: String,
        /// Whether core was dumped.
        core_dumped: bool,
        /// Text for people.
        message: String,
    },
    /// `eow@openssh.com`: the peer reads no more.
    Eow,
    /// Anything else, as it came.
    Other(String, Bytes),
}

impl SessionRequest {
    /// The request's name on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Pty(_) => "pty-req",
            Self::Env { .. } => "env",
            Self::Shell => "shell",
            Self::Exec(_) => "exec",
            Self::Subsystem(_) => "subsystem",
            Self::WindowChange { .. } => "window-change",
            Self::Signal(_) => "signal",
            Self::AgentForward => "auth-agent-req@openssh.com",
            Self::X11 => "x11-req",
            Self::Break(_) => "break",
            Self::ExitStatus(_) => "exit-status",
            Self::ExitSignal { .. } => "exit-signal",
            Self::Eow => "eow@openssh.com",
            Self::Other(name, _) => name,
        }
    }

    /// Parses the payload of a request called `name`.
    ///
    /// # Errors
    /// If the payload of a known request does not have its form.
    pub fn parse(name: &str, payload: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        let r = &mut reader;
        let request = match name {
            "pty-req" => Self::Pty(read_pty(r)?),
            "env" => Self::Env { name: r.utf8()?.to_owned(), value: r.utf8()?.to_owned() },
            "shell" => Self::Shell,
            "exec" => Self::Exec(r.string()?.to_vec()),
            "subsystem" => Self::Subsystem(r.utf8()?.to_owned()),
            "window-change" => {
                Self::WindowChange { cols: r.u32()?, rows: r.u32()?, width_px: r.u32()?, height_px: r.u32()? }
            }
            "signal" => Self::Signal(r.utf8()?.to_owned()),
            "auth-agent-req@openssh.com" => Self::AgentForward,
            "x11-req" => return Ok(Self::X11),
            "break" => Self::Break(r.u32()?),
            "exit-status" => Self::ExitStatus(r.u32()?),
            "exit-signal" => {
                let (signal, core_dumped, message) = (r.utf8()?.to_owned(), r.bool()?, r.utf8()?.to_owned());
                r.string()?;
                Self::ExitSignal { signal, core_dumped, message }
            }
            "eow@openssh.com" => Self::Eow,
            _ => return Ok(Self::Other(name.to_owned(), Bytes::copy_from_slice(payload))),
        };
        reader.end()?;
        Ok(request)
    }

    /// The payload that goes with [`Self::name`].
    #[must_use]
    pub fn payload(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Pty(pty) => write_pty(&mut out, pty),
            Self::Env { name, value } => {
                put_utf8(&mut out, name);
                put_utf8(&mut out, value);
            }
            Self::Exec(command) => put_string(&mut out, command),
            Self::Subsystem(text) | Self::Signal(text) => put_utf8(&mut out, text),
            Self::WindowChange { cols, rows, width_px, height_px } => {
                [cols, rows, width_px, height_px].into_iter().for_each(|n| put_u32(&mut out, *n));
            }
            Self::Break(n) | Self::ExitStatus(n) => put_u32(&mut out, *n),
            Self::ExitSignal { signal, core_dumped, message } => {
                put_utf8(&mut out, signal);
                put_bool(&mut out, *core_dumped);
                put_utf8(&mut out, message);
                put_utf8(&mut out, "");
            }
            Self::X11 => {
                // One connection no, no authentication, screen 0.
                put_bool(&mut out, false);
                put_utf8(&mut out, "");
                put_utf8(&mut out, "");
                put_u32(&mut out, 0);
            }
            Self::Shell | Self::AgentForward | Self::Eow => {}
            Self::Other(_, payload) => return payload.clone(),
        }
        out.into()
    }
}

fn read_pty(r: &mut Reader<'_>) -> Result<PtyRequest, WireError> {
    let term = r.utf8()?.to_owned();
    let (cols, rows, width_px, height_px) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    let mut encoded = Reader::new(r.string()?);
    let mut modes = Vec::new();
    // The list ends with TTY_OP_END, with an opcode from 160 on, or (some clients) with the string.
    while let Ok(opcode @ 1..160) = encoded.u8() {
        if modes.len() == MAX_MODES {
            return Err(WireError::BadNumber);
        }
        modes.push((opcode, encoded.u32()?));
    }
    Ok(PtyRequest { term, cols, rows, width_px, height_px, modes })
}

fn write_pty(out: &mut Vec<u8>, pty: &PtyRequest) {
    put_utf8(out, &pty.term);
    [pty.cols, pty.rows, pty.width_px, pty.height_px].into_iter().for_each(|n| put_u32(out, n));
    let mut modes = Vec::with_capacity(pty.modes.len() * 5 + 1);
    for (opcode, value) in &pty.modes {
        modes.push(*opcode);
        put_u32(&mut modes, *value);
    }
    modes.push(0);
    put_string(out, &modes);
}
