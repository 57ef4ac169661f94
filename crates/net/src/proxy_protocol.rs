//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): how a load balancer says who its client is.
//!
//! The header is believed of listed peers only, and they must send one: whoever could choose between sending and not sending
//! could also choose an address. Nothing is read beyond the header.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest line of version 1 with its end (section 2.1).
const MAX_LINE: usize = 107;
/// What either version has at least.
const SHORTEST: usize = 8;
/// How version 2 begins (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2.
const FIXED: usize = 16;
/// Most bytes behind the fixed part, extensions included.
const MAX_REST: usize = 2048;

/// Reads one header; `None` when the peer speaks for itself (`LOCAL`, `UNKNOWN`), as health checks do.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when there is none or it is malformed, and whatever reading fails with. The connection is of
/// no more use then.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; SHORTEST];
    stream.read_exact(&mut head).await?;
    if head.starts_with(b"PROXY ") {
        let line = read_line(stream, &head).await?;
        return parse_line(&line).ok_or_else(malformed);
    }
    let mut fixed = [0; FIXED];
    let (start, rest) = fixed.split_at_mut(SHORTEST);
    start.copy_from_slice(&head);
    if !SIGNATURE.starts_with(&head) {
        return Err(malformed());
    }
    stream.read_exact(rest).await?;
    let fixed = Fixed::parse(fixed).ok_or_else(malformed)?;
    let mut rest = vec![0; fixed.length];
    stream.read_exact(&mut rest).await?;
    fixed.source(&rest).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no PROXY protocol header, or a malformed one")
}

async fn read_line(stream: &mut (impl AsyncRead + Unpin), head: &[u8]) -> io::Result<Vec<u8>> {
    let mut line = head.to_vec();
    while line.last() != Some(&b'\n') {
        if line.len() >= MAX_LINE {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    Ok(line)
}

/// A line of version 1; the inner `None` is `UNKNOWN`.
fn parse_line(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?.strip_prefix("PROXY ")?;
    // Whatever follows is to be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let words: Vec<&str> = line.split(' ').collect();
    let [family, source, target, source_port, target_port] = words.as_slice() else { return None };
    let address = |text: &str| match *family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let (source, _) = (address(source)?, address(target)?);
    let (port, _) = (port(source_port)?, port(target_port)?);
    Some(Some(SocketAddr::new(source.to_canonical(), port)))
}

/// The fixed part of version 2.
#[derive(Clone, Copy)]
struct Fixed {
    command: Command,
    family: u8,
    length: usize,
}

#[derive(Clone, Copy)]
enum Command {
    Local,
    Proxy,
}

impl Fixed {
    fn parse(bytes: [u8; FIXED]) -> Option<Self> {
        let [signature @ .., version, family, high, low] = bytes;
        let command = match version {
            0x20 => Command::Local,
            0x21 => Command::Proxy,
            _ => return None,
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        (signature == SIGNATURE && length <= MAX_REST).then_some(Self { command, family, length })
    }

    /// Who the client is, by what follows; the inner `None` is the peer itself.
    fn source(self, rest: &[u8]) -> Option<Option<SocketAddr>> {
        match (self.command, self.family) {
            (Command::Local, _) => Some(None),
            // TCP over IPv4: two addresses, two ports. Extensions follow.
            (Command::Proxy, 0x11) => {
                let (source, ports) = (rest.first_chunk::<4>()?, rest.get(8..12)?.first_chunk::<2>()?);
                Some(Some(SocketAddr::new(Ipv4Addr::from(*source).into(), u16::from_be_bytes(*ports))))
            }
            (Command::Proxy, 0x21) => {
                let (source, ports) = (rest.first_chunk::<16>()?, rest.get(32..36)?.first_chunk::<2>()?);
                let source = IpAddr::from(Ipv6Addr::from(*source)).to_canonical();
                Some(Some(SocketAddr::new(source, u16::from_be_bytes(*ports))))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer, and what was left unread.
    fn read_all(mut bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(read(&mut bytes));
        (answer, bytes.to_vec())
    }

    fn second(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    fn v4(source: [u8; 4], port: u16) -> Vec<u8> {
        [&source[..], &[10, 0, 0, 1], &port.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    #[test]
    fn both_versions_name_the_client_and_leave_the_rest_alone() {
        let extension = [&v4([192, 0, 2, 7], 5000)[..], &[0x04, 0, 1, 0]].concat();
        let v6 = [&[0x20; 16][..], &[0; 16], &[0x13, 0x88], &[1, 2]].concat();
        let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0; 16], &[0x13, 0x88], &[1, 2]].concat();
        for (header, source) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n".to_vec(), Some("192.0.2.7:5000")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n".to_vec(), Some("[2001:db8::7]:5000")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 5000 443\r\n".to_vec(), Some("192.0.2.7:5000")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (second(1, 0x11, &v4([192, 0, 2, 7], 5000)), Some("192.0.2.7:5000")),
            (second(1, 0x11, &extension), Some("192.0.2.7:5000")),
            (second(1, 0x21, &v6), Some("[2020:2020:2020:2020:2020:2020:2020:2020]:5000")),
            (second(1, 0x21, &mapped), Some("192.0.2.7:5000")),
            (second(0, 0, b""), None),
            (second(0, 0x11, b"whatever"), None),
        ] {
            let (answer, left) = read_all(&[&header[..], b"SSH-2.0-x\r\n"].concat());
            assert_eq!(answer.unwrap(), source.map(|source| source.parse().unwrap()), "{header:?}");
            assert_eq!(left, b"SSH-2.0-x\r\n");
            for cut in 0..header.len() {
                assert!(read_all(&header[..cut]).0.is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat();
        let mut wrong_end = second(1, 0x11, &v4([192, 0, 2, 7], 1));
        wrong_end[11] = b'X';
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443 1\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +5000 443\r\n",
            b"PROXY TCP4 2001:db8::1 10.0.0.1 5000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 70000\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 5000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\n",
            b"PROXY UNKNOWNX\r\n",
            b"proxy TCP4 192.0.2.7 10.0.0.1 5000 443\r\n",
            &long,
            &wrong_end,
            &second(2, 0x11, &v4([192, 0, 2, 7], 1)),
            &second(1, 0x12, &v4([192, 0, 2, 7], 1)),
            &second(1, 0x00, &v4([192, 0, 2, 7], 1)),
            &second(1, 0x31, &[0; 216]),
            &second(1, 0x11, &[0; 8]),
            &second(1, 0x11, &[0; MAX_REST + 1]),
        ] {
            assert!(read_all(bytes).0.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_read_without_bound(bytes in prop::collection::vec(any::<u8>(), 0..4096), start in 0..3_usize) {
            let start: &[u8] = [&b""[..], b"PROXY TCP4 ", &SIGNATURE][start];
            let all = [start, &bytes].concat();
            let (_, left) = read_all(&all);
            prop_assert!(all.len() - left.len() <= FIXED + MAX_REST);
        }

        #[test]
        fn every_client_comes_through(source: [u8; 4], port: u16) {
            let expected = SocketAddr::new(source.into(), port);
            prop_assert_eq!(read_all(&second(1, 0x11, &v4(source, port))).0.unwrap(), Some(expected));
            let line = format!("PROXY TCP4 {} 10.0.0.1 {port} 443\r\n", expected.ip());
            prop_assert_eq!(read_all(line.as_bytes()).0.unwrap(), Some(expected));
        }
    }
}
