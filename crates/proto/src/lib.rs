//! gRPC messages and services of Mezite, generated from `proto/mezite/v1/*.proto`.
//!
//! The `.proto` files say who may call which RPC and the bounds of each field; they are the reference. This crate adds
//! nothing to them but the map from [`mezite_core`]'s faults to gRPC status codes.
//!
//! Deliberately absent: sockets, TLS, and any decision.

#![forbid(unsafe_code)]

/// Package `mezite.v1`.
pub mod v1 {
    tonic::include_proto!("mezite.v1");
}
