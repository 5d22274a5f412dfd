//! The timer of a loop.

use core::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of a loop, kept over its iterations.
///
/// It is registered again only if its time changes. Each registration may wake the thread that waits for
/// timers.
#[derive(Debug, Default)]
pub(crate) struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// Sets the time of the timer, or none.
    pub(crate) fn set(&mut self, time: Option<Instant>) {
        match (&mut self.0, time) {
            (Some(sleep), Some(time)) if sleep.deadline() == time => {}
            (Some(sleep), Some(time)) => sleep.as_mut().reset(time),
            (sleep, time) => *sleep = time.map(|time| Box::pin(sleep_until(time))),
        }
    }

    /// Waits until that time; forever without one. Cancel safe.
    pub(crate) async fn passed(&mut self) {
        match &mut self.0 {
            Some(sleep) => sleep.as_mut().await,
            None => core::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_passes_at_the_last_time_that_was_set() {
        let begun = Instant::now();
        let mut deadline = Deadline::default();
        for seconds in [9, 9, 3, 5] {
            deadline.set(Some(begun + SECOND * seconds));
            timeout(SECOND / 2, deadline.passed()).await.unwrap_err();
        }
        deadline.passed().await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        deadline.set(Some(Instant::now() + SECOND));
        deadline.passed().await;
        assert_eq!(begun.elapsed().as_secs(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_it_never_passes() {
        let mut deadline = Deadline::default();
        timeout(SECOND, deadline.passed()).await.unwrap_err();
        deadline.set(Some(Instant::now() + SECOND));
        deadline.set(None);
        timeout(SECOND * 3600, deadline.passed()).await.unwrap_err();
    }
}
