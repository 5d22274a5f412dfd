//! From the names of the collectors in the settings to outputs: at the start, and whenever a reload changes them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use crate::config::HostPort;
use crate::receiver::output::{OutputError, Outputs};
use crate::service::messages::receiver;

/// How long after a collector's name did not resolve, or no socket could be had for it, that is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Follows the names of the collectors.
#[derive(Debug)]
pub(crate) struct Collectors {
    names: watch::Receiver<Vec<HostPort>>,
    outputs: watch::Sender<Arc<Outputs>>,
}

impl Collectors {
    /// Finds the collectors. Does so again and again while a name does not resolve: senders keep their data.
    pub(crate) async fn find(mut names: watch::Receiver<Vec<HostPort>>) -> Result<Self, OutputError> {
        let addresses = resolve_newest(&mut names).await;
        let outputs = Outputs::default().changed_to(&addresses)?;
        Ok(Self { names, outputs: watch::Sender::new(Arc::new(outputs)) })
    }

    /// What the collectors are as of now.
    pub(crate) fn outputs(&self) -> watch::Receiver<Arc<Outputs>> {
        self.outputs.subscribe()
    }

    /// Follows changes for as long as there can be any. Until other collectors are found, and each of them has a socket,
    /// those before them stay.
    pub(crate) async fn follow(mut self) {
        while self.names.changed().await.is_ok() {
            loop {
                let addresses = resolve_newest(&mut self.names).await;
                if self.take_up(&addresses) {
                    break;
                }
                sleep(TRY_AGAIN).await;
            }
        }
    }

    /// Whether there are outputs to all of `addresses` now.
    fn take_up(&self, addresses: &[SocketAddr]) -> bool {
        let outputs = self.outputs.borrow().changed_to(addresses);
        match outputs {
            Ok(outputs) => {
                let collectors: Vec<String> =
                    outputs.addresses().map(|address| address.to_string()).collect();
                let collectors = collectors.join(", ");
                tracing::info!(collectors, "delivering to these collectors from now on: {collectors}");
                self.outputs.send_replace(Arc::new(outputs));
                true
            }
            Err(error) => {
                tracing::error!(%error, "{error}; the collectors stay as they were, trying again in {} s", TRY_AGAIN.as_secs());
                false
            }
        }
    }
}

/// The addresses of the names, as they are when all of them are found.
async fn resolve_newest(names: &mut watch::Receiver<Vec<HostPort>>) -> Vec<SocketAddr> {
    loop {
        let wanted = names.borrow_and_update().clone();
        tokio::select! {
            addresses = resolve(&wanted) => return addresses,
            Ok(()) = names.changed() => {}
        }
    }
}

async fn resolve(names: &[HostPort]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for name in names {
        addresses.push(resolve_one(name).await);
    }
    addresses
}

async fn resolve_one(name: &HostPort) -> SocketAddr {
    loop {
        let cause = match lookup_host((name.host(), name.port())).await {
            Ok(mut found) => match found.next() {
                Some(address) => return address,
                None => "it has no address".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        tracing::error!(
            message_id = receiver::COLLECTOR_UNKNOWN,
            collector = %name,
            "the name of the collector {name} cannot be resolved: {cause}; trying again in {} s",
            TRY_AGAIN.as_secs()
        );
        sleep(TRY_AGAIN).await;
    }
}
