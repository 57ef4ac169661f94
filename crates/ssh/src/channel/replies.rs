//! Answers that must leave in the order of the requests (RFC 4254 sections 4 and 5.4).

use std::collections::VecDeque;

/// Answers owed to the peer, oldest first.
#[derive(Debug)]
pub(super) struct Replies<T> {
    first: u64,
    slots: VecDeque<Option<T>>,
}

impl<T> Replies<T> {
    pub(super) fn new() -> Self {
        Self { first: 0, slots: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// A request came; the token names its answer.
    pub(super) fn expect(&mut self) -> u64 {
        self.slots.push_back(None);
        self.first + self.slots.len() as u64 - 1
    }

    /// Settles one answer; a token that was settled and sent before names nothing.
    pub(super) fn settle(&mut self, token: u64, answer: T) {
        let index = token.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) {
            slot.get_or_insert(answer);
        }
    }

    /// The next answer that may leave.
    pub(super) fn pop(&mut self) -> Option<T> {
        let answer = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        self.first += 1;
        Some(answer)
    }
}
