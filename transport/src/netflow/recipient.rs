//! The recipients of the datagrams of an observation domain, and the repeats that each of them has got.

use std::time::Instant;

use crate::limits::{REPEAT_EVERY, REPEATS_AT_ONCE, SOCKETS_PER_DOMAIN};

/// Addresses of one collector that may get datagrams of the same exporter: its own, and that for late
/// datagrams.
pub const RECIPIENTS: usize = 2;

/// The current state of one address of a collector, and the socket that sends to it.
///
/// Generations and sockets are numbered from one sequence: a lower number is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The index of the collector's address; below [`RECIPIENTS`].
    pub place: usize,
    /// Changes whenever the collector may have lost its templates, as after a restart.
    pub generation: u64,
    /// The number of the socket.
    pub socket: u64,
    /// The collector saw the same exporter under another port before this socket was opened.
    pub has_moved: bool,
}

/// The repeats that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// All definitions with a later revision.
    Since(u64),
}

/// The definitions of a domain that one recipient has got.
#[derive(Clone, Debug, Default)]
pub(super) struct RecipientProgress {
    /// The generation to which this progress applies; 0 for none.
    generation: u64,
    /// The recipient has everything up to this revision.
    revision: u64,
    state: RepeatState,
    /// The sockets that sent repeats, or were in use at the first repeat.
    sockets: Vec<u64>,
    /// Number of times that everything was repeated in this generation.
    rounds: usize,
    /// The time of the last of them.
    repeated: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RepeatState {
    /// It has everything up to the revision.
    #[default]
    Complete,
    /// Repeating was interrupted.
    Interrupted(Interruption),
    /// It has everything except the templates that the next datagram defines.
    AwaitsDatagram,
}

/// An interruption of repeating. Of the repeats with revisions after `since`, the first `count` were sent.
/// The last of these has the hash `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interruption {
    since: u64,
    pub(super) count: usize,
    pub(super) last: u64,
}

impl RecipientProgress {
    /// The progress of a recipient that has got everything of the domain.
    pub(super) fn complete(recipient: &Recipient, revision: u64) -> Self {
        let sockets = vec![recipient.socket];
        Self { generation: recipient.generation, revision, sockets, ..Self::default() }
    }

    /// True if a recipient of this generation has got everything of the domain up to this revision.
    pub(super) fn is_complete(&self, generation: u64, revision: u64) -> bool {
        self.generation == generation && self.revision == revision && self.state == RepeatState::Complete
    }

    /// The repeats that are due before the next datagram to `recipient`, of a domain with this revision.
    pub(super) fn due(&self, recipient: &Recipient, revision: u64, now: Instant) -> Due {
        if self.generation != recipient.generation {
            return Due::Since(0);
        }
        if let RepeatState::Interrupted(interruption) = self.state {
            return Due::Since(interruption.since);
        }
        let is_other_port = recipient.socket < recipient.generation || recipient.has_moved;
        if is_other_port && !self.sockets.contains(&recipient.socket) && self.may_repeat(now) {
            return Due::Since(0);
        }
        if self.revision < revision { Due::Since(self.revision) } else { Due::Nothing }
    }

    /// The interruption of repeating to `recipient`.
    pub(super) fn interruption(&self, recipient: &Recipient) -> Option<Interruption> {
        match self.state {
            RepeatState::Interrupted(interruption) if self.generation == recipient.generation => {
                Some(interruption)
            }
            _ => None,
        }
    }

    /// True if another round is within the limit.
    fn may_repeat(&self, now: Instant) -> bool {
        let is_due = |repeated| now.saturating_duration_since(repeated) >= REPEAT_EVERY;
        self.rounds < REPEATS_AT_ONCE || self.repeated.is_none_or(is_due)
    }

    /// Records that the first `count` repeats with revisions after `since` were sent, the last of them with
    /// the hash `last`.
    pub(super) fn interrupt(&mut self, recipient: &Recipient, since: u64, count: usize, last: u64) {
        self.begin(recipient);
        self.state = RepeatState::Interrupted(Interruption { since, count, last });
    }

    /// Records that all repeats up to this revision were sent, except templates that the next datagram
    /// defines itself.
    pub(super) fn finish(
        &mut self,
        recipient: &Recipient,
        revision: u64,
        awaits_datagram: bool,
        now: Instant,
    ) {
        self.begin(recipient);
        self.revision = revision;
        self.state = if awaits_datagram { RepeatState::AwaitsDatagram } else { RepeatState::Complete };
        if !self.sockets.contains(&recipient.socket) {
            if self.sockets.len() >= SOCKETS_PER_DOMAIN {
                self.sockets.remove(0);
            }
            self.sockets.push(recipient.socket);
            self.rounds = self.rounds.saturating_add(1);
            self.repeated = Some(now);
        }
    }

    fn begin(&mut self, recipient: &Recipient) {
        if self.generation != recipient.generation {
            *self = Self { generation: recipient.generation, ..Self::default() };
        }
    }

    /// Applies a datagram that changed the domain from revision `before` to `after`. The recipient got it if
    /// it has this generation.
    pub(super) fn follow(&mut self, generation: Option<u64>, before: u64, after: u64) {
        if generation != Some(self.generation) {
            if self.state == RepeatState::AwaitsDatagram {
                *self = Self::default();
            }
            return;
        }
        if self.state == RepeatState::AwaitsDatagram {
            self.state = RepeatState::Complete;
        }
        if self.state == RepeatState::Complete && self.revision == before {
            self.revision = after;
        }
    }

    /// True if a datagram that changes nothing in the domain changes nothing here.
    pub(super) fn is_settled(&self) -> bool {
        self.state != RepeatState::AwaitsDatagram
    }
}
