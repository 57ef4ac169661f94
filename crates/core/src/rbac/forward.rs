//! What may be forwarded, and where to.
//!
//! A role that grants port forwarding grants all of it, unless it lists targets (`port_forwarding_targets`) or what may be
//! listened on (`port_forwarding_listen`): then it grants what it lists and nothing else. The grants of all roles add up.

use std::net::IpAddr;

use crate::error::Invalid;
use crate::kind::role::RoleOptions;
use crate::network::Network;

/// Longest path of a Unix socket: `sun_path` of unix(7) less its final zero.
pub const MAX_SOCKET_PATH: usize = 107;
/// Longest host name (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 255;

/// What the roles of a user let be forwarded. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    everything: bool,
    targets: Vec<Target>,
    listen: Vec<Listen>,
}

/// Where a connection may go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp { host: Host, port: Option<u16> },
    Socket(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Addresses(Network),
    /// In lower case, without a final dot.
    Name(String),
}

/// What may be listened on, on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listen {
    AnyPort,
    Port(u16),
    Socket(String),
}

impl Forwarding {
    /// The sum of what the roles grant. An entry that cannot be read grants nothing.
    pub(super) fn of<'a>(roles: impl Iterator<Item = &'a RoleOptions>) -> Self {
        let mut sum = Self::default();
        for options in roles.filter(|options| options.port_forwarding == Some(true)) {
            let (targets, listen) = (&options.port_forwarding_targets, &options.port_forwarding_listen);
            sum.everything |= targets.is_none() && listen.is_none();
            sum.targets.extend(targets.iter().flatten().filter_map(|text| Target::parse(text).ok()));
            sum.listen.extend(listen.iter().flatten().filter_map(|text| Listen::parse(text).ok()));
        }
        sum
    }

    /// Whether anything may be forwarded at all.
    pub fn any(&self) -> bool {
        self.everything || !self.targets.is_empty() || !self.listen.is_empty()
    }

    /// Whether a connection may go to `address`, which is what the client's word `host` means on the node, at `port`. Look
    /// the name up once, ask about each address, and connect to no other.
    pub fn reaches(&self, host: &str, address: IpAddr, port: u16) -> bool {
        self.everything
            || self.targets.iter().any(|target| match target {
                Target::Tcp { host: allowed, port: at } => {
                    at.is_none_or(|at| at == port) && allowed.matches(host, address)
                }
                Target::Socket(_) => false,
            })
    }

    /// Whether a connection may go to the Unix socket at `path`, taken letter by letter.
    pub fn reaches_socket(&self, path: &str) -> bool {
        self.everything || self.targets.iter().any(|target| matches!(target, Target::Socket(known) if known == path))
    }

    /// Whether the node may listen on a port for the client; 0 asks for any that is free.
    pub fn listens(&self, port: u16) -> bool {
        self.everything
            || self.listen.iter().any(|listen| match listen {
                Listen::AnyPort => true,
                Listen::Port(known) => *known == port,
                Listen::Socket(_) => false,
            })
    }

    /// Whether the node may listen on a Unix socket at `path`, taken letter by letter.
    pub fn listens_at(&self, path: &str) -> bool {
        self.everything || self.listen.iter().any(|listen| matches!(listen, Listen::Socket(known) if known == path))
    }
}

impl Host {
    fn matches(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Addresses(network) => network.contains(address),
            Self::Name(name) => name.eq_ignore_ascii_case(host.strip_suffix('.').unwrap_or(host)),
        }
    }

    fn parse(text: &str) -> Result<Self, Invalid> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let word = bracketed.unwrap_or(text);
        // A name never holds these; whoever wrote them meant an address.
        if bracketed.is_some() || word.contains(['/', ':']) || word.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return word.parse().map(Self::Addresses);
        }
        if word == "*" {
            return Ok(Self::Any);
        }
        let name = word.strip_suffix('.').unwrap_or(word).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if name.len() <= MAX_HOST && name.split('.').all(label) {
            return Ok(Self::Name(name));
        }
        Err(Invalid::new("", format!("{text:?} is no host name, address, block of addresses, or *")))
    }
}

impl Target {
    fn parse(text: &str) -> Result<Self, Invalid> {
        if text.starts_with('/') {
            return socket(text).map(Self::Socket);
        }
        let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.starts_with('['))
        else {
            let message =
                format!("{text:?} is no HOST:PORT, such as db.internal:5432, 10.0.0.0/8:*, [2001:db8::1]:443");
            return Err(Invalid::new("", message));
        };
        let port = if port == "*" { None } else { Some(self::port(port)?) };
        Ok(Self::Tcp { host: Host::parse(host)?, port })
    }
}

impl Listen {
    fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "*" => Ok(Self::AnyPort),
            path if path.starts_with('/') => socket(path).map(Self::Socket),
            text => port(text).map(Self::Port),
        }
    }
}

fn port(text: &str) -> Result<u16, Invalid> {
    let parsed = text.parse().ok().filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    parsed.ok_or_else(|| Invalid::new("", format!("{text:?} is no port: 1 to 65535, or *")))
}

/// A path in its shortest form: another writing of the same place would not be recognised.
fn socket(path: &str) -> Result<String, Invalid> {
    let parts = path.split('/').skip(1);
    let plain = path.len() <= MAX_SOCKET_PATH && !path.chars().any(char::is_control);
    if plain && parts.clone().all(|part| !part.is_empty() && part != "." && part != "..") {
        return Ok(path.to_owned());
    }
    let message = format!("{path:?} is no plain absolute path of at most {MAX_SOCKET_PATH} bytes");
    Err(Invalid::new("", message))
}

/// Checks one entry of `port_forwarding_targets`.
pub(crate) fn check_target(text: &str) -> Result<(), Invalid> {
    Target::parse(text).map(drop)
}

/// Checks one entry of `port_forwarding_listen`.
pub(crate) fn check_listen(text: &str) -> Result<(), Invalid> {
    Listen::parse(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(targets: Option<&[&str]>, listen: Option<&[&str]>) -> RoleOptions {
        let list = |texts: Option<&[&str]>| texts.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
        RoleOptions {
            port_forwarding: Some(true),
            port_forwarding_targets: list(targets),
            port_forwarding_listen: list(listen),
            ..RoleOptions::default()
        }
    }

    fn reach(role: &RoleOptions, host: &str, address: &str, port: u16) -> bool {
        Forwarding::of(std::iter::once(role)).reaches(host, address.parse().unwrap(), port)
    }

    #[test]
    fn a_role_with_a_list_grants_what_it_lists() {
        let listed =
            role(Some(&["db.internal:5432", "10.1.0.0/16:*", "*:443", "[2001:db8::]:22", "/run/x.sock"]), None);
        for (host, address, port, expected) in [
            ("db.internal", "192.0.2.1", 5432, true),
            ("DB.internal.", "192.0.2.1", 5432, true),
            ("db.internal", "192.0.2.1", 5433, false),
            ("db.internal.evil.example", "192.0.2.1", 5432, false),
            ("evil.example", "10.1.2.3", 1, true),
            ("evil.example", "::ffff:10.1.2.3", 1, true),
            ("evil.example", "10.2.0.1", 1, false),
            ("192.0.2.9", "192.0.2.9", 443, true),
            ("x", "2001:db8::", 22, true),
            ("x", "2001:db8::1", 22, false),
            ("127.0.0.1", "127.0.0.1", 22, false),
        ] {
            assert_eq!(reach(&listed, host, address, port), expected, "{host} {address} {port}");
        }
        let listed = Forwarding::of(std::iter::once(&listed));
        assert!(listed.reaches_socket("/run/x.sock") && !listed.reaches_socket("/run/../run/x.sock"));
        assert!(listed.any() && !listed.listens(0) && !listed.listens(8080) && !listed.listens_at("/run/x.sock"));
    }

    #[test]
    fn grants_add_up_and_a_role_without_lists_grants_all() {
        let sum = |roles: &[RoleOptions]| Forwarding::of(roles.iter());
        let (targets, listen) = (role(Some(&["db:5432"]), None), role(None, Some(&["8080", "/tmp/s"])));
        let both = sum(&[targets.clone(), listen.clone()]);
        let address = [192, 0, 2, 1].into();
        assert!(both.reaches("db", address, 5432) && both.listens(8080) && both.listens_at("/tmp/s"));
        assert!(!both.reaches("db", address, 1) && !both.listens(0) && !both.listens_at("/tmp/t"));
        assert!(!sum(&[listen]).reaches("db", address, 5432));
        let all = sum(&[targets.clone(), role(None, None)]);
        assert!(all.reaches("any", address, 1) && all.listens(0) && all.reaches_socket("/run/../x"));
        let off = RoleOptions { port_forwarding: None, ..targets };
        assert!(!sum(&[off]).any() && !sum(&[]).any());
        assert!(sum(&[role(None, Some(&["*"]))]).listens(0));
        assert!(!sum(&[role(Some(&[]), None)]).any(), "an empty list lists nothing");
    }

    #[test]
    fn entries_that_say_nothing_certain_are_refused() {
        for text in [
            "db",
            "db:",
            ":5432",
            "db:0",
            "db:65536",
            "db:+1",
            "db:1-2",
            "2001:db8::1:22",
            "[db]:1",
            "10.0.0.1/8:1",
            "*.internal:1",
            "d b:1",
            "db..x:1",
            "10.0.0:1",
            "run/x.sock",
            "/run//x",
            "/run/../x",
            "/",
            "[::1]",
            "999.1.1.1:1",
        ] {
            assert!(check_target(text).is_err(), "{text:?}");
        }
        for text in ["", "0", "127.0.0.1:80", "80-90", "localhost", "x.sock"] {
            assert!(check_listen(text).is_err(), "{text:?}");
        }
        assert!(check_target(&format!("/{}", "x".repeat(MAX_SOCKET_PATH))).is_err());
        for text in ["db:*", "*:*", "_srv.db-1:80", "[::1]:22", "[2001:db8::/32]:*", "127.0.0.0/8:80"] {
            check_target(text).unwrap();
        }
    }
}
