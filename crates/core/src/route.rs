//! Which node a target name means.

/// A node as the router sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Stable id of the node.
    pub id: &'a str,
    /// Name of the node.
    pub name: &'a str,
}

/// The answer for a target name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// Exactly one node.
    Found(Candidate<'a>),
    /// Several nodes, by id. Whoever may see them is shown the ids, so as to name one.
    Ambiguous(Vec<Candidate<'a>>),
    /// None.
    NotFound,
}

/// Resolves `NAME`, `NAME.CLUSTER`, `NAME.mezite`, `NAME.CLUSTER.mezite` or a node id. Upper case is folded, as OpenSSH
/// does with host names. Nothing is guessed: two possible readings are [`Route::Ambiguous`].
pub fn resolve<'a>(target: &str, cluster: &str, nodes: impl IntoIterator<Item = Candidate<'a>>) -> Route<'a> {
    /// Longest name that can be looked up (RFC 1035 section 2.3.4).
    const MAX_TARGET: usize = 255;
    if target.is_empty() || target.len() > MAX_TARGET {
        return Route::NotFound;
    }
    let target = target.to_ascii_lowercase();
    let target = target.strip_suffix(".mezite").unwrap_or(&target);
    let short = target.strip_suffix(cluster).and_then(|head| head.strip_suffix('.')).unwrap_or(target);
    let is_meant = |node: &Candidate<'_>| node.id == target || node.name == target || node.name == short;
    let mut found: Vec<Candidate<'a>> = nodes.into_iter().filter(is_meant).collect();
    found.sort_unstable_by_key(|node| node.id);
    match found.as_slice() {
        [] => Route::NotFound,
        [one] => Route::Found(*one),
        _ => Route::Ambiguous(found),
    }
}

/// The names a node's host certificate carries: `NAME`, `NAME.CLUSTER`, `NAME.mezite`, `NAME.CLUSTER.mezite`, and its id.
pub fn host_principals(node: Candidate<'_>, cluster: &str) -> Vec<String> {
    let Candidate { id, name } = node;
    vec![
        name.to_owned(),
        format!("{name}.{cluster}"),
        format!("{name}.mezite"),
        format!("{name}.{cluster}.mezite"),
        id.to_owned(),
    ]
}
