//! The main loop of a daemon: signals, the work of each round, the watchdog, warnings of expiries, and the
//! stop.

use tokio::time::{MissedTickBehavior, interval_at};

use crate::host::process::signals::{Requests, SignalRequest};
use crate::host::systemd::notify;
use crate::host::{DaemonError, Expiry, ExpiryWatch, InternalErrorLog, ROUND, Watchdog};

/// A started daemon, as its [`Supervisor`] sees it.
pub(crate) trait Supervised {
    /// Reads the settings again and applies them. Logs errors, which leave everything as it was.
    fn reload(&mut self);

    /// Does the work of each round. Returns the line for `systemctl status`.
    fn tick(&mut self) -> String;

    /// Returns the expiries to warn of, each with the message id of the warning.
    fn expiries(&self) -> Vec<(&'static str, Expiry)>;

    /// Waits until a part of the daemon ends by itself, which ends the daemon. Cancel safe.
    async fn ended(&mut self) -> Result<(), DaemonError>;

    /// Announces the stop in the log. Returns the line for `systemctl status` meanwhile.
    fn announce_stop(&self) -> String;

    /// Stops all parts in order.
    async fn stop(self) -> Result<(), DaemonError>;
}

/// Runs a daemon until a signal or one of its parts ends it.
#[derive(Debug)]
pub(crate) struct Supervisor {
    watchdog: Watchdog,
    internal_errors: InternalErrorLog,
    expiry: ExpiryWatch,
}

impl Supervisor {
    /// Returns a supervisor that feeds `watchdog` and logs `internal_errors`.
    pub(crate) fn new(watchdog: Watchdog, internal_errors: InternalErrorLog) -> Self {
        Self { watchdog, internal_errors, expiry: ExpiryWatch::default() }
    }

    /// Reports to the service manager that `daemon` is ready, runs it until its end, and stops it.
    pub(crate) async fn run(
        mut self,
        mut requests: impl Requests,
        mut daemon: impl Supervised,
    ) -> Result<(), DaemonError> {
        notify::ready();
        let mut tick = interval_at(self.watchdog.started(), ROUND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let outcome = loop {
            tokio::select! {
                request = requests.next() => match request {
                    SignalRequest::Stop => break Ok(()),
                    SignalRequest::Reload => daemon.reload(),
                },
                _ = tick.tick() => self.tick(&mut daemon),
                ended = daemon.ended() => break ended,
            }
        };
        notify::stopping();
        notify::status(&daemon.announce_stop());
        // Signals have no effect from here on. The service manager ends a stop that takes too long.
        let stopped = notify::with_patience(daemon.stop()).await;
        self.internal_errors.finish();
        outcome.and(stopped)
    }

    fn tick(&mut self, daemon: &mut impl Supervised) {
        self.watchdog.look();
        self.internal_errors.look();
        notify::status(&daemon.tick());
        for (message_id, expiry) in daemon.expiries() {
            self.expiry.look_at(message_id, &expiry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use nf_transport_core::secure::Certificate;
    use tokio::time::{Duration, Instant, advance, sleep, sleep_until};

    use super::*;
    use crate::host::Lines;

    /// The time that the fake daemon needs to stop.
    const STOP: Duration = Duration::from_secs(30);

    /// The calls of a supervisor, each with the time since the start.
    #[derive(Clone, Default)]
    struct Calls(Arc<Mutex<Vec<(Duration, &'static str)>>>);

    impl Calls {
        /// Returns the seconds of the calls of `name`.
        fn of(&self, name: &str) -> Vec<u64> {
            self.times_of(name).iter().map(Duration::as_secs).collect()
        }

        fn times_of(&self, name: &str) -> Vec<Duration> {
            let calls = self.0.lock().unwrap();
            calls.iter().filter(|(_, call)| *call == name).map(|(time, _)| *time).collect()
        }
    }

    struct FakeDaemon {
        begun: Instant,
        calls: Calls,
        fails_after: Option<Duration>,
        stop_outcome: Result<(), DaemonError>,
    }

    impl FakeDaemon {
        fn new() -> (Self, Calls) {
            let calls = Calls::default();
            let daemon =
                Self { begun: Instant::now(), calls: calls.clone(), fails_after: None, stop_outcome: Ok(()) };
            (daemon, calls)
        }

        fn note(&self, call: &'static str) {
            self.calls.0.lock().unwrap().push((self.begun.elapsed(), call));
        }
    }

    impl Supervised for FakeDaemon {
        fn reload(&mut self) {
            self.note("reload");
        }

        fn tick(&mut self) -> String {
            self.note("tick");
            String::new()
        }

        fn expiries(&self) -> Vec<(&'static str, Expiry)> {
            vec![("0123", Expiry::of_certificate(&Certificate { name: None, not_after: 0 }))]
        }

        async fn ended(&mut self) -> Result<(), DaemonError> {
            match self.fails_after {
                Some(time) => sleep_until(self.begun + time).await,
                None => core::future::pending().await,
            }
            Err(DaemonError::system("a part ended"))
        }

        fn announce_stop(&self) -> String {
            self.note("stopping");
            String::new()
        }

        async fn stop(self) -> Result<(), DaemonError> {
            sleep(STOP).await;
            self.note("stopped");
            self.stop_outcome
        }
    }

    /// Requests, each at its second after `begun`.
    struct TimedRequests {
        begun: Instant,
        left: VecDeque<(u64, SignalRequest)>,
    }

    impl Requests for TimedRequests {
        async fn next(&mut self) -> SignalRequest {
            let Some((second, request)) = self.left.front().copied() else {
                return core::future::pending().await;
            };
            sleep_until(self.begun + Duration::from_secs(second)).await;
            self.left.pop_front();
            request
        }
    }

    /// Runs `daemon` with `requests`, each at its second.
    async fn run(daemon: FakeDaemon, requests: &[(u64, SignalRequest)]) -> Result<(), DaemonError> {
        run_with(Watchdog::new("nf-test", daemon.begun, ""), daemon, requests).await
    }

    async fn run_with(
        watchdog: Watchdog,
        daemon: FakeDaemon,
        requests: &[(u64, SignalRequest)],
    ) -> Result<(), DaemonError> {
        let supervisor = Supervisor::new(watchdog, InternalErrorLog::new("", ""));
        let requests = TimedRequests { begun: daemon.begun, left: VecDeque::from(requests.to_vec()) };
        supervisor.run(requests, daemon).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_daemon_ticks_each_round_until_the_stop() {
        let (daemon, calls) = FakeDaemon::new();
        run(daemon, &[(2, SignalRequest::Reload), (4, SignalRequest::Stop)]).await.unwrap();
        assert_eq!(calls.of("tick")[..4], [0, 1, 2, 3]);
        assert_eq!((calls.of("reload"), calls.of("stopping")), (vec![2], vec![4]));
        assert!(calls.of("tick").iter().all(|second| *second <= 4), "{:?}", calls.of("tick"));
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_are_counted_from_the_start_of_the_runtime() {
        let (daemon, calls) = FakeDaemon::new();
        let late = Duration::from_millis(300);
        advance(late).await;
        run(daemon, &[(4, SignalRequest::Stop)]).await.unwrap();
        assert_eq!(calls.times_of("tick"), [late, ROUND, ROUND * 2, ROUND * 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn signals_during_the_stop_have_no_effect() {
        let (daemon, calls) = FakeDaemon::new();
        let requests = [
            (1, SignalRequest::Stop),
            (2, SignalRequest::Reload),
            (3, SignalRequest::Stop),
            (4, SignalRequest::Reload),
        ];
        run(daemon, &requests).await.unwrap();
        assert_eq!(calls.of("reload"), Vec::<u64>::new());
        assert_eq!((calls.of("stopping"), calls.of("stopped")), (vec![1], vec![1 + STOP.as_secs()]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_ends_stops_the_others() {
        let (mut daemon, calls) = FakeDaemon::new();
        daemon.fails_after = Some(Duration::from_secs(5));
        let error = run(daemon, &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "a part ended");
        assert_eq!((calls.of("stopping"), calls.of("stopped")), (vec![5], vec![5 + STOP.as_secs()]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_is_the_outcome() {
        let (mut daemon, _) = FakeDaemon::new();
        daemon.stop_outcome = Err(DaemonError::system("the stop failed"));
        let error = run(daemon, &[(1, SignalRequest::Stop)]).await.unwrap_err();
        assert_eq!(error.to_string(), "the stop failed");
        let (mut daemon, _) = FakeDaemon::new();
        daemon.fails_after = Some(Duration::ZERO);
        daemon.stop_outcome = Err(DaemonError::system("the stop failed"));
        assert_eq!(run(daemon, &[]).await.unwrap_err().to_string(), "a part ended");
    }

    #[tokio::test(start_paused = true)]
    async fn missed_ticks_are_not_made_up_for() {
        let (daemon, calls) = FakeDaemon::new();
        let pause = async {
            sleep(Duration::from_millis(1500)).await;
            advance(Duration::from_secs(10)).await;
        };
        let (outcome, ()) = tokio::join!(run(daemon, &[(13, SignalRequest::Stop)]), pause);
        outcome.unwrap();
        assert_eq!(calls.of("tick"), [0, 1, 11, 12]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_loop_is_logged() {
        let lines = Lines::default();
        let _guard = tracing::subscriber::set_default(lines.clone().subscriber());
        let (daemon, _) = FakeDaemon::new();
        let mut watchdog = Watchdog::new("nf-test", daemon.begun, "");
        let _ingest = watchdog.running("ingest");
        run_with(watchdog, daemon, &[(60, SignalRequest::Stop)]).await.unwrap();
        let hung = lines.all().iter().filter(|line| line.contains("nf-test is hung")).count();
        assert_eq!(hung, 1, "{:?}", lines.all());
    }

    #[tokio::test(start_paused = true)]
    async fn expiries_are_warned_of_once_a_day() {
        let lines = Lines::default();
        let _guard = tracing::subscriber::set_default(lines.clone().subscriber());
        let (daemon, _) = FakeDaemon::new();
        run(daemon, &[(3600, SignalRequest::Stop)]).await.unwrap();
        let warnings = lines.all().iter().filter(|line| line.contains("has expired")).count();
        assert_eq!(warnings, 1, "{:?}", lines.all());
    }
}
