//! What a cluster is told about a request, and what it says: the words between the two.

use std::sync::Arc;
use std::time::Duration;

use evener_policy::balance::Verdict;
use evener_policy::breaker::Pass;
use evener_policy::bulkhead::Class;
use evener_policy::outlier::Observed;
use evener_policy::shed::Importance;

use crate::endpoint::Endpoint;
use crate::session::Exchange;
use crate::shard::SessionKey;
use crate::variables::ClientBytes;

/// Where a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) session: SessionKey,
}

/// What a request is told apart by, when that matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks<'a> {
    pub(crate) client: ClientBytes,
    pub(crate) key: &'a [u8],
    /// The route of the endpoint that it is bound to; empty if it is not.
    pub(crate) bound_to: &'a [u8],
    pub(crate) importance: Importance,
    pub(crate) class: Class,
}

/// How a request went with an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    /// Whether it counts for or against it.
    pub(crate) verdict: Option<Verdict>,
    /// What outlier detection makes of it.
    pub(crate) observed: Option<Observed>,
    pub(crate) picked_ns: u64,
    /// When the head of the response came; 0 if it did not.
    pub(crate) head_ns: u64,
    /// By which the breaker let it pass.
    pub(crate) pass: Option<Pass>,
    /// What it teaches about requests that hold their worker's event loop.
    pub(crate) hold: Hold,
}

/// Whether a request has held its worker's event loop.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hold {
    pub(crate) class: Class,
    /// For how long at a stretch; `None` if it was not seen to end.
    pub(crate) held: Option<Duration>,
}

impl Finished {
    /// A request that says nothing about its endpoint.
    pub(crate) fn unjudged(picked_ns: u64) -> Finished {
        Finished {
            verdict: None,
            observed: None,
            picked_ns,
            head_ns: 0,
            pass: None,
            hold: Hold::default(),
        }
    }

    /// A request whose endpoint has answered, if it has.
    pub(crate) fn of_answer(exchange: &Exchange) -> Finished {
        let unjudged = Finished {
            pass: exchange.pass,
            hold: Hold {
                class: exchange.class,
                held: exchange.loop_held,
            },
            ..Finished::unjudged(exchange.picking.picked_ns())
        };
        if !exchange.answering {
            return unjudged;
        }
        Finished {
            verdict: Some(Verdict::Succeeded),
            observed: Some(Observed::of_status(exchange.status)),
            head_ns: exchange.head_ns,
            ..unjudged
        }
    }
}

/// What became of a request for an endpoint.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Go ahead; the slot must be released.
    Granted(Arc<Endpoint>),
    /// All are full or gone: a [`ShardMessage::Granted`] follows.
    Queued,
    /// The queue is full as well.
    Refused,
    /// Nobody is alive, and it is not worth waiting.
    Nobody,
    /// The breaker is open.
    Broken,
    /// Too many wait, and others are more important.
    Shed,
}
