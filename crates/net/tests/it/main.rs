//! What `mezite-net` promises, over real sockets on the loopback.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests may panic like tests"
)]

mod ca;
mod listener;
mod ssh;
mod tls;
mod tunnel;
