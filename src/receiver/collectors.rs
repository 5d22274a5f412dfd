//! From the collectors in the settings to outputs: at the start, whenever a reload changes them, and whenever a name leads
//! elsewhere.

pub(crate) mod confusion;
mod names;

use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::config::{CollectorSettings, HostPort};
use crate::receiver::collectors::names::{Answer, Found, Names};
use crate::receiver::output::{Outputs, Resolved};

/// Follows the collectors of the settings.
#[derive(Debug)]
pub(crate) struct Collectors {
    wanted: watch::Receiver<Vec<CollectorSettings>>,
    names: Names,
    /// Look-ups under way, side by side.
    running: JoinSet<(HostPort, Answer)>,
    found: Vec<Resolved>,
    /// Collectors that are delivered without.
    missing: watch::Sender<Vec<HostPort>>,
    outputs: watch::Sender<Arc<Outputs>>,
}

impl Collectors {
    /// Finds the collectors, which go where `none` says; those that are delivered without for now are shown in `missing`.
    /// Tries again and again while the name of one that is set to hold does not resolve: senders keep their data.
    pub(crate) async fn find(
        mut wanted: watch::Receiver<Vec<CollectorSettings>>,
        none: &Outputs,
        missing: watch::Sender<Vec<HostPort>>,
    ) -> Self {
        let mut names = Names::default();
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
        warn_of_twins(&found.collectors);
        collectors.outputs.send_replace(Arc::new(none.changed_to(&found.collectors)));
        collectors.note_missing(found.missing);
        collectors.found = found.collectors;
        collectors
    }

    /// What the collectors are as of now.
    pub(crate) fn outputs(&self) -> watch::Receiver<Arc<Outputs>> {
        self.outputs.subscribe()
    }

    /// Follows changes, until dropped. Until all collectors are found that are waited for, those before them stay.
    pub(crate) async fn follow(mut self) {
        loop {
            self.wait().await;
            let Some(Found { collectors, missing }) = self.names.found(Instant::now()) else { continue };
            if collectors != self.found {
                self.take_up(collectors);
            }
            self.note_missing(missing);
        }
    }

    /// Waits until something may have changed.
    async fn wait(&mut self) {
        for name in self.names.take_due(Instant::now()) {
            self.running.spawn(look_up(name));
        }
        let until = self.names.next();
        tokio::select! {
            Ok(()) = self.wanted.changed() => {
                self.names.want(&self.wanted.borrow_and_update(), Instant::now());
            }
            Some(Ok((name, answer))) = self.running.join_next() => self.names.note(&name, answer, Instant::now()),
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            else => core::future::pending().await,
        }
    }

    fn take_up(&mut self, found: Vec<Resolved>) {
        warn_of_twins(&found);
        let outputs = self.outputs.borrow().changed_to(&found);
        let collectors: Vec<String> = outputs.addresses().map(|address| address.to_string()).collect();
        let collectors = collectors.join(", ");
        tracing::info!(collectors, "delivering to these collectors from now on: {collectors}");
        self.outputs.send_replace(Arc::new(outputs));
        self.found = found;
    }

    fn note_missing(&self, missing: Vec<HostPort>) {
        for collector in &missing {
            if !self.missing.borrow().contains(collector) {
                tracing::warn!(
                    %collector,
                    "the collector {collector} is set to skip and cannot be found: what comes until then goes on without it"
                );
            }
        }
        self.missing.send_replace(missing);
    }
}

/// Two names may lead to one address: what is there gets everything once, as the first of them has it.
fn warn_of_twins(found: &[Resolved]) {
    for (place, second) in found.iter().enumerate() {
        let first = found.iter().take(place).find(|first| first.leads_where(second));
        if let Some(first) = first {
            let (first, second) = (&first.settings.address, &second.settings.address);
            tracing::warn!(
                collector = %second,
                "the collectors {first} and {second} are at one address: the settings of the first are in effect, and \
                 those of the second are not"
            );
        }
    }
}

async fn look_up(name: HostPort) -> (HostPort, Answer) {
    let found = lookup_host((name.host(), name.port())).await;
    let answer = found.map(Iterator::collect).map_err(|error| error.to_string());
    (name, answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WhenDown;
    use crate::receiver::output::SocketBudget;

    #[tokio::test]
    async fn collectors_are_delivered_to_without_one_set_to_skip_that_no_name_server_knows() {
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

        // A reload is taken up while that goes on.
        let following = tokio::spawn(collectors.follow());
        wanted.send_replace(others[..1].to_vec());
        outputs.changed().await.unwrap();
        assert_eq!(outputs.borrow().addresses().count(), 1);
        following.abort();
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_found() {
        let wanted = watch::Sender::new(vec![CollectorSettings::at(&"localhost:9995")]);
        let none = Outputs::none(SocketBudget::of_sixteen(), Arc::default());
        let collectors = Collectors::find(wanted.subscribe(), &none, watch::Sender::default()).await;
        let outputs = collectors.outputs();
        assert!(outputs.borrow().addresses().all(|address| address.ip().is_loopback()));
    }
}
