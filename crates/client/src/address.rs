//! `HOST:PORT` as people write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use mezite_core::Invalid;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a hub's HTTPS listener is when no port is given.
pub const WEB_PORT: u16 = 3080;
/// Where an Auth service listens when no port is given.
pub const AUTH_PORT: u16 = 3025;
/// Where a proxy's SSH listener is when no port is given.
pub const SSH_PORT: u16 = 3023;

/// A host, as a lower-case DNS name or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// Reads `host`, `host:port`, `[v6]:port`, a bare IPv6 address, or any of them as an `https://` URL without a path.
    ///
    /// # Errors
    /// [`Invalid`] when it is none of them. The host becomes a directory name, so nothing but `[A-Za-z0-9._:-]` passes.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, Invalid> {
        let bad = || Invalid::new("", format!("{text:?} is not an address such as mezite.example.com:{default_port}"));
        let bare = text.strip_prefix("https://").unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        let (host, port) = if let Some(rest) = bare.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            (host, rest.strip_prefix(':').map_or_else(|| rest.is_empty().then_some(None).ok_or(()), |p| Ok(Some(p))))
        } else if bare.parse::<IpAddr>().is_ok() {
            (bare, Ok(None))
        } else {
            bare.split_once(':').map_or((bare, Ok(None)), |(host, port)| (host, Ok(Some(port))))
        };
        let port = match port.map_err(|()| bad())? {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
            None => default_port,
        };
        let is_ip = host.parse::<IpAddr>().is_ok();
        let is_name = !host.is_empty()
            && host.len() <= 253
            && !host.starts_with(['.', '-'])
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !is_ip && !is_name {
            return Err(bad());
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text, WEB_PORT)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_people_write() {
        let shown = |text: &str| Address::parse(text, 3080).map(|a| a.to_string()).ok();
        assert_eq!(shown("Mezite.example.com").as_deref(), Some("mezite.example.com:3080"));
        assert_eq!(shown("h:1234").as_deref(), Some("h:1234"));
        assert_eq!(shown("https://h:443/").as_deref(), Some("h:443"));
        assert_eq!(shown("[::1]:99").as_deref(), Some("[::1]:99"));
        assert_eq!(shown("::1").as_deref(), Some("[::1]:3080"));
        assert_eq!(shown("[::1]").as_deref(), Some("[::1]:3080"));
        for bad in
            ["", "h:", "h:0", "h:70000", "../x", "a/b:1", "..", "-x", "http://h", "[::1", "[::1]x", "a b", "h:1:2"]
        {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }
}
