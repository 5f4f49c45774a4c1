//! Looks after endpoints while the program runs: names are looked up, endpoints are checked, and
//! what comes of it goes to the clusters.

use std::sync::Arc;

use evener_config::Dns;
use evener_discovery::{Discovery, Found};
use evener_health::{Checked, Checker};
use evener_telemetry::Log;
use tokio::sync::mpsc;

use crate::site::Site;

/// Everything that is done for endpoints without their being asked for by a request.
pub(crate) struct Upkeep {
    site: Arc<Site>,
    dns: Dns,
    discovery: Discovery,
    found: mpsc::Receiver<Found>,
    checker: Checker,
    checked: mpsc::Receiver<Checked>,
}

impl Upkeep {
    /// Begins with the endpoints that there are.
    pub(crate) fn begin(site: Arc<Site>, dns: &Dns, log: &Log) -> Upkeep {
        let (discovery, found) = Discovery::new(dns.clone(), log.clone());
        let (checker, checked) = Checker::new(log.clone());
        let mut upkeep = Upkeep {
            site,
            dns: dns.clone(),
            discovery,
            found,
            checker,
            checked,
        };
        upkeep.review();
        upkeep
    }

    /// Looks names up in another way from now on.
    pub(crate) fn set_dns(&mut self, dns: &Dns) {
        self.dns = dns.clone();
    }

    /// The endpoints have changed.
    pub(crate) fn review(&mut self) {
        self.discovery.watch(&self.dns, self.site.names());
        self.checker.watch(self.site.checks());
    }

    /// Waits for news, and passes it on.
    pub(crate) async fn work(&mut self) {
        tokio::select! {
            Some(found) = self.found.recv() => {
                self.site.take_found(found);
                self.checker.watch(self.site.checks());
            }
            Some(checked) = self.checked.recv() => self.site.take_checked(checked),
            else => std::future::pending().await,
        }
    }
}
