//! Resolution of the configured collectors to outputs: at the start, after each reload, and whenever a name
//! resolves to another address.

pub(crate) mod confusion;
mod names;

use std::sync::Arc;

use nf_transport_core::internal_error::note_internal_error;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::config::{CollectorSettings, HostPort};
use crate::host::resolve_cause;
use crate::receiver::collectors::names::{CollectorNames, LookUpResult, ResolvedNames};
use crate::receiver::output::{Outputs, ResolvedCollector};

/// Follows the collectors of the settings.
#[derive(Debug)]
pub(crate) struct Collectors {
    wanted: watch::Receiver<Vec<CollectorSettings>>,
    names: CollectorNames,
    /// Look-ups in progress, concurrently.
    running: JoinSet<(HostPort, LookUpResult)>,
    found: Vec<ResolvedCollector>,
    /// Unresolved collectors that the others do not wait for.
    missing: watch::Sender<Vec<HostPort>>,
    outputs: watch::Sender<Arc<Outputs>>,
}

impl Collectors {
    /// Resolves the collectors of the settings to outputs, based on `none`. Unresolved ones that the others
    /// do not wait for are listed in `missing`. Retries without limit while the name of a collector set to
    /// hold does not resolve: senders keep their data in the meantime.
    pub(crate) async fn find(
        mut wanted: watch::Receiver<Vec<CollectorSettings>>,
        none: &Outputs,
        missing: watch::Sender<Vec<HostPort>>,
    ) -> Self {
        let mut names = CollectorNames::default();
        names.want(&wanted.borrow_and_update(), Instant::now());
        let outputs = watch::Sender::new(Arc::new(none.changed_to(&[])));
        let mut collectors =
            Self { wanted, names, running: JoinSet::new(), found: Vec::new(), missing, outputs };
        let found = loop {
            if let Some(found) = collectors.names.found(Instant::now()) {
                break found;
            }
            collectors.wait().await;
        };
        warn_of_duplicates(&found.collectors);
        collectors.outputs.send_replace(Arc::new(none.changed_to(&found.collectors)));
        collectors.note_missing(found.missing);
        collectors.found = found.collectors;
        collectors
    }

    /// Returns the current outputs.
    pub(crate) fn outputs(&self) -> watch::Receiver<Arc<Outputs>> {
        self.outputs.subscribe()
    }

    /// Applies changes until dropped. The previous collectors stay until all new ones are resolved that must
    /// be waited for.
    pub(crate) async fn follow(mut self) {
        loop {
            self.wait().await;
            let Some(ResolvedNames { collectors, missing }) = self.names.found(Instant::now()) else {
                continue;
            };
            if collectors != self.found {
                self.apply(collectors);
            }
            self.note_missing(missing);
        }
    }

    /// Waits until a change is possible.
    async fn wait(&mut self) {
        for name in self.names.take_due(Instant::now()) {
            self.running.spawn(look_up(name));
        }
        let until = self.names.next();
        tokio::select! {
            Ok(()) = self.wanted.changed() => {
                self.names.want(&self.wanted.borrow_and_update(), Instant::now());
            }
            Some(ended) = self.running.join_next() => match ended {
                Ok((name, answer)) => self.names.note_answer(&name, answer, Instant::now()),
                Err(_) => note_internal_error("a look-up of a name ended without a result"),
            },
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            else => core::future::pending().await,
        }
    }

    fn apply(&mut self, found: Vec<ResolvedCollector>) {
        warn_of_duplicates(&found);
        let outputs = self.outputs.borrow().changed_to(&found);
        let collectors: Vec<String> = outputs.addresses().map(|address| address.to_string()).collect();
        let collectors = collectors.join(", ");
        tracing::info!(collectors, "now delivering to collectors {collectors}");
        self.outputs.send_replace(Arc::new(outputs));
        self.found = found;
    }

    fn note_missing(&self, missing: Vec<HostPort>) {
        for collector in &missing {
            if !self.missing.borrow().contains(collector) {
                tracing::warn!(
                    %collector,
                    "cannot find collector {collector}, which is set to skip: it gets no datagrams until \
                     its name resolves"
                );
            }
        }
        self.missing.send_replace(missing);
    }
}

/// Warns if two names resolve to one address. The collector there gets everything once, by the settings of
/// the first.
fn warn_of_duplicates(found: &[ResolvedCollector]) {
    for (place, second) in found.iter().enumerate() {
        let first = found.iter().take(place).find(|first| first.has_same_address(second));
        if let Some(first) = first {
            let (first, second) = (&first.settings.address, &second.settings.address);
            tracing::warn!(
                collector = %second,
                "collectors {first} and {second} resolve to one address: only the settings of {first} \
                 apply; remove one of them"
            );
        }
    }
}

async fn look_up(name: HostPort) -> (HostPort, LookUpResult) {
    let found = lookup_host((name.host(), name.port())).await;
    let answer = found.map(Iterator::collect).map_err(|error| resolve_cause(&error));
    (name, answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WhenDown;
    use crate::receiver::output::SocketBudget;

    #[tokio::test]
    async fn an_unresolved_skipping_collector_delays_none() {
        let gone = CollectorSettings {
            when_down: WhenDown::Skip,
            ..CollectorSettings::at(&"no-such-host.invalid:9995")
        };
        let others = ["127.0.0.1:4001", "[::1]:4002"].map(|address| CollectorSettings::at(&address));
        let all = [vec![gone.clone()], others.to_vec()].concat();
        let (wanted, missing) = (watch::Sender::new(all), watch::Sender::default());
        let none = Outputs::none(SocketBudget::of_sixteen(), Arc::default());
        let collectors = Collectors::find(wanted.subscribe(), &none, missing.clone()).await;
        assert_eq!(*missing.borrow(), [gone.address]);
        let mut outputs = collectors.outputs();
        assert_eq!(outputs.borrow().addresses().count(), 2);

        // A reload is applied while that goes on.
        let following = tokio::spawn(collectors.follow());
        wanted.send_replace(others[..1].to_vec());
        outputs.changed().await.unwrap();
        assert_eq!(outputs.borrow().addresses().count(), 1);
        following.abort();
    }

    #[tokio::test]
    async fn a_local_name_resolves() {
        let wanted = watch::Sender::new(vec![CollectorSettings::at(&"localhost:9995")]);
        let none = Outputs::none(SocketBudget::of_sixteen(), Arc::default());
        let collectors = Collectors::find(wanted.subscribe(), &none, watch::Sender::default()).await;
        let outputs = collectors.outputs();
        assert!(outputs.borrow().addresses().all(|address| address.ip().is_loopback()));
    }
}
