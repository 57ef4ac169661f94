//! What watchers are told after a commit.

use std::sync::Arc;

/// One committed change. Changes arrive in the order of their commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The kind: `user`, `role`, `lock`…, or a word of the caller for what is no object (`trust`).
    pub kind: &'static str,
    /// Name of the object.
    pub name: String,
    /// The object's revision after the change; grows over all kinds. 0 where there is none.
    pub revision: u64,
    /// The spec as JSON; `None` when the object was deleted.
    pub json: Option<Arc<str>>,
}
