//! What the command lines of `msh` and `mezctl` share: values, output forms, generated pages.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, ColorChoice, Command, Parser, ValueEnum};
use mezite_core::text::Table;
use mezite_core::{Fault, Invalid, Labels, duration, labels};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::terminal::{ask_secret, first_line};

pub use clap_complete::Shell;

/// Form of lists and records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for people; what strangers chose is escaped
    #[default]
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Yaml => "yaml",
        })
    }
}

impl Format {
    /// The form for a record that has no table: text is YAML, which people read and write.
    #[must_use]
    pub const fn or_yaml(self) -> Self {
        match self {
            Self::Text => Self::Yaml,
            other => other,
        }
    }

    /// Prints `value`, as text by `table`.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> Table) -> Result<()> {
        self.print_text(value, |value| table(value).to_string())
    }

    /// Prints `value`, as text by `text`, which ends in a newline and has escaped what strangers chose.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print_text<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let odd = |error: &dyn fmt::Display| Error::Local(format!("cannot print the answer: {error}"));
        match self {
            Self::Text => print(&text(value)),
            Self::Json => print(&format!("{}\n", serde_json::to_string_pretty(value).map_err(|error| odd(&error))?)),
            Self::Yaml => print(&serde_saphyr::to_string(value).map_err(|error| odd(&error))?),
        }
    }
}

/// Writes to standard output.
///
/// # Errors
/// [`Error::Closed`] when the reader has gone, and when standard output cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Local(format!("cannot write the output: {error}")),
    })
}

/// A span on the command line: `12h`, `30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(pub Duration);

impl FromStr for Ttl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match duration::parse(text)? {
            Duration::ZERO => Err(Invalid::new("", "must be longer than nothing")),
            span => Ok(Self(span)),
        }
    }
}

/// `k=v` of `--filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(pub Labels);

impl FromStr for Filter {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let labels = labels::parse(text).map_err(|error| Invalid::new("", error.message))?;
        if labels.is_empty() { Err(Invalid::new("", "is not of the form key=value")) } else { Ok(Self(labels)) }
    }
}

/// Where a password comes from: the flag, one line of standard input, or the terminal, in this order.
///
/// # Errors
/// When there is no terminal to ask at, or the password is empty or longer than 4 KiB.
pub async fn password(flag: Option<String>, stdin: bool, prompt: &str) -> Result<Zeroizing<String>> {
    let password = match flag {
        Some(password) => Zeroizing::new(password),
        None if stdin => first_line(io::stdin().lock())
            .map_err(|error| Error::Local(format!("cannot read the password from standard input: {error}")))?,
        None => ask_secret(prompt).await?,
    };
    if password.is_empty() { Err(Invalid::new("password", "is empty").into()) } else { Ok(password) }
}

/// Where a code of a second factor comes from: the flag, the next line of standard input when that is no terminal or the
/// password came from it, or the terminal, in this order.
///
/// # Errors
/// When there is no terminal to ask at, or no code is given.
pub async fn code(flag: Option<String>, stdin: bool, prompt: &str) -> Result<Zeroizing<String>> {
    let code = match flag {
        Some(code) => Zeroizing::new(code),
        None if stdin || !io::stdin().is_terminal() => first_line(io::stdin().lock())
            .map_err(|error| Error::Local(format!("cannot read the code from standard input: {error}")))?,
        None => ask_secret(prompt).await?,
    };
    if code.trim().is_empty() { Err(Fault::MfaNeeded("no code was given".into()).into()) } else { Ok(code) }
}

/// A new password, asked for twice at a terminal.
///
/// # Errors
/// As for [`password`], and when the two differ.
pub async fn new_password(stdin: bool) -> Result<Zeroizing<String>> {
    let first = password(None, stdin, "New password: ").await?;
    if !stdin && password(None, false, "Again: ").await? != first {
        return Err(Invalid::new("password", "was typed in two different ways").into());
    }
    Ok(first)
}

/// Parses a command line. An empty environment variable counts as none, and the usage line of an error asks for nothing
/// that the environment gave.
///
/// # Errors
/// What clap says of the line.
pub fn parse<T: Parser>(line: impl IntoIterator<Item = OsString>) -> Result<T, clap::Error> {
    let line: Vec<OsString> = line.into_iter().collect();
    let without = |is_meant: fn(&OsStr) -> bool| {
        let strip = |arg: Arg| if arg.get_env().is_some_and(is_meant) { arg.env(Resettable::Reset) } else { arg };
        T::command().mut_args(strip)
    };
    let mut command = without(|name| std::env::var_os(name).is_none_or(|value| value.is_empty()));
    let parsed = command.try_get_matches_from_mut(&line).and_then(|mut found| T::from_arg_matches_mut(&mut found));
    parsed.map_err(|error| without(|_| true).try_get_matches_from(&line).err().unwrap_or(error).format(&mut command))
}

/// Prints the completion script of `shell`.
///
/// # Errors
/// When standard output cannot be written.
pub fn completion(shell: Shell, mut command: Command) -> Result<()> {
    let (mut script, name) = (Vec::new(), command.get_name().to_owned());
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the manual page: the help of the program, and of each command below it.
///
/// # Errors
/// When standard output cannot be written.
pub fn man(command: Command) -> Result<()> {
    let mut page = Vec::new();
    let command = built(command);
    let man = clap_mangen::Man::new(command.clone());
    let head = [
        clap_mangen::Man::render_title,
        clap_mangen::Man::render_name_section,
        clap_mangen::Man::render_synopsis_section,
    ];
    head.iter()
        .try_for_each(|section| section(&man, &mut page))
        .map_err(|error| Error::Local(format!("cannot write the manual page: {error}")))?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page.push_str(".SH COMMANDS\n");
    for (name, help) in helps(command) {
        // A line that begins with a dot or a quote is a request, a backslash an escape (groff_man(7)).
        page.push_str(&format!(".SS {name}\n.nf\n"));
        help.lines().for_each(|line| page.push_str(&format!("\\&{}\n", line.replace('\\', "\\e"))));
        page.push_str(".fi\n");
    }
    print(&page)
}

/// The reference page in Markdown: the help of the program and of every command below it.
pub fn reference(command: Command) -> String {
    let mut page = format!("# {}\n\nGenerated from the program; do not edit.\n", command.get_name());
    for (name, help) in helps(built(command)) {
        page.push_str(&format!("\n## {name}\n\n```text\n{help}\n```\n"));
    }
    page
}

fn built(command: Command) -> Command {
    let mut command = command.color(ColorChoice::Never).term_width(100);
    command.build();
    command
}

/// Name and help of a command and of those below it. Global options are described once, at the top.
fn helps(mut command: Command) -> Vec<(String, String)> {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned();
    let inner = command.get_subcommands().filter(|inner| !inner.is_hide_set());
    let inner = inner
        .flat_map(|inner| helps(inner.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg })));
    [(name, help)].into_iter().chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_an_error_asks_for_nothing_the_environment_gave() {
        #[derive(Debug, Parser)]
        #[command(name = "x")]
        struct Line {
            /// A variable that is set for every test.
            #[arg(long, env = "CARGO_MANIFEST_DIR")]
            dir: Option<String>,
            what: String,
        }
        let line = |words: &[&str]| words.iter().map(|word| OsString::from(*word)).collect::<Vec<_>>();
        let parsed: Line = parse(line(&["x", "y"])).unwrap();
        assert_eq!((parsed.dir.as_deref(), parsed.what.as_str()), (Some(env!("CARGO_MANIFEST_DIR")), "y"));
        let usage = parse::<Line>(line(&["x"])).unwrap_err().to_string();
        assert!(usage.contains("Usage: x <WHAT>"), "{usage}");
    }

    #[test]
    fn spans_and_filters() {
        assert_eq!("12h".parse::<Ttl>().unwrap().0, Duration::from_secs(43_200));
        assert!("0s".parse::<Ttl>().is_err() && "x".parse::<Ttl>().is_err());
        assert_eq!("env=prod".parse::<Filter>().unwrap().0.len(), 1);
        assert!("env".parse::<Filter>().is_err() && "".parse::<Filter>().is_err());
    }
}
