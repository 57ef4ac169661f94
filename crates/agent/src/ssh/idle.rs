//! Whether anything moves in a session.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// When a byte went either way last.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Instant>);

impl Activity {
    /// The session begins now.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// A byte went.
    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes back with `most` when nothing went for so long; never without a bound.
    pub(super) async fn idle(&self, most: Option<Duration>) -> Duration {
        let Some(most) = most else { return std::future::pending().await };
        while let Some(left) = left(self.last(), Instant::now(), most) {
            sleep(left).await;
        }
        most
    }
}

/// What is left of `most` since `last`; `None` when it is over.
fn left(last: Instant, now: Instant, most: Duration) -> Option<Duration> {
    most.checked_sub(now.saturating_duration_since(last)).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_begins_the_time_anew() {
        let (begin, most) = (Instant::now(), Duration::from_secs(60));
        let later = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(left(begin, later(50), most), Some(Duration::from_secs(10)));
        assert_eq!(left(later(50), later(70), most), Some(Duration::from_secs(40)));
        assert_eq!(left(later(50), later(110), most), None);
        assert_eq!(left(begin, later(900), most), None);
        assert_eq!(left(later(5), begin, most), Some(most), "a byte between the two looks at the clock");
    }
}
