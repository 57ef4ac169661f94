//! From the file and the variables to a [`Config`]; every error says where.

use std::path::Path;

use mezite_core::Invalid;
use mezite_core::decode::decode;
use mezite_core::document::Document;
use serde_json::{Map, Value};

use super::environment::{overlay, variables};
use super::{Config, ConfigError};

impl Config {
    /// Reads the file's text and the variables through `get`.
    ///
    /// # Errors
    /// What is wrong and where: line and column in the file, or the variable; the key, the nearest known key.
    pub(crate) fn load(file: Option<(&Path, &str)>, get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let document = match file {
            None => None,
            Some((path, text)) => {
                let document = Document::parse(&path.display().to_string(), text);
                Some(document.map_err(|invalid| ConfigError(invalid.to_string()))?)
            }
        };
        let mut value = match document.as_ref().map(|document| &document.value) {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(value) => value.clone(),
        };
        let located = |invalid: Invalid| {
            let variable =
                variables(&invalid.field).into_iter().find(|name| get(name).is_some_and(|text| !text.is_empty()));
            ConfigError(match (variable, &document) {
                (Some(variable), _) => format!("{variable}: {invalid}"),
                (None, Some(document)) => document.locate(invalid).to_string(),
                (None, None) => format!("no --config and no /etc/mezite/mezite.yaml: {invalid}"),
            })
        };
        if !value.is_object() {
            return Err(located(Invalid::new("", "expected keys and values")));
        }
        overlay(&mut value, get)?;
        let config: Self = decode(&value).map_err(|invalid| located(advised(invalid)))?;
        config.validate().map_err(located)?;
        Ok(config)
    }
}

/// What to write in the place of a value that is wrong.
fn advised(Invalid { field, message }: Invalid) -> Invalid {
    let message = match message.as_str() {
        "is missing" => {
            let variable = variables(&field).pop().unwrap_or_default();
            format!("is missing; set it there or as {variable}")
        }
        "invalid socket address syntax" => "must be an IP address and a port, as 0.0.0.0:3080".to_owned(),
        _ => message,
    };
    Invalid { field, message }
}
