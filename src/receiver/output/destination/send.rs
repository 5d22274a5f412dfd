//! Attempts to send a run of datagrams.

use nf_transport_core::netflow::{Recipient, Repeats};
use tokio::time::Instant;

use crate::config::{SourceAddress, WhenDown};
use crate::receiver::output::destination::Destination;
use crate::receiver::output::destination::obstacle::{Obstacle, may_be_left_behind, unopened};
use crate::receiver::output::destination::run::{ExporterRun, SentRun};
use crate::receiver::output::destination::send_state::SendState;
use crate::receiver::output::down_reason::DownReason;
use crate::receiver::output::exporter_sockets::SourceSocket;
use crate::receiver::output::queue_guard::{Budget, QueueGuard, RUN_MAX};
use crate::receiver::output::reachability::SendPermit;
use crate::receiver::output::segments::{self, SendOutcome};
use crate::receiver::output::slices::front;
use crate::receiver::output::socket;
use crate::receiver::output::source_sockets::is_unreachable;

impl Destination {
    /// Sends as many datagrams of the run as possible in one call. Never waits.
    pub(super) fn try_run(
        &self,
        sending: &mut SendState,
        run: &ExporterRun<'_>,
    ) -> Result<SentRun, Obstacle> {
        let (now, first) = (Instant::now(), run.first);
        let mut count = sending.admit(run.datagrams.len().min(RUN_MAX), run.is_late, now)?;
        let source_error = self.sources().take_error(now);
        if let Some(error) = source_error {
            sending.reachability.note_failure((&error).into(), now);
        }
        let permit = sending.reachability.permit(first, now);
        match permit {
            SendPermit::Blocked(reason) => return Err(Obstacle::Down(DownReason::Unreachable(reason))),
            SendPermit::ProbeArrived => {
                let recipient = self.recipient(sending, run)?;
                self.note_sent(sending, &[first.payload], run.is_late, now);
                return Ok(SentRun::Accepted(1, recipient));
            }
            SendPermit::OneProbe(_) => count = 1,
            SendPermit::All => {}
        }
        if !sending.queue.is_present()? {
            return Err(Obstacle::Down(DownReason::NoSocket));
        }
        let recipient = self.recipient(sending, run)?;
        let admitted = ExporterRun { datagrams: front(run.datagrams, count), ..*run };
        count = self.repeat(sending, &admitted, &recipient)?;
        // Repeats may have used up the rate limit.
        count = sending.admit(count, run.is_late, now)?;
        let payloads: Vec<&[u8]> =
            run.datagrams.iter().take(count).map(|datagram| datagram.payload).collect();
        let sent = self.send(sending, run, &recipient, &payloads)?;
        if let SendPermit::OneProbe(outage) = permit {
            // A probe that is skipped counts as skipped, even if it arrives.
            let waits = self.settings.when_down == WhenDown::Hold;
            sending.reachability.note_probe(first, waits, now);
            return Ok(SentRun::AsProbe(outage));
        }
        self.note_sent(sending, front(&payloads, sent), run.is_late, now);
        Ok(SentRun::Accepted(sent, recipient))
    }

    /// Returns the recipient that datagrams of `run` would reach now.
    fn recipient(&self, sending: &mut SendState, run: &ExporterRun<'_>) -> Result<Recipient, Obstacle> {
        let mut sources = self.sources();
        let leaving =
            sources.socket(run.learner.number(), run.first.exporter).map_err(|error| unopened(&error))?;
        let (socket, has_moved) = (leaving.seen.number, leaving.has_moved);
        Ok(Recipient { place: run.place, generation: sending.generation(), socket, has_moved })
    }

    /// Sends the templates that the recipient lacks to decode the first datagram of `run`. Returns the number
    /// of datagrams, at least one, that it can then decode.
    fn repeat(
        &self,
        sending: &mut SendState,
        run: &ExporterRun<'_>,
        recipient: &Recipient,
    ) -> Result<usize, Obstacle> {
        if !self.settings.repeat_templates {
            return Ok(run.datagrams.len());
        }
        loop {
            match run.learner.before(run.datagrams, recipient, Instant::now().into_std()) {
                None => return Ok(run.datagrams.len()),
                Some((0, repeats)) => self.send_repeats(sending, run, recipient, &repeats)?,
                Some((place, _)) => return Ok(place),
            }
        }
    }

    /// Sends those of `repeats` that the recipient does not have yet.
    fn send_repeats(
        &self,
        sending: &mut SendState,
        run: &ExporterRun<'_>,
        recipient: &Recipient,
        repeats: &Repeats,
    ) -> Result<(), Obstacle> {
        for (count, payload) in (1..).zip(&repeats.payloads).skip(repeats.sent) {
            let now = Instant::now();
            sending.admit(1, run.is_late, now)?;
            match self.send(sending, run, recipient, &[payload]) {
                Ok(_) => {
                    sending.charge(1, run.is_late, now);
                    self.figures().counts.templates += 1;
                }
                // The datagram that follows shows whether the refusal concerns all datagrams of the exporter.
                Err(Obstacle::Refused(_)) => {}
                Err(obstacle) => return Err(obstacle),
            }
            run.learner.note_repeated(repeats, count, recipient, now.into_std());
        }
        let all = repeats.payloads.len();
        run.learner.note_repeated(repeats, all, recipient, Instant::now().into_std());
        Ok(())
    }

    /// Sends as many of the payloads as possible in one call, from the socket of the run's exporter. Returns
    /// their number, at least one. Sends nothing if they would reach another recipient than `recipient`.
    fn send(
        &self,
        sending: &mut SendState,
        run: &ExporterRun<'_>,
        recipient: &Recipient,
        payloads: &[&[u8]],
    ) -> Result<usize, Obstacle> {
        let exporter = run.first.exporter;
        let count = match sending.queue.admit(payloads)? {
            Budget::Send(count) => count,
            Budget::Full => return Err(Obstacle::Full),
            Budget::Absent => return Err(Obstacle::Down(DownReason::NoSocket)),
        };
        let payloads = front(payloads, count);
        let mut sources = self.sources();
        let SourceSocket { socket, segments, seen, .. } =
            sources.socket(run.learner.number(), exporter).map_err(|error| unopened(&error))?;
        if sending.generation() != recipient.generation || seen.number != recipient.socket {
            return Err(Obstacle::Changed);
        }
        sending.queue.note_sending();
        let mut attempt = || segments::send(socket, payloads, segments);
        let is_watching = sending.queue.is_watching();
        let outcome = attempt()
            .or_else(|error| if may_be_left_behind(&error, is_watching) { attempt() } else { Err(error) });
        let handed = match outcome {
            Ok(handed) => handed,
            Err(error) => return Err(sending.obstacle(&error)),
        };
        let SendOutcome { offered: asked, accepted: taken, .. } = handed;
        let sent = if is_watching {
            taken.saturating_sub(self.count_without_socket(&mut sending.queue, socket, handed))
        } else {
            // Something stopped the run. If ICMP did, only the error queue shows it.
            let details = if taken < asked { socket::take_details(socket) } else { Vec::new() };
            if let Some(error) = details.iter().rfind(|error| is_unreachable(error)) {
                sending.reachability.note_failure(error.into(), Instant::now());
            }
            taken
        };
        if sent == 0 {
            return Err(Obstacle::Down(DownReason::NoSocket));
        }
        sending.queue.note_sent(front(payloads, sent));
        sending.refusals.note_sent(exporter.ip(), Instant::now());
        Ok(sent)
    }

    /// Returns how many datagrams that the kernel accepted found no socket, because a watched collector's
    /// socket closed after the last look.
    ///
    /// On the same machine a refusal returns to the source address within the sending call. It stops a run
    /// after the refused datagram. After the last datagram of a run, or after a segmented send, it stays on
    /// the sending socket. No refusal reaches a socket that has an exporter's address. For those the
    /// collector's socket is looked up again, and if it is gone, the whole run counts as refused.
    fn count_without_socket(
        &self,
        gate: &mut QueueGuard,
        socket: &socket2::Socket,
        handed: SendOutcome,
    ) -> usize {
        let SendOutcome { offered: asked, accepted: taken, as_one } = handed;
        // An unknown result counts as delivered: sending again might repeat datagrams.
        let has_gone = |gate: &mut QueueGuard| gate.is_same_socket().is_ok_and(|same| !same);
        let refused = if self.settings.source == SourceAddress::Exporter {
            if has_gone(gate) { taken } else { 0 }
        } else if taken < asked {
            usize::from(has_gone(gate))
        } else if socket.take_error().is_ok_and(|error| error.is_some()) {
            if as_one { taken } else { 1 }
        } else {
            0
        };
        if refused > 0 {
            gate.invalidate();
        }
        refused
    }
}
