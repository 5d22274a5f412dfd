//! How the tasks of a daemon learn that it stops.

use tokio::sync::watch;

/// Tells every [`Stop`] made with it.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// A task's ear for the end.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A stopper, and the first of its ears.
pub fn stop_channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// It is time to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether it is time to stop. A stopper that is gone stops too.
    pub fn is_told(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until it is time to stop.
    pub async fn told(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            tracing::debug!("the stopper is gone");
        }
    }
}
