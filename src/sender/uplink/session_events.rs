//! The messages of the receiver in a session: WELCOME, acknowledgements and the end.

use nf_transport_core::framing::Welcome;
use nf_transport_core::sequence::Position;
use nf_transport_core::session::SenderEvent;

use crate::host::secure_stream::protection;
use crate::host::systemd::messages::sender;
use crate::sender::uplink::connection::Connection;
use crate::sender::uplink::ended::SessionEnd;
use crate::sender::uplink::session_loop::SessionLoop;
use crate::sender::uplink::state::UplinkState;
use crate::status::count_of;

impl SessionLoop<'_> {
    /// Handles all messages that were received.
    pub(super) fn handle_events(
        &mut self,
        connection: &mut Connection,
        peer: &str,
    ) -> Result<(), SessionEnd> {
        while let Some(event) = connection.session.poll_event()? {
            match event {
                SenderEvent::Welcomed(welcome) => self.welcomed(connection, &welcome, peer)?,
                SenderEvent::Acknowledged(position) => {
                    self.acknowledged(connection, position);
                    self.note_progress(connection);
                }
                SenderEvent::Received(_) => {
                    self.bound_in_flight(connection);
                    self.note_progress(connection);
                }
                SenderEvent::Rejected(refusal) => return Err(SessionEnd::refused(&refusal)),
                SenderEvent::Goodbye => return Err(SessionEnd::Goodbye),
            }
        }
        Ok(())
    }

    fn welcomed(
        &mut self,
        connection: &mut Connection,
        welcome: &Welcome,
        peer: &str,
    ) -> Result<(), SessionEnd> {
        let resume = welcome.resume;
        if let Err(divergence) = self.uplink.queue.check_lineage(welcome) {
            return Err(SessionEnd::Diverged { divergence, delivered: resume });
        }
        let acknowledged = self.uplink.queue.acknowledged();
        if resume < acknowledged {
            return Err(SessionEnd::BehindUs(resume, acknowledged));
        }
        self.is_agreed = true;
        self.acknowledged(connection, resume);
        self.uplink.queue.set_in_flight(resume);
        self.uplink.queue.note_sent(resume);
        let cipher = connection.stream.channel().cipher();
        let queued = self.uplink.queue.figures().queued;
        tracing::info!(
            message_id = sender::CONNECTED,
            peer,
            cipher,
            resume = resume.0,
            queued,
            "connected to {peer}, {}; {} queued",
            protection(cipher),
            count_of(queued, "datagram")
        );
        if self.uplink.failure.is_none() || queued == 0 {
            self.show_connected(connection);
        }
        Ok(())
    }

    pub(super) fn show_connected(&self, connection: &Connection) {
        let mut view = self.uplink.view();
        view.state = UplinkState::Connected;
        view.reason = None;
        view.cipher = Some(connection.stream.channel().cipher());
        view.segment_bytes = self.segment_bytes;
        view.disconnected_since = None;
    }

    /// Notes progress: the receiver has accepted data, or nothing is queued.
    pub(super) fn note_progress(&mut self, connection: &Connection) {
        self.stall.acknowledged();
        if !self.has_progressed {
            self.has_progressed = true;
            if self.uplink.failure.is_some() {
                self.show_connected(connection);
            }
        }
    }

    fn acknowledged(&self, connection: &mut Connection, position: Position) {
        let bytes = connection.acknowledge(position);
        let session = &connection.session;
        let in_flight = if session.resent().is_none() { session.sent() } else { Position(0) };
        self.uplink.queue.acknowledge_in_flight(position, bytes, in_flight);
    }

    /// Handles that some collectors are ahead of others. The receiver will request the datagrams that the
    /// others lack. Until then only those that it holds for them are in flight.
    fn bound_in_flight(&self, connection: &Connection) {
        if let Some(end) = connection.in_flight_end() {
            self.uplink.queue.bound_in_flight(end);
        }
    }
}
