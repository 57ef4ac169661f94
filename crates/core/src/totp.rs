//! Time-based one-time passwords: RFC 6238 with HMAC-SHA-1, steps of 30 s and six digits, which is what every
//! authenticator understands.
//!
//! Which step a code belongs to is decided here. That a step is used once only is kept where it is stored.

use std::fmt::Write as _;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};

/// Length of a step, in seconds.
pub const STEP: u64 = 30;
/// Digits of a code.
pub const DIGITS: usize = 6;
/// Bytes of a secret: the output of SHA-1 (RFC 4226 section 4, R6).
pub const SECRET_LEN: usize = 20;
/// Steps before and after the present one whose codes count too (RFC 6238 section 5.2).
const WINDOW: u64 = 1;

/// The step of a moment, in seconds since 1970.
pub const fn step(unix: u64) -> u64 {
    unix / STEP
}

/// The code of a step.
pub fn code(secret: &[u8], step: u64) -> String {
    let mac = sign(&Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret), &step.to_be_bytes());
    let mac = mac.as_ref();
    // Dynamic truncation (RFC 4226 section 5.3).
    let offset = usize::from(mac.last().copied().unwrap_or_default() & 0xf);
    let number = mac.get(offset..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
    let number = u32::from_be_bytes(number) & 0x7fff_ffff;
    format!("{:0DIGITS$}", number % 10_u32.pow(DIGITS as u32))
}

/// The step at or next to `unix` that `given` is the code of, the newest first; `None` for a wrong code. All steps are
/// compared, each in constant time.
pub fn matching_step(secret: &[u8], given: &str, unix: u64) -> Option<u64> {
    let now = step(unix);
    let steps = now.saturating_sub(WINDOW)..=now.saturating_add(WINDOW);
    steps.fold(None, |found, step| {
        let same = verify_slices_are_equal(code(secret, step).as_bytes(), given.as_bytes()).is_ok();
        if same { Some(step) } else { found }
    })
}

/// A code as people type it: without the blanks and dashes that authenticators show. `None` for what cannot be one.
pub fn normalize(given: &str) -> Option<String> {
    // Longer than any code with its blanks.
    if given.len() > 4 * DIGITS {
        return None;
    }
    let digits: String = given.chars().filter(|c| !matches!(c, ' ' | '-' | '\t')).collect();
    (digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
}

/// The address that authenticators read, as a QR code or pasted: `otpauth://totp/ISSUER:ACCOUNT?secret=…`. It holds the
/// secret.
pub fn uri(secret: &[u8], issuer: &str, account: &str) -> String {
    let (issuer, account) = (escape(issuer), escape(account));
    let secret = base32(secret);
    format!(
        "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP}"
    )
}

/// RFC 4648 section 6, without padding, as authenticators want it.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let letters = bytes.chunks(5).flat_map(|chunk| {
        let bits = (0..5).fold(0_u64, |bits, i| bits << 8 | u64::from(chunk.get(i).copied().unwrap_or_default()));
        let count = (chunk.len() * 8).div_ceil(5);
        (0..count).map(move |i| (bits >> (35 - 5 * i)) as usize & 31)
    });
    letters.filter_map(|index| ALPHABET.get(index)).map(|letter| char::from(*letter)).collect()
}

/// Percent-encoding of all but unreserved characters (RFC 3986 section 2.3).
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    /// RFC 6238 appendix B gives eight digits; the last six are the code of six.
    #[test]
    fn the_vectors_of_rfc_6238() {
        for (unix, eight) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            assert_eq!(code(SECRET, step(unix)), eight[2..], "{unix}");
        }
    }

    #[test]
    fn the_vectors_of_rfc_4226() {
        let codes =
            ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"];
        for (step, expected) in (0..).zip(codes) {
            assert_eq!(code(SECRET, step), expected, "{step}");
        }
    }

    #[test]
    fn a_code_counts_one_step_early_and_one_late_and_no_more() {
        let unix = 1_111_111_111;
        let now = step(unix);
        for (given, counts) in [(now - 2, false), (now - 1, true), (now, true), (now + 1, true), (now + 2, false)] {
            assert_eq!(matching_step(SECRET, &code(SECRET, given), unix), counts.then_some(given));
        }
        for wrong in ["", "0", "000000", "0500471", "05047", "14050471"] {
            assert_eq!(matching_step(SECRET, wrong, unix), None, "{wrong:?}");
        }
        assert!(matching_step(SECRET, &code(SECRET, 0), 0).is_some());
        assert!(matching_step(SECRET, "000000", u64::MAX).is_none());
    }

    #[test]
    fn what_people_type() {
        assert_eq!(normalize("050 471").as_deref(), Some("050471"));
        assert_eq!(normalize(" 050-471 ").as_deref(), Some("050471"));
        for bad in ["", "05047", "0504711", "05047x", "٠٥٠٤٧١", &" ".repeat(1000), &"0".repeat(1000)] {
            assert_eq!(normalize(bad), None, "{bad:?}");
        }
    }

    /// RFC 4648 section 10, without the padding.
    #[test]
    fn base32_of_every_length() {
        let cases =
            [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("fooba", "MZXW6YTB")];
        for (bytes, text) in cases.into_iter().chain([("foobar", "MZXW6YTBOI")]) {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_address() {
        assert_eq!(
            uri(SECRET, "mezite.example.com", "a?secret=X&b:c d"),
            "otpauth://totp/mezite.example.com:a%3Fsecret%3DX%26b%3Ac%20d?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=mezite.example.com&algorithm=SHA1&digits=6&period=30"
        );
    }
}
