//! The entry of one sender, and the exclusive right to deliver its stream.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use nf_transport_core::framing::Hello;
use nf_transport_core::internal_error::note_internal_error;
use nf_transport_core::sequence::{SenderId, StreamId};
use tokio::sync::{OwnedMutexGuard, watch};

use crate::host::locked;
use crate::receiver::delivery::Settled;
use crate::receiver::delivery::unmatched::Unmatched;
use crate::receiver::session::sender_log::SenderLog;
use crate::receiver::session::senders::active_stream::ActiveStream;
use crate::receiver::session::senders::counters::Counters;
use crate::receiver::session::senders::holder::{Holder, Superseded};
use crate::status::PeerState;

/// The entry of one sender.
#[derive(Debug)]
pub(crate) struct SenderEntry {
    /// Locked by the connection that delivers.
    pub(super) active: Arc<tokio::sync::Mutex<Option<ActiveStream>>>,
    /// The newest connection that acquired the entry or waits for it.
    pub(super) holder: watch::Sender<Holder>,
    pub(super) view: Mutex<ConnectionView>,
    pub(crate) counters: Counters,
    sender: SenderId,
    log: Arc<SenderLog>,
}

impl SenderEntry {
    pub(super) fn new(
        sender: SenderId,
        peer: SocketAddr,
        stream: StreamId,
        unmatched: Arc<Unmatched>,
        log: Arc<SenderLog>,
    ) -> Self {
        Self {
            active: Arc::default(),
            holder: watch::Sender::new(Holder {
                number: 0,
                peer,
                stream,
                begun: SystemTime::UNIX_EPOCH,
                is_here: false,
            }),
            view: Mutex::new(ConnectionView {
                peer,
                stream,
                state: PeerState::Disconnected,
                cipher: "none",
                replaces: None,
                superseded: None,
                rival: None,
                ended: None,
            }),
            counters: Counters { unmatched, ..Counters::default() },
            sender,
            log,
        }
    }

    pub(super) fn view(&self) -> MutexGuard<'_, ConnectionView> {
        locked(&self.view)
    }

    /// Counts delivered, denied and lost datagrams, and logs the losses.
    pub(crate) fn note_settled(&self, settled: &Settled) {
        self.counters.add_settled(settled);
        for loss in &settled.losses {
            self.log.log_loss(&self.sender, loss, self.counters.gaps.load(Ordering::Relaxed));
        }
    }

    /// Notes the reason for the end of the session.
    pub(crate) fn note_ended(&self, reason: String) {
        self.view().ended = Some(reason);
    }

    /// Claims the entry for a connection with `stream`, which began at `begun`. Returns the address of the
    /// connection that it supersedes.
    fn claim(
        self: &Arc<Self>,
        peer: SocketAddr,
        stream: StreamId,
        begun: SystemTime,
    ) -> Result<(EntryClaim, Option<SocketAddr>), Superseded> {
        let mut outcome = Ok((0, None));
        self.holder.send_if_modified(|holder| {
            let before = holder.is_here.then_some(holder.peer);
            let number = holder.number + 1;
            outcome = holder.check(stream, Some(begun)).map(|()| (number, before));
            if outcome.is_ok() {
                *holder = Holder { number, peer, stream, begun, is_here: true };
            }
            outcome.is_ok()
        });
        match outcome {
            Ok((number, before)) => Ok((EntryClaim { entry: self.clone(), number, stream }, before)),
            Err(superseded) => Err(self.note_rival(peer, superseded)),
        }
    }

    /// Notes for the status that a connection of `peer` was rejected.
    pub(super) fn note_rival(&self, peer: SocketAddr, superseded: Superseded) -> Superseded {
        self.view().rival = Some(peer);
        superseded
    }

    /// Acquires the entry for a connection whose stream began at `begun`; a connection that has it ends.
    /// Fails if the entry is not available to this stream, or as soon as another connection claims it.
    pub(crate) async fn acquire(
        self: Arc<Self>,
        peer: SocketAddr,
        hello: &Hello,
        begun: SystemTime,
        cipher: &'static str,
    ) -> Result<StreamGuard, Superseded> {
        let (claim, before) = self.claim(peer, hello.stream, begun)?;
        let mut holder = self.holder.subscribe();
        let is_superseded = async {
            drop(holder.wait_for(|holder| holder.number != claim.number).await);
        };
        let current = tokio::select! {
            current = self.active.clone().lock_owned() => current,
            () = is_superseded => return claim.check().and(Err(Superseded::Newer(peer))),
        };
        let holder = self.holder.subscribe();
        claim.check()?;
        let (stream, replaces, state) = (hello.stream, hello.replaces, PeerState::Connected);
        let mut view = self.view();
        let (superseded, rival) = (before.or(view.superseded), view.rival);
        *view = ConnectionView { peer, stream, state, cipher, replaces, superseded, rival, ended: None };
        drop(view);
        Ok(StreamGuard { entry: self, claim, active: current, holder })
    }

    /// Returns whether no connection has the entry and its state is stored.
    pub(super) fn is_idle(&self) -> bool {
        self.active.try_lock().is_ok_and(|current| current.as_ref().is_none_or(ActiveStream::is_settled))
    }
}

/// Values of the status in addition to the counters.
#[derive(Clone, Debug)]
pub(super) struct ConnectionView {
    pub(super) peer: SocketAddr,
    pub(super) stream: StreamId,
    pub(super) state: PeerState,
    /// Cipher of the connection.
    pub(super) cipher: &'static str,
    /// The stream that this one continues, because the spool was rolled back or cloned.
    pub(super) replaces: Option<StreamId>,
    /// The last connection that a newer one superseded.
    pub(super) superseded: Option<SocketAddr>,
    /// The last connection that was rejected because another sender had the entry.
    pub(super) rival: Option<SocketAddr>,
    /// Reason for the end of the last session; `None` during a session.
    pub(super) ended: Option<String>,
}

/// The claim of one connection to an entry, until dropped.
#[derive(Debug)]
struct EntryClaim {
    entry: Arc<SenderEntry>,
    number: u64,
    stream: StreamId,
}

impl EntryClaim {
    /// Fails if a newer connection claims the entry.
    fn check(&self) -> Result<(), Superseded> {
        let holder = *self.entry.holder.borrow();
        if holder.number == self.number { Ok(()) } else { Err(holder.superseded(self.stream)) }
    }
}

impl Drop for EntryClaim {
    fn drop(&mut self) {
        self.entry.holder.send_if_modified(|holder| {
            holder.is_here &= holder.number != self.number;
            false
        });
    }
}

/// Exclusive right to deliver a sender's stream, until dropped.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    pub(crate) entry: Arc<SenderEntry>,
    /// Dropped before the entry is free, so that no new connection is rejected in between.
    claim: EntryClaim,
    pub(crate) active: OwnedMutexGuard<Option<ActiveStream>>,
    /// Changes when another connection claims the entry.
    pub(crate) holder: watch::Receiver<Holder>,
}

impl StreamGuard {
    /// Returns the stream that the session has resumed.
    #[track_caller]
    pub(crate) fn resumed(&mut self) -> Option<&mut ActiveStream> {
        if self.active.is_none() {
            note_internal_error("a session has resumed no stream");
        }
        self.active.as_mut()
    }

    /// Returns the reason why another connection claims the entry.
    pub(crate) fn superseded(&self) -> Superseded {
        self.holder.borrow().superseded(self.claim.stream)
    }
}

impl Drop for StreamGuard {
    /// Drops batches that will be sent again, and the stream state if the stored position describes it
    /// completely. While a collector is behind others, their offsets stay here until the sender is back. The
    /// file is closed in any case.
    fn drop(&mut self) {
        if let Some(current) = self.active.as_mut() {
            self.entry.note_settled(&current.delivery.suspend());
            current.in_use = None;
        }
        self.active.take_if(|current| current.is_settled());
        self.entry.view().state = PeerState::Disconnected;
    }
}
