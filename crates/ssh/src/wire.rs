//! The data types of the SSH wire (RFC 4251 section 5): a bounded reader over a borrowed buffer, and append functions.
//!
//! The reader never allocates from a length it has not checked against the bytes at hand, and refuses every encoding
//! that is not the one canonical form, so that what was read can be written back byte for byte.

use thiserror::Error;

/// Most names a name-list may hold; stock clients send fewer than forty.
pub const MAX_NAMES: usize = 256;

/// Longest name in a name-list, in bytes (RFC 4251 section 6).
pub const MAX_NAME_LEN: usize = 64;

/// Why bytes from the wire were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// A field, or the length it declares, runs past the end of the buffer.
    #[error("the data ends in the middle of a field")]
    Truncated,
    /// Bytes remain after the last field.
    #[error("unexpected bytes after the last field")]
    Trailing,
    /// A text field is not UTF-8.
    #[error("a text field is not valid UTF-8")]
    NotUtf8,
    /// A number is negative or has unnecessary leading bytes.
    #[error("a big number is negative or not in its shortest form")]
    BadNumber,
    /// A name-list has an empty, overlong or non-printable name, or too many names.
    #[error("a name-list is malformed or too long")]
    BadNameList,
}

/// Reads fields from the front of a buffer.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Takes `len` bytes as they are.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes `N` bytes as an array.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Reads one byte.
    ///
    /// # Errors
    /// [`WireError::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Reads a boolean: every value other than 0 is true (RFC 4251 section 5).
    ///
    /// # Errors
    /// [`WireError::Truncated`] at the end.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.u8()? != 0)
    }

    /// Reads a 32-bit number.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when fewer than 4 bytes are left.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a 64-bit number.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when fewer than 8 bytes are left.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads a length-prefixed byte string.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when the declared length is not there.
    pub fn string(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(self.u32()?).map_err(|_| WireError::Truncated)?;
        self.bytes(len)
    }

    /// Reads a length-prefixed string that must be UTF-8.
    ///
    /// # Errors
    /// As [`Reader::string`], and [`WireError::NotUtf8`].
    pub fn utf8(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.string()?).map_err(|_| WireError::NotUtf8)
    }

    /// Reads a comma-separated list of at most [`MAX_NAMES`] printable ASCII names; an empty string is an empty list.
    ///
    /// # Errors
    /// As [`Reader::string`], and [`WireError::BadNameList`].
    pub fn name_list(&mut self) -> Result<Vec<&'a str>, WireError> {
        let list = self.utf8().map_err(|error| match error {
            WireError::NotUtf8 => WireError::BadNameList,
            other => other,
        })?;
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = list.split(',').take(MAX_NAMES + 1).collect();
        let printable = |name: &&str| {
            !name.is_empty() && name.len() <= MAX_NAME_LEN && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if names.len() > MAX_NAMES || !names.iter().all(printable) {
            return Err(WireError::BadNameList);
        }
        Ok(names)
    }

    /// Reads a non-negative big number as big-endian bytes without leading zeros; zero is the empty slice.
    ///
    /// # Errors
    /// As [`Reader::string`], and [`WireError::BadNumber`] for a negative number or one with unnecessary leading bytes.
    pub fn mpint(&mut self) -> Result<&'a [u8], WireError> {
        match self.string()? {
            [0, number @ ..] if matches!(number, [0x80..=0xff, ..]) => Ok(number),
            [0 | 0x80..=0xff, ..] => Err(WireError::BadNumber),
            number => Ok(number),
        }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`WireError::Trailing`] when bytes are left.
    pub fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

/// Appends one byte.
pub fn put_u8(out: &mut Vec<u8>, value: u8) {
    out.push(value);
}

/// Appends a boolean as 0 or 1.
pub fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

/// Appends a 32-bit number.
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a 64-bit number.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a length-prefixed byte string. What is written is bounded by the packet it goes into, far below 4 GiB; a
/// longer one would be written with a length that no reader accepts.
pub fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    put_u32(out, u32::try_from(value.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(value);
}

/// Appends a length-prefixed text.
pub fn put_utf8(out: &mut Vec<u8>, value: &str) {
    put_string(out, value.as_bytes());
}

/// Appends a non-negative big number given as big-endian bytes; leading zeros are dropped.
pub fn put_mpint(out: &mut Vec<u8>, value: &[u8]) {
    let zeros = value.iter().take_while(|byte| **byte == 0).count();
    let (_, number) = value.split_at_checked(zeros).unwrap_or_default();
    if let [0x80..=0xff, ..] = number {
        put_u32(out, u32::try_from(number.len().saturating_add(1)).unwrap_or(u32::MAX));
        out.push(0);
        out.extend_from_slice(number);
    } else {
        put_string(out, number);
    }
}

/// Appends a comma-separated list of names.
pub fn put_name_list(out: &mut Vec<u8>, names: &[&str]) {
    put_utf8(out, &names.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mpint(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut blob = Vec::new();
        put_string(&mut blob, bytes);
        Reader::new(&blob).mpint().map(<[u8]>::to_vec)
    }

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(mpint(&[]), Ok(vec![]));
        assert_eq!(mpint(&[0x7f]), Ok(vec![0x7f]));
        assert_eq!(mpint(&[0, 0x80]), Ok(vec![0x80]));
        for refused in [&[0u8][..], &[0, 0x7f], &[0, 0, 0x80], &[0x80], &[0xff, 0xff]] {
            assert_eq!(mpint(refused), Err(WireError::BadNumber), "{refused:?}");
        }
    }

    #[test]
    fn rfc_4251_examples_of_numbers() {
        for (number, wire) in [
            (&[][..], &[0u8, 0, 0, 0][..]),
            (
                &[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
                &[0, 0, 0, 8, 9, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7],
            ),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
        ] {
            let mut out = Vec::new();
            put_mpint(&mut out, number);
            assert_eq!(out, wire);
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_is_refused_without_allocation() {
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]).string(), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[0, 0, 0]).u32(), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[1]).end(), Err(WireError::Trailing));
    }

    #[test]
    fn name_lists_are_bounded_and_printable() {
        let read = |text: &str| {
            let mut blob = Vec::new();
            put_utf8(&mut blob, text);
            Reader::new(&blob).name_list().map(|names| names.len())
        };
        assert_eq!(read(""), Ok(0));
        assert_eq!(read("zlib,none"), Ok(2));
        assert_eq!(read(&vec!["a"; MAX_NAMES].join(",")), Ok(MAX_NAMES));
        for refused in [",", "a,", "a,,b", "a b", "a\0", "\u{e9}", &"a".repeat(65), &vec!["a"; MAX_NAMES + 1].join(",")]
        {
            assert_eq!(read(refused), Err(WireError::BadNameList), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_round_trip(bytes: Vec<u8>) {
            let mut wire = Vec::new();
            put_mpint(&mut wire, &bytes);
            let mut reader = Reader::new(&wire);
            let stripped: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            prop_assert_eq!(reader.mpint(), Ok(&stripped[..]));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn strings_round_trip_and_no_prefix_is_accepted(value: Vec<u8>) {
            let mut wire = Vec::new();
            put_string(&mut wire, &value);
            prop_assert_eq!(Reader::new(&wire).string(), Ok(&value[..]));
            for end in 0..wire.len() {
                prop_assert_eq!(Reader::new(&wire[..end]).string(), Err(WireError::Truncated));
            }
        }
    }
}
