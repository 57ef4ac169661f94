//! The predicate language of `require_session_join`: who among the people that join counts.
//!
//! ```text
//! expression = and *( "||" and )
//! and        = not *( "&&" not )
//! not        = *"!" ( "(" expression ")" / "contains" "(" list "," text ")" / "equals" "(" text "," text ")" )
//! list       = "user.roles" / "user.traits." NAME / "user.traits[" string "]"
//! text       = "user.name" / string
//! ```
//!
//! Strings stand in double quotes, with `\"` and `\\`. Everything is checked when it is written; what can still fail is a trait
//! that the user does not have. Then neither the term nor its negation holds, wherever it stands ([`Predicate::matches`]), so the
//! order of terms never matters.

use std::fmt;

use crate::decode::nearest;
use crate::error::Invalid;
use crate::kind::user::Traits;
use crate::text::is_unsafe;

/// Longest expression, in bytes.
pub const MAX_LENGTH: usize = 1024;
/// Deepest nesting of parentheses and negations.
pub const MAX_DEPTH: usize = 16;
/// Most calls of `contains` and `equals`.
pub const MAX_TERMS: usize = 64;

const FUNCTIONS: [&str; 2] = ["contains", "equals"];
const VARIABLES: [&str; 3] = ["user.name", "user.roles", "user.traits"];

/// A checked expression. Its text is what was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Predicate {
    text: String,
    root: Node,
}

/// What an expression is evaluated over.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// `user.name`
    pub name: &'a str,
    /// `user.roles`
    pub roles: &'a [String],
    /// `user.traits`
    pub traits: &'a Traits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Contains(List, Text),
    Equals(Text, Text),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum List {
    Roles,
    Trait(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    Literal(String),
    UserName,
}

impl Predicate {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`Invalid`] with line and column, and the nearest valid name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_LENGTH {
            return Err(Invalid::new("", format!("is longer than {MAX_LENGTH} bytes")));
        }
        let mut parser = Parser { text, at: 0, terms: 0 };
        if let Some(at) = text.find(|c| is_unsafe(c) && c != '\n') {
            parser.at = at;
            return Err(parser.error("is a character without a picture"));
        }
        let root = parser.any(0)?;
        match parser.peek() {
            None => Ok(Self { text: text.trim().to_owned(), root }),
            Some(_) => Err(parser.error("is not understood; combine terms with && or ||")),
        }
    }

    /// Whether the expression holds. A term over a trait that the user does not have is neither true nor false, and what
    /// depends on it does not hold. Takes time in the size of the expression times that of the user's lists.
    pub fn matches(&self, subject: Subject<'_>) -> bool {
        self.root.value(subject) == Some(true)
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Predicate({:?})", self.text)
    }
}

impl Node {
    /// Kleene's logic: `None` is unknown.
    fn value(&self, subject: Subject<'_>) -> Option<bool> {
        match self {
            Self::Any(nodes) => combine(nodes, subject, true),
            Self::All(nodes) => combine(nodes, subject, false),
            Self::Not(node) => node.value(subject).map(|value| !value),
            Self::Contains(list, text) => {
                let wanted = text.value(subject);
                let list = match list {
                    List::Roles => subject.roles,
                    List::Trait(name) => subject.traits.get(name)?,
                };
                Some(list.iter().any(|item| item == wanted))
            }
            Self::Equals(one, other) => Some(one.value(subject) == other.value(subject)),
        }
    }
}

/// `decisive` as soon as one node says so, unknown when one is unknown, else the opposite.
fn combine(nodes: &[Node], subject: Subject<'_>, decisive: bool) -> Option<bool> {
    let mut unknown = false;
    for node in nodes {
        match node.value(subject) {
            Some(value) if value == decisive => return Some(decisive),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(!decisive)
}

impl Text {
    fn value<'a>(&'a self, subject: Subject<'a>) -> &'a str {
        match self {
            Self::Literal(text) => text,
            Self::UserName => subject.name,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self, depth: usize) -> Result<Node, Invalid> {
        let mut nodes = vec![self.all(depth)?];
        while self.take("||") {
            nodes.push(self.all(depth)?);
        }
        Ok(single(nodes, Node::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Node, Invalid> {
        let mut nodes = vec![self.not(depth)?];
        while self.take("&&") {
            nodes.push(self.not(depth)?);
        }
        Ok(single(nodes, Node::All))
    }

    fn not(&mut self, depth: usize) -> Result<Node, Invalid> {
        if depth >= MAX_DEPTH {
            return Err(self.error(format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        if self.take("!") {
            return Ok(Node::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.any(depth + 1)?;
            self.expect(")")?;
            return Ok(inner);
        }
        self.call()
    }

    fn call(&mut self) -> Result<Node, Invalid> {
        self.skip();
        let begin = self.at;
        let function = self.word();
        if !FUNCTIONS.contains(&function) {
            self.at = begin;
            return Err(self.unknown(function, "a function", &FUNCTIONS));
        }
        self.terms += 1;
        if self.terms > MAX_TERMS {
            self.at = begin;
            return Err(self.error(format!("has more than {MAX_TERMS} terms")));
        }
        self.expect("(")?;
        let is_contains = function == "contains";
        let list = if is_contains { Some(self.list()?) } else { None };
        let first = if is_contains { None } else { Some(self.value()?) };
        self.expect(",")?;
        let last = self.value()?;
        self.expect(")")?;
        Ok(match (list, first) {
            (Some(list), _) => Node::Contains(list, last),
            (None, Some(first)) => Node::Equals(first, last),
            (None, None) => return Err(self.error("is not understood")),
        })
    }

    fn list(&mut self) -> Result<List, Invalid> {
        self.skip();
        let begin = self.at;
        let word = self.word();
        if word == "user.roles" {
            return Ok(List::Roles);
        }
        if word == "user.traits" && self.take("[") {
            let name = self.string()?;
            self.expect("]")?;
            return Ok(List::Trait(name));
        }
        if let Some(name) = word.strip_prefix("user.traits.").filter(|name| !name.is_empty()) {
            return Ok(List::Trait(name.to_owned()));
        }
        self.at = begin;
        Err(match word {
            "user.traits" => self.error("needs the name of a trait: user.traits.NAME or user.traits[\"NAME\"]"),
            "user.name" => self.error("is one text, and contains takes a list: use equals(user.name, \"…\")"),
            _ => self.unknown(word, "a list", &VARIABLES),
        })
    }

    fn value(&mut self) -> Result<Text, Invalid> {
        if self.peek() == Some('"') {
            return self.string().map(Text::Literal);
        }
        let begin = self.at;
        let word = self.word();
        if word == "user.name" {
            return Ok(Text::UserName);
        }
        self.at = begin;
        if word == "user.roles" || word.starts_with("user.traits") {
            return Err(self.error("is a list where one text is needed: use contains(LIST, \"…\")"));
        }
        Err(self.unknown(word, "a text in double quotes or user.name", &VARIABLES))
    }

    fn string(&mut self) -> Result<String, Invalid> {
        self.skip();
        let begin = self.at;
        self.expect("\"")?;
        let mut value = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => {
                        self.at += i;
                        return Err(self.error("is no escape; known: \\\" and \\\\"));
                    }
                },
                other => value.push(other),
            }
        }
        self.at = begin;
        Err(self.error("begins a text without an end"))
    }

    /// Letters, digits, `_`, `-` and dots; may be empty.
    fn word(&mut self) -> &'a str {
        self.skip();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.skip();
        self.rest().chars().next()
    }

    fn take(&mut self, sign: &str) -> bool {
        self.skip();
        let is_there = self.rest().starts_with(sign);
        if is_there {
            self.at += sign.len();
        }
        is_there
    }

    fn expect(&mut self, sign: &str) -> Result<(), Invalid> {
        if self.take(sign) { Ok(()) } else { Err(self.error(format!("stands where {sign} is needed"))) }
    }

    fn unknown(&self, word: &str, wanted: &str, known: &[&str]) -> Invalid {
        let list = known.join(", ");
        // The name of a trait is the user's own: only what stands before it can be a slip.
        match nearest(word, known.iter().copied()) {
            Some(near) => self.error(format!("is not known; did you mean {near}?")),
            None => self.error(format!("stands where {wanted} is needed; known: {list}")),
        }
    }

    /// An error about what stands at the present place.
    fn error(&self, message: impl fmt::Display) -> Invalid {
        let before = self.text.get(..self.at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))).unwrap_or(rest.len());
        let shown: String = match rest.get(..end).unwrap_or_default() {
            "" => rest.chars().take(1).collect(),
            word => word.chars().take(32).collect(),
        };
        let what = if shown.is_empty() { "the end".to_owned() } else { format!("{shown:?}") };
        Invalid::new("", format!("line {line}, column {column}: {what} {message}"))
    }
}

fn single(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => only,
        last => {
            nodes.extend(last);
            many(nodes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str) -> bool {
        let traits =
            Traits::from([("team".into(), vec!["ops".into(), "sre".into()]), ("a b".into(), vec!["x".into()])]);
        let roles = ["auditor".to_owned(), "dev".to_owned()];
        let subject = Subject { name: "bob", roles: &roles, traits: &traits };
        Predicate::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).matches(subject)
    }

    #[test]
    fn terms_and_their_combinations() {
        for (text, wanted) in [
            (r#"contains(user.roles, "auditor")"#, true),
            (r#"contains(user.roles,"admin")"#, false),
            (r#"equals(user.name, "bob") && contains(user.traits.team, "sre")"#, true),
            (r#"contains(user.traits["a b"], "x")"#, true),
            (r#"!contains(user.roles, "admin")"#, true),
            (r#"contains(user.roles, user.name)"#, false),
            ("equals(\"bob\",\n user.name)", true),
            // && binds tighter than ||.
            (r#"equals("a","a") || equals("a","b") && equals("a","b")"#, true),
            (r#"(equals("a","a") || equals("a","b")) && equals("a","b")"#, false),
            (r#"!!equals("\"\\", "\"\\")"#, true),
        ] {
            assert_eq!(holds(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_trait_that_is_missing_neither_holds_nor_does_its_negation() {
        let missing = r#"contains(user.traits.nothing, "x")"#;
        for text in [missing.to_owned(), format!("!{missing}"), format!("{missing} || !{missing}")] {
            assert!(!holds(&text), "{text}");
        }
        let (yes, no) = (r#"equals("a","a")"#, r#"equals("a","b")"#);
        for (text, wanted) in [
            (format!("{missing} || {yes}"), true),
            (format!("{yes} || {missing}"), true),
            (format!("!({missing} && {no})"), true),
            (format!("{yes} && {missing}"), false),
        ] {
            assert_eq!(holds(&text), wanted, "{text}");
        }
    }

    #[test]
    fn errors_say_where_and_what_was_meant() {
        for (text, wanted) in [
            (r#"contain(user.roles, "x")"#, "line 1, column 1: \"contain\" is not known; did you mean contains?"),
            (r#"contains(user.role, "x")"#, "line 1, column 10: \"user.role\" is not known; did you mean user.roles?"),
            ("equals(user.name, \"a\") &&\n  equal(user.name, \"b\")", "line 2, column 3: \"equal\" is not known"),
            (r#"contains(user.roles, auditor)"#, "column 22: \"auditor\" stands where a text in double quotes"),
            (r#"contains(user.name, "x")"#, "use equals(user.name"),
            (r#"equals(user.roles, "x")"#, "use contains"),
            (r#"contains(user.traits, "x")"#, "needs the name of a trait"),
            (r#"contains(user.roles, "x"#, "begins a text without an end"),
            (r#"contains(user.roles, "\n")"#, "is no escape"),
            (r#"contains(user.roles, "x") equals("a","a")"#, "combine terms with && or ||"),
            ("equals(\"a\", \"\u{202e}\")", "column 14: \"\\u{202e}\" is a character without a picture"),
            (r#"contains(user.roles "x")"#, "\"\\\"\" stands where , is needed"),
            ("", "the end stands where a function is needed; known: contains, equals"),
            ("(equals(\"a\",\"a\")", "the end stands where ) is needed"),
        ] {
            let error = Predicate::parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn length_depth_and_terms_are_bounded() {
        let term = r#"equals("","")"#;
        let nested = |n: usize| format!("{}{term}{}", "(".repeat(n), ")".repeat(n));
        assert!(Predicate::parse(&nested(MAX_DEPTH - 1)).is_ok());
        let refused = [
            nested(MAX_DEPTH),
            format!("{}{term}", "!".repeat(MAX_DEPTH)),
            [term; MAX_TERMS + 1].join("||"),
            " ".repeat(MAX_LENGTH + 1),
        ];
        for text in refused {
            assert!(Predicate::parse(&text).is_err(), "{text}");
        }
        assert!(Predicate::parse(&[term; MAX_TERMS].join("||")).is_ok());
    }
}
