//! What a terminal shows now, for those who join late.
//!
//! While nobody watches, only the last piece of output is kept; the screen is drawn from it when somebody needs it. A program that
//! drew its screen long ago and changed little since is shown in part, until it draws again.

use std::num::NonZeroU16;

/// Bytes of output that a screen is drawn from.
const TAIL: usize = 32 * 1024;
/// The largest screen that is drawn; larger ones are cut.
const MOST_CELLS: u16 = 500;
/// What a terminal without a size is taken for: 24 rows of 80 columns.
const USUAL_ROWS: NonZeroU16 = NonZeroU16::MIN.saturating_add(23);
const USUAL_COLUMNS: NonZeroU16 = NonZeroU16::MIN.saturating_add(79);

/// The end of a terminal's output, and the terminal's size.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    tail: Vec<u8>,
    /// Whether output before the tail is gone.
    cut: bool,
    columns: u16,
    rows: u16,
}

impl Screen {
    /// An empty one.
    pub(super) fn new(columns: u16, rows: u16) -> Self {
        Self { tail: Vec::new(), cut: false, columns, rows }
    }

    pub(super) fn resize(&mut self, columns: u16, rows: u16) {
        (self.columns, self.rows) = (columns, rows);
    }

    /// Output went to the terminal.
    pub(super) fn push(&mut self, data: &[u8]) {
        let last = data.len().saturating_sub(TAIL);
        self.cut |= last > 0;
        self.tail.extend_from_slice(data.get(last..).unwrap_or_default());
        // Moved seldom, so that a byte is not moved for every byte.
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
            self.cut = true;
        }
    }

    /// What brings another terminal to the same picture.
    pub(super) fn draw(&self) -> Vec<u8> {
        let cells = |n: u16, usual: NonZeroU16| NonZeroU16::new(n.min(MOST_CELLS)).unwrap_or(usual);
        let (rows, columns) = (cells(self.rows, USUAL_ROWS), cells(self.columns, USUAL_COLUMNS));
        let mut terminal = vt100::Parser::new(rows, columns, 0);
        terminal.process(self.whole_lines());
        let screen = terminal.screen();
        let mut drawn = if screen.alternate_screen() { b"\x1b[?1049h".to_vec() } else { Vec::new() };
        drawn.extend_from_slice(screen.contents_formatted().as_bytes());
        drawn
    }

    /// The tail without what is left of a line, or of a sequence, whose beginning is gone.
    fn whole_lines(&self) -> &[u8] {
        let begin = self.tail.iter().position(|&byte| byte == b'\n').filter(|_| self.cut);
        begin.and_then(|begin| self.tail.get(begin + 1..)).unwrap_or(&self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(screen: &Screen) -> String {
        let mut terminal = vt100::Parser::new(USUAL_ROWS, USUAL_COLUMNS, 0);
        terminal.process(b"something of the watcher's own\r\n");
        terminal.process(&screen.draw());
        terminal.screen().contents()
    }

    #[test]
    fn a_late_watcher_sees_what_the_terminal_shows() {
        let mut screen = Screen::new(80, 24);
        screen.push(b"first\r\nsecond\x1b[1;1Hover");
        assert_eq!(shown(&screen), "overt\nsecond");
        screen.push(b"\x1b[2J\x1b[Hcleared");
        assert_eq!(shown(&screen), "cleared");
    }

    #[test]
    fn what_is_kept_is_bounded_and_begins_with_a_whole_line() {
        let mut screen = Screen::new(80, 24);
        for n in 0..20_000 {
            screen.push(format!("\x1b[31mline {n}\x1b[0m\r\n").as_bytes());
        }
        assert!(screen.tail.len() <= 2 * TAIL, "{}", screen.tail.len());
        screen.push(&[b'x'; 3 * TAIL]);
        assert!(screen.tail.len() <= 2 * TAIL);
        screen.push(b"\r\nthe end");
        assert!(shown(&screen).ends_with("the end"));
        let mut idle = Screen::new(80, 24);
        idle.push(b"$ ");
        assert!(idle.tail.capacity() < 64, "an idle session keeps what it printed");
    }

    #[test]
    fn a_size_of_nothing_and_of_everything_is_drawn() {
        for (columns, rows) in [(0, 0), (u16::MAX, u16::MAX)] {
            let mut screen = Screen::new(columns, rows);
            screen.push(b"here");
            assert!(shown(&screen).contains("here"));
        }
    }
}
