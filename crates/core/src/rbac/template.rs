//! Template variables in roles: `{{user.name}}`, `{{internal.logins}}`, `{{external.TRAIT}}`, with text around one variable.

use crate::decode::nearest;
use crate::error::Invalid;
use crate::kind::user::Traits;
use crate::labels::MAX_VALUE;
use crate::name;

/// What the variables stand for.
#[derive(Clone, Copy, Debug)]
pub struct Variables<'a> {
    /// Value of `{{user.name}}`.
    pub user: &'a str,
    /// Values of `{{external.TRAIT}}`; the trait `logins` is also `{{internal.logins}}`.
    pub traits: &'a Traits,
}

/// A text that may hold one variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template<'a> {
    /// Plain text.
    Literal(&'a str),
    /// Text with one variable inside.
    Variable {
        /// Text before it.
        before: &'a str,
        /// The variable.
        variable: Variable<'a>,
        /// Text after it.
        after: &'a str,
    },
}

/// A variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable<'a> {
    /// `{{user.name}}`
    UserName,
    /// `{{internal.logins}}`
    Logins,
    /// `{{external.TRAIT}}`
    External(&'a str),
}

impl<'a> Template<'a> {
    /// Reads `text`.
    ///
    /// # Errors
    /// [`Invalid`] for an unknown variable, a second one, an unclosed brace, or more than [`MAX_VALUE`] bytes.
    pub fn parse(text: &'a str) -> Result<Self, Invalid> {
        let invalid = |message: String| Err(Invalid::new("", message));
        if text.len() > MAX_VALUE {
            return invalid(format!("is longer than {MAX_VALUE} bytes"));
        }
        let Some((before, rest)) = text.split_once("{{") else {
            return if text.contains("}}") { invalid("has }} without {{".into()) } else { Ok(Self::Literal(text)) };
        };
        let Some((inside, after)) = rest.split_once("}}") else { return invalid("has {{ without }}".into()) };
        if [before, inside, after].iter().any(|part| part.contains("{{") || part.contains("}}")) {
            return invalid("may hold one variable only".into());
        }
        let variable = match inside.trim() {
            "user.name" => Variable::UserName,
            "internal.logins" => Variable::Logins,
            other => match other.strip_prefix("external.") {
                Some(key) if name::trait_name(key).is_ok() => Variable::External(key),
                _ => {
                    let hint = match nearest(other, ["user.name", "internal.logins"]) {
                        Some(near) => format!("did you mean {near}?"),
                        None => "known: user.name, internal.logins, external.TRAIT".to_owned(),
                    };
                    return invalid(format!("unknown variable {other:?}; {hint}"));
                }
            },
        };
        Ok(Self::Variable { before, variable, after })
    }

    /// The texts this stands for. An absent or empty trait, and an empty value, give nothing. Values are literal: they are
    /// never read as templates, patterns or wildcards.
    pub fn expand(&self, variables: Variables<'_>) -> Vec<String> {
        let (before, variable, after) = match *self {
            Self::Literal(text) => return vec![text.to_owned()],
            Self::Variable { before, variable, after } => (before, variable, after),
        };
        let values = match variable {
            Variable::UserName => vec![variables.user.to_owned()],
            Variable::Logins => variables.traits.get("logins").cloned().unwrap_or_default(),
            Variable::External(key) => variables.traits.get(key).cloned().unwrap_or_default(),
        };
        values.iter().filter(|value| !value.is_empty()).map(|value| format!("{before}{value}{after}")).collect()
    }
}
