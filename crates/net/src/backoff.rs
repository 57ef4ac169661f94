//! Waiting between attempts: exponential with full jitter, so that ten thousand agents do not come back as one.

use std::time::Duration;

use crate::clock;

/// How long a server may send a client away for.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The waits of one retrying task.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits are drawn evenly from zero to `base`, then `2·base`, `4·base`, … up to `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// The wait before the next attempt. A `retry_after` of the server, at most [`MAX_RETRY_AFTER`], is the least time
    /// to wait, and the jitter comes on top.
    #[must_use]
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let ceiling = self.base.saturating_mul(2_u32.saturating_pow(self.attempt)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        retry_after.unwrap_or_default().min(MAX_RETRY_AFTER) + ceiling.mul_f64(fraction())
    }

    /// To be called after success.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// Evenly distributed in `0.0..=1.0`.
fn fraction() -> f64 {
    f64::from(u32::from_be_bytes(clock::random())) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_the_doubling_ceiling_and_the_cap() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(base, cap);
        for attempt in 0..200_u32 {
            let ceiling = base.saturating_mul(2_u32.saturating_pow(attempt)).min(cap);
            assert!(backoff.next(None) <= ceiling);
        }
        backoff.reset();
        assert!(backoff.next(None) <= base);
    }

    #[test]
    fn the_server_sets_the_least_wait_but_not_for_ever() {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        assert!(backoff.next(Some(Duration::from_secs(3))) >= Duration::from_secs(3));
        assert!(backoff.next(Some(Duration::from_secs(1 << 40))) <= MAX_RETRY_AFTER + Duration::from_millis(1));
    }
}
