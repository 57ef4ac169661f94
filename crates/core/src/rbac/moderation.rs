//! Sessions with others in them: who must be present, who counts, and who may join.

use std::collections::BTreeSet;
use std::fmt;

use super::check::{Policy, Question, locked};
use super::outcome::{Denied, Reason};
use crate::error::Invalid;
use crate::identity::Identity;
use crate::kind::role::{JoinMode, JoinRequirement, OnLeave};
use crate::predicate::{Predicate, Subject};

/// An entry of `require_session_join` made ready: as long as it is not met, the session runs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    role: String,
    name: String,
    filter: Predicate,
    modes: Vec<JoinMode>,
    count: u32,
    on_leave: OnLeave,
}

/// Somebody in a session.
#[derive(Clone, Copy, Debug)]
pub struct Participant<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// How.
    pub mode: JoinMode,
}

/// A requirement that is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmet<'a> {
    /// Which.
    pub requirement: &'a Requirement,
    /// How many more are needed; at least one.
    pub lacking: u32,
}

/// Somebody else's session, as the decision about joining it sees it.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// How it is to be joined.
    pub mode: JoinMode,
    /// The OS login that it runs as.
    pub login: &'a str,
    /// The roles of its owner.
    pub owner_roles: &'a [String],
    /// Who must be present in it.
    pub requirements: &'a [Requirement],
}

/// Proof that [`may_join`] said yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    identity: Identity,
    mode: JoinMode,
}

impl Requirement {
    /// Makes an entry of `role` ready.
    ///
    /// # Errors
    /// [`Invalid`] when its filter cannot be read.
    pub(super) fn new(role: &str, entry: &JoinRequirement) -> Result<Self, Invalid> {
        let JoinRequirement { name, filter, kinds: _, modes, count, on_leave } = entry.clone();
        let filter = Predicate::parse(&filter).map_err(|e| e.within(&name))?;
        // None at all would be met by nobody's presence.
        Ok(Self { role: role.to_owned(), name, filter, modes, count: count.max(1), on_leave })
    }

    /// Whether it asks for somebody like this.
    pub fn asks_for(&self, participant: Participant<'_>) -> bool {
        let Identity { user, roles, traits, .. } = participant.identity;
        self.modes.contains(&participant.mode) && self.filter.matches(Subject { name: user, roles, traits })
    }

    /// What happens when it stops being met.
    pub fn on_leave(&self) -> OnLeave {
        self.on_leave
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, .. } = self;
        write!(f, "role {role} requires {} in each session", Others { requirement: self, count: self.count })
    }
}

impl fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Others { requirement: self.requirement, count: self.lacking }.fmt(f)
    }
}

/// So many others, as a requirement asks for them.
struct Others<'a> {
    requirement: &'a Requirement,
    count: u32,
}

impl fmt::Display for Others<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { name, filter, modes, .. } = self.requirement;
        let modes: Vec<_> = modes.iter().map(|mode| mode.as_str()).collect();
        let plural = if self.count == 1 { "" } else { "s" };
        write!(f, "{} {}{plural} for whom {filter} holds ({name})", self.count, modes.join(" or "))
    }
}

/// The requirements that those present do not meet. Each user counts once, however often present, and nobody counts in the
/// own session.
pub fn unmet<'r>(requirements: &'r [Requirement], owner_id: &str, present: &[Participant<'_>]) -> Vec<Unmet<'r>> {
    let lacks = |requirement: &'r Requirement| {
        let counting = present.iter().filter(|participant| requirement.asks_for(**participant));
        let users: BTreeSet<&str> = counting.map(|participant| participant.identity.user_id.as_str()).collect();
        let users = users.into_iter().filter(|user_id| *user_id != owner_id).count();
        let lacking = requirement.count.saturating_sub(u32::try_from(users).unwrap_or(u32::MAX));
        (lacking > 0).then_some(Unmet { requirement, lacking })
    };
    requirements.iter().filter_map(lacks).collect()
}

/// Decides about joining a session; the question is about the one who joins and the node, without a login.
///
/// Whom a requirement of the session asks for may join it in that mode; everybody else needs `join_sessions` in a role. A role
/// that denies the node, the session or, to a peer, the login refuses; so does a second factor or another demand that is not
/// met, of a role that grants the joining or matches the node.
///
/// # Errors
/// [`Denied`] with every reason that was found.
pub fn may_join(question: &Question<'_>, joining: Joining<'_>) -> Result<Seat, Denied> {
    let Joining { mode, owner_roles, requirements, .. } = joining;
    let Question { identity, .. } = *question;
    let policy = Policy::new(identity, question.roles);
    let mut reasons: Vec<Reason> = locked(question).into_iter().collect();
    if identity.roles.is_empty() {
        reasons.push(Reason::NoRoles);
    }
    reasons.extend(policy.missing.iter().map(|role| Reason::RoleMissing { role: (*role).to_owned() }));
    let (mut factors, mut is_granted) = (Vec::new(), false);
    for rules in &policy.rules {
        reasons.extend(rules.refusals_to_join(question.target, joining));
        let grants = rules.allow_joins.iter().any(|grant| grant.covers(owner_roles, mode));
        if grants || rules.may_match(question.target) {
            factors.extend(rules.factor(question.proof));
            reasons.extend(rules.unsupported());
        }
        is_granted |= grants;
    }
    is_granted |= requirements.iter().any(|requirement| requirement.asks_for(Participant { identity, mode }));
    if reasons.is_empty() && !is_granted {
        reasons.push(Reason::JoinNotAllowed { mode });
    }
    let reasons = if reasons.is_empty() { factors } else { reasons };
    if reasons.is_empty() { Ok(Seat { identity: identity.clone(), mode }) } else { Err(Denied { reasons }) }
}

/// Decides about joining a session in any mode; [`Joining::mode`] does not count.
///
/// # Errors
/// Of the modes that a second factor would open, what the first lacks; else why nobody may even watch.
pub fn may_join_somehow(question: &Question<'_>, joining: Joining<'_>) -> Result<(), Denied> {
    let mut refusals = Vec::new();
    for mode in JoinMode::ALL {
        match may_join(question, Joining { mode, ..joining }) {
            Ok(_) => return Ok(()),
            Err(denied) => refusals.push(denied),
        }
    }
    let opened = refusals.iter().position(|denied| denied.needs().is_some()).unwrap_or_default();
    refusals.into_iter().nth(opened).map_or(Ok(()), Err)
}

impl Seat {
    /// Who.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How.
    pub fn mode(&self) -> JoinMode {
        self.mode
    }
}
