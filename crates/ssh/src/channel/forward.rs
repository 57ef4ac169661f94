//! Global requests for remote forwarding (RFC 4254 section 7.1, OpenSSH PROTOCOL section 2.4).

use bytes::Bytes;

use crate::wire::{Reader, WireError, put_u32};

/// What a client asks the server to listen on, or to listen on no more. Names come from the peer: they are valid UTF-8 and
/// nothing else is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardRequest {
    /// `tcpip-forward`: port 0 asks for any that is free.
    Listen {
        /// The address as it was asked for; forwarded channels repeat it.
        host: String,
        /// The port.
        port: u16,
    },
    /// `cancel-tcpip-forward`, with the address as it was asked for and the port in use.
    Cancel {
        /// The address.
        host: String,
        /// The port.
        port: u16,
    },
    /// `streamlocal-forward@openssh.com`
    ListenAt {
        /// Path of the socket.
        path: String,
    },
    /// `cancel-streamlocal-forward@openssh.com`
    CancelAt {
        /// Path of the socket.
        path: String,
    },
}

impl ForwardRequest {
    /// Reads the data of the global request `name`; `None` if it is another request.
    ///
    /// # Errors
    /// If the data does not have its form.
    pub fn parse(name: &str, data: &[u8]) -> Result<Option<Self>, WireError> {
        let mut reader = Reader::new(data);
        let r = &mut reader;
        let request = match name {
            "tcpip-forward" => Self::Listen { host: r.utf8()?.to_owned(), port: port(r)? },
            "cancel-tcpip-forward" => Self::Cancel { host: r.utf8()?.to_owned(), port: port(r)? },
            "streamlocal-forward@openssh.com" => Self::ListenAt { path: r.utf8()?.to_owned() },
            "cancel-streamlocal-forward@openssh.com" => Self::CancelAt { path: r.utf8()?.to_owned() },
            _ => return Ok(None),
        };
        reader.end()?;
        Ok(Some(request))
    }

    /// The data of the answer to [`Self::Listen`]: the port, if the client left its choice to the server.
    #[must_use]
    pub fn answer(asked: u16, bound: u16) -> Bytes {
        let mut answer = Vec::new();
        if asked == 0 {
            put_u32(&mut answer, bound.into());
        }
        answer.into()
    }
}

fn port(reader: &mut Reader<'_>) -> Result<u16, WireError> {
    u16::try_from(reader.u32()?).map_err(|_| WireError::BadNumber)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::put_utf8;

    fn data(host: &str, port: u32) -> Vec<u8> {
        let mut out = Vec::new();
        put_utf8(&mut out, host);
        put_u32(&mut out, port);
        out
    }

    #[test]
    fn each_request_is_read_whole() {
        let read = |name, data: &[u8]| ForwardRequest::parse(name, data);
        let host = || String::from("localhost");
        assert_eq!(
            read("tcpip-forward", &data("localhost", 8080)),
            Ok(Some(ForwardRequest::Listen { host: host(), port: 8080 }))
        );
        assert_eq!(
            read("cancel-tcpip-forward", &data("localhost", 1)),
            Ok(Some(ForwardRequest::Cancel { host: host(), port: 1 }))
        );
        let mut path = Vec::new();
        put_utf8(&mut path, "/tmp/s");
        let at = || String::from("/tmp/s");
        assert_eq!(read("streamlocal-forward@openssh.com", &path), Ok(Some(ForwardRequest::ListenAt { path: at() })));
        assert_eq!(
            read("cancel-streamlocal-forward@openssh.com", &path),
            Ok(Some(ForwardRequest::CancelAt { path: at() }))
        );
        assert_eq!(read("hostkeys-prove-00@openssh.com", b"x"), Ok(None));
        assert!(read("tcpip-forward", &data("localhost", 65_536)).is_err());
        let whole = data("localhost", 80);
        for cut in 0..whole.len() {
            assert!(read("tcpip-forward", &whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read("tcpip-forward", &[&whole[..], b"x"].concat()).is_err());
    }

    #[test]
    fn only_a_chosen_port_is_answered() {
        assert_eq!(ForwardRequest::answer(0, 8080), [0, 0, 0x1f, 0x90][..]);
        assert_eq!(ForwardRequest::answer(8080, 8080), [][..]);
    }
}
