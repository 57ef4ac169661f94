//! Documents that people write, in YAML or JSON, with errors that name line and column.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use crate::decode::parse_json;
use crate::error::Invalid;

/// A document and where its parts stand.
#[derive(Debug)]
pub struct Document {
    /// The content.
    pub value: Value,
    name: String,
    text: String,
}

impl Document {
    /// Reads YAML, which JSON is a part of. `name` stands in errors, as `role.yaml:3:7: …`. Only `true` and `false` are
    /// booleans: `on` and `no` are words.
    ///
    /// # Errors
    /// With line and column.
    pub fn parse(name: &str, text: &str) -> Result<Self, Invalid> {
        // A tab is white space in JSON and an error in YAML.
        let value = match parse_json(text.as_bytes()) {
            Ok(value) => value,
            Err(error) if text.trim_start().starts_with('{') => {
                return Err(broken(name, Some((error.line() as u64, error.column() as u64)), &error.to_string()));
            }
            Err(_) => {
                let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
                serde_saphyr::from_str_with_options(text, options).map_err(|error| {
                    let place = error.location().map(|at| (at.line(), at.column()));
                    broken(name, place, &error.to_string())
                })?
            }
        };
        Ok(Self { value, name: name.to_owned(), text: text.to_owned() })
    }

    /// Adds line and column of the field that `invalid` names.
    pub fn locate(&self, invalid: Invalid) -> Invalid {
        let tree = serde_saphyr::from_str::<Tree>(&self.text).ok();
        let place = tree.and_then(|tree| tree.find(&invalid.field)).map(|at| format!(":{}:{}", at.line(), at.column()));
        Invalid::new("", format!("{}{}: {invalid}", self.name, place.unwrap_or_default()))
    }
}

/// A document that cannot be read: the place once, and none of the parser's advice to programmers.
fn broken(name: &str, place: Option<(u64, u64)>, said: &str) -> Invalid {
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let said = said.split_once(", set DuplicateKeyPolicy").map_or(said, |(said, _)| said);
    let place = place.map(|(line, column)| format!("{line}:{column}: ")).unwrap_or_default();
    Invalid::new("", format!("{name}:{place}{said}"))
}

/// The places of a document's keys and list entries.
enum Tree {
    Map(Vec<(Spanned<String>, Tree)>),
    List(Vec<Spanned<Tree>>),
    Leaf,
}

impl Tree {
    /// Place of the deepest part of `path` (`spec.allow.logins.[0]`) that exists. Keys may hold dots.
    fn find(&self, path: &str) -> Option<Location> {
        let deeper = |inner: &Self, rest: &str, at: Location| Some(inner.find(rest).unwrap_or(at));
        match self {
            Self::Map(entries) => entries.iter().find_map(|(key, inner)| {
                let rest = path.strip_prefix(key.value.as_str())?;
                let rest = if rest.is_empty() { rest } else { rest.strip_prefix('.')? };
                deeper(inner, rest, key.referenced)
            }),
            Self::List(entries) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let entry = entries.get(index.parse::<usize>().ok()?)?;
                deeper(&entry.value, rest.strip_prefix('.').unwrap_or(rest), entry.referenced)
            }
            Self::Leaf => None,
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

macro_rules! leaves {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: de::Error>(self, _: $type) -> Result<Tree, E> {
            Ok(Tree::Leaf)
        })*
    };
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    leaves!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element()? {
            entries.push(entry);
        }
        Ok(Tree::List(entries))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        IgnoredAny::deserialize(d).map(|_| Tree::Leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "kind: role\nmetadata:\n  name: dev\nspec:\n  allow:\n    node_labels:\n      a.b/c: x\n    logins:\n      - ok\n      - 'bad login'\n";

    #[test]
    fn a_field_has_a_place() {
        let document = Document::parse("role.yaml", ROLE).unwrap();
        let located = |field: &str| document.locate(Invalid::new(field, "m")).message;
        assert_eq!(located("metadata.name"), "role.yaml:3:3: metadata.name: m");
        assert_eq!(located("spec.allow.logins.[1]"), "role.yaml:10:9: spec.allow.logins.[1]: m");
        assert_eq!(located("spec.allow.node_labels.a.b/c"), "role.yaml:7:7: spec.allow.node_labels.a.b/c: m");
        assert_eq!(located("spec.options.x"), "role.yaml:4:1: spec.options.x: m");
        assert_eq!(located("version"), "role.yaml: version: m");
    }

    #[test]
    fn syntax_errors_have_a_place_too() {
        let failed = |text: &str| Document::parse("f", text).unwrap_err().to_string();
        assert_eq!(failed("a: 1\nb: [1\n"), "f:2:4: unclosed bracket '['");
        assert!(failed("{\"a\": 1,\n oops}").starts_with("f:2:2: "), "{}", failed("{\"a\": 1,\n oops}"));
        assert_eq!(failed("a: 1\na: 2\n"), "f:2:1: duplicate mapping key: a");
    }

    #[test]
    fn words_are_not_booleans() {
        assert_eq!(
            Document::parse("f", "a: on\nb: true\n").unwrap().value,
            serde_json::json!({ "a": "on", "b": true })
        );
        assert_eq!(Document::parse("f", "{\n\t\"a\": 1 }").unwrap().value, serde_json::json!({ "a": 1 }));
    }
}
