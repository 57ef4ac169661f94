//! gRPC messages and services of Mezite, generated from `proto/mezite/v1/*.proto`.
//!
//! The `.proto` files say who may call which RPC and the bounds of each field; they are the reference. This crate adds
//! nothing to them but the map from [`mezite_core`]'s faults to gRPC status codes.
//!
//! Deliberately absent: sockets, TLS, and any decision.

#![forbid(unsafe_code)]

use mezite_core::Fault;

/// Package `mezite.v1`.
pub mod v1 {
    tonic::include_proto!("mezite.v1");
}

/// The path of every RPC, such as `/mezite.v1.Auth/Ping`, for tests that walk all of them.
pub const RPCS: &[&str] = include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));

/// The gRPC status that tells of a fault. What is behind a fault of our own is not for callers: log it.
pub fn status(fault: &Fault) -> tonic::Status {
    let message = match fault {
        Fault::Bug(_) => "internal error; the hub's log says more".to_owned(),
        other => other.to_string(),
    };
    tonic::Status::new(tonic::Code::from_i32(fault.grpc_code()), message)
}

/// The fault behind a status received from a peer.
pub fn fault(status: &tonic::Status) -> Fault {
    Fault::from_grpc(status.code() as i32, status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_cross_the_wire_and_our_own_mistakes_stay_at_home() {
        let denied = Fault::Denied("role x denies".into());
        assert_eq!(fault(&status(&denied)), denied);
        let bug = status(&Fault::Bug("secret detail".into()));
        assert!(!bug.message().contains("secret"));
        assert_eq!(fault(&bug).exit_code(), 1);
    }

    #[test]
    fn every_service_is_listed() {
        assert!(RPCS.contains(&"/mezite.v1.Auth/Ping"));
        assert!(RPCS.contains(&"/mezite.v1.Tunnel/Control"));
    }
}
