//! Outlier detection: endpoints that answer worse than they should are ejected for a while, longer
//! each time (Envoy's, see its `outlier_detection.proto`). What ejection means for picks, and when
//! so many are out that it is ignored, is left to `balance`.

use alloc::vec::Vec;
use core::time::Duration;

/// What makes an endpoint an outlier, and what becomes of it. The defaults are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Answers 5xx or failures in a row; 0 switches it off.
    pub consecutive_5xx: u32,
    /// How many in a hundred are really ejected for that.
    pub enforcing_5xx: u32,
    /// Failures in a row to answer at all, or 502, 503, 504; 0 switches it off.
    pub consecutive_gateway: u32,
    /// How many in a hundred are really ejected for that.
    pub enforcing_gateway: u32,
    /// How often shares are compared and ejections end.
    pub interval: Duration,
    /// The first ejection lasts so long, the second twice as long, and so on.
    pub ejection: Duration,
    /// None lasts longer.
    pub ejection_max: Duration,
    /// No more than this percentage are ejected at once.
    pub ejected_percent_max: u32,
    /// One may be ejected whatever the percentage says.
    pub always_one: bool,
    /// Endpoints that are needed for their shares to be compared.
    pub hosts_min: u32,
    /// Requests that an endpoint needs in an interval for its share to count.
    pub requests_min: u32,
    /// An endpoint is out when its share of successes is so many thousandths of a standard
    /// deviation below the mean.
    pub deviations_permille: u32,
    /// How many in a hundred are really ejected for that.
    pub enforcing_success_rate: u32,
    /// An endpoint is out when so many in a hundred of its requests fail.
    pub failure_percent: u32,
    /// Endpoints that are needed for that.
    pub failure_hosts_min: u32,
    /// Requests that an endpoint needs in an interval for that.
    pub failure_requests_min: u32,
    /// How many in a hundred are really ejected for that.
    pub enforcing_failure_percent: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            consecutive_5xx: 5,
            enforcing_5xx: 100,
            consecutive_gateway: 5,
            enforcing_gateway: 0,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            ejection_max: Duration::from_secs(300),
            ejected_percent_max: 10,
            always_one: false,
            hosts_min: 5,
            requests_min: 100,
            deviations_permille: 1_900,
            enforcing_success_rate: 100,
            failure_percent: 85,
            failure_hosts_min: 5,
            failure_requests_min: 50,
            enforcing_failure_percent: 0,
        }
    }
}

/// How a request went, as far as its endpoint is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// It answered, and not with 5xx.
    Success,
    /// It answered with this 5xx.
    ServerError(u16),
    /// It did not answer: no connection, a broken or a late one.
    Silence,
}

impl Observed {
    /// Of an answer.
    pub fn of_status(status: u16) -> Observed {
        match status {
            500..=599 => Observed::ServerError(status),
            _ => Observed::Success,
        }
    }

    fn is_gateway_failure(self) -> bool {
        matches!(self, Observed::Silence | Observed::ServerError(502..=504))
    }
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Answers 5xx in a row.
    Consecutive5xx,
    /// Gateway failures in a row.
    ConsecutiveGateway,
    /// It succeeds less than the others.
    SuccessRate,
    /// Too much of what it does fails.
    FailurePercent,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Leave this endpoint alone.
    Eject {
        /// Which.
        id: u64,
        /// Why.
        cause: Cause,
        /// When it is due back; it is restored by the first sweep after that.
        until: Duration,
    },
    /// Use it again.
    Restore {
        /// Which.
        id: u64,
    },
}

/// The endpoints of one cluster as they answer.
#[derive(Debug, Clone)]
pub struct Detector {
    settings: Settings,
    hosts: Vec<Host>,
    sweep_at: Duration,
    dice: u64,
}

#[derive(Debug, Clone)]
struct Host {
    id: u64,
    errors_in_row: u32,
    gateway_in_row: u32,
    requests: u32,
    successes: u32,
    /// By how many times the first ejection the next one is longer.
    ejections: u32,
    ejected_until: Option<Duration>,
}

impl Detector {
    /// Nobody yet.
    pub fn new(settings: Settings, seed: u64, now: Duration) -> Detector {
        Detector {
            settings,
            hosts: Vec::new(),
            sweep_at: now + settings.interval,
            dice: seed,
        }
    }

    /// Watches an endpoint from now on.
    pub fn join(&mut self, id: u64) {
        if self.find(id).is_none() {
            self.hosts.push(Host {
                id,
                errors_in_row: 0,
                gateway_in_row: 0,
                requests: 0,
                successes: 0,
                ejections: 0,
                ejected_until: None,
            });
        }
    }

    /// Forgets an endpoint.
    pub fn leave(&mut self, id: u64) {
        self.hosts.retain(|host| host.id != id);
    }

    /// Whether an endpoint is ejected.
    pub fn is_ejected(&self, id: u64) -> bool {
        let mut hosts = self.hosts.iter();
        hosts.any(|host| host.id == id && host.ejected_until.is_some())
    }

    /// When [`Detector::sweep`] is due.
    pub fn next_deadline(&self) -> Duration {
        self.sweep_at
    }

    /// Takes the result of one request.
    pub fn record(&mut self, now: Duration, id: u64, observed: Observed) -> Option<Action> {
        let settings = self.settings;
        let index = self.find(id)?;
        let host = &mut self.hosts[index];
        host.requests = host.requests.saturating_add(1);
        if observed == Observed::Success {
            host.successes = host.successes.saturating_add(1);
            host.errors_in_row = 0;
            host.gateway_in_row = 0;
            return None;
        }
        host.errors_in_row = host.errors_in_row.saturating_add(1);
        host.gateway_in_row = if observed.is_gateway_failure() {
            host.gateway_in_row.saturating_add(1)
        } else {
            0
        };
        let (errors, gateway) = (host.errors_in_row, host.gateway_in_row);
        // Every time that the count is reached is one chance, not every failure beyond it.
        if settings.consecutive_gateway > 0 && gateway == settings.consecutive_gateway {
            host.gateway_in_row = 0;
            let cause = Cause::ConsecutiveGateway;
            if let Some(action) = self.eject(now, id, cause, settings.enforcing_gateway) {
                return Some(action);
            }
        }
        if settings.consecutive_5xx > 0 && errors >= settings.consecutive_5xx {
            let index = self.find(id)?;
            self.hosts[index].errors_in_row = 0;
            return self.eject(now, id, Cause::Consecutive5xx, settings.enforcing_5xx);
        }
        None
    }

    /// An active check has passed: what was held against the endpoint no longer is.
    pub fn handle_passed_check(&mut self, id: u64) -> Option<Action> {
        let index = self.find(id)?;
        let host = &mut self.hosts[index];
        host.errors_in_row = 0;
        host.gateway_in_row = 0;
        host.ejected_until.take()?;
        Some(Action::Restore { id })
    }

    /// Ends ejections that are over and compares the endpoints, once for each interval.
    pub fn sweep(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if now < self.sweep_at {
            return actions;
        }
        self.sweep_at = now + self.settings.interval;
        for host in &mut self.hosts {
            match host.ejected_until {
                Some(until) if until <= now => {
                    host.ejected_until = None;
                    host.errors_in_row = 0;
                    host.gateway_in_row = 0;
                    actions.push(Action::Restore { id: host.id });
                }
                Some(_) => {}
                // Time that it behaves makes up for what it did.
                None => host.ejections = host.ejections.saturating_sub(1),
            }
        }
        self.compare_success_rates(now, &mut actions);
        self.compare_failure_percent(now, &mut actions);
        for host in &mut self.hosts {
            host.requests = 0;
            host.successes = 0;
        }
        actions
    }

    fn compare_success_rates(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let settings = self.settings;
        let rates = self.rates(settings.requests_min, settings.hosts_min);
        if rates.is_empty() {
            return;
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(_, rate)| (rate - mean) * (rate - mean));
        let deviation = libm::sqrt(variance.sum::<f64>() / count);
        let least = mean - deviation * f64::from(settings.deviations_permille) / 1_000.0;
        let out = rates.iter().filter(|(_, rate)| *rate < least);
        for (id, _) in out {
            let enforcing = settings.enforcing_success_rate;
            actions.extend(self.eject(now, *id, Cause::SuccessRate, enforcing));
        }
    }

    fn compare_failure_percent(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let settings = self.settings;
        let rates = self.rates(settings.failure_requests_min, settings.failure_hosts_min);
        let most = f64::from(settings.failure_percent);
        for (id, rate) in rates {
            if 100.0 - rate >= most {
                let enforcing = settings.enforcing_failure_percent;
                actions.extend(self.eject(now, id, Cause::FailurePercent, enforcing));
            }
        }
    }

    /// The share of successes of every endpoint with enough requests, in percent; none at all if
    /// there are too few of them.
    fn rates(&self, requests_min: u32, hosts_min: u32) -> Vec<(u64, f64)> {
        let counted = self.hosts.iter().filter(|host| {
            host.ejected_until.is_none() && host.requests > 0 && host.requests >= requests_min
        });
        let rates: Vec<(u64, f64)> = counted
            .map(|host| {
                let rate = 100.0 * f64::from(host.successes) / f64::from(host.requests);
                (host.id, rate)
            })
            .collect();
        if rates.len() < hosts_min.max(1) as usize {
            return Vec::new();
        }
        rates
    }

    fn eject(&mut self, now: Duration, id: u64, cause: Cause, enforcing: u32) -> Option<Action> {
        let ejected = self
            .hosts
            .iter()
            .filter(|host| host.ejected_until.is_some())
            .count();
        let most = self.hosts.len() * self.settings.ejected_percent_max as usize;
        let may = (ejected + 1) * 100 <= most || (self.settings.always_one && ejected == 0);
        let index = self.find(id)?;
        if !may || self.hosts[index].ejected_until.is_some() || self.draw_percent() >= enforcing {
            return None;
        }
        let host = &mut self.hosts[index];
        host.ejections = host.ejections.saturating_add(1);
        let long = self.settings.ejection.saturating_mul(host.ejections);
        let until = now + long.min(self.settings.ejection_max.max(self.settings.ejection));
        host.ejected_until = Some(until);
        Some(Action::Eject { id, cause, until })
    }

    fn find(&self, id: u64) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == id)
    }

    /// A random number below 100 (SplitMix64).
    fn draw_percent(&mut self) -> u32 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = self.dice;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        drawn ^= drawn >> 31;
        ((u128::from(drawn) * 100) >> 64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn detector(hosts: u64, settings: Settings) -> Detector {
        let mut detector = Detector::new(settings, 1, at(0));
        for id in 0..hosts {
            detector.join(id);
        }
        detector
    }

    const ERROR: Observed = Observed::ServerError(500);

    fn fail(detector: &mut Detector, now: u64, id: u64, times: u32) -> Option<Action> {
        let mut last = None;
        for _ in 0..times {
            assert_eq!(last, None);
            last = detector.record(at(now), id, ERROR);
        }
        last
    }

    fn ejected(id: u64, until: u64) -> Option<Action> {
        Some(Action::Eject {
            id,
            cause: Cause::Consecutive5xx,
            until: at(until),
        })
    }

    #[test]
    fn five_errors_in_a_row_eject_longer_each_time() {
        let mut detector = detector(10, Settings::default());
        assert_eq!(fail(&mut detector, 0, 3, 4), None);
        assert_eq!(detector.record(at(0), 3, Observed::Success), None);
        assert_eq!(fail(&mut detector, 0, 3, 5), ejected(3, 30));
        assert!(detector.is_ejected(3));
        assert_eq!(fail(&mut detector, 1, 4, 5), None, "one in ten at most");
        assert_eq!(detector.sweep(at(10)), []);
        assert_eq!(detector.sweep(at(20)), []);
        assert_eq!(detector.sweep(at(30)), [Action::Restore { id: 3 }]);
        assert_eq!(
            fail(&mut detector, 31, 3, 5),
            ejected(3, 91),
            "twice as long"
        );
        assert_eq!(detector.sweep(at(91)), [Action::Restore { id: 3 }]);
        for interval in 10..12 {
            detector.sweep(at(interval * 10 + 1));
        }
        assert_eq!(
            fail(&mut detector, 112, 3, 5),
            ejected(3, 142),
            "forgiven in time"
        );
    }

    #[test]
    fn few_endpoints_need_the_exception() {
        let mut none = detector(3, Settings::default());
        assert_eq!(fail(&mut none, 0, 0, 5), None);
        let settings = Settings {
            always_one: true,
            ..Settings::default()
        };
        let mut one = detector(3, settings);
        assert_eq!(fail(&mut one, 0, 0, 5), ejected(0, 30));
        assert_eq!(fail(&mut one, 0, 1, 5), None);
    }

    #[test]
    fn gateway_failures_count_apart() {
        let settings = Settings {
            consecutive_5xx: 0,
            enforcing_gateway: 100,
            ejected_percent_max: 100,
            ..Settings::default()
        };
        let mut detector = detector(2, settings);
        for observed in [Observed::Silence, Observed::of_status(503), ERROR] {
            assert_eq!(detector.record(at(0), 0, observed), None);
        }
        for _ in 0..4 {
            assert_eq!(detector.record(at(0), 0, Observed::Silence), None);
        }
        let action = detector.record(at(0), 0, Observed::of_status(504));
        let cause = Cause::ConsecutiveGateway;
        let until = at(30);
        assert_eq!(
            action,
            Some(Action::Eject {
                id: 0,
                cause,
                until
            })
        );
        assert_eq!(Observed::of_status(404), Observed::Success);
    }

    #[test]
    fn a_passed_check_restores() {
        let mut detector = detector(11, Settings::default());
        assert_eq!(detector.handle_passed_check(2), None);
        fail(&mut detector, 0, 2, 5);
        assert_eq!(
            detector.handle_passed_check(2),
            Some(Action::Restore { id: 2 })
        );
        assert!(!detector.is_ejected(2));
        fail(&mut detector, 0, 2, 5);
        detector.leave(2);
        assert_eq!(fail(&mut detector, 0, 3, 5), ejected(3, 30));
    }

    /// Requests of one interval: every endpoint gets so many, and so many of a hundred succeed.
    fn interval(detector: &mut Detector, requests: u32, percent: &[u32]) {
        for (id, percent) in (0..).zip(percent) {
            for number in 0..requests {
                // Spread out, so that there are never five in a row.
                let observed = if number * 7 % 100 < *percent {
                    Observed::Success
                } else {
                    ERROR
                };
                detector.record(at(0), id, observed);
            }
        }
    }

    #[test]
    fn who_succeeds_less_than_the_others_is_out() {
        let settings = Settings {
            consecutive_5xx: 0,
            ejected_percent_max: 50,
            ..Settings::default()
        };
        let mut detector = detector(6, settings);
        interval(&mut detector, 100, &[100, 99, 100, 98, 100, 60]);
        let until = at(40);
        let cause = Cause::SuccessRate;
        let out = [Action::Eject {
            id: 5,
            cause,
            until,
        }];
        assert_eq!(detector.sweep(at(10)), out);
        interval(&mut detector, 99, &[100, 100, 100, 100, 60]);
        assert_eq!(detector.sweep(at(20)), [], "too few requests");
        interval(&mut detector, 100, &[100, 100, 100, 100]);
        assert_eq!(detector.sweep(at(30)), [], "too few endpoints");
    }

    #[test]
    fn who_fails_nearly_always_is_out_if_that_is_enforced() {
        let mut settings = Settings {
            consecutive_5xx: 0,
            enforcing_success_rate: 0,
            ejected_percent_max: 100,
            ..Settings::default()
        };
        let percent = [15, 100, 16, 100, 0];
        let mut lenient = detector(5, settings);
        interval(&mut lenient, 100, &percent);
        assert_eq!(lenient.sweep(at(10)), []);
        settings.enforcing_failure_percent = 100;
        let mut strict = detector(5, settings);
        interval(&mut strict, 100, &percent);
        let out: Vec<u64> = strict
            .sweep(at(10))
            .iter()
            .map(|action| match action {
                Action::Eject { id, cause, .. } => {
                    assert_eq!(*cause, Cause::FailurePercent);
                    *id
                }
                Action::Restore { .. } => panic!("{action:?}"),
            })
            .collect();
        assert_eq!(out, [0, 4]);
    }

    #[test]
    fn never_too_many_out_and_everybody_comes_back() {
        let mut random = Generator::new(seed("never_too_many_out_and_everybody_comes_back"));
        for _ in 0..100 {
            let hosts = 1 + random.below(12);
            let settings = Settings {
                ejected_percent_max: random.below(101) as u32,
                always_one: random.below(2) == 0,
                enforcing_gateway: random.below(101) as u32,
                requests_min: 5,
                ..Settings::default()
            };
            let mut detector = detector(hosts, settings);
            let mut out = std::collections::BTreeSet::new();
            let mut now = 0;
            for _ in 0..600 {
                now += random.below(3);
                let id = random.below(hosts);
                let observed = match random.below(3) {
                    0 => Observed::Success,
                    1 => ERROR,
                    _ => Observed::Silence,
                };
                let mut actions: Vec<Action> = Vec::new();
                actions.extend(detector.record(at(now), id, observed));
                actions.extend(detector.sweep(at(now)));
                for action in actions {
                    match action {
                        Action::Eject { id, until, .. } => {
                            assert!(out.insert(id), "ejected twice");
                            assert!(until <= at(now + 300));
                        }
                        Action::Restore { id } => assert!(out.remove(&id)),
                    }
                }
                let most = hosts * u64::from(settings.ejected_percent_max) / 100;
                assert!(out.len() as u64 <= most.max(u64::from(settings.always_one)));
            }
            for action in detector.sweep(at(now + 400)) {
                if let Action::Restore { id } = action {
                    out.remove(&id);
                }
            }
            assert!(out.is_empty(), "{out:?}");
        }
    }
}
