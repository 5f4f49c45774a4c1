//! Health checks that the edge answers: those of configured paths always, those of the usual paths
//! only where the application has nothing there.
//!
//! Whether it has is learnt from its own answer: the first check goes to a worker like any request,
//! and if that says 404 the edge answers in its place, from then on without asking, until a worker
//! joins that may have other code. Without a worker to ask the edge answers as well.

use evener_http1::{Method, RequestHead};

use crate::answer;
use crate::core::Core;
use crate::respond::release_upstream;
use crate::session::{Exchange, Flow, Session};

/// Where liveness is asked for when nothing is configured (`evener run`).
const LIVENESS: &[u8] = b"/health/liveness";
/// Where readiness is.
const READINESS: &[u8] = b"/health/readiness";

/// What a health check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Does the program run?
    Liveness,
    /// Can a request be served?
    Readiness,
}

/// A health check that the application is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    check: Check,
    /// How many endpoints had joined the cluster by then.
    joins: u32,
}

/// Whether the edge answers this request itself, and with what health. Marks an exchange whose
/// application is asked first.
pub(crate) fn answer_of(
    exchange: &mut Exchange,
    core: &Core,
    bytes: &[u8],
    head: &RequestHead,
) -> Option<bool> {
    if !matches!(head.method, Method::Get | Method::Head) {
        return None;
    }
    let target = head.path_and_query(bytes);
    let path = target.split(|&byte| byte == b'?').next().unwrap_or(target);
    let paths = &core.config.health;
    let is = |name: &Option<String>| name.as_ref().is_some_and(|name| name.as_bytes() == path);
    if is(&paths.liveness) {
        return Some(is_healthy(core, Check::Liveness));
    }
    if is(&paths.readiness) {
        return Some(is_healthy(core, Check::Readiness));
    }
    let check = match path {
        LIVENESS if paths.stand_in && paths.liveness.is_none() => Check::Liveness,
        READINESS if paths.stand_in && paths.readiness.is_none() => Check::Readiness,
        _ => return None,
    };
    let cluster = &exchange.route.as_ref()?.cluster;
    if cluster.lacks(check) || !cluster.is_ready() {
        return Some(is_healthy(core, check));
    }
    exchange.stand_in = Some(Asked {
        check,
        joins: cluster.joins(),
    });
    None
}

/// The application has nothing at the path of this health check: the edge answers it, and all that
/// follow.
pub(crate) fn stand_in(session: &mut Session, core: &mut Core, asked: Asked) -> Flow {
    if let Some(exchange) = session.exchange.as_mut() {
        exchange.cluster().note_lack(asked.check, asked.joins);
        // Its answer is not read to the end.
        exchange.upstream_persists = false;
        release_upstream(exchange, core);
    }
    let healthy = is_healthy(core, asked.check);
    answer::health(session, core, healthy)
}

fn is_healthy(core: &Core, check: Check) -> bool {
    match check {
        Check::Liveness => true,
        Check::Readiness => {
            let mut clusters = core.config.clusters.iter();
            !core.draining && !core.leaving && clusters.all(|cluster| cluster.is_ready())
        }
    }
}
