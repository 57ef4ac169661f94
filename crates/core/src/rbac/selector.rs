//! Label selectors of roles (F432..F436): `env: production`, `env: [staging, qa]`, `env: "*"`, `host: ^web-.*$`,
//! `"*": "*"`. Several keys must all match.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::template::{Template, Variables};
use crate::error::Invalid;
use crate::labels::{self, Labels, MAX_LABELS};

/// Keys with what their value may be. Empty: matches nothing.
pub type Selector = BTreeMap<String, Values>;

/// Most alternatives for one key.
const MAX_VALUES: usize = 64;
/// Longest regular expression, in bytes.
const MAX_REGEX: usize = 256;
/// Most memory of one compiled expression, in bytes.
const REGEX_SIZE: usize = 1 << 20;
/// Most compiled expressions kept.
const MAX_KEPT: usize = 128;
/// Expressions that were compiled before, by their text. A role is made ready for each decision anew, and compiling its
/// expressions would take almost all the time of one.
static COMPILED: Mutex<BTreeMap<String, Arc<Regex>>> = Mutex::new(BTreeMap::new());
/// Deepest nesting of one expression.
const REGEX_NESTING: u32 = 16;

/// Alternatives for one key; written as a text when there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(pub Vec<String>);

impl From<&str> for Values {
    fn from(value: &str) -> Self {
        Self(vec![value.to_owned()])
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => s.serialize_str(one),
            many => many.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts (put quotes around numbers and true or false)")
            }

            fn visit_str<E>(self, text: &str) -> Result<Values, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Values, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(Values(values))
            }
        }
        d.deserialize_any(Texts)
    }
}

/// Checks a selector before it is written.
///
/// # Errors
/// [`Invalid`] naming the key.
pub fn validate(selector: &Selector) -> Result<(), Invalid> {
    if selector.len() > MAX_LABELS {
        return Err(Invalid::new("", format!("has more than {MAX_LABELS} keys")));
    }
    selector.iter().try_for_each(|(key, values)| {
        if key != ANY {
            labels::validate_key(key).map_err(|e| Invalid::new("", e.message))?;
        }
        if values.0.is_empty() || values.0.len() > MAX_VALUES {
            return Err(Invalid::new(key, format!("needs 1 to {MAX_VALUES} values")));
        }
        parse(key, values).map(drop).map_err(|e| e.within(key))
    })
}

const ANY: &str = "*";

/// A selector made ready for many nodes, with the variables of one user filled in.
#[derive(Debug)]
pub struct Matcher<'a>(Vec<(&'a str, Vec<Alternative>)>);

#[derive(Debug)]
enum Alternative {
    Anything,
    Exactly(String),
    Pattern(Arc<Regex>),
}

enum Parsed<'a> {
    Anything,
    Text(Template<'a>),
    Pattern(Arc<Regex>),
}

impl<'a> Matcher<'a> {
    /// Prepares `selector`.
    ///
    /// # Errors
    /// [`Invalid`] when any part of it cannot be evaluated; then no part may be used.
    pub fn new(selector: &'a Selector, variables: Variables<'_>) -> Result<Self, Invalid> {
        let mut keys = Vec::with_capacity(selector.len());
        for (key, values) in selector {
            let mut alternatives = Vec::new();
            for parsed in parse(key, values).map_err(|e| e.within(key))? {
                match parsed {
                    Parsed::Anything => alternatives.push(Alternative::Anything),
                    Parsed::Pattern(regex) => alternatives.push(Alternative::Pattern(regex)),
                    Parsed::Text(text) => {
                        alternatives.extend(text.expand(variables).into_iter().map(Alternative::Exactly));
                    }
                }
            }
            keys.push((key.as_str(), alternatives));
        }
        Ok(Self(keys))
    }

    /// Whether every key of the selector accepts `labels`. An empty selector accepts nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.0.is_empty()
            && self.0.iter().all(|(key, alternatives)| {
                *key == ANY || labels.get(*key).is_some_and(|value| alternatives.iter().any(|a| a.accepts(value)))
            })
    }
}

impl Alternative {
    fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Exactly(text) => text == value,
            Self::Pattern(regex) => regex.is_match(value),
        }
    }
}

fn parse<'a>(key: &str, values: &'a Values) -> Result<Vec<Parsed<'a>>, Invalid> {
    if key == ANY && values.0.iter().any(|value| value != ANY) {
        return Err(Invalid::new("", "the key * takes the value * only"));
    }
    values.0.iter().map(|value| parse_value(value)).collect()
}

fn parse_value(value: &str) -> Result<Parsed<'_>, Invalid> {
    if value == ANY {
        return Ok(Parsed::Anything);
    }
    if value.starts_with('^') || value.ends_with('$') {
        return pattern(value).map(Parsed::Pattern);
    }
    let text = Template::parse(value)?;
    if let Template::Literal(text) = text {
        labels::validate_value(text)?;
    }
    Ok(Parsed::Text(text))
}

/// Compiles `^…$`. The inner expression is compiled alone first, so that unbalanced parentheses cannot reach out of the
/// anchors, and alternatives inside it stay inside them.
fn pattern(value: &str) -> Result<Arc<Regex>, Invalid> {
    let kept = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().get(value) {
        return Ok(Arc::clone(known));
    }
    let invalid = |message: String| Invalid::new("", message);
    let inner = value
        .strip_prefix('^')
        .and_then(|rest| rest.strip_suffix('$'))
        .filter(|_| value.len() <= MAX_REGEX)
        .ok_or_else(|| invalid(format!("a regular expression is ^…$ of at most {MAX_REGEX} bytes")))?;
    if inner.contains("{{") {
        return Err(invalid("a regular expression may not hold a variable".into()));
    }
    let compile = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(REGEX_SIZE)
            .dfa_size_limit(REGEX_SIZE)
            .nest_limit(REGEX_NESTING)
            .build()
            .map_err(|e| {
                let reason = e.to_string();
                invalid(format!("is not a regular expression: {}", reason.lines().last().unwrap_or_default().trim()))
            })
    };
    compile(inner)?;
    let compiled = Arc::new(compile(&format!(r"\A(?:{inner})\z"))?);
    let mut kept = kept();
    // More than these are in use by nobody, or by very many roles: then each is compiled when it is needed.
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(value.to_owned(), Arc::clone(&compiled));
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_compiled_once_and_few_are_kept() {
        let first = pattern("^web-[0-9]+$").unwrap();
        assert!(Arc::ptr_eq(&first, &pattern("^web-[0-9]+$").unwrap()));
        assert!(first.is_match("web-1") && !first.is_match("web-1x"));
        for i in 0..=MAX_KEPT {
            pattern(&format!("^a{i}$")).unwrap();
        }
        assert!(COMPILED.lock().unwrap().len() <= MAX_KEPT);
        assert!(pattern("^($").is_err() && pattern("^($").is_err());
    }
}
