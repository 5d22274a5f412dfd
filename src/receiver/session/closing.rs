//! The orderly end of a connection.

use std::time::Duration;

use nf_transport_core::session::ReceiverSession;
use tokio::time::timeout;

use crate::host::secure_stream::{SecureStream, StreamError};

/// Time for the last messages to a sender before its connection is closed.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends pending messages of `session`, and closes.
pub(super) async fn flush_and_close(stream: &mut SecureStream, session: &mut ReceiverSession) {
    let last_words = async {
        stream.flush(session.outbox()).await?;
        stream.close_gracefully().await?;
        Ok::<(), StreamError>(())
    };
    if !matches!(timeout(CLOSE_TIMEOUT, last_words).await, Ok(Ok(()))) {
        tracing::debug!("the sender did not accept the last message");
    }
}
