//! From the file and the variables to a [`Config`]; every error says where.

use std::path::Path;

use mezite_core::Invalid;
use mezite_core::decode::decode;
use serde_json::{Map, Value};

use super::environment::{overlay, variables};
use super::{Config, ConfigError};

impl Config {
    /// Reads the file's text and the variables through `get`.
    ///
    /// # Errors
    /// What is wrong and where: line and column in the file, the key, the nearest known key.
    pub(crate) fn load(file: Option<(&Path, &str)>, get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut value = match file {
            None => Value::Object(Map::new()),
            Some((path, text)) => parse(path, text)?,
        };
        overlay(&mut value, get)?;
        let config: Self = decode(&value).map_err(|invalid| {
            let variable =
                variables(&invalid.field).into_iter().find(|name| get(name).is_some_and(|text| !text.is_empty()));
            let file = || {
                file.map_or_else(
                    || "no --config and no /etc/mezite/mezite.yaml".to_owned(),
                    |(path, _)| path.display().to_string(),
                )
            };
            ConfigError(format!("{}: {}", variable.unwrap_or_else(file), advised(&invalid)))
        })?;
        config.validate()?;
        Ok(config)
    }
}

fn parse(path: &Path, text: &str) -> Result<Value, ConfigError> {
    let options = serde_saphyr::options! { strict_booleans: true };
    let value: Value = serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| ConfigError(format!("{}: {e}", path.display())))?;
    match value {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(_) => Ok(value),
        _ => Err(ConfigError(format!("{}: expected keys and values", path.display()))),
    }
}

/// What is wrong with a value, and what to write in its place.
fn advised(Invalid { field, message }: &Invalid) -> String {
    match message.as_str() {
        "is missing" => {
            let variable = variables(field).pop().unwrap_or_default();
            format!("{field}: is missing; set it there or as {variable}")
        }
        "invalid socket address syntax" => format!("{field}: must be an IP address and a port, as 0.0.0.0:3080"),
        _ => format!("{field}: {message}"),
    }
}
