//! The loop of one session: input, delivery, acknowledgements and output.

use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use std::io;

use nf_transport_core::batch::Batch;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::sequence::Position;
use nf_transport_core::session::ReceiverEvent;
use tokio::io::Ready;
use tokio::time::{Instant, sleep_until};

use crate::host::ExpiredCertificate;
use crate::host::secure_stream::SecureStream;
use crate::limits::HANG_UP_GRACE;
use crate::receiver::delivery::{Delivery, LossCause, PendingBatch};
use crate::receiver::session::connection::ReceiverConnection;
use crate::receiver::session::ended::ConnectionEnd;
use crate::receiver::session::senders::{ActiveStream, Counters, StreamGuard};
use crate::receiver::state::positions::PositionsError;

/// Event that ended a wait.
enum WaitEnd {
    Socket(io::Result<Ready>),
    HungUp,
    Overdue,
    Delivered,
    Time,
    Collectors,
    Superseded,
    AccessRevoked,
    Expired(ExpiredCertificate),
    Shutdown,
}

impl ReceiverConnection<'_> {
    /// Serves the session until it ends, and stores its last position.
    pub(super) async fn run(&mut self, stream: &mut SecureStream, guard: &mut StreamGuard) -> ConnectionEnd {
        let ended = self.exchange(stream, guard).await;
        match guard.resumed().map(|active| self.store_and_acknowledge(active)) {
            Some(Err(error)) => error.into(),
            Some(Ok(())) | None => ended,
        }
    }

    async fn exchange(&mut self, stream: &mut SecureStream, guard: &mut StreamGuard) -> ConnectionEnd {
        loop {
            // Handles all events that need no wait, and most deliveries need none.
            loop {
                match self.handle_events(guard).and_then(|()| Ok(self.acknowledge_settled(guard)?)) {
                    Ok(true) => {}
                    Ok(false) if deliver_at_once(guard).await => {}
                    Ok(false) => break,
                    Err(ended) => return ended,
                }
            }
            if let Err(error) = stream.send_at_once(self.session.outbox()) {
                return error.into();
            }
            match self.next_wait_end(stream, guard).await {
                WaitEnd::Socket(Ok(ready)) => {
                    if let Err(ended) = self.transfer(stream, ready) {
                        return ended;
                    }
                }
                WaitEnd::Socket(Err(error)) => return ConnectionEnd::Stream(error.into()),
                WaitEnd::HungUp => self.deadline = Some(Instant::now() + HANG_UP_GRACE),
                WaitEnd::Overdue => return ConnectionEnd::Closed,
                WaitEnd::Delivered => {}
                WaitEnd::Time => {
                    // Reads available input before the sender counts as silent: this process may have been
                    // stopped.
                    if self.session.wants_bytes()
                        && let Err(ended) = self.transfer(stream, Ready::READABLE)
                    {
                        return ended;
                    }
                    self.session.handle_timeout(Instant::now().into_std());
                }
                WaitEnd::Collectors => self.follow_collectors(guard),
                WaitEnd::Superseded => return guard.superseded().into(),
                WaitEnd::AccessRevoked => return ConnectionEnd::AccessRevoked,
                WaitEnd::Expired(ExpiredCertificate::Own) => return ConnectionEnd::OwnExpired,
                WaitEnd::Expired(ExpiredCertificate::Peer) => return ConnectionEnd::Expired,
                WaitEnd::Shutdown => return ConnectionEnd::Stopping,
            }
        }
    }

    /// Waits for the next event.
    async fn next_wait_end(&mut self, stream: &SecureStream, guard: &mut StreamGuard) -> WaitEnd {
        self.timer.set(self.session.poll_timeout().map(Instant::from_std));
        let wants_bytes = self.session.wants_bytes();
        let has_output = !self.session.outbox().is_empty();
        let StreamGuard { active, holder, .. } = guard;
        let delivery = active.as_mut().map(|active| &mut active.delivery);
        let delivery = delivery.filter(|delivery| delivery.is_under_way());
        let is_delivering = delivery.is_some();
        let ends_by = self.deadline;
        tokio::select! {
            ready = stream.ready(wants_bytes, has_output) => WaitEnd::Socket(ready),
            // While bytes are wanted, a read finds the end.
            () = stream.hung_up(), if ends_by.is_none() && !wants_bytes => WaitEnd::HungUp,
            () = sleep_until(ends_by.unwrap_or_else(Instant::now)), if ends_by.is_some() => WaitEnd::Overdue,
            () = deliver(delivery), if is_delivering => WaitEnd::Delivered,
            () = self.timer.passed() => WaitEnd::Time,
            Ok(()) = self.outputs.changed() => WaitEnd::Collectors,
            Ok(()) = holder.changed() => WaitEnd::Superseded,
            () = self.sender.access_revoked() => WaitEnd::AccessRevoked,
            whose = self.expiry.expired() => WaitEnd::Expired(whose),
            () = self.stop.requested() => WaitEnd::Shutdown,
        }
    }

    fn handle_events(&mut self, guard: &mut StreamGuard) -> Result<(), ConnectionEnd> {
        while let Some(event) = self.session.poll_event()? {
            match event {
                ReceiverEvent::Hello(_) => {}
                ReceiverEvent::Batch { batch, skip } => {
                    self.adopt_run(guard);
                    self.push_batch(guard, &batch, skip);
                }
                ReceiverEvent::Gap(gap) => {
                    self.adopt_run(guard);
                    push(guard, PendingBatch::of_gap(gap));
                }
                ReceiverEvent::ResentBatch(batch) => {
                    self.adopt_run(guard);
                    push_resent(guard, self.pending_batch(&batch, batch.first()));
                }
                ReceiverEvent::ResentGap(gap) => {
                    self.adopt_run(guard);
                    push_resent(guard, PendingBatch::of_gap(gap));
                }
                ReceiverEvent::Duplicate { datagrams } => {
                    Counters::add(&guard.entry.counters.duplicates, u64::from(datagrams));
                }
                ReceiverEvent::Goodbye => return Err(ConnectionEnd::Goodbye),
            }
        }
        Ok(())
    }

    /// Assigns the stream to the current run. By sending, the sender has accepted the stream state of
    /// WELCOME.
    fn adopt_run(&self, guard: &mut StreamGuard) {
        if let Some(active) = guard.resumed() {
            active.run = self.run;
        }
    }

    /// Redirects pending batches to the current collectors.
    fn follow_collectors(&mut self, guard: &mut StreamGuard) {
        let outputs = self.outputs.borrow_and_update();
        if let Some(active) = guard.resumed() {
            active.delivery.change(&outputs);
        }
    }

    /// Queues `batch`, of which the first `skip` datagrams were delivered before.
    fn push_batch(&self, guard: &mut StreamGuard, batch: &Batch, skip: usize) {
        let skipped = u64::try_from(skip).unwrap_or(u64::MAX);
        let pending = self.pending_batch(batch, batch.first().plus(skipped));
        let dropped_before = pending.records.as_ref().map_or(0, |records| records.dropped_in(..skip));
        Counters::add(&guard.entry.counters.duplicates, skipped.saturating_sub(dropped_before));
        push(guard, pending);
    }

    /// Returns `batch` as a pending batch, in which datagrams from `news` on are new.
    fn pending_batch(&self, batch: &Batch, news: Position) -> PendingBatch {
        let (first, end, exporters) = (batch.first(), batch.end(), self.sender.exporters());
        PendingBatch {
            first,
            end,
            first_new: news,
            records: batch.records().map_err(LossCause::Unreadable),
            exporters,
        }
    }

    /// Acknowledges the settled position if that is due, and requests more if there is room. Returns whether
    /// more may be received that could not before.
    fn acknowledge_settled(&mut self, guard: &mut StreamGuard) -> Result<bool, PositionsError> {
        let StreamGuard { entry, active, .. } = guard;
        let Some(active) = active.as_mut() else {
            note_internal_error("a session without a stream settles it");
            return Ok(false);
        };
        let settled = active.delivery.take_settled();
        entry.note_settled(&settled);
        let (position, skip_position) = (active.delivery.settled(), active.delivery.skip_position());
        self.session.note_delivered(position, skip_position, Instant::now().into_std());
        // An ACK precedes RECEIVED and RESEND: the sender keeps data for requests from there on.
        if self.session.is_ack_due() || active.delivery.is_behind() {
            self.store_and_acknowledge(active)?;
        }
        if active.delivery.is_behind() {
            self.session.mark_received(active.delivery.received_up_to());
            if let Some((first, bytes)) =
                active.delivery.wanted_resend().filter(|_| !self.session.is_resend_pending())
            {
                self.session.request_resend(first, bytes);
            }
        }
        Ok(active.delivery.may_take_more() && self.session.resume_reading(Instant::now().into_std()))
    }

    /// Stores the position of the stream, and acknowledges it. If that fails, nothing is acknowledged.
    fn store_and_acknowledge(&mut self, active: &mut ActiveStream) -> Result<(), PositionsError> {
        let position = active.delivery.settled();
        if active.stored.get().is_none_or(|stored| stored < position) {
            active.stored.store(position, active.run)?;
        }
        if let Some(further) = active.delivery.skip_position() {
            active.stored.store_skip_position(further, active.run)?;
        }
        self.session.acknowledge(position, Instant::now().into_std());
        Ok(())
    }
}

/// Queues the next batch of the stream for delivery. Without a stream it is not acknowledged, so the sender
/// keeps it.
fn push(guard: &mut StreamGuard, pending: PendingBatch) {
    if let Some(active) = guard.resumed() {
        active.delivery.push(pending);
    }
}

/// Queues a resent batch for the collectors that lack it.
fn push_resent(guard: &mut StreamGuard, pending: PendingBatch) {
    if let Some(active) = guard.resumed() {
        active.delivery.push_resent(pending);
    }
}

/// Delivers from the first queued batches what their collectors accept without a wait. Returns `false` if a
/// wait is needed, or nothing is queued.
async fn deliver_at_once(guard: &mut StreamGuard) -> bool {
    let delivery = guard.active.as_mut().map(|active| &mut active.delivery);
    let Some(delivery) = delivery.filter(|delivery| delivery.is_under_way()) else { return false };
    let mut running = pin!(delivery.run());
    poll_fn(|context| Poll::Ready(running.as_mut().poll(context).is_ready())).await
}

/// Delivers queued batches; never returns without a delivery.
async fn deliver(delivery: Option<&mut Delivery>) {
    match delivery {
        Some(delivery) => delivery.run().await,
        None => core::future::pending().await,
    }
}
