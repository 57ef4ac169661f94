//! Audit events as this service makes them.

use mezite_core::audit::{Event, EventType};
use mezite_net::clock;

/// Makes events with the fields that all of ours share.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    /// Name of the cluster.
    pub(crate) cluster: String,
}

impl Events {
    /// An event of this type, now.
    pub(crate) fn event(&self, kind: EventType) -> Event {
        let mut event = Event::new(kind, clock::uuid(), clock::now());
        event.cluster_name.clone_from(&self.cluster);
        event.component = "auth".into();
        event
    }
}
