//! The seats that are kept, and the counts of those that made room. The counts of all senders together never fall.

use std::collections::HashMap;
use std::sync::Arc;

use nf_transport_core::sequence::SenderId;

use crate::limits::{SENDER_ENTRIES_MAX, UNEVEN_SENDERS_MAX};
use crate::receiver::session::senders::Seat;
use crate::status::SenderTotals;

/// The seats by sender.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) seats: HashMap<SenderId, Arc<Seat>>,
    /// Counts of senders whose seats were given up.
    forgotten: SenderTotals,
}

/// Seats that were given up, with their senders.
pub(super) type Forgotten = Vec<(SenderId, Arc<Seat>)>;

impl Known {
    /// Gives up seats if there is no room for one of `id`. Returns them.
    pub(super) fn make_room(&mut self, id: &SenderId) -> Forgotten {
        let mut forgotten = Vec::new();
        if self.seats.len() >= SENDER_ENTRIES_MAX && !self.seats.contains_key(id) {
            forgotten = self.forget(usize::MAX, Seat::is_idle);
        }
        if self.seats.len() >= SENDER_ENTRIES_MAX + UNEVEN_SENDERS_MAX && !self.seats.contains_key(id) {
            forgotten.extend(self.forget_uneven());
        }
        forgotten
    }

    /// The counts of all senders together.
    pub(super) fn totals(&self) -> SenderTotals {
        let mut totals = self.forgotten;
        for seat in self.seats.values() {
            totals.add(seat.counters.totals());
        }
        totals
    }

    /// Gives up an eighth of the seats whose senders are absent while some collectors have more of their streams than others.
    fn forget_uneven(&mut self) -> Forgotten {
        let absent = self.forget(UNEVEN_SENDERS_MAX / 8, |seat| seat.turn.try_lock().is_ok());
        let count = absent.len();
        tracing::warn!(
            count,
            "there are too many senders that are absent while a collector is behind: forgot how far each collector is for \
             {count} of them; their next sessions repeat some datagrams to collectors that were ahead"
        );
        absent
    }

    /// Gives up at most `most` of the seats that are free.
    fn forget(&mut self, most: usize, is_free: impl Fn(&Seat) -> bool) -> Forgotten {
        // A seat that is shared is about to be taken: there must never be a second one of the same sender.
        let free = self.seats.extract_if(|_, seat| Arc::strong_count(seat) == 1 && is_free(seat));
        let forgotten: Forgotten = free.take(most).collect();
        for (_, seat) in &forgotten {
            self.forgotten.add(seat.counters.totals());
        }
        forgotten
    }
}
