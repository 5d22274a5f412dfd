//! The exchange of a session's bytes over its stream, and the orderly end, the same for both daemons.

use std::time::Duration;

use nf_transport_core::session::{Outbox, ReceiverSession, SenderSession};
use tokio::io::Ready;
use tokio::time::{Instant, timeout};

use crate::host::secure_stream::{Received, SecureStream, StreamError};

/// The longest time for the last messages of a connection.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A session of either side, as its connection sees it.
pub(crate) trait Session {
    /// Handles bytes from the peer that arrived at `now`.
    fn handle_bytes(&mut self, bytes: &[u8], now: std::time::Instant);

    /// The messages to the peer.
    fn outbox(&mut self) -> &mut Outbox;
}

impl Session for SenderSession {
    fn handle_bytes(&mut self, bytes: &[u8], now: std::time::Instant) {
        self.handle_bytes(bytes, now);
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.outbox()
    }
}

impl Session for ReceiverSession {
    fn handle_bytes(&mut self, bytes: &[u8], now: std::time::Instant) {
        self.handle_bytes(bytes, now);
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.outbox()
    }
}

/// Reads the available input into `buffer` and gives it to `session`. If there is none, writes its output.
/// Reads come first, because the last message of the peer may explain why a write fails.
pub(crate) fn transfer(
    session: &mut impl Session,
    stream: &mut SecureStream,
    ready: Ready,
    buffer: &mut [u8],
) -> Result<Received, StreamError> {
    if ready.is_readable() {
        let now = Instant::now().into_std();
        match stream.receive(buffer, |bytes| session.handle_bytes(bytes, now))? {
            Received::Nothing => {}
            received => return Ok(received),
        }
    }
    if ready.is_writable() {
        stream.send(session.outbox())?;
    }
    Ok(Received::Nothing)
}

/// Sends the remaining messages of `session`, and waits briefly until the peer closes its side.
pub(crate) async fn flush_and_close(session: &mut impl Session, stream: &mut SecureStream) {
    let last_messages = async {
        stream.flush(session.outbox()).await?;
        stream.close_gracefully().await?;
        Ok::<(), StreamError>(())
    };
    if !matches!(timeout(CLOSE_TIMEOUT, last_messages).await, Ok(Ok(()))) {
        tracing::debug!("the peer did not accept the last messages and close the connection in time");
    }
}

#[cfg(test)]
mod tests {
    use nf_transport_core::framing::RefusalCode;
    use nf_transport_core::secure::Channel;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A session with output, its stream, and the peer.
    async fn connected() -> (ReceiverSession, SecureStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = SecureStream::new(listener.accept().await.unwrap().0, Channel::plain());
        let mut session = ReceiverSession::new();
        session.reject(RefusalCode::NotAuthorized, "the reason");
        assert!(!session.outbox().is_empty());
        (session, stream, peer)
    }

    #[tokio::test]
    async fn input_is_read_before_output_is_written() {
        let (mut session, mut stream, mut peer) = connected().await;
        let both = Ready::READABLE | Ready::WRITABLE;
        let (length, mut buffer) = (session.outbox().len(), [0; 64]);
        peer.write_all(&[0; 7]).await.unwrap();
        while stream.ready(true, false).await.unwrap() != Ready::READABLE {}
        assert_eq!(transfer(&mut session, &mut stream, both, &mut buffer).unwrap(), Received::Bytes);
        assert_eq!(session.outbox().len(), length, "nothing is written after a read");
        assert_eq!(transfer(&mut session, &mut stream, both, &mut buffer).unwrap(), Received::Nothing);
        assert!(session.outbox().is_empty());
        peer.read_exact(&mut vec![0; length]).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_input_is_returned() {
        let (mut session, mut stream, peer) = connected().await;
        drop(peer);
        let ready = stream.ready(true, false).await.unwrap();
        assert_eq!(transfer(&mut session, &mut stream, ready, &mut [0; 64]).unwrap(), Received::End);
    }

    #[tokio::test]
    async fn a_close_sends_the_last_messages() {
        let (mut session, mut stream, mut peer) = connected().await;
        let length = session.outbox().len();
        let reading = tokio::spawn(async move {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).await.unwrap();
            received.len()
        });
        let began = Instant::now();
        flush_and_close(&mut session, &mut stream).await;
        assert_eq!(reading.await.unwrap(), length);
        assert!(began.elapsed() < CLOSE_TIMEOUT, "the peer has closed");
    }

    #[tokio::test]
    async fn a_close_does_not_wait_long_for_the_peer() {
        let (mut session, mut stream, _peer) = connected().await;
        tokio::time::pause();
        let began = Instant::now();
        flush_and_close(&mut session, &mut stream).await;
        assert!(session.outbox().is_empty());
        assert_eq!(began.elapsed().as_secs(), CLOSE_TIMEOUT.as_secs());
    }
}
