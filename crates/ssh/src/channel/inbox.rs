//! What came in on one channel and waits for the application.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::Inbound;

/// A chunk below this size is filled up by what follows: many tiny packets must not cost more than their bytes.
const SMALL: usize = 4096;
/// Chunks from which on stdout and stderr lose their order to each other, for the same reason.
const MANY: usize = 256;

#[derive(Debug)]
enum Item {
    Data { stderr: bool, bytes: BytesMut },
    Other { event: Inbound, cost: usize },
}

/// The queue of one channel. Its data is bounded by the window, its requests by a bound on their cost.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    items: VecDeque<Item>,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Queues something that is not data and takes `cost` bytes.
    pub(super) fn push(&mut self, event: Inbound, cost: usize) {
        self.items.push_back(Item::Other { event, cost });
    }

    pub(super) fn push_data(&mut self, stderr: bool, data: &[u8]) {
        let reach = if self.items.len() < MANY { 1 } else { 2 };
        for item in self.items.iter_mut().rev().take(reach) {
            match item {
                Item::Data { stderr: same, bytes } if *same == stderr => {
                    if bytes.len() >= SMALL {
                        break;
                    }
                    bytes.extend_from_slice(data);
                    return;
                }
                Item::Data { .. } => {}
                Item::Other { .. } => break,
            }
        }
        self.items.push_back(Item::Data { stderr, bytes: BytesMut::from(data) });
    }

    /// The oldest item and what it cost beside its data.
    pub(super) fn pop(&mut self) -> Option<(Inbound, usize)> {
        Some(match self.items.pop_front()? {
            Item::Data { stderr: false, bytes } => (Inbound::Data(bytes.freeze()), 0),
            Item::Data { stderr: true, bytes } => (Inbound::Stderr(bytes.freeze()), 0),
            Item::Other { event, cost } => (event, cost),
        })
    }
}
