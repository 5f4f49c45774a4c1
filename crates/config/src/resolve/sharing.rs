//! `[cluster.NAME]`: what is held against endpoints, and when requests go to another one.

use std::time::Duration;

use evener_policy::next_upstream::{Conditions, Rules};
use evener_policy::{budget, outlier};

use crate::model::{Resend, Sharing};
use crate::typed::Section;

fn whole(section: &Section, key: &str) -> u32 {
    let number = section.whole(key).unwrap_or(0);
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// When a request goes to another endpoint.
pub(super) fn resend(cluster: &Section) -> Resend {
    let named = cluster.texts("next_upstream");
    let conditions = named
        .filter_map(|(name, _)| Conditions::named(name))
        .fold(Conditions::OFF, Conditions::and);
    Resend::NextUpstream(Rules {
        conditions,
        tries: whole(cluster, "next_upstream_tries"),
        timeout: cluster.time("next_upstream_timeout").unwrap_or_default(),
    })
}

/// What is held against endpoints.
pub(super) fn sharing(cluster: &Section) -> Sharing {
    Sharing {
        slow_start: cluster.time("slow_start").filter(|time| !time.is_zero()),
        panic_percent: whole(cluster, "panic_percent"),
        outlier: cluster.section("outlier").map(outlier),
        budget: cluster
            .section("retry_budget")
            .map(|section| budget::Settings {
                percent: whole(section, "percent"),
                least_per_second: whole(section, "least_per_second"),
            }),
    }
}

fn outlier(section: &Section) -> outlier::Settings {
    let usual = outlier::Settings::default();
    let time = |key, usual: Duration| section.time(key).unwrap_or(usual);
    let failure_percent = whole(section, "failure_percent");
    outlier::Settings {
        consecutive_5xx: whole(section, "consecutive_5xx"),
        consecutive_gateway: whole(section, "consecutive_gateway"),
        enforcing_gateway: 100,
        interval: time("interval", usual.interval).max(Duration::from_millis(1)),
        ejection: time("ejection", usual.ejection),
        ejection_max: time("ejection_max", usual.ejection_max),
        ejected_percent_max: whole(section, "ejected_percent_max"),
        always_one: section.flag("always_one"),
        enforcing_success_rate: if section.flag("success_rate") { 100 } else { 0 },
        failure_percent,
        enforcing_failure_percent: if failure_percent > 0 { 100 } else { 0 },
        ..usual
    }
}
