//! Stages 4 and 5: a request gets an endpoint, or a place in the queue, or is told to come back.

use std::sync::Arc;

use crate::answer;
use crate::cluster::{Admission, Marks};
use crate::connect;
use crate::core::Core;
use crate::endpoint::Endpoint;
use crate::error::{Kind, ProxyError, Stage};
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
    };
    match cluster.admit(place, marks, &mut exchange.picking, core.now_ns) {
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
    }
}

fn refuse(session: &mut Session, core: &mut Core, kind: Kind) -> Flow {
    answer::refuse(session, core, &ProxyError::edge(Stage::Admit, kind))
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
    if let Some(exchange) = &session.exchange {
        exchange.cluster().cancel(core.place(session));
    }
}
