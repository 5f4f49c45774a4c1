//! Stages 4 and 5: a request gets an endpoint, or a place in the queue, or is told to come back.

use std::sync::Arc;

use evener_policy::shed::Importance;

use crate::admission::{Admission, Marks};
use crate::answer;
use crate::connect;
use crate::core::Core;
use crate::endpoint::Endpoint;
use crate::error::{Kind, ProxyError, Stage};
use crate::local;
use crate::route::ActiveFallback;
use crate::session::{Flow, Phase, Session};

/// Asks the cluster for an endpoint for the session's request.
pub(crate) fn admit(session: &mut Session, core: &mut Core) -> Flow {
    let place = core.place(session);
    let exchange = session
        .exchange
        .as_mut()
        .expect("a request is being admitted");
    if exchange.asked_ns == 0 {
        exchange.asked_ns = core.now_ns;
    }
    let cluster = exchange.cluster().clone();
    let marks = Marks {
        client: exchange.client,
        key: &exchange.key,
        bound_to: &exchange.bound_to,
        importance: exchange
            .route
            .as_ref()
            .map_or(Importance::Normal, |route| route.importance),
        class: exchange.class,
    };
    let (picking, pass) = (&mut exchange.picking, &mut exchange.pass);
    match cluster.admit(place, marks, picking, pass, core.now_ns) {
        Admission::Granted(endpoint) => granted(session, core, endpoint),
        Admission::Queued => {
            core.waiting += 1;
            core.telemetry.queued();
            session.phase = Phase::Waiting;
            session.since_ms = core.now_ms();
            Flow::Wait
        }
        Admission::Refused => refuse(session, core, Kind::QueueFull),
        Admission::Nobody => refuse(session, core, Kind::NobodyAlive),
        Admission::Broken => refuse(session, core, Kind::BreakerOpen),
        Admission::Shed => refuse(session, core, Kind::Shed),
    }
}

fn refuse(session: &mut Session, core: &mut Core, kind: Kind) -> Flow {
    give_up(session, core, ProxyError::edge(Stage::Admit, kind))
}

/// The cluster does not answer the request: what stands in for it does, or the client is told.
pub(crate) fn give_up(session: &mut Session, core: &mut Core, error: ProxyError) -> Flow {
    let Some(exchange) = session.exchange.as_mut() else {
        return answer::refuse(session, core, &error);
    };
    let route = exchange.route.clone();
    let repeatable = exchange.held && (exchange.sent == 0 || exchange.method.is_idempotent());
    match route.as_ref().and_then(|route| route.fallback.as_ref()) {
        Some(ActiveFallback::Cluster(_)) if !exchange.fallen && repeatable => {
            core.telemetry.error(error.counter());
            exchange.reset_attempt();
            exchange.fallen = true;
            exchange.picking.reset();
            exchange.attempts = 0;
            admit(session, core)
        }
        Some(ActiveFallback::Answer(fixed)) => {
            core.telemetry.error(error.counter());
            local::instead(session, core, fixed)
        }
        _ => answer::refuse(session, core, &error),
    }
}

/// The session's request has a slot at `endpoint`.
pub(crate) fn granted(session: &mut Session, core: &mut Core, endpoint: Arc<Endpoint>) -> Flow {
    let exchange = session.exchange.as_mut().expect("a request was admitted");
    endpoint.count_request();
    exchange.attempts += 1;
    exchange.endpoint = Some(endpoint);
    session.phase = Phase::Connecting;
    session.since_ms = core.now_ms();
    connect::connect(session, core)
}

/// A waiting request gives up its place in the queue.
pub(crate) fn leave_queue(session: &mut Session, core: &mut Core) {
    core.waiting -= 1;
    let place = core.place(session);
    if let Some(exchange) = &mut session.exchange {
        let mut pass = exchange.pass.take();
        exchange.cluster().cancel(place, &mut pass, core.now_ns);
    }
}
