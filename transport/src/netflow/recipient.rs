//! Who gets the datagrams of an observation domain, and how much of what is repeated each of them has.

use std::time::Instant;

use crate::limits::{REPEAT_EVERY, REPEATS_AT_ONCE, SOCKETS_PER_DOMAIN};

/// Addresses of one collector that may get datagrams of the same exporter: its own, and that for late datagrams.
pub const RECIPIENTS: usize = 2;

/// One address of a collector as it is now, and the socket that datagrams leave from.
///
/// Generations and sockets are numbered from one sequence, so that a lower number is an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Which address of the collector; below [`RECIPIENTS`].
    pub place: usize,
    /// Another number than before where the collector may have lost what it knew, as after a restart.
    pub generation: u64,
    /// The number of the socket.
    pub socket: u64,
    /// The collector saw the same exporter under another port before this socket was opened.
    pub has_moved: bool,
}

/// Which repeats are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Everything that has a later revision.
    Since(u64),
}

/// How much of a domain one recipient has.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The generation that all of this is about; 0 if it is none.
    generation: u64,
    /// It has everything up to this revision.
    revision: u64,
    state: State,
    /// The sockets from which repeats went, or that were in use when the first of them went.
    sockets: Vec<u64>,
    /// How often everything was repeated in this generation, and when last.
    rounds: usize,
    repeated: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It has everything up to the revision.
    #[default]
    Complete,
    /// Repeating was interrupted.
    Interrupted(Interruption),
    /// It has everything, except templates that the datagram defines which comes next.
    AwaitsDatagram,
}

/// Where repeating was interrupted: of the repeats with revisions after `since`, the first `count` went, of which the last
/// has the hash `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interruption {
    since: u64,
    pub(super) count: usize,
    pub(super) last: u64,
}

impl Progress {
    /// The progress of a recipient that has got all that the domain has sent.
    pub(super) fn complete(recipient: &Recipient, revision: u64) -> Self {
        let sockets = vec![recipient.socket];
        Self { generation: recipient.generation, revision, sockets, ..Self::default() }
    }

    /// Whether a recipient of this generation has got all that the domain has sent, up to this revision.
    pub(super) fn is_complete(&self, generation: u64, revision: u64) -> bool {
        self.generation == generation && self.revision == revision && self.state == State::Complete
    }

    /// What is to be repeated before the next datagram to `recipient`, of a domain with this revision.
    pub(super) fn due(&self, recipient: &Recipient, revision: u64, now: Instant) -> Due {
        if self.generation != recipient.generation {
            return Due::Since(0);
        }
        if let State::Interrupted(interruption) = self.state {
            return Due::Since(interruption.since);
        }
        let is_other_port = recipient.socket < recipient.generation || recipient.has_moved;
        if is_other_port && !self.sockets.contains(&recipient.socket) && self.may_repeat(now) {
            return Due::Since(0);
        }
        if self.revision < revision { Due::Since(self.revision) } else { Due::Nothing }
    }

    /// Where repeating to `recipient` was interrupted.
    pub(super) fn interruption(&self, recipient: &Recipient) -> Option<Interruption> {
        match self.state {
            State::Interrupted(interruption) if self.generation == recipient.generation => Some(interruption),
            _ => None,
        }
    }

    /// Whether another round does not exceed the limit.
    fn may_repeat(&self, now: Instant) -> bool {
        let is_due = |repeated| now.saturating_duration_since(repeated) >= REPEAT_EVERY;
        self.rounds < REPEATS_AT_ONCE || self.repeated.is_none_or(is_due)
    }

    /// Notes that the first `count` repeats with revisions after `since` went, of which the last has the hash `last`.
    pub(super) fn interrupt(&mut self, recipient: &Recipient, since: u64, count: usize, last: u64) {
        self.begin(recipient);
        self.state = State::Interrupted(Interruption { since, count, last });
    }

    /// Notes that all repeats up to this revision went, but those of templates that the next datagram defines itself.
    pub(super) fn finish(
        &mut self,
        recipient: &Recipient,
        revision: u64,
        awaits_datagram: bool,
        now: Instant,
    ) {
        self.begin(recipient);
        self.revision = revision;
        self.state = if awaits_datagram { State::AwaitsDatagram } else { State::Complete };
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

    /// A datagram took the domain from revision `before` to `after`. It went to the recipient if that had this generation.
    pub(super) fn follow(&mut self, generation: Option<u64>, before: u64, after: u64) {
        if generation != Some(self.generation) {
            if self.state == State::AwaitsDatagram {
                *self = Self::default();
            }
            return;
        }
        if self.state == State::AwaitsDatagram {
            self.state = State::Complete;
        }
        if self.state == State::Complete && self.revision == before {
            self.revision = after;
        }
    }

    /// Whether a datagram that changes nothing in the domain changes nothing here.
    pub(super) fn is_settled(&self) -> bool {
        self.state != State::AwaitsDatagram
    }
}
