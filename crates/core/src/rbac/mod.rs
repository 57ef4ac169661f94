//! Who may do what.
//!
//! [`check`] decides about a node and a login and gives a [`Permit`]; [`may`] decides about the API. Both are functions of
//! values; `mezctl access explain` shows the same evaluation through [`explain`].
//!
//! # Rules
//!
//! * Deny overrides allow. `deny.node_labels` and `deny.logins` refuse each on its own.
//! * A deny rule that fails to evaluate denies; an allow rule that fails does not allow.
//! * A role that is not defined, or cannot be read, denies everything to its holders.
//! * An empty selector and an empty trait match nothing.
//! * Node and login must be granted by the same role.
//! * Port forwarding is granted by any role of the user, whether or not it matches the node (F066, F067); what a role with
//!   lists grants is what it lists ([`Forwarding`]). File copy is
//!   refused by any granting role that says false. Everything else takes the strictest of the granting roles, except
//!   agent forwarding, which one granting role may grant.
//! * A role that matches the node and demands a second factor denies until the factor is proven ([`Denied::needs`]).
//! * A role that matches the node and demands others in each session ([`Permit::moderation`]) holds the session back until
//!   they are there, and takes port forwarding away. Whom it asks for may join ([`may_join`]), everybody else by
//!   `join_sessions`.
//! * A role that matches the node and demands what this release cannot do (a security key, an enrolled device) denies.
//! * A role that matches the node and pins certificates denies one that is not pinned to its client's address.

pub mod ability;
mod check;
pub(crate) mod forward;
mod moderation;
mod outcome;
mod principals;
pub mod selector;
mod standing;
mod survey;
pub mod template;

pub use ability::{Resource, Verb, may};
pub use check::{Policy, Question, Roles, Target, check, explain};
pub use forward::{Forwarding, MAX_SOCKET_PATH};
pub use moderation::{Joining, Participant, Requirement, Seat, Unmet, may_join, may_join_somehow, unmet};
pub use outcome::{
    Demand, Denied, Explanation, Factor, Finding, Needed, Outcome, Permit, Proof, Reason, Recording, Rule,
};
pub use principals::{MAX_CERT_TTL, MAX_PRINCIPALS, certificate_flags, certificate_ttl, logins_for, pins_certificates};
pub use standing::{Standing, Users, standing};
pub use survey::{Access, Survey};
