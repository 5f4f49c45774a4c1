//! Endpoints that somebody adds or names by the admin API.

use std::time::Duration;

use evener_admin::NewEndpoint;
use evener_config::values::{self, Target};
use evener_config::{Endpoint, Speech, nearest};

use super::Group;

/// An endpoint that is added by hand.
pub(super) fn new_endpoint(address: &str, settings: &NewEndpoint) -> Result<Endpoint, String> {
    let target = Target::parse(address)?;
    let name = match &settings.name {
        Some(name) => values::name(name)?,
        None => target.to_string(),
    };
    Ok(Endpoint {
        name,
        target,
        weight: settings.weight.unwrap_or(1).clamp(1, 65_535),
        priority: settings.priority,
        backup: settings.backup,
        down: settings.down,
        in_flight_max: Some(settings.max_conns).filter(|most| *most > 0),
        connections_max: None,
        max_fails: 1,
        fail_timeout: Duration::from_secs(10),
        route: String::new(),
        speech: Speech::default(),
    })
}

/// What is said when a cluster has no such endpoint.
pub(super) fn unknown_endpoint(group: &Group, name: &str) -> String {
    let names = || {
        group
            .members
            .iter()
            .map(|member| member.endpoint.name.as_str())
    };
    let help = match nearest(name, names()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there is {}", names().collect::<Vec<_>>().join(", ")),
    };
    format!(
        "there is no endpoint `{name}` in `{}`; {help}",
        group.cluster.name()
    )
}
