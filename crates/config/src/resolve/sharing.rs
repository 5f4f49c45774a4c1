//! `[cluster.NAME]`: what is held against endpoints, and when requests go to another one.

use std::time::Duration;

use evener_policy::hedge::{self, Delay};
use evener_policy::next_upstream::{Conditions, Rules};
use evener_policy::{breaker, budget, gradient, outlier, shed};

use super::only;
use crate::error::Findings;
use crate::filters::Binding;
use crate::model::{Backoff, Guard, Resend, Sharing, Timeouts};
use crate::template::{Part, Template, Variable};
use crate::typed::{Node, Section, Value};

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
pub(super) fn sharing(cluster: &Section, general: &Timeouts, findings: &mut Findings) -> Sharing {
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
        backoff: cluster.section("retry_backoff").map(|section| Backoff {
            base: section.time("base").unwrap_or_default(),
            max: section.time("max").unwrap_or_default(),
        }),
        hedge: cluster
            .section("hedge")
            .and_then(|section| hedge(section, findings)),
        guard: guard(cluster, general, findings),
    }
}

fn hedge(section: &Section, findings: &mut Findings) -> Option<hedge::Settings> {
    let which = only(section, &["after", "quantile"], "hedge", findings)?;
    if let (Some(span), "after") = (section.key_span("least"), which) {
        findings.add(span, "`least` goes with `quantile`, not with `after`");
    }
    let delay = match which {
        "after" => Delay::After(section.time("after")?),
        _ => Delay::Quantile {
            percent: whole(section, "quantile"),
            least: section.time("least").unwrap_or_default(),
        },
    };
    Some(hedge::Settings {
        delay,
        most: whole(section, "max"),
    })
}

fn guard(cluster: &Section, general: &Timeouts, findings: &mut Findings) -> Guard {
    let own = cluster.section("timeouts");
    let queue = own.and_then(|section| section.deadline("queue"));
    let queue = queue.unwrap_or(general.queue_wait);
    let shed = match cluster.section("shed") {
        Some(section) => Some(shed(section, findings)),
        None => cluster.flag("shed").then(shed::Settings::default),
    };
    Guard {
        requests_max: cluster
            .has("max_requests")
            .then(|| whole(cluster, "max_requests")),
        breaker: cluster.section("breaker").map(breaker),
        concurrency: cluster.section("concurrency").map(concurrency),
        shed,
        waited_max_ms: queue.map_or(0, |time| {
            u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
        }),
    }
}

fn breaker(section: &Section) -> breaker::Settings {
    let usual = breaker::Settings::default();
    let time = |key, usual: Duration| section.time(key).unwrap_or(usual);
    let unless_zero = |key| Some(whole(section, key)).filter(|number| *number > 0);
    breaker::Settings {
        window: time("window", usual.window),
        requests_min: whole(section, "requests_min"),
        error_percent: unless_zero("error_percent"),
        consecutive_failures: unless_zero("consecutive_failures"),
        latency: section.time("latency").map(|above| breaker::Latency {
            quantile_percent: whole(section, "latency_quantile"),
            above,
        }),
        open: time("open", usual.open),
        open_max: time("open_max", usual.open_max),
        probes: whole(section, "probes"),
    }
}

fn concurrency(section: &Section) -> gradient::Settings {
    let usual = gradient::Settings::default();
    let time = |key, usual: Duration| section.time(key).unwrap_or(usual);
    gradient::Settings {
        limit_first: whole(section, "first"),
        limit_max: whole(section, "max"),
        update: time("update", usual.update),
        calibrate: time("calibrate", usual.calibrate),
        calibrate_requests: whole(section, "calibrate_requests"),
        calibrate_limit: whole(section, "calibrate_limit"),
        buffer_percent: whole(section, "buffer_percent"),
        ..usual
    }
}

fn shed(section: &Section, findings: &mut Findings) -> shed::Settings {
    let mut ramp = |key: &'static str| {
        let numbers: Vec<u32> = section
            .list(key)
            .iter()
            .filter_map(|node| match node.value {
                Value::Whole(number) => u32::try_from(number).ok(),
                _ => None,
            })
            .collect();
        match numbers[..] {
            [from_percent, to_percent] if from_percent <= to_percent => shed::Ramp {
                from_percent,
                to_percent,
            },
            _ => {
                if let Some(span) = section.key_span(key) {
                    let message =
                        format!("`{key}` is two percentages, as in [70, 90], the lower one first");
                    findings.add(span, message);
                }
                shed::Ramp {
                    from_percent: 100,
                    to_percent: 100,
                }
            }
        }
    };
    shed::Settings {
        low: ramp("low"),
        normal: ramp("normal"),
        high: ramp("high"),
        critical_slots: whole(section, "critical_slots"),
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

/// What a request carries that is bound to an endpoint, and how clients come to carry it.
pub(super) fn sticky(node: &Node, findings: &mut Findings) -> (Option<Template>, Option<Binding>) {
    if let Some(text) = node.as_text() {
        return (Template::parse(text).ok(), None);
    }
    let Some(section) = node.as_section() else {
        return (None, None);
    };
    let Some(kind) = only(section, &["cookie", "learn"], "sticky", findings) else {
        return (None, None);
    };
    let own = ["path", "domain", "secure", "http_only", "same_site"];
    let idle: &[&str] = if kind == "learn" {
        &own
    } else {
        &["sessions_max"]
    };
    for key in idle {
        if let Some(span) = section.key_span(key) {
            findings.add(span, format!("`{key}` does not go with `{kind}`"));
        }
    }
    let name = section.text(kind).unwrap_or_default().to_owned();
    let template = Template {
        parts: vec![Part::Variable(Variable::Cookie(name.clone()))],
    };
    let ttl = section.time("ttl").filter(|time| !time.is_zero());
    let binding = match kind {
        "learn" => Binding::Learn {
            name,
            ttl: ttl.unwrap_or(Duration::from_secs(600)),
            sessions_max: usize::try_from(section.whole("sessions_max").unwrap_or(1))
                .unwrap_or(usize::MAX),
        },
        _ => Binding::Cookie {
            name,
            attributes: attributes(section, ttl, findings),
            again: ttl.is_some(),
        },
    };
    (Some(template), Some(binding))
}

/// What follows the value of a cookie.
fn attributes(section: &Section, ttl: Option<Duration>, findings: &mut Findings) -> String {
    let mut text = format!("; Path={}", section.text("path").unwrap_or("/"));
    if let Some(domain) = section.text("domain") {
        if let (true, Some(span)) = (domain.starts_with('*'), section.key_span("domain")) {
            findings.add(span, "`domain` is a name; hosts below it are meant too");
        }
        text.push_str(&format!("; Domain={domain}"));
    }
    if let Some(ttl) = ttl {
        text.push_str(&format!("; Max-Age={}", ttl.as_secs().max(1)));
    }
    let secure = section.flag("secure");
    if secure {
        text.push_str("; Secure");
    }
    if section.flag("http_only") {
        text.push_str("; HttpOnly");
    }
    let same_site = match section.text("same_site") {
        Some("strict") => "Strict",
        Some("none") => "None",
        _ => "Lax",
    };
    if same_site == "None"
        && !secure
        && let Some(span) = section.key_span("same_site")
    {
        findings.add(span, "browsers take `none` only with `secure = true`");
    }
    text.push_str(&format!("; SameSite={same_site}"));
    text
}
