//! The agent's end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Answer, Ask, PACKET_MAX, Place};
use crate::descriptors;

/// The helper only calls the kernel; a file system that does not answer is the one thing it may wait for.
const LIMIT: Duration = Duration::from_secs(10);

/// The helper as the agent holds it. Dropping it lets the helper clean up and end.
#[derive(Debug)]
pub struct Sockets {
    socket: UnixStream,
}

impl Sockets {
    /// Over the agent's end of the helper's socket pair ([`crate::Running::socket`]).
    ///
    /// # Errors
    /// When it is no socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        Ok(Self { socket })
    }

    /// Asks for one thing. Blocks, at most 10 s. The descriptors do not block and close on exec.
    ///
    /// The inner error is the helper's refusal, a sentence for the user.
    ///
    /// # Errors
    /// When the helper is gone, does not answer, or is not understood: drop it.
    pub fn ask(&mut self, ask: &Ask) -> io::Result<Result<(Place, Vec<OwnedFd>), String>> {
        let packet = serde_json::to_vec(ask)?;
        if packet.len() > PACKET_MAX {
            return Ok(Err("the path is too long".to_owned()));
        }
        descriptors::send(&self.socket, &packet, &[])?;
        let mut packet = vec![0; PACKET_MAX];
        let (count, fds) = descriptors::receive(&self.socket, &mut packet)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(match serde_json::from_slice(packet.get(..count).unwrap_or_default())? {
            Answer::Done(place) => Ok((place, fds)),
            Answer::Refused(reason) => Err(reason),
        })
    }
}
