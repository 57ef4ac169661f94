//! The system clock and the system's randomness, the only place that reads either.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Seconds since 1970-01-01 UTC. A clock set before 1970 reads as 0, at which no certificate is valid.
#[must_use]
pub fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Milliseconds since 1970-01-01 UTC. A clock set before 1970 reads as 0.
#[must_use]
pub fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    i64::try_from(since).unwrap_or(i64::MAX)
}

/// The current time in UTC.
#[must_use]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Longest time slept at a stretch: the clock may be set meanwhile.
const STRETCH: Duration = Duration::from_secs(30);

/// Comes back when the clock shows `moment` or later; never without one.
pub async fn sleep_until(moment: Option<OffsetDateTime>) {
    let Some(moment) = moment else { return std::future::pending().await };
    // A negative span is no duration.
    while let Some(left) = Duration::try_from(moment - now()).ok().filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(STRETCH)).await;
    }
}

/// `N` bytes from the operating system's generator.
///
/// A process that gets no randomness must not go on making keys and tokens: it aborts.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        tracing::error!("the system gives no randomness, stopping");
        std::process::abort();
    }
    bytes
}

/// A random UUID (RFC 9562 version 4) in its lower-case text form.
#[must_use]
pub fn uuid() -> String {
    let mut value = u128::from_be_bytes(random());
    value = (value & !(0xf << 76)) | (0x4 << 76);
    value = (value & !(0x3 << 62)) | (0x2 << 62);
    let hex = format!("{value:032x}");
    let mut text = String::with_capacity(36);
    for (index, digit) in hex.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_the_version_and_variant_of_rfc_9562() {
        for _ in 0..64 {
            let id = uuid();
            assert_eq!(id.len(), 36);
            assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
            assert_eq!(id.as_bytes()[14], b'4');
            assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        }
        assert_ne!(uuid(), uuid());
    }

    #[test]
    fn the_clocks_agree() {
        let seconds = now_unix();
        let later = u64::try_from(now_unix_ms() / 1000).unwrap();
        assert!(later >= seconds && later - seconds <= 60);
    }
}
