//! Role: what its holders may reach, and how. The decision is in [`crate::rbac`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Kind, MAX_LIST, free_text, role_names};
use crate::error::Invalid;
use crate::predicate::Predicate;
use crate::rbac::forward::{check_listen, check_target};
use crate::rbac::selector::Selector;
use crate::rbac::template::Template;
use crate::{duration, name};

/// Marker of the kind `role`.
#[derive(Clone, Copy, Debug)]
pub enum Role {}

/// A role as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoleSpec {
    /// Free text; `metadata.description` of the document.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// How sessions run.
    pub options: RoleOptions,
    /// What is granted.
    pub allow: Conditions,
    /// What is refused, whatever any role grants.
    pub deny: Conditions,
}

/// How sessions of a role run. A field that is absent has the default given here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoleOptions {
    /// Longest certificate and longest session; default 12 h. The shortest of the granting roles counts.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub max_session_ttl: Option<Duration>,
    /// A connection idle for this long is closed; the shortest of the granting roles counts.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub client_idle_timeout: Option<Duration>,
    /// Most sessions on one connection; the smallest of the granting roles counts. Together with `max_connections` it bounds
    /// what a user has open in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// Most connections of one user to all nodes; the smallest of the granting roles counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Port forwarding, default false; one role of the user suffices (F066, F067).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_forwarding: Option<bool>,
    /// Where forwarded connections may go, each `HOST:PORT` (a name, an address, a block such as `10.0.0.0/8`, or `*`; a
    /// port or `*`) or the path of a Unix socket. Absent together with `port_forwarding_listen`: anywhere. The lists of the
    /// roles add up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_forwarding_targets: Option<Vec<String>>,
    /// What the node may listen on for the user (`ssh -R`): a port, `*` for any, or the path of a Unix socket. Absent
    /// together with `port_forwarding_targets`: anything. The lists of the roles add up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_forwarding_listen: Option<Vec<String>>,
    /// SCP and SFTP, default true; false in any granting role refuses (F430).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_copy: Option<bool>,
    /// Forwarding of the user's key agent, default false; one granting role suffices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_forwarding: Option<bool>,
    /// X11 forwarding: this release does not offer it, and refuses true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permit_x11: Option<bool>,
    /// Certificates are good only from the address of the login; default false. Any role of the user pins, and one that
    /// matches the node takes no certificate that is not pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_source_ip: Option<bool>,
    /// Second factor at the start of each session; default off (F431).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_session_mfa: Option<SessionMfa>,
    /// How long one proof of the second factor serves further sessions from the same source; default not at all. The
    /// shortest of the roles that ask for a factor counts.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub session_mfa_reuse: Option<Duration>,
    /// Who must be present in a session.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub require_session_join: Vec<JoinRequirement>,
    /// Whether the client's machine must be enrolled; default off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_trust_mode: Option<DeviceTrust>,
    /// Recording of sessions, default strict; the strictest of the granting roles counts.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "record")]
    pub record: Option<Record>,
    /// How much output of commands without a terminal is recorded; full in any granting role lifts the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_exec: Option<RecordExec>,
    /// Whether what is typed is recorded, default false; true in any granting role records it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "switch")]
    pub record_input: Option<bool>,
    /// Whether an OS user is made for the session; kept, without effect so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_host_user: Option<bool>,
}

/// Second factor at the start of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionMfa {
    /// None; also written as an empty text.
    #[serde(alias = "")]
    Off,
    /// A code of an authenticator app.
    Totp,
    /// A security key.
    Webauthn,
    /// A key held in hardware.
    #[serde(alias = "hardware-key")]
    HardwareKey,
}

/// Recording of sessions. The order is that of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// None; also written `false`.
    Off,
    /// A session that cannot be recorded runs all the same.
    BestEffort,
    /// A session that cannot be recorded does not start, or ends; also written `true` and `on`.
    Strict,
}

/// Whether the client's machine must be enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceTrust {
    /// Not looked at.
    Off,
    /// Recorded when present.
    Optional,
    /// Demanded.
    Required,
}

/// How much output of commands without a terminal is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordExec {
    /// The command line, the first MiB of each stream, then counts and a hash.
    #[default]
    Limited,
    /// Everything.
    Full,
}

/// Somebody who must be present in a session (F099..F106).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequirement {
    /// Name of the requirement.
    pub name: String,
    /// [`Predicate`] over the joining user.
    pub filter: String,
    /// Kinds of sessions that it is asked for in; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<SessionKind>,
    /// In which modes a participant counts.
    pub modes: Vec<JoinMode>,
    /// How many are needed; at least one.
    pub count: u32,
    /// What happens when one of them leaves.
    pub on_leave: OnLeave,
}

/// How a participant takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinMode {
    /// Watches.
    Observer,
    /// Watches and can end the session.
    Moderator,
    /// Types as well.
    Peer,
}

impl JoinMode {
    /// Every mode, from the one that can do least.
    pub const ALL: [Self; 3] = [Self::Observer, Self::Moderator, Self::Peer];

    /// The word in documents and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Moderator => "moderator",
            Self::Peer => "peer",
        }
    }

    /// The mode of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }
}

/// What is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// An SSH session.
    Ssh,
}

/// Whose sessions may be joined, or may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinGrant {
    /// Name of the rule; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Sessions of users who hold one of these roles; `*` stands for every session.
    pub roles: Vec<String>,
    /// Kinds of sessions; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<SessionKind>,
    /// How they may be joined.
    pub modes: Vec<JoinMode>,
}

impl JoinGrant {
    /// Whether the rule speaks of joining the sessions of somebody with these roles in this mode.
    pub fn covers(&self, owner_roles: &[String], mode: JoinMode) -> bool {
        let of_owner = |role: &String| role == "*" || owner_roles.contains(role);
        self.modes.contains(&mode) && self.roles.iter().any(of_owner)
    }
}

/// What happens when a required participant leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLeave {
    /// The session ends.
    Terminate,
    /// The session waits.
    Pause,
}

/// One side of a role: what it grants, or what it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// Nodes, by label; empty: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: Selector,
    /// Applications, by label; empty: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub app_labels: Selector,
    /// OS logins; template variables are expanded. `*` is accepted under deny only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<String>,
    /// Roles that may be asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_roles: Vec<String>,
    /// Longest time a role may be asked for.
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub request_max_duration: Option<Duration>,
    /// Nodes that may be asked for, by exact name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_resources: Vec<String>,
    /// Roles whose requests may be reviewed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub review_roles: Vec<String>,
    /// Sessions of others that may be joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join_sessions: Vec<JoinGrant>,
}

/// [`RoleOptions::max_session_ttl`] when it is absent.
pub const DEFAULT_SESSION_TTL: Duration = Duration::from_secs(12 * 3600);
/// Longest `max_session_ttl` accepted.
pub const MAX_SESSION_TTL: Duration = Duration::from_secs(30 * 86_400);
/// Longest `session_mfa_reuse` accepted.
pub const MAX_MFA_REUSE: Duration = Duration::from_secs(3600);
/// The roles every cluster has.
pub const BUILT_IN: [&str; 4] = ["admin", "access", "auditor", "viewer"];

/// The definition of a built-in role, `None` for any other name.
pub fn built_in(name: &str) -> Option<RoleSpec> {
    let mut spec = RoleSpec::default();
    let everything = || Selector::from([("*".to_owned(), "*".into())]);
    let logins = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    match name {
        "admin" => {
            spec.description = "all administration, and every node as root or as one of the user's own logins".into();
            spec.allow.node_labels = everything();
            spec.allow.logins = logins(&["{{internal.logins}}", "root"]);
            spec.allow.join_sessions = every_session(&JoinMode::ALL);
        }
        "access" => {
            spec.description = "every node as one of the user's own logins".into();
            spec.options.port_forwarding = Some(true);
            spec.allow.node_labels = everything();
            spec.allow.logins = logins(&["{{internal.logins}}"]);
        }
        "auditor" => {
            spec.description = "reads sessions, recordings and the audit log, and watches sessions".into();
            spec.allow.join_sessions = every_session(&[JoinMode::Observer]);
        }
        "viewer" => spec.description = "lists nodes".into(),
        _ => return None,
    }
    Some(spec)
}

fn every_session(modes: &[JoinMode]) -> Vec<JoinGrant> {
    vec![JoinGrant { name: String::new(), roles: vec!["*".into()], kinds: Vec::new(), modes: modes.to_vec() }]
}

impl Kind for Role {
    const KIND: &'static str = "role";
    const PLURAL: &'static str = "roles";
    const COLUMNS: &'static [&'static str] = &["name", "allowed_logins", "node_labels", "max_session_ttl"];
    type Spec = RoleSpec;

    fn validate(name: &str, spec: &RoleSpec) -> Result<(), Invalid> {
        name::role(name)?;
        free_text("description", &spec.description)?;
        validate_options(&spec.options).map_err(|e| e.within("options"))?;
        validate_conditions(&spec.allow, Side::Allow).map_err(|e| e.within("allow"))?;
        validate_conditions(&spec.deny, Side::Deny).map_err(|e| e.within("deny"))
    }

    fn columns(name: &str, spec: &RoleSpec) -> Vec<Value> {
        let ttl = spec.options.max_session_ttl.unwrap_or(DEFAULT_SESSION_TTL);
        vec![json!(name), json!(spec.allow.logins), json!(spec.allow.node_labels), json!(duration::print(ttl))]
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Allow,
    Deny,
}

fn validate_options(options: &RoleOptions) -> Result<(), Invalid> {
    let bounded = |field: &str, span: Option<Duration>| match span {
        Some(span) if span < Duration::from_secs(1) || span > MAX_SESSION_TTL => {
            Err(Invalid::new(field, format!("must be between 1s and {}", duration::print(MAX_SESSION_TTL))))
        }
        _ => Ok(()),
    };
    bounded("max_session_ttl", options.max_session_ttl)?;
    bounded("client_idle_timeout", options.client_idle_timeout)?;
    let positive = |field: &str, count: Option<u32>| match count {
        Some(0) => Err(Invalid::new(field, "must be at least 1; leave it out for no limit")),
        _ => Ok(()),
    };
    positive("max_sessions", options.max_sessions)?;
    positive("max_connections", options.max_connections)?;
    let granted = options.port_forwarding == Some(true);
    forward_list("port_forwarding_targets", &options.port_forwarding_targets, granted, check_target)?;
    forward_list("port_forwarding_listen", &options.port_forwarding_listen, granted, check_listen)?;
    if options.permit_x11 == Some(true) {
        return Err(Invalid::new("permit_x11", "X11 forwarding is not offered; leave it out"));
    }
    match options.session_mfa_reuse {
        Some(span) if span < Duration::from_secs(1) || span > MAX_MFA_REUSE => {
            let message = format!("must be between 1s and {}", duration::print(MAX_MFA_REUSE));
            return Err(Invalid::new("session_mfa_reuse", message));
        }
        Some(_) if options.require_session_mfa.is_none_or(|mode| mode == SessionMfa::Off) => {
            return Err(Invalid::new("session_mfa_reuse", "needs require_session_mfa"));
        }
        _ => {}
    }
    validate_joins(&options.require_session_join)
}

fn forward_list(
    field: &str,
    list: &Option<Vec<String>>,
    granted: bool,
    check: fn(&str) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    let Some(list) = list else { return Ok(()) };
    if !granted {
        return Err(Invalid::new(field, "needs port_forwarding: true"));
    }
    if list.is_empty() {
        return Err(Invalid::new(field, "is empty; leave it out for everything, or port_forwarding for nothing"));
    }
    bounded_list(field, list)?;
    list.iter()
        .enumerate()
        .try_for_each(|(i, entry)| check(entry).map_err(|e| e.within(&format!("[{i}]")).within(field)))
}

fn validate_joins(requirements: &[JoinRequirement]) -> Result<(), Invalid> {
    bounded_list("require_session_join", requirements)?;
    requirements.iter().enumerate().try_for_each(|(i, requirement)| {
        let JoinRequirement { name, filter, kinds, modes, count, .. } = requirement;
        let invalid = |field: &str, message: &str| Err(Invalid::new(field, message));
        let checked = match () {
            () if name.is_empty() => invalid("name", "is empty"),
            () if requirements.iter().take(i).any(|earlier| earlier.name == *name) => invalid("name", "is used twice"),
            () if filter.trim().is_empty() => {
                invalid("filter", "is empty; an example: contains(user.roles, \"auditor\")")
            }
            () if modes.is_empty() => invalid("modes", "is empty; known: observer, moderator, peer"),
            () if *count == 0 || *count as usize > MAX_LIST => {
                invalid("count", &format!("must be between 1 and {MAX_LIST}"))
            }
            () => bounded_list("modes", modes)
                .and(bounded_list("kinds", kinds))
                .and(free_text("name", name))
                .and(Predicate::parse(filter).map(drop).map_err(|e| e.within("filter"))),
        };
        checked.map_err(|e| e.within(&format!("[{i}]")).within("require_session_join"))
    })
}

fn validate_conditions(conditions: &Conditions, side: Side) -> Result<(), Invalid> {
    for (field, selector) in [("node_labels", &conditions.node_labels), ("app_labels", &conditions.app_labels)] {
        crate::rbac::selector::validate(selector).map_err(|e| e.within(field))?;
    }
    bounded_list("logins", &conditions.logins)?;
    for (i, login) in conditions.logins.iter().enumerate() {
        validate_login(login, side).map_err(|e| Invalid::new(format!("logins.[{i}]"), e.message))?;
    }
    role_names("request_roles", &conditions.request_roles)?;
    role_names("review_roles", &conditions.review_roles)?;
    validate_grants(&conditions.join_sessions)?;
    bounded_list("request_resources", &conditions.request_resources)?;
    conditions.request_resources.iter().enumerate().try_for_each(|(i, node)| {
        name::node(node).map_err(|e| Invalid::new(format!("request_resources.[{i}]"), e.message))
    })
}

fn validate_grants(grants: &[JoinGrant]) -> Result<(), Invalid> {
    bounded_list("join_sessions", grants)?;
    grants.iter().enumerate().try_for_each(|(i, grant)| {
        let JoinGrant { name, roles, kinds, modes } = grant;
        let named: Vec<String> = roles.iter().filter(|role| *role != "*").cloned().collect();
        let checked = match () {
            () if roles.is_empty() => Err(Invalid::new("roles", "is empty; * stands for every session")),
            () if modes.is_empty() => Err(Invalid::new("modes", "is empty; known: observer, moderator, peer")),
            () => free_text("name", name)
                .and(role_names("roles", &named))
                .and(bounded_list("kinds", kinds))
                .and(bounded_list("modes", modes)),
        };
        checked.map_err(|e| e.within(&format!("[{i}]")).within("join_sessions"))
    })
}

fn validate_login(login: &str, side: Side) -> Result<(), Invalid> {
    match Template::parse(login)? {
        Template::Literal("*") if side == Side::Deny => Ok(()),
        Template::Literal(login) => name::login(login),
        Template::Variable { .. } => Ok(()),
    }
}

fn bounded_list<T>(field: &str, list: &[T]) -> Result<(), Invalid> {
    if list.len() > MAX_LIST {
        return Err(Invalid::new(field, format!("has more than {MAX_LIST} entries")));
    }
    Ok(())
}

/// Reads a [`Record`], or the switch it was before there were two ways to record.
fn record<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Record>, D::Error> {
    use serde::de::Error;
    Ok(Some(match Value::deserialize(d)? {
        Value::Bool(true) => Record::Strict,
        Value::Bool(false) => Record::Off,
        Value::String(word) => match word.as_str() {
            "strict" | "on" => Record::Strict,
            "best-effort" | "best_effort" => Record::BestEffort,
            "off" => Record::Off,
            _ => return Err(D::Error::unknown_variant(&word, &["strict", "best-effort", "off"])),
        },
        _ => return Err(D::Error::custom("must be strict, best-effort or off")),
    }))
}

/// Reads true, false, `on` or `off`: strict YAML readers leave the last two as text.
fn switch<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<bool>, D::Error> {
    use serde::de::Error;
    match Value::deserialize(d)? {
        Value::Bool(flag) => Ok(Some(flag)),
        Value::String(word) if word == "on" => Ok(Some(true)),
        Value::String(word) if word == "off" => Ok(Some(false)),
        _ => Err(D::Error::custom("must be true or false")),
    }
}
