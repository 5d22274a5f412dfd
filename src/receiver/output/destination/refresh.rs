//! Updates of a destination's figures.

use tokio::time::Instant;

use crate::config::WhenDown;
use crate::receiver::output::destination::figures::DestinationFigures;
use crate::receiver::output::destination::send_state::SendState;
use crate::receiver::output::destination::{Destination, HELD_EXPIRES};
use crate::receiver::output::down_reason::DownReason;
use crate::receiver::output::figures::OutputCounts;
use crate::status::CollectorState;

impl Destination {
    pub(super) fn note_sent(&self, sending: &mut SendState, sent: &[&[u8]], is_late: bool, now: Instant) {
        sending.charge(sent.len(), is_late, now);
        let is_down = sending.reachability.is_down();
        if !is_down {
            sending.outage_log.note_up(self.address);
        }
        let bytes: usize = sent.iter().map(|payload| payload.len()).sum();
        let mut figures = self.figures();
        figures.held = None;
        figures.last = Some((sending.generation(), sending.queue.last_socket()));
        self.note_losses(sending, &mut figures);
        figures.state = if sending.queue.is_watching() {
            CollectorState::Up
        } else if is_down {
            CollectorState::Down
        } else {
            CollectorState::Unknown
        };
        figures.counts.datagrams += u64::try_from(sent.len()).unwrap_or(u64::MAX);
        figures.counts.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Notes that datagrams wait for room in the collector's queue since `began`.
    pub(super) fn note_full(&self, sending: &mut SendState, began: Instant) {
        let mut figures = self.figures();
        self.note_losses(sending, &mut figures);
        figures.waits(began);
    }

    /// Notes that the collector is down. If it is set to hold, datagrams have been waiting since `began`.
    pub(super) fn note_down(&self, sending: &mut SendState, reason: &DownReason, began: Instant) {
        let mut figures = self.figures();
        self.note_losses(sending, &mut figures);
        if self.settings.when_down == WhenDown::Hold {
            figures.waits(began);
        }
        figures.state = CollectorState::Down;
        sending.outage_log.note_down(self.address, reason);
    }

    /// Returns the state, the counts, and the whole seconds for which datagrams have been held. Looks at the
    /// collector again if no task is sending.
    pub(in crate::receiver::output) fn refreshed_figures(&self) -> (CollectorState, OutputCounts, u64) {
        if let Ok(mut sending) = self.sending.try_lock() {
            self.refresh_while_idle(&mut sending);
        }
        let figures = self.figures();
        (figures.state, figures.counts, figures.held.map_or(0, |(since, _)| since.elapsed().as_secs()))
    }

    pub(super) fn refresh_while_idle(&self, sending: &mut SendState) {
        let now = Instant::now();
        let seen = sending.queue.is_watching().then(|| sending.queue.look());
        let source_error = self.sources().take_error(now);
        if let Some(error) = source_error {
            sending.reachability.note_failure((&error).into(), now);
        }
        let mut figures = self.figures();
        figures.held = figures.held.filter(|(_, tried)| now.duration_since(*tried) < HELD_EXPIRES);
        self.note_losses(sending, &mut figures);
        figures.state = match seen {
            _ if sending.refusals.is_holding() => CollectorState::Down,
            Some(Ok(Some(_))) => CollectorState::Up,
            Some(_) => CollectorState::Down,
            None if sending.reachability.is_down() => CollectorState::Down,
            None => figures.state,
        };
    }

    /// Counts and logs datagrams that were lost in the collector's own socket.
    pub(super) fn note_losses(&self, sending: &mut SendState, figures: &mut DestinationFigures) {
        let (dropped, unread) = (sending.queue.take_drops(), sending.queue.take_unread());
        figures.counts.socket_drops += dropped;
        figures.counts.unread += unread;
        sending.outage_log.note_lost(self.address, dropped, unread);
    }
}
