//! Names that people and machines choose: bounded, ASCII, lower case where two spellings could pass for one.
//!
//! Every rule refuses; none repairs. A name that looked right in a list must be the name that was checked.

use crate::error::Invalid;

/// Longest name of a user, role, token or lock, in bytes.
pub const MAX_NAME: usize = 128;
/// Longest node name, in bytes (RFC 1035 section 2.3.4, without the suffixes we add).
pub const MAX_NODE_NAME: usize = 200;
/// Longest OS login, in bytes.
pub const MAX_LOGIN: usize = 64;

/// The SSH user name of a connection to a node that joins a session there. It is no OS login: on a node it means this only.
pub const JOIN_LOGIN: &str = "session-join@mezite";

const RESERVED_NODES: [&str; 2] = ["localhost", "mezite"];

/// A user name: `[a-z0-9._@-]`, starting with a letter, digit or underscore.
///
/// # Errors
/// [`Invalid`] that says which rule is broken.
pub fn user(name: &str) -> Result<(), Invalid> {
    check("name", name, MAX_NAME, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'@' | b'-'))
}

/// A role name: `[a-z0-9._-]`, starting with a letter, digit or underscore.
///
/// # Errors
/// [`Invalid`] that says which rule is broken.
pub fn role(name: &str) -> Result<(), Invalid> {
    check("name", name, MAX_NAME, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// The name of a token or a lock: the rule of a role name.
///
/// # Errors
/// [`Invalid`] that says which rule is broken.
pub fn object(name: &str) -> Result<(), Invalid> {
    role(name)
}

/// The name of a cluster: DNS labels as in [`node`], at most 63 bytes.
///
/// # Errors
/// [`Invalid`] that says which rule is broken.
pub fn cluster(name: &str) -> Result<(), Invalid> {
    dns("cluster_name", name, 63)
}

/// A node name: lower-case DNS labels. OpenSSH folds the host names people type to lower case, so one with capitals could
/// never be matched. Reserved words, addresses, and names shaped like a node id are refused: each would make a target
/// ambiguous.
///
/// # Errors
/// [`Invalid`] that says which rule is broken.
pub fn node(name: &str) -> Result<(), Invalid> {
    let refuse = |message: String| Err(Invalid::new("hostname", message));
    dns("hostname", name, MAX_NODE_NAME)?;
    if RESERVED_NODES.contains(&name) || name.ends_with(".localhost") || name.ends_with(".mezite") {
        return refuse(format!("{name} is reserved; choose another node name"));
    }
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return refuse(format!("{name} looks like an address; choose another node name"));
    }
    if is_uuid(name) {
        return refuse(format!("{name} looks like a node id; choose another node name"));
    }
    Ok(())
}

/// An OS login: `[A-Za-z0-9._@$-]`, starting with a letter, digit or underscore, and not a number, which tools would take
/// for a uid.
///
/// # Errors
/// [`Invalid`] that says which rule is broken.
pub fn login(name: &str) -> Result<(), Invalid> {
    check("login", name, MAX_LOGIN, |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'$' | b'-'))?;
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Invalid::new("login", "must not be a number"));
    }
    Ok(())
}

/// The name of a trait: `[A-Za-z0-9._-]`, starting with a letter, digit or underscore.
///
/// # Errors
/// [`Invalid`] that says which rule is broken.
pub fn trait_name(name: &str) -> Result<(), Invalid> {
    check("traits", name, MAX_NAME, |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether `text` has the shape of a UUID (RFC 9562 section 4), lower case.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn check(field: &str, name: &str, max: usize, allowed: fn(u8) -> bool) -> Result<(), Invalid> {
    let refuse = |message: String| Err(Invalid::new(field, message));
    let Some(first) = name.bytes().next() else { return refuse("is empty".into()) };
    if name.len() > max {
        return refuse(format!("is longer than {max} bytes"));
    }
    if let Some(bad) = name.chars().find(|c| !u8::try_from(*c).is_ok_and(allowed)) {
        let letters = if allowed(b'A') { "letters" } else { "lower-case letters" };
        let marks = b"._@$-".iter().filter(|mark| allowed(**mark)).map(|mark| char::from(*mark).to_string());
        let marks = marks.collect::<Vec<_>>().join(" ");
        return refuse(format!("must not hold {bad:?}; only {letters}, digits and {marks}"));
    }
    if !first.is_ascii_alphanumeric() && first != b'_' {
        return refuse("must start with a letter, a digit or _".into());
    }
    Ok(())
}

fn dns(field: &str, name: &str, max: usize) -> Result<(), Invalid> {
    check(field, name, max, |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'))?;
    let fits = |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    if name.split('.').all(fits) { Ok(()) } else { Err(Invalid::new(field, "is not a host name")) }
}
