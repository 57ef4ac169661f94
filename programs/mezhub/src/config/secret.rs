//! Secrets: given directly or as a file, and never shown.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ConfigError;

/// A secret; shown nowhere.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Secret {
    /// The secret itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// A secret given directly or by a file; the file's last line end is not part of it.
///
/// # Errors
/// When the file cannot be read or is empty.
pub(crate) fn secret(given: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>, ConfigError> {
    let Some(path) = file else { return Ok(given.cloned().filter(|secret| !secret.0.is_empty())) };
    let text =
        std::fs::read_to_string(path).map_err(|e| ConfigError(format!("{} cannot be read: {e}", path.display())))?;
    let text = text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r');
    if text.is_empty() {
        return Err(ConfigError(format!("{} is empty; a secret is expected in it", path.display())));
    }
    Ok(Some(Secret(text.to_owned())))
}
