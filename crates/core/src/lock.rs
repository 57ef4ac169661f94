//! Whether a lock stops somebody or something now.

use serde_json::Value;
use time::OffsetDateTime;

use crate::kind::LockSpec;
use crate::kind::lock::TargetType;

/// A lock in force or about to lapse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Name of the lock object.
    pub name: String,
    target: Target,
    message: String,
    expires: Option<OffsetDateTime>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Some(TargetType, String),
    /// The stored lock cannot be read: it stops everybody until somebody repairs it.
    Everybody,
}

/// Who or what a lock may stop; leave empty what does not apply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// User name.
    pub user: &'a str,
    /// Roles held.
    pub roles: &'a [String],
    /// Names and ids of the machine: node name, node id.
    pub agent: &'a [&'a str],
    /// Names and ids of the machine's identity.
    pub agent_identity: &'a [&'a str],
    /// Names and ids of the node that is to be reached.
    pub node: &'a [&'a str],
    /// The OS login.
    pub login: &'a str,
    /// The second factor whose code is given, `USER/NAME`.
    pub mfa_device: &'a str,
}

impl<'a> Subject<'a> {
    /// A machine itself: whether it may have certificates and a tunnel. `names` are the name and the id of its node.
    pub fn machine(names: &'a [&'a str]) -> Self {
        Self { agent: names, agent_identity: names, ..Self::default() }
    }
}

impl Lock {
    /// The lock `name` with this spec.
    pub fn new(name: impl Into<String>, spec: LockSpec) -> Self {
        let target = Target::Some(spec.target_type, spec.target);
        Self { name: name.into(), target, message: spec.message, expires: spec.expires }
    }

    /// A lock from its stored spec. One that cannot be read is not skipped: it stops everybody.
    pub fn from_stored(name: impl Into<String>, spec: &Value) -> Self {
        let name = name.into();
        match crate::decode::decode::<LockSpec>(spec) {
            Ok(spec) => Self::new(name, spec),
            Err(e) => {
                Self { name, target: Target::Everybody, message: format!("lock cannot be read: {e}"), expires: None }
            }
        }
    }

    /// Text shown to whoever is stopped; may be empty.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether this lock stops `subject` at `now`.
    pub fn stops(&self, subject: Subject<'_>, now: OffsetDateTime) -> bool {
        if self.expires.is_some_and(|end| end <= now) {
            return false;
        }
        let Target::Some(kind, target) = &self.target else { return true };
        match kind {
            TargetType::User => subject.user == target,
            TargetType::Role => subject.roles.contains(target),
            TargetType::Agent => subject.agent.contains(&target.as_str()),
            TargetType::AgentIdentity => subject.agent_identity.contains(&target.as_str()),
            TargetType::Node => subject.node.contains(&target.as_str()),
            TargetType::Login => subject.login == target,
            TargetType::MfaDevice => subject.mfa_device == target,
        }
    }
}

/// The first lock that stops `subject`.
pub fn first<'a>(locks: &'a [Lock], subject: Subject<'_>, now: OffsetDateTime) -> Option<&'a Lock> {
    locks.iter().find(|lock| lock.stops(subject, now))
}
