//! From a profile to a node: an SSH connection to the proxy, a channel to the node, and through it a second SSH
//! connection that the proxy cannot read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mezite_core::Fault;
use mezite_core::name::JOIN_LOGIN;
use mezite_core::text::escape_control;
use mezite_net::clock;
use mezite_net::dial;
use mezite_net::ssh::{
    ChannelOpen, ChannelStream, ClientConfig, CloseReason, ConnectError, Connection, DisconnectReason, HostTrust,
    Identity, Login, OpenError, OpenFailure, begin,
};
use mezite_ssh::cert::{CLOCK_ALLOWANCE, CertError, Certificate};
use mezite_ssh::key::PublicKey;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::Ping;
use crate::error::{Error, Result, invalid};
use crate::http::undialed;
use crate::login::Hub;
use crate::mfa_prompt::Codes;
use crate::profile::{Profile, Store};
use crate::trust::Trust;

/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// The port that nodes are asked for; they are found by name.
const PORT: u16 = 22;

/// A node and the OS user to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// OS login.
    pub login: String,
    /// The name asked for, lower case.
    pub node: String,
}

impl Target {
    /// Reads `[login@]node`. The login may also come from a flag; without any it is the only one of the certificate, or
    /// the user's own name when that is one of several.
    ///
    /// # Errors
    /// When there is no node, or the login is missing or given twice.
    pub fn parse(text: &str, flag: Option<&str>, profile: &Profile) -> Result<Self> {
        // A login may hold an @, a node name may not.
        let (given, node) = text.rsplit_once('@').map_or((None, text), |(login, node)| (Some(login), node));
        if let (Some(given), Some(flag)) = (given, flag)
            && given != flag
        {
            return Err(invalid("--login", format!("is {flag}, but {given} stands before the @")));
        }
        let chosen = given.or(flag).or_else(|| match profile.logins.as_slice() {
            [only] => Some(only),
            several => several.iter().find(|login| **login == profile.user).map(String::as_str),
        });
        let login = chosen.filter(|login| !login.is_empty()).ok_or_else(|| {
            invalid("--login", format!("is missing; your logins are: {}", escape_control(&profile.logins.join(", "))))
        })?;
        let node = node.to_ascii_lowercase();
        if node.is_empty() || !node.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(invalid("", format!("{:?} is not the name of a node", escape_control(&node))));
        }
        Ok(Self { login: login.to_owned(), node })
    }

    /// Reads what ssh(1) writes for `%r@%h:%p`. The names that `msh config` writes for `cluster` lose their suffix.
    ///
    /// # Errors
    /// As for [`Target::parse`].
    pub fn of_proxy_command(text: &str, profile: &Profile) -> Result<Self> {
        let text = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(text, |(text, _)| text);
        let mut target = Self::parse(text, None, profile)?;
        if let Some(node) = target.node.strip_suffix(".mezite") {
            let node = node.strip_suffix(&format!(".{}", profile.cluster)).unwrap_or(node);
            target.node = node.to_owned();
        }
        Ok(target)
    }
}

/// Someone logged in, ready to dial nodes.
#[derive(Debug)]
pub struct Dialer {
    profile: Profile,
    identity: Identity,
    authorities: Vec<PublicKey>,
    trust: Trust,
}

impl Dialer {
    /// Takes key and certificate of `profile`. `trust` is for asking the hub for its clock when it refuses.
    ///
    /// # Errors
    /// "Not logged in" when they are missing or out of time, with both clocks named (F394).
    pub fn new(store: &Store, profile: Profile, mut trust: Trust) -> Result<Self> {
        let stored = store.identity(&profile)?;
        in_time(&stored.certificate, clock::now_unix())
            .map_err(|error| Error::not_logged_in(format!("ssh: {error}; run `msh login`")))?;
        let authorities = profile.host_authorities.iter().filter_map(|line| PublicKey::from_openssh(line).ok());
        let authorities = authorities.map(|(key, _)| key).collect();
        let identity = Identity::Certificate(Arc::new(stored.key), Arc::new(stored.certificate));
        trust.insecure = false;
        trust.add(&profile.tls_ca_pem);
        Ok(Self { profile, identity, authorities, trust })
    }

    /// A connection to the proxy and a channel to the SSH server of `target`, which is found by name. The login is named so
    /// that the proxy can decide about it. Dropping the connection ends the channel.
    ///
    /// # Errors
    /// In the words of whoever refused.
    pub async fn channel(&self, target: &Target) -> Result<(Connection, ChannelStream)> {
        let as_login = json!({ "login": target.login });
        let opened = self.open(&target.node, "target@mezite", &as_login).await;
        let (connection, channel, _) = opened.map_err(|error| self.with_logins(error, target))?;
        Ok((connection, channel))
    }

    /// A channel to what the proxy knows as `host`, after telling it something in a global request; its answer is given too.
    async fn open(
        &self,
        host: &str,
        request: &str,
        said: &Value,
    ) -> Result<(Connection, ChannelStream, Option<Bytes>)> {
        let proxy = &self.profile.ssh_addr;
        let tcp = dial::tcp(&proxy.to_string()).await.map_err(undialed)?;
        let (connection, login) = begin(tcp, self.config(&self.profile.user, &proxy.host));
        let open = ChannelOpen::DirectTcpip {
            host: host.to_owned(),
            port: PORT,
            origin_host: "127.0.0.1".to_owned(),
            origin_port: 0,
        };
        // One flight: the channel waits neither for the login nor for the answer that the proxy heard.
        let heard = connection.global_request(request, Bytes::from(said.to_string()));
        let (login, heard, channel) = tokio::join!(login.done(), heard, connection.open(open));
        if let Err(error) = login {
            return Err(self.refused(error).await);
        }
        let channel = channel.map_err(|error| unopened(&error, &connection, host))?;
        Ok((connection, channel.into_stream(), heard.ok()))
    }

    /// An SSH connection to the node itself, checked against its exact name, and the login there, which is on its way. `codes`
    /// answers if the node asks for one.
    ///
    /// # Errors
    /// In the words of whoever refused.
    pub async fn node<'a>(&'a self, target: &'a Target, codes: Arc<Codes>) -> Result<(NodeConnection, NodeLogin<'a>)> {
        let (outer, stream) = self.channel(target).await?;
        Ok(self.through(outer, stream, target, codes))
    }

    /// A channel to the node on which the session of that id runs, for joining it: where that is, the proxy says.
    ///
    /// # Errors
    /// In the words of whoever refused.
    pub async fn session(&self, id: &str) -> Result<Joined> {
        #[derive(Deserialize)]
        struct Place {
            node: String,
            user: String,
        }
        let (outer, stream, said) = self.open(id, "join@mezite", &json!({ "session": id })).await?;
        let place: Option<Place> = said.and_then(|said| serde_json::from_slice(&said).ok());
        let Place { node, user } =
            place.ok_or_else(|| Error::unavailable("the proxy did not say where the session is"))?;
        Ok(Joined { outer, stream, owner: user, target: Target { login: JOIN_LOGIN.to_owned(), node } })
    }

    /// An SSH connection to the node through a channel to it. `codes` answers if the node asks for one.
    pub fn through<'a>(
        &'a self,
        outer: Connection,
        stream: ChannelStream,
        target: &'a Target,
        codes: Arc<Codes>,
    ) -> (NodeConnection, NodeLogin<'a>) {
        let config = ClientConfig { prompt: Some(codes.prompt(target)), ..self.config(&target.login, &target.node) };
        let (inner, login) = begin(stream, config);
        let login = NodeLogin { login, codes, outer: outer.clone(), dialer: self, target };
        (NodeConnection { inner, outer }, login)
    }

    fn config(&self, user: &str, host: &str) -> ClientConfig {
        let trust = HostTrust::Authorities { keys: self.authorities.clone(), name: host.to_owned() };
        ClientConfig::new(user, Some(self.identity.clone()), trust, clock::now_unix())
    }

    /// A login that the certificate does not name is refused whatever the roles say by now.
    fn with_logins(&self, error: Error, target: &Target) -> Error {
        let named = &self.profile.logins;
        match error {
            Error::Fault(Fault::Denied(message)) if target.login != JOIN_LOGIN && !named.contains(&target.login) => {
                let named = if named.is_empty() { "no login".to_owned() } else { named.join(", ") };
                let named = escape_control(&named);
                Fault::Denied(format!(
                    "{message}; your certificate names {named}: for a login given since, run `msh login`"
                ))
                .into()
            }
            other => other,
        }
    }

    /// A proxy that refuses in silence may have another clock than this machine; that is found out here.
    async fn refused(&self, error: ConnectError) -> Error {
        let what = format!("the proxy {}", self.profile.ssh_addr);
        if let (ConnectError::Denied { .. }, Identity::Certificate(_, certificate)) = (&error, &self.identity)
            && let Some(hub) = self.hub_clock().await
            && let Err(reason) = in_time(certificate, hub)
        {
            let reason = reason.to_string().replace("the clock here", "the hub's clock");
            let here = mezite_core::when::seconds(clock::now());
            return Error::not_logged_in(format!("ssh: {reason} (this machine's clock says {here})"));
        }
        not_let_in(&error, &what)
    }

    async fn hub_clock(&self) -> Option<u64> {
        let mut trust = self.trust.clone();
        trust.pin = self.profile.tls_pin.as_deref().and_then(|pin| pin.parse().ok());
        let mut hub = Hub::stranger(self.profile.proxy.clone(), trust).ok()?;
        let _: Ping = hub.web.get("/v1/webapi/ping").await.ok()?;
        u64::try_from(hub.web.clock()?.unix_timestamp()).ok()
    }
}

/// The way to somebody else's session.
pub struct Joined {
    /// To the proxy.
    pub outer: Connection,
    /// To the node.
    pub stream: ChannelStream,
    /// Whose session it is.
    pub owner: String,
    /// The node, and the name under which sessions are joined there.
    pub target: Target,
}

/// A login to a node on its way. What is asked of the node meanwhile goes along with it.
pub struct NodeLogin<'a> {
    login: Login,
    codes: Arc<Codes>,
    outer: Connection,
    dialer: &'a Dialer,
    target: &'a Target,
}

impl NodeLogin<'_> {
    /// Waits until the node has let the user in.
    ///
    /// # Errors
    /// In the words of whoever refused.
    pub async fn done(self) -> Result<()> {
        let Self { login, codes, outer, dialer, target } = self;
        let done = login.done().await;
        if let Some(failure) = codes.take_failure() {
            return Err(failure);
        }
        match done {
            Ok(_) => Ok(()),
            Err(ConnectError::Closed(_)) if outer.close_reason().is_some() => Err(closed(&outer)),
            Err(error) => {
                Err(dialer.with_logins(not_let_in(&error, &format!("{} on {}", target.login, target.node)), target))
            }
        }
    }
}

/// A connection to a node, and the one it runs through.
pub struct NodeConnection {
    /// To the node.
    pub inner: Connection,
    outer: Connection,
}

impl NodeConnection {
    /// Why the connection ended, in the words of whoever ended it; `None` while it lives.
    pub fn ended(&self) -> Option<CloseReason> {
        let by_peer = |reason: &CloseReason| matches!(reason, CloseReason::Peer { .. });
        self.outer.close_reason().filter(by_peer).or_else(|| self.inner.close_reason())
    }

    /// Says farewell to node and proxy, and does not wait long for it to be sent.
    pub async fn close(self) {
        for connection in [self.inner, self.outer] {
            connection.disconnect(DisconnectReason::ByApplication, "");
            let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
        }
    }
}

/// The validity of our own certificate; everything else is the server's to judge.
fn in_time(certificate: &Certificate, now: u64) -> Result<(), CertError> {
    let Certificate { valid_after, valid_before, .. } = *certificate;
    if now.saturating_add(CLOCK_ALLOWANCE) < valid_after {
        return Err(CertError::NotYetValid { now, valid_after });
    }
    if now >= valid_before.saturating_add(CLOCK_ALLOWANCE) {
        return Err(CertError::Expired { now, valid_before });
    }
    Ok(())
}

fn unopened(error: &OpenError, connection: &Connection, node: &str) -> Error {
    match error {
        OpenError::Refused { failure, message } => {
            let message = escape_control(message).into_owned();
            match failure {
                OpenFailure::AdministrativelyProhibited => Fault::Denied(message),
                OpenFailure::ConnectFailed => Fault::Unavailable(message),
                _ => Fault::Unavailable(format!("the proxy refused a channel to {node}: {message}")),
            }
            .into()
        }
        OpenError::TooMany | OpenError::Closed => closed(connection),
    }
}

/// Why the connection to the proxy ended; `None` while it lives.
pub fn ended(proxy: &Connection) -> Option<Error> {
    proxy.close_reason().map(|_| closed(proxy))
}

fn closed(proxy: &Connection) -> Error {
    let reason = proxy.close_reason().map_or_else(|| "unknown".to_owned(), |reason| reason.to_string());
    Error::unavailable(format!("the connection to the proxy ended: {reason}"))
}

/// Why a server did not let us in, in its words where it gave some.
fn not_let_in(error: &ConnectError, what: &str) -> Error {
    let said = match error {
        ConnectError::Denied { banner, .. } => banner,
        ConnectError::Closed(CloseReason::Peer { message, .. }) => message,
        ConnectError::Host(message) => {
            return match out_of_time(message) {
                Some(reason) => Error::unavailable(format!("ssh: {reason} (the host certificate of {what})")),
                None => Fault::Denied(format!("{what} is not believed: {message}")).into(),
            };
        }
        other => return Error::unavailable(format!("{what}: {other}")),
    };
    match out_of_time(said) {
        Some(reason) => Error::not_logged_in(format!("ssh: {reason} (the clock of {what})")),
        None => Fault::Denied(format!("{what} refused access{}", told(said))).into(),
    }
}

/// The sentence about a certificate's time in what a server said.
fn out_of_time(said: &str) -> Option<String> {
    let start = ["certificate expired", "certificate not yet valid"].iter().find_map(|sentence| said.find(sentence))?;
    let line = said.get(start..)?.lines().next()?;
    Some(escape_control(line.trim_end()).into_owned())
}

/// What a server said, as an addition to a sentence of ours.
fn told(banner: &str) -> String {
    let banner = banner.trim();
    if banner.is_empty() { String::new() } else { format!(": {}", escape_control(banner)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    fn profile(logins: &[&str]) -> Profile {
        let address = Address { host: "h".into(), port: 1 };
        Profile {
            proxy: address.clone(),
            user: "alice".into(),
            cluster: "prod".into(),
            ssh_addr: address,
            logins: logins.iter().map(|login| (*login).to_owned()).collect(),
            host_authorities: Vec::new(),
            tls_ca_pem: String::new(),
            tls_pin: None,
            session_expires: 0,
        }
    }

    fn shown(target: Result<Target>) -> Option<String> {
        target.ok().map(|target| format!("{} {}", target.login, target.node))
    }

    #[test]
    fn the_login_comes_from_the_nearest_place() {
        let parse =
            |text: &str, flag: Option<&str>, logins: &[&str]| shown(Target::parse(text, flag, &profile(logins)));
        assert_eq!(parse("ubuntu@Web", None, &[]).as_deref(), Some("ubuntu web"));
        assert_eq!(parse("web", Some("ubuntu"), &[]).as_deref(), Some("ubuntu web"));
        assert_eq!(parse("a@b@web", None, &[]).as_deref(), Some("a@b web"));
        assert_eq!(parse("web", None, &["only"]).as_deref(), Some("only web"));
        assert_eq!(parse("web", None, &["x", "alice"]).as_deref(), Some("alice web"));
        assert_eq!(parse("web", None, &["x", "y"]), None);
        assert_eq!(parse("a@web", Some("b"), &[]), None);
        for bad in ["a@", "@web", "a@we b", "a@we/b", "a@-\u{1b}"] {
            assert_eq!(parse(bad, None, &[]), None, "{bad}");
        }
    }

    #[test]
    fn a_server_that_speaks_of_time_is_heard() {
        let banner = "denied: certificate expired: it ended at A, and the clock here says B\u{1b}\nmore";
        let heard = "certificate expired: it ended at A, and the clock here says B\\u{1b}";
        assert_eq!(out_of_time(banner).as_deref(), Some(heard));
        assert_eq!(out_of_time("no"), None);
    }

    #[test]
    fn what_openssh_writes_is_understood() {
        let parse = |text: &str| shown(Target::of_proxy_command(text, &profile(&["only"])));
        assert_eq!(parse("ubuntu@web-01:22").as_deref(), Some("ubuntu web-01"));
        assert_eq!(parse("ubuntu@web.prod.mezite:22").as_deref(), Some("ubuntu web"));
        assert_eq!(parse("ubuntu@web.mezite").as_deref(), Some("ubuntu web"));
        assert_eq!(parse("web.other:22").as_deref(), Some("only web.other"));
    }
}
