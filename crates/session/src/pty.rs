//! Pseudo-terminals: opening, size, and the terminal modes of RFC 4254 section 8.
#![expect(unsafe_code, reason = "three ioctls that nix has no safe call for")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{posix_openpt, unlockpt};
use nix::sys::termios::{self, LocalFlags, SetArg};

use crate::spec::Pty;

/// A new terminal: (master, slave). Both close on exec.
pub(crate) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    unlockpt(&master)?;
    // SAFETY: TIOCGPTPEER takes open flags as an integer and touches no memory of ours.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    let slave = Errno::result(slave)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    Ok((master.into(), slave))
}

/// Sets the size of a terminal, in characters and in pixels (0 for unknown); each is cut to 65,535. On the master
/// this also tells the foreground programs (`SIGWINCH`).
pub fn resize(terminal: impl AsFd, cols: u32, rows: u32, width_px: u32, height_px: u32) -> io::Result<()> {
    let cut = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size =
        libc::winsize { ws_row: cut(rows), ws_col: cut(cols), ws_xpixel: cut(width_px), ws_ypixel: cut(height_px) };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which lives until the call returns.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Whether the terminal shows what is typed. Off while a program reads a password. Works on the master.
pub fn echoes(terminal: impl AsFd) -> io::Result<bool> {
    Ok(termios::tcgetattr(terminal)?.local_flags.contains(LocalFlags::ECHO))
}

/// Makes the terminal that of the calling process, which must lead a session without one.
pub(crate) fn make_controlling(slave: impl AsFd) -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer and touches no memory of ours.
    Errno::result(unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// Puts size and modes of the request on a fresh slave.
pub(crate) fn apply(pty: &Pty, slave: impl AsFd) -> io::Result<()> {
    resize(&slave, pty.cols, pty.rows, pty.width_px, pty.height_px)?;
    let mut raw: libc::termios = termios::tcgetattr(&slave)?.into();
    for &(opcode, value) in &pty.modes {
        set_mode(&mut raw, opcode, value);
    }
    termios::tcsetattr(&slave, SetArg::TCSANOW, &raw.into())?;
    Ok(())
}

/// RFC 4254 8 and RFC 8160 (opcode 42). Line speeds (128, 129) mean nothing on a pseudo-terminal and are passed over.
fn set_mode(raw: &mut libc::termios, opcode: u8, value: u32) {
    let character = match opcode {
        1 => libc::VINTR,
        2 => libc::VQUIT,
        3 => libc::VERASE,
        4 => libc::VKILL,
        5 => libc::VEOF,
        6 => libc::VEOL,
        7 => libc::VEOL2,
        8 => libc::VSTART,
        9 => libc::VSTOP,
        10 => libc::VSUSP,
        12 => libc::VREPRINT,
        13 => libc::VWERASE,
        14 => libc::VLNEXT,
        16 => libc::VSWTC,
        18 => libc::VDISCARD,
        _ => return set_flag(raw, opcode, value != 0),
    };
    if let Some(slot) = raw.c_cc.get_mut(character) {
        // 255 stands for "none", which is 0 on Linux; larger values are no characters.
        *slot = u8::try_from(value).ok().filter(|&byte| byte != 255).unwrap_or(0);
    }
}

fn set_flag(raw: &mut libc::termios, opcode: u8, on: bool) {
    let (flags, bit) = match opcode {
        30 => (&mut raw.c_iflag, libc::IGNPAR),
        31 => (&mut raw.c_iflag, libc::PARMRK),
        32 => (&mut raw.c_iflag, libc::INPCK),
        33 => (&mut raw.c_iflag, libc::ISTRIP),
        34 => (&mut raw.c_iflag, libc::INLCR),
        35 => (&mut raw.c_iflag, libc::IGNCR),
        36 => (&mut raw.c_iflag, libc::ICRNL),
        37 => (&mut raw.c_iflag, libc::IUCLC),
        38 => (&mut raw.c_iflag, libc::IXON),
        39 => (&mut raw.c_iflag, libc::IXANY),
        40 => (&mut raw.c_iflag, libc::IXOFF),
        41 => (&mut raw.c_iflag, libc::IMAXBEL),
        42 => (&mut raw.c_iflag, libc::IUTF8),
        50 => (&mut raw.c_lflag, libc::ISIG),
        51 => (&mut raw.c_lflag, libc::ICANON),
        52 => (&mut raw.c_lflag, libc::XCASE),
        53 => (&mut raw.c_lflag, libc::ECHO),
        54 => (&mut raw.c_lflag, libc::ECHOE),
        55 => (&mut raw.c_lflag, libc::ECHOK),
        56 => (&mut raw.c_lflag, libc::ECHONL),
        57 => (&mut raw.c_lflag, libc::NOFLSH),
        58 => (&mut raw.c_lflag, libc::TOSTOP),
        59 => (&mut raw.c_lflag, libc::IEXTEN),
        60 => (&mut raw.c_lflag, libc::ECHOCTL),
        61 => (&mut raw.c_lflag, libc::ECHOKE),
        62 => (&mut raw.c_lflag, libc::PENDIN),
        70 => (&mut raw.c_oflag, libc::OPOST),
        71 => (&mut raw.c_oflag, libc::OLCUC),
        72 => (&mut raw.c_oflag, libc::ONLCR),
        73 => (&mut raw.c_oflag, libc::OCRNL),
        74 => (&mut raw.c_oflag, libc::ONOCR),
        75 => (&mut raw.c_oflag, libc::ONLRET),
        90 | 91 => return set_size(raw, if opcode == 90 { libc::CS7 } else { libc::CS8 }, on),
        92 => (&mut raw.c_cflag, libc::PARENB),
        93 => (&mut raw.c_cflag, libc::PARODD),
        _ => return,
    };
    *flags = if on { *flags | bit } else { *flags & !bit };
}

/// The character size is a field of two bits, set as a whole by the opcode that is on.
fn set_size(raw: &mut libc::termios, size: libc::tcflag_t, on: bool) {
    if on {
        raw.c_cflag = (raw.c_cflag & !libc::CSIZE) | size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_reach_the_terminal_and_unknown_ones_do_no_harm() {
        let (master, slave) = open().expect("pty");
        let modes =
            vec![(1, 7), (2, 255), (42, 1), (53, 0), (72, 0), (90, 0), (91, 1), (128, 38400), (200, 1), (3, 999)];
        let pty = Pty { term: String::new(), cols: 100_000, rows: 40, width_px: 0, height_px: 0, modes };
        apply(&pty, &slave).expect("apply");
        let raw: libc::termios = termios::tcgetattr(&slave).expect("termios").into();
        assert_eq!((raw.c_cc[libc::VINTR], raw.c_cc[libc::VQUIT], raw.c_cc[libc::VERASE]), (7, 0, 0));
        assert_ne!(raw.c_iflag & libc::IUTF8, 0);
        assert_eq!(raw.c_lflag & libc::ECHO, 0);
        assert_eq!(raw.c_oflag & libc::ONLCR, 0);
        assert_eq!(raw.c_cflag & libc::CSIZE, libc::CS8);
        assert!(!echoes(&master).expect("master"));
    }
}
