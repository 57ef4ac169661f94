//! Recordings: what is written is read back, whatever the bytes; what is played cannot harm the terminal.

use std::time::Duration;

use mezite_core::asciicast::{CastError, Data, Event, Filter, Header, MAX_LINE, Reader, Writer};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<Vec<Event>, CastError> {
    let mut reader = Reader::new(bytes)?;
    let mut events = Vec::new();
    while let Some(event) = reader.next_event()? {
        events.push(event);
    }
    Ok(events)
}

fn cast(lines: &str) -> Vec<u8> {
    [b"{\"version\":2,\"width\":80,\"height\":24}\n", lines.as_bytes()].concat()
}

fn play(pieces: &[&str]) -> String {
    let (mut filter, mut shown) = (Filter::new(), String::new());
    pieces.iter().for_each(|piece| filter.push(piece, &mut shown));
    shown
}

const AT: Duration = Duration::from_millis(1234);

#[test]
fn the_written_form_is_that_of_the_standard() {
    let mut bytes = Vec::new();
    let header = Header { timestamp: Some(1_774_364_400), ..Header::new(80, 24) };
    Writer::header(&header, &mut bytes);
    let mut writer = Writer::new();
    writer.output(AT, b"a\"\x1b[0m\r\n\xe2\x82", &mut bytes);
    writer.input(AT, b"q", &mut bytes);
    writer.resize(AT, 100, 30, &mut bytes);
    writer.output(Duration::from_secs(2), b"\xac!\xf0\x9f", &mut bytes);
    writer.finish(Duration::from_secs(3), &mut bytes);
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "{\"version\":2,\"width\":80,\"height\":24,\"timestamp\":1774364400}\n\
         [1.234, \"o\", \"a\\\"\\u001b[0m\\r\\n\"]\n[1.234, \"i\", \"q\"]\n[1.234, \"r\", \"100x30\"]\n\
         [2.000, \"o\", \"€!\"]\n[3.000, \"o\", \"\u{fffd}\"]\n"
    );
}

#[test]
fn every_line_that_is_written_can_be_read() {
    let mut bytes = cast("");
    let mut writer = Writer::new();
    writer.output(AT, &vec![1; 1 << 20], &mut bytes);
    writer.output(AT, &vec![0xff; 1 << 20], &mut bytes);
    writer.finish(AT, &mut bytes);
    assert!(bytes.split(|b| *b == b'\n').all(|line| line.len() < MAX_LINE));
    let text: String = read(&bytes).unwrap().into_iter().map(output).collect();
    assert_eq!(text.chars().filter(|c| *c == '\u{1}').count(), 1 << 20);
    assert_eq!(text.chars().filter(|c| *c == '\u{fffd}').count(), 1 << 20);
}

fn output(event: Event) -> String {
    match event.data {
        Data::Output(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_recorders_files_are_read_and_bad_ones_refused() {
    let events =
        read(&cast("[0.5,\"o\",\"a\"]\n\n[0.25,\"x\",\"?\"]\n[0.2,\"m\",\"mark\"]\n[1,\"r\",\"9x8\"]")).unwrap();
    let half = Duration::from_millis(500);
    assert_eq!(events[1], Event { at: half, data: Data::Marker("mark".into()) });
    assert_eq!(events[2].data, Data::Resize { width: 9, height: 8 });
    for (lines, expected) in [
        ("[1,\"o\",\"a\"]\n[\n", "line 3 of the recording is not an event"),
        ("[-1,\"o\",\"a\"]\n", "line 2 of the recording is not an event"),
        ("[1e300,\"o\",\"a\"]\n", "line 2 of the recording is not an event"),
        ("[1,\"r\",\"99999x1\"]\n", "line 2 of the recording is not an event"),
        ("[1,\"o\",\"a", "the recording ends in the middle of line 2"),
    ] {
        assert_eq!(read(&cast(lines)).unwrap_err().to_string(), expected);
    }
    let long = format!("[1,\"o\",\"{}\"]\n", "x".repeat(MAX_LINE));
    assert!(matches!(read(&cast(&long)), Err(CastError::TooLong(2))));
    assert!(matches!(read(b""), Err(CastError::Empty)));
    assert!(matches!(read(b"{\"version\":2,\"wid"), Err(CastError::Truncated(1))));
    for header in
        ["{}", "[]", "hello\n", "{\"version\":1,\"width\":1,\"height\":1}", "{\"version\":2,\"width\":-1,\"height\":1}"]
    {
        assert!(matches!(read(header.as_bytes()), Err(CastError::Header(_))), "{header}");
    }
}

#[test]
fn colours_movement_and_the_alternate_screen_pass() {
    for text in [
        "plain é €\r\n\ttab\u{8}",
        "\u{1b}[1;38;5;8mred\u{1b}[0m\u{1b}[38:2::1:2:3m",
        "\u{1b}[2J\u{1b}[H\u{1b}[10;20H\u{1b}[3A\u{1b}[K\u{1b}[2L\u{1b}[5X\u{1b}[1;20r\u{1b}[3b",
        "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?25h\u{1b}[?1049l\u{1b}[4h",
        "\u{1b}7\u{1b}8\u{1b}M\u{1b}(0lqk\u{1b}(B\u{e}x\u{f}",
    ] {
        assert_eq!(play(&[text]), text);
    }
}

#[test]
fn what_could_harm_the_terminal_is_dropped() {
    for (hostile, rest) in [
        ("a\u{1b}]52;c;ZXZpbA==\u{7}b", "ab"),
        ("a\u{1b}]0;title\u{1b}\\b", "ab"),
        ("a\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\b", "alinkb"),
        ("a\u{1b}P+q544e\u{1b}\\b", "ab"),
        ("a\u{9d}0;title\u{9c}b", "ab"),
        ("a\u{9b}6nb", "ab"),
        ("a\u{1b}_Gf=100;AAAA\u{1b}\\b", "ab"),
        ("a\u{1b}[6nb\u{1b}[cc\u{1b}[>cd\u{1b}[?6n", "abcd"),
        ("a\u{1b}[21tb\u{1b}[8;1;1tc", "abc"),
        ("a\u{1b}[?1000hb\u{1b}[?2004hc\u{1b}[?1hd", "abcd"),
        ("\u{1b}[?12;25h", "\u{1b}[?25h"),
        ("a\u{1b}[>4;2mb\u{1b}[>1uc\u{1b}[=1ud", "abcd"),
        ("a\u{1b}cb\u{1b}#8c\u{1b}=d", "abcd"),
        ("a\u{1b}[999999999bb\u{1b}[3Jc\u{1b}[!pd", "abcd"),
        ("a\u{1b}[1;2;3;4;5Tb\u{1b}[1;2sc", "abc"),
        ("a\u{7}\u{0}\u{5}\u{7f}\u{85}b\u{202e}\u{200b}c", "abc"),
        ("a\u{1b}]0;x\u{18}b\u{1b}[3\u{1a}c", "abc"),
        ("a\u{1b}]0;x\u{1b}[1mb", "a\u{1b}[1mb"),
    ] {
        assert_eq!(play(&[hostile]), rest, "{hostile:?}");
    }
    let long = format!("\u{1b}[{}mx", "1;".repeat(100));
    assert_eq!(play(&[&long]), "x");
}

#[test]
fn the_terminal_is_given_back_as_it_was() {
    let mut filter = Filter::new();
    assert!(filter.restore().contains("\u{1b}[4l"), "insert mode may be on");
    assert!(!filter.restore().contains("1049"));
    filter.push("\u{1b}[?1049h", &mut String::new());
    assert!(filter.restore().ends_with("\u{1b}[?1049l"));
    filter.push("\u{1b}[?1049l", &mut String::new());
    assert!(!filter.restore().contains("1049"));
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_read_back_as_their_text(pieces in prop::collection::vec(
        prop::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xac), Just(0xf0), Just(0x9f)], 0..12), 0..12)) {
        let mut bytes = cast("");
        let mut writer = Writer::new();
        pieces.iter().for_each(|piece| writer.output(AT, piece, &mut bytes));
        writer.finish(AT, &mut bytes);
        let text: String = read(&bytes).unwrap().into_iter().map(output).collect();
        let whole = pieces.concat();
        prop_assert_eq!(text, String::from_utf8_lossy(&whole).into_owned());
    }

    #[test]
    fn times_are_kept_to_the_millisecond(millis in 0u64..31_000_000_000) {
        let mut bytes = cast("");
        Writer::new().output(Duration::from_millis(millis), b"x", &mut bytes);
        prop_assert_eq!(read(&bytes).unwrap()[0].at, Duration::from_millis(millis));
    }

    #[test]
    fn the_reader_survives_anything(lines in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
        let _ = read(&cast(&lines));
    }

    #[test]
    fn where_the_output_is_cut_makes_no_difference(text in "(\u{1b}|\\[|\\]|\\?|;|[0-9]|[a-zA-Z]|\u{7}|\\\\|\u{9b}|é){0,60}",
        at in any::<prop::sample::Index>()) {
        let cut = text.floor_char_boundary(at.index(text.len() + 1));
        let (head, tail) = text.split_at(cut);
        prop_assert_eq!(play(&[head, tail]), play(&[&text]));
    }

    #[test]
    fn filtering_twice_changes_nothing(text in "(\u{1b}|\\[|\\]|\\?|\\(|;|[0-9]|[a-zA-Z]|\u{7}|\\\\|\u{9b}|\u{9d}){0,60}") {
        let once = play(&[&text]);
        prop_assert_eq!(play(&[&once]), once);
    }
}
