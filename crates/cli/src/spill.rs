//! Where bodies lie that are kept and do not fit in memory: one place for the whole program, which
//! stays over reloads as long as its settings do.

use std::sync::Arc;

use evener_config::Config;
use evener_edge::SpillSpace;

/// The place that a configuration names, which may be the one of before. Whether files can be made
/// there is found out only if a route may want to.
pub(crate) fn space(before: &Arc<SpillSpace>, config: &Config) -> Result<Arc<SpillSpace>, String> {
    let space = match *before.terms() == config.spill {
        true => before.clone(),
        false => SpillSpace::new(config.spill.clone()),
    };
    let mut routes = config.routes.iter();
    if routes.any(|route| route.buffering.may_spill()) {
        space.check().map_err(|error| {
            let directory = config.spill.directory.display();
            format!(
                "bodies cannot be kept in {directory}: {error}; name a `directory` in [spill] \
                 that is there and can be written to"
            )
        })?;
    }
    Ok(space)
}
