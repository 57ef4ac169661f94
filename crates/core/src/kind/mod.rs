//! Kinds: desired state that people edit. One file per kind says what its spec is, what is valid, what it refers to and which
//! parts of it the database keeps as columns. Everything else is written once for all kinds.

pub mod config;
pub mod document;
pub mod lock;
pub mod node;
pub mod role;
pub mod token;
pub mod user;

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use config::{Config, ConfigSpec};
pub use document::{parse_role, role_document};
pub use lock::{Lock, LockSpec};
pub use node::{Node, NodeSpec};
pub use role::{Role, RoleSpec};
pub use token::{Token, TokenSpec};
pub use user::{User, UserSpec};

use crate::error::Invalid;

/// What all kinds have in common.
pub trait Kind: 'static {
    /// Singular name, as in a document's `kind:` field.
    const KIND: &'static str;
    /// Plural name, as in a table or a path.
    const PLURAL: &'static str;
    /// Names of the columns projected from the spec, in the order of [`Kind::columns`].
    const COLUMNS: &'static [&'static str];
    /// The part that people write. Refuses unknown fields.
    type Spec: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Checks an object before it is written.
    ///
    /// # Errors
    /// [`Invalid`] naming the field; paths start at the spec.
    fn validate(name: &str, spec: &Self::Spec) -> Result<(), Invalid>;

    /// Values of [`Kind::COLUMNS`]: a string, a number, or JSON for lists and maps.
    fn columns(name: &str, spec: &Self::Spec) -> Vec<Value>;

    /// Objects this one needs; they cannot be deleted while it stands.
    fn references(_spec: &Self::Spec) -> Vec<Reference> {
        Vec::new()
    }
}

/// A named object of some kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// [`Kind::KIND`] of the object.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// Most entries in a list of a spec.
pub(crate) const MAX_LIST: usize = 256;
/// Longest free text in a spec, in bytes.
pub(crate) const MAX_TEXT: usize = 1024;

/// Checks a list of role names: bounded, valid, without repetition.
pub(crate) fn role_names(field: &str, names: &[String]) -> Result<(), Invalid> {
    if names.len() > MAX_LIST {
        return Err(Invalid::new(field, format!("has more than {MAX_LIST} entries")));
    }
    names.iter().enumerate().try_for_each(|(i, name)| {
        crate::name::role(name).map_err(|e| Invalid::new(format!("{field}.[{i}]"), e.message))?;
        if names.iter().take(i).any(|earlier| earlier == name) {
            return Err(Invalid::new(field, format!("{name} is named twice")));
        }
        Ok(())
    })
}

/// Checks a free text: bounded, one line, no control characters.
pub(crate) fn free_text(field: &str, text: &str) -> Result<(), Invalid> {
    if text.len() > MAX_TEXT {
        return Err(Invalid::new(field, format!("is longer than {MAX_TEXT} bytes")));
    }
    match text.chars().find(|c| crate::text::is_unsafe(*c)) {
        Some(bad) => Err(Invalid::new(field, format!("must not hold {bad:?}"))),
        None => Ok(()),
    }
}
