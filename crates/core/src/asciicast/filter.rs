//! What a recording may do to the terminal of whoever plays it.
//!
//! Recorded output is chosen by the person who was recorded. Text, colours, cursor movement, erasing and the alternate screen
//! pass; everything that asks the terminal to answer, to change its title, clipboard, keyboard, mouse or window is
//! dropped, and so is every control string (OSC, DCS, SOS, PM, APC; ECMA-48).

use crate::text::is_unsafe;

/// Longest parameters of one sequence, in bytes.
const MAX_PARAMETERS: usize = 64;
/// Largest number in a sequence: terminals take seconds over a huge repeat count.
const MAX_NUMBER: u32 = 9999;
/// Private modes that pass: origin, wrap, cursor, and the alternate screen.
const MODES: [&str; 7] = ["6", "7", "25", "47", "1047", "1048", "1049"];

/// Filters output piece by piece; a sequence may be split between pieces.
#[derive(Debug, Default)]
pub struct Filter {
    state: State,
    alternate: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// After `ESC (` and its like: the next character names a character set.
    Charset(char),
    /// Inside an escape sequence that is dropped.
    Skip,
    /// After `ESC [`; `None` once the parameters are too long.
    Csi(Option<String>),
    /// Inside a control string.
    Text,
    /// Inside a control string, after ESC.
    TextEscape,
}

impl Filter {
    /// A filter at the start of a recording.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the harmless part of `text` to `to`.
    pub fn push(&mut self, text: &str, to: &mut String) {
        for c in text.chars() {
            self.state = self.step(c, to);
        }
    }

    /// What to send after the last piece, so that the terminal is left as it was found: colours, wrap, cursor, scroll region,
    /// character set and screen.
    pub const fn restore(&self) -> &'static str {
        if self.alternate {
            "\u{1b}[0m\u{1b}[4l\u{1b}[?6l\u{1b}[?7h\u{1b}[?25h\u{1b}(B\u{f}\u{1b}[r\u{1b}[?1049l"
        } else {
            "\u{1b}[0m\u{1b}[4l\u{1b}7\u{1b}[?6l\u{1b}[r\u{1b}8\u{1b}[?7h\u{1b}[?25h\u{1b}(B\u{f}"
        }
    }

    fn step(&mut self, c: char, to: &mut String) -> State {
        if matches!(c, '\u{18}' | '\u{1a}') {
            return State::Ground;
        }
        match std::mem::take(&mut self.state) {
            State::Text if c == '\u{1b}' => State::TextEscape,
            State::Text if matches!(c, '\u{7}' | '\u{9c}') => State::Ground,
            State::Text => State::Text,
            State::TextEscape if c == '\\' => State::Ground,
            _ if c == '\u{1b}' => State::Escape,
            State::TextEscape | State::Escape => escape(c, to),
            State::Charset(set) => {
                if matches!(c, '0' | 'A' | 'B') {
                    to.extend(['\u{1b}', set, c]);
                }
                State::Ground
            }
            State::Skip if matches!(c, ' '..='/') => State::Skip,
            State::Skip => State::Ground,
            State::Csi(parameters) => self.csi(parameters, c, to),
            State::Ground => ground(c, to),
        }
    }

    fn csi(&mut self, parameters: Option<String>, c: char, to: &mut String) -> State {
        match c {
            ' '..='?' => {
                State::Csi(parameters.filter(|p| p.len() < MAX_PARAMETERS).map(|p| p + c.encode_utf8(&mut [0; 4])))
            }
            '@'..='~' => {
                if let Some(kept) = parameters.and_then(|parameters| harmless(&parameters, c)) {
                    if kept.starts_with('?')
                        && kept.split(['?', ';']).any(|mode| matches!(mode, "47" | "1047" | "1049"))
                    {
                        self.alternate = c == 'h';
                    }
                    to.push_str("\u{1b}[");
                    to.push_str(&kept);
                    to.push(c);
                }
                State::Ground
            }
            _ => State::Ground,
        }
    }
}

fn ground(c: char, to: &mut String) -> State {
    match c {
        '\u{9b}' => return State::Csi(Some(String::new())),
        '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => return State::Text,
        '\u{8}'..='\u{f}' => to.push(c),
        _ if is_unsafe(c) => {}
        _ => to.push(c),
    }
    State::Ground
}

fn escape(c: char, to: &mut String) -> State {
    match c {
        '[' => State::Csi(Some(String::new())),
        ']' | 'P' | 'X' | '^' | '_' => State::Text,
        '(' | ')' => State::Charset(c),
        ' '..='/' => State::Skip,
        '7' | '8' | 'D' | 'E' | 'H' | 'M' => {
            to.extend(['\u{1b}', c]);
            State::Ground
        }
        _ => State::Ground,
    }
}

/// The parameters to pass on with the final character `last`, or `None` to drop the sequence.
fn harmless(parameters: &str, last: char) -> Option<String> {
    let numbers = |separators: &[char]| {
        let fits = |n: &str| n.is_empty() || (n.len() <= 5 && n.parse::<u32>().is_ok_and(|n| n <= MAX_NUMBER));
        parameters.split(separators).all(fits)
    };
    let pass = match last {
        'm' => numbers(&[';', ':']),
        'J' => numbers(&[';']) && parameters != "3",
        'T' => numbers(&[]),
        's' | 'u' => parameters.is_empty(),
        '@'..='I' | 'K'..='M' | 'P' | 'S' | 'X' | 'Z' | '`'..='b' | 'd'..='f' | 'r' => numbers(&[';']),
        'h' | 'l' if parameters == "4" => true,
        'h' | 'l' => {
            let modes: Vec<&str> = parameters.strip_prefix('?')?.split(';').filter(|m| MODES.contains(m)).collect();
            return (!modes.is_empty()).then(|| format!("?{}", modes.join(";")));
        }
        _ => false,
    };
    pass.then(|| parameters.to_owned())
}
