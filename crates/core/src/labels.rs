//! Labels of nodes: `env=production,team=platform`.

use std::collections::BTreeMap;

use crate::error::Invalid;

/// Labels of one node, sorted by key.
pub type Labels = BTreeMap<String, String>;

/// Most labels on one node.
pub const MAX_LABELS: usize = 64;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 64;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 256;

/// Reads `k=v,k=v` (F024). An empty text is no labels. The value may hold `=`; spaces are not trimmed but refused, so that
/// what is stored is what was written.
///
/// # Errors
/// [`Invalid`] for a part without `=`, a key given twice, or what [`validate`] refuses.
pub fn parse(text: &str) -> Result<Labels, Invalid> {
    let mut labels = Labels::new();
    if text.is_empty() {
        return Ok(labels);
    }
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Invalid::new("labels", format!("{part:?} is not of the form key=value")));
        };
        if labels.len() == MAX_LABELS {
            return Err(too_many());
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Invalid::new("labels", format!("{key:?} is given twice")));
        }
    }
    validate(&labels)?;
    Ok(labels)
}

/// Prints `k=v,k=v` sorted by key (F030).
pub fn print(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Checks count, length and characters. Keys: `[A-Za-z0-9._/:-]`, no two of which differ in case only. Values: printable ASCII
/// without a comma, without a space at either end and without two in a row. ASCII only, because two texts that look alike must
/// not be two labels.
///
/// # Errors
/// [`Invalid`] naming the label.
pub fn validate(labels: &Labels) -> Result<(), Invalid> {
    if labels.len() > MAX_LABELS {
        return Err(too_many());
    }
    let mut seen = BTreeMap::new();
    labels.iter().try_for_each(|(key, value)| {
        validate_key(key)?;
        if let Some(other) = seen.insert(key.to_ascii_lowercase(), key) {
            return Err(Invalid::new("labels", format!("the keys {other:?} and {key:?} differ in case only")));
        }
        validate_value(value).map_err(|e| e.within(key).within("labels"))
    })
}

/// Checks one key.
///
/// # Errors
/// [`Invalid`] that says what is wrong with it.
pub fn validate_key(key: &str) -> Result<(), Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b':' | b'-');
    if !key.is_empty() && key.len() <= MAX_KEY && key.bytes().all(allowed) {
        return Ok(());
    }
    let shown: String = key.chars().take(MAX_KEY).collect();
    Err(Invalid::new("labels", format!("key {shown:?} must be 1 to {MAX_KEY} characters of A-Z a-z 0-9 . _ / : -")))
}

/// Checks one value.
///
/// # Errors
/// [`Invalid`] that says what is wrong with it.
pub fn validate_value(value: &str) -> Result<(), Invalid> {
    let refuse = |message: String| Err(Invalid::new("", message));
    if value.len() > MAX_VALUE {
        return refuse(format!("is longer than {MAX_VALUE} bytes"));
    }
    if let Some(bad) = value.chars().find(|c| !matches!(c, ' '..='~') || *c == ',') {
        return refuse(format!("must not hold {bad:?}"));
    }
    if value.starts_with(' ') || value.ends_with(' ') {
        return refuse("must not start or end with a space".into());
    }
    if value.contains("  ") {
        return refuse("must not hold two spaces in a row, which look like one".into());
    }
    Ok(())
}

/// Whether every pair of `filter` is among `labels` (`msh ls --filter`, F034, F035).
pub fn matches_filter(labels: &Labels, filter: &Labels) -> bool {
    filter.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn too_many() -> Invalid {
    Invalid::new("labels", format!("more than {MAX_LABELS} labels"))
}
