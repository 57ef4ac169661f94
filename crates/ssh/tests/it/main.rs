//! The engine through its public face.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod memory;
