//! The daemon: acquires its resources, serves senders, and stops in an orderly way.

mod clock_log;
mod state_sync;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use nf_transport_core::secure::AccessPolicy;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::config::{HostPort, Loaded, RECEIVER, ReceiverSettings};
use crate::host::files::atomic_file;
use crate::host::process::logging;
use crate::host::systemd::messages::receiver;
use crate::host::systemd::passed_sockets;
use crate::host::{
    DaemonError, DirectoryLock, Expiry, FileShares, InternalErrorLog, Pulse, Shutdown, ShutdownTrigger,
    Signals, Supervised, Supervisor, Watchdog, abort_on_panic, allow_open_files, bind_metrics, bind_tcp,
    shutdown_channel,
};
use crate::receiver::accept::Acceptor;
use crate::receiver::accept::known_sources::KnownSources;
use crate::receiver::accept::unauthenticated::UnauthenticatedConnections;
use crate::receiver::accept::waiting::WaitingForSession;
use crate::receiver::collectors::Collectors;
use crate::receiver::collectors::confusion::Confusion;
use crate::receiver::daemon::clock_log::ClockLog;
use crate::receiver::daemon::state_sync::StateSync;
use crate::receiver::delivery::collector_offsets::{self, CollectorOffset, CollectorOffsets};
use crate::receiver::delivery::unmatched::UnmatchedLog;
use crate::receiver::output::{Outputs, SocketBudget};
use crate::receiver::reload::{Load, Reloader};
use crate::receiver::report::{line, status};
use crate::receiver::session::Shared;
use crate::receiver::session::senders::Senders;
use crate::receiver::state::positions::{self, Positions};
use crate::receiver::state::templates::Templates;
use crate::status::{ControlSocket, Pace, ReceiverStatus, Reply, Request, receiver_metrics, serve_metrics};

/// Runs nf-receiver until shutdown.
pub(crate) fn run(load: Load) -> Result<(), DaemonError> {
    let loaded = load()?;
    logging::start();
    abort_on_panic(receiver::INTERNAL_ERROR);
    for warning in loaded.report.warnings() {
        tracing::warn!("{warning}");
    }
    let Loaded { file, settings, .. } = loaded;
    let reloader = Reloader::new(load, file, settings.clone())?;
    let _lock = DirectoryLock::acquire(&settings.state, &[positions::DIRECTORY])?;
    if let Err(error) = atomic_file::remove_unfinished(&settings.state) {
        tracing::warn!(%error, "cannot remove unfinished files in {}: {error}", settings.state.display());
    }
    let bounded = share_files(settings);
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| DaemonError::system(format_args!("cannot start the runtime: {error}")))?;
    // A task runs on a worker, which has the timers. `block_on` would wake up this thread too in each round.
    let supervisor = runtime.spawn(supervise(bounded, Arc::new(reloader), started));
    runtime.block_on(supervisor).map_err(DaemonError::system)?
}

/// Settings with limits that fit the number of open files.
struct BoundedSettings {
    settings: ReceiverSettings,
    /// Bound of exporter sockets for all collectors together.
    exporter_sockets: usize,
}

/// Lowers the limits of `settings` to the allowed number of open files, and warns if it does.
fn share_files(mut settings: ReceiverSettings) -> BoundedSettings {
    let late = settings.collectors.iter().filter(|collector| collector.late.is_some()).count();
    let destinations = settings.collectors.len() + late;
    let wanted = FileShares {
        connections: settings.connections,
        unauthenticated: settings.unauthenticated.0,
        exporter_sockets: destinations.saturating_mul(settings.exporter_sockets.get()),
    };
    let Some(allowed) = allow_open_files().filter(|allowed| *allowed < wanted.total()) else {
        return BoundedSettings { settings, exporter_sockets: usize::MAX };
    };
    let shares = wanted.within(allowed);
    let FileShares { connections, unauthenticated, exporter_sockets } = shares;
    tracing::warn!(
        allowed,
        wanted = wanted.total(),
        connections,
        unauthenticated,
        exporter_sockets,
        "file limit {allowed} is below the {} that the configured limits may need: allowing only \
         {connections} connections, {unauthenticated} unauthenticated ones and {exporter_sockets} exporter \
         sockets; raise LimitNOFILE= (ulimit -Hn), or lower limits.connections or limits.exporter-sockets",
        wanted.total()
    );
    (settings.connections, settings.unauthenticated.0) = (connections, unauthenticated);
    BoundedSettings { settings, exporter_sockets }
}

/// The running daemon.
struct ReceiverDaemon {
    reloader: Arc<Reloader>,
    /// The state directory.
    state: PathBuf,
    /// Empty until the collectors are resolved.
    shared: Arc<OnceLock<Arc<Shared>>>,
    policy: watch::Receiver<Arc<AccessPolicy>>,
    serving: JoinHandle<Result<(), DaemonError>>,
    stop_serving: ShutdownTrigger,
    /// The task that answers requests at the control socket.
    answers: AbortHandle,
    sync: StateSync,
    pace: Pace,
    clock: ClockLog,
    unmatched: UnmatchedLog,
}

/// Consequence of an internal error for datagrams.
const INTERNAL_ERROR_COST: &str = "senders keep all unacknowledged datagrams";

async fn supervise(
    bounded: BoundedSettings,
    reloader: Arc<Reloader>,
    started: Instant,
) -> Result<(), DaemonError> {
    let signals = Signals::handle()?;
    let mut watchdog = Watchdog::new(RECEIVER, started, receiver::LOOP_STUCK);
    let daemon = start(bounded, reloader, &mut watchdog).await?;
    let internal_errors = InternalErrorLog::new(receiver::INTERNAL_ERROR, INTERNAL_ERROR_COST);
    Supervisor::new(watchdog, internal_errors).run(signals, daemon).await
}

async fn start(
    bounded: BoundedSettings,
    reloader: Arc<Reloader>,
    watchdog: &mut Watchdog,
) -> Result<ReceiverDaemon, DaemonError> {
    let settings = &bounded.settings;
    let listeners = listen(&settings.listen)?;
    let control = ControlSocket::bind(&settings.control).map_err(DaemonError::cannot_create)?;
    let positions = open_positions(settings.state.clone()).await?;
    let state = settings.state.clone();
    let (stop_serving, stop) = shutdown_channel();
    let shared: Arc<OnceLock<Arc<Shared>>> = Arc::default();
    let missing: watch::Sender<Vec<HostPort>> = watch::Sender::default();
    let state_of = {
        let (shared, reloader, missing) = (shared.clone(), reloader.clone(), missing.subscribe());
        let all: Vec<HostPort> =
            settings.collectors.iter().map(|collector| collector.address.clone()).collect();
        // Until the collectors are resolved, all of them are listed as missing.
        move || match shared.get() {
            Some(shared) => status(Some(shared), &missing.borrow(), &reloader),
            None => status(None, &all, &reloader),
        }
    };
    if let Some(address) = settings.metrics {
        let state_of = state_of.clone();
        tokio::spawn(serve_metrics(bind_metrics(address)?, move || receiver_metrics(state_of())));
    }
    let answers = tokio::spawn(control.serve(answer(state_of, reloader.clone()))).abort_handle();
    let listeners = listeners.into_iter().map(|listener| (listener, watchdog.pulse("gate"))).collect();
    let serving =
        tokio::spawn(serve(bounded, listeners, positions, reloader.clone(), shared.clone(), missing, stop));
    Ok(ReceiverDaemon {
        policy: reloader.policy(),
        reloader,
        state,
        shared,
        serving,
        stop_serving,
        answers,
        sync: StateSync::default(),
        pace: Pace::default(),
        clock: ClockLog::new(),
        unmatched: UnmatchedLog::default(),
    })
}

impl Supervised for ReceiverDaemon {
    fn reload(&mut self) {
        // An error in the settings is logged, and the daemon continues.
        drop(self.reloader.reload());
    }

    fn tick(&mut self) -> String {
        self.clock.look();
        let Some(shared) = self.shared.get() else {
            return "looking up the names of the collectors; senders wait".to_owned();
        };
        let senders = shared.senders.status(&self.policy.borrow());
        shared.senders.log_denied(false);
        let totals = shared.senders.totals();
        self.pace.add_sample((totals.delivered.datagrams, totals.delivered.bytes));
        self.unmatched.look(shared.senders.unmatched());
        self.sync.tick(shared, &self.state);
        line(&senders, totals, &shared.outputs(), &self.pace)
    }

    fn expiries(&self) -> Vec<(&'static str, Expiry)> {
        let policy = self.policy.borrow();
        let Some(tls) = &policy.tls else { return Vec::new() };
        let own = (receiver::CERTIFICATE_ENDS, Expiry::of_certificate(&tls.certificate));
        let lists = tls.revoked.iter().filter_map(Expiry::of_list);
        core::iter::once(own).chain(lists.map(|list| (receiver::REVOCATION_LIST_ENDS, list))).collect()
    }

    async fn ended(&mut self) -> Result<(), DaemonError> {
        (&mut self.serving).await.unwrap_or_else(|error| Err(DaemonError::system(error)))
    }

    fn announce_stop(&self) -> String {
        tracing::info!("stopping");
        "stopping".to_owned()
    }

    async fn stop(self) -> Result<(), DaemonError> {
        self.stop_serving.request();
        if !self.serving.is_finished() {
            self.serving.await.map_err(DaemonError::system)??;
        }
        if let Some(shared) = self.shared.get() {
            self.unmatched.finish(shared.senders.unmatched());
            shared.senders.log_denied(true);
            let progress = shared.senders.store_offsets().await;
            pass_on(shared, &self.state, &progress);
            state_sync::finish(shared.clone(), self.state).await;
        }
        self.answers.abort();
        Ok(())
    }
}

/// Stores the state of collectors for the next run, so that it repeats nothing to those that stay.
fn pass_on(shared: &Shared, state: &Path, progress: &[CollectorOffset]) {
    if let Err(error) = collector_offsets::store(state, progress) {
        tracing::error!(
            %error,
            "cannot store the offsets of collectors: {error}; part of a batch will be repeated to some of \
             them"
        );
    }
    if let Err(error) = shared.templates.pass_on(state, shared.outputs().passed_on()) {
        tracing::error!(
            %error,
            "cannot store the state of collectors: {error}; templates are repeated once to all of them"
        );
    }
}

/// Returns the sockets passed by systemd, else opens those of the settings.
fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, DaemonError> {
    let passed = passed_sockets::tcp_listeners()?;
    let from_systemd = !passed.is_empty();
    let sockets = if from_systemd {
        passed
    } else {
        addresses.iter().map(|address| bind_tcp(*address)).collect::<Result<_, _>>()?
    };
    let told = |error| DaemonError::system(format_args!("cannot set up a TCP socket: {error}"));
    let mut listeners = Vec::new();
    for socket in sockets {
        let address = socket.local_addr().map_err(told)?;
        tracing::info!(
            %address,
            from_systemd,
            "listening for senders on {address}{}",
            passed_sockets::origin(from_systemd)
        );
        listeners.push(TcpListener::from_std(socket).map_err(told)?);
    }
    Ok(listeners)
}

/// Opens the positions in the directory `state`. Blocking work runs on another thread, because listing the
/// directory may be slow.
async fn open_positions(state: PathBuf) -> Result<Positions, DaemonError> {
    let opening = tokio::task::spawn_blocking(move || Positions::open(&state));
    opening.await.map_err(DaemonError::system)?.map_err(DaemonError::cannot_create)
}

/// Resolves the collectors, then serves every listener until shutdown.
async fn serve(
    BoundedSettings { settings, exporter_sockets }: BoundedSettings,
    listeners: Vec<(TcpListener, Pulse)>,
    positions: Positions,
    reloader: Arc<Reloader>,
    place: Arc<OnceLock<Arc<Shared>>>,
    missing: watch::Sender<Vec<HostPort>>,
    mut stop: Shutdown,
) -> Result<(), DaemonError> {
    let templates = Templates::recovered(&settings.state);
    let sockets = SocketBudget::new(settings.exporter_sockets, exporter_sockets);
    let none = Outputs::none(sockets, templates.clone());
    let collectors = tokio::select! {
        collectors = Collectors::find(reloader.collectors(), &none, missing) => collectors,
        () = stop.requested() => return Ok(()),
    };
    let offsets = CollectorOffsets::recover(&settings.state);
    let made = Arc::new(Shared {
        senders: Senders::default(),
        positions,
        outputs: collectors.outputs(),
        collector_offsets: offsets,
        templates,
        log_limit: Mutex::default(),
        rejected: Mutex::default(),
        known_sources: Arc::new(KnownSources::recover(&settings.state)),
        waiting: WaitingForSession::default(),
        confusion: Confusion::default(),
    });
    let shared = place.get_or_init(|| made).clone();
    let known_sources = shared.known_sources.clone();
    let gate = Arc::new(Acceptor {
        shared,
        policy: reloader.policy(),
        handshake_timeout: settings.handshake_timeout,
        connections: Arc::new(Semaphore::new(settings.connections)),
        unauthenticated: UnauthenticatedConnections::new(
            settings.unauthenticated.0,
            settings.unauthenticated.1,
            known_sources,
        ),
    });
    let following = tokio::spawn(collectors.follow());
    let mut gates = JoinSet::new();
    for (listener, pulse) in listeners {
        gates.spawn(gate.clone().run(listener, pulse, stop.clone()));
    }
    while gates.join_next().await.is_some() {}
    following.abort();
    Ok(())
}

fn answer(
    state_of: impl Fn() -> ReceiverStatus + Clone + Send + 'static,
    reloader: Arc<Reloader>,
) -> impl Fn(Request) -> Reply + Clone + Send + 'static {
    move |request| match request {
        Request::Status => match serde_json::to_value(state_of()) {
            Ok(status) => Reply::Ok(status),
            Err(error) => Reply::Error(error.to_string()),
        },
        Request::Configuration => Reply::Ok(reloader.file().to_string_lossy().into()),
        Request::Reconnect => Reply::Error("nf-receiver does not connect; ask nf-sender".to_owned()),
        Request::Reload => match reloader.reload() {
            Ok(()) => Reply::Ok(serde_json::Value::Null),
            Err(error) => Reply::Error(error.to_string()),
        },
    }
}
