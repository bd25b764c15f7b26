//! What is to be sent to one peer: bounded, so that one that is slow, or asks for much, costs the others nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::NodeId;

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: NodeId,
    /// The bytes, to be handed to [`Replica::receive`](crate::Replica::receive) over there, unchanged and in one piece. A
    /// message may be lost, repeated or overtaken.
    pub bytes: Arc<[u8]>,
}

/// How many bytes of each sort may wait.
const BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// News and heartbeats, which repairs must not hold up.
    urgent: Lane,
    repairs: Lane,
    pub(super) dropped: u64,
}

#[derive(Debug, Default)]
struct Lane {
    messages: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

impl Lane {
    /// `false` if there is no room.
    fn push(&mut self, bytes: Arc<[u8]>) -> bool {
        let fits = self.bytes + bytes.len() <= BYTES_MAX;
        if fits {
            self.bytes += bytes.len();
            self.messages.push_back(bytes);
        }
        fits
    }

    fn pop(&mut self) -> Option<Arc<[u8]>> {
        let bytes = self.messages.pop_front()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }
}

impl Queue {
    pub(super) fn push(&mut self, bytes: Arc<[u8]>, is_urgent: bool) {
        let lane = if is_urgent { &mut self.urgent } else { &mut self.repairs };
        self.dropped += u64::from(!lane.push(bytes));
    }

    /// Whether so many bytes of repairs would find room.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.repairs.bytes + bytes <= BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.messages.is_empty() && self.repairs.messages.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Arc<[u8]>> {
        self.urgent.pop().or_else(|| self.repairs.pop())
    }
}
