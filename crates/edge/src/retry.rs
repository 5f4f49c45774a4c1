//! Stage 8: what becomes of a request whose attempt failed. The rule is in `policy::retry`; here
//! the facts are gathered for it, and its verdict is carried out.

use std::io::ErrorKind;
use std::time::Duration;

use evener_policy::balance::Verdict;
use evener_policy::next_upstream::{Attempt, Blame, Ended, Next, Rules};
use evener_policy::outlier::Observed;
use evener_policy::retry::{FailedAttempt, Reached};

use crate::admission::Finished;
use crate::admit;
use crate::answer;
use crate::config::Resend;
use crate::core::{Core, Offer};
use crate::error::{Kind, ProxyError, Side, Stage};
use crate::health_paths;
use crate::hedge;
use crate::record;
use crate::session::{Exchange, Flow, Phase, Session};

/// Attempts of a request that no application has seen: endpoints that refuse cost little.
const ATTEMPTS_MAX: u32 = 8;
/// Attempts of a request that an application may have seen, for each may have run it.
const ATTEMPTS_SEEN_MAX: u32 = 3;

/// Ends the present attempt: the request is sent again, or answered with an error, or cut.
pub(crate) fn fail(session: &mut Session, core: &mut Core, error: ProxyError) -> Flow {
    let exchange = session.exchange.as_mut().expect("a request has failed");
    if error.kind == Kind::ClientGone {
        return abandon(session, core);
    }
    if let (Some(asked), Kind::Declined(404)) = (exchange.stand_in, error.kind) {
        return health_paths::stand_in(session, core, asked);
    }
    if exchange.race.is_some() && error.side == Side::Upstream && hedge::has_rivals(exchange) {
        let rules = match exchange.resend() {
            Resend::NextUpstream(rules) => next_upstream(exchange, core, &rules, error),
            Resend::Safe => None,
        };
        let blame = rules.map_or(Blame::Failed, |(_, blame)| blame);
        give_up_attempt(exchange, core, error, blame);
        if hedge::take_over(session, core) {
            return Flow::Continue;
        }
        return abandon(session, core);
    }
    let again = match exchange.resend() {
        Resend::Safe => {
            let reached = give_up_attempt(exchange, core, error, Blame::Failed);
            error.side == Side::Upstream
                && is_accident(error.kind)
                && is_safe(exchange, reached)
                && exchange.cluster().may_retry(core.now_ns)
        }
        Resend::NextUpstream(rules) => {
            let next = next_upstream(exchange, core, &rules, error);
            let blame = next.map_or(Blame::Failed, |(_, blame)| blame);
            give_up_attempt(exchange, core, error, blame);
            // An answer that is declined has been decided over.
            matches!(error.kind, Kind::Declined(_))
                || matches!(next, Some((Next::Again { .. }, _)))
                    && exchange.cluster().may_retry(core.now_ns)
        }
    };
    if again {
        return try_again(session, core);
    }
    if exchange.answering || session.has_output() {
        // Part of the answer is with the client: only an early end can tell it.
        core.telemetry.error(error.counter());
        let exchange = session.exchange.take().expect("a request has failed");
        record::finished(&exchange, core, Some(exchange.status));
        core.give_exchange(exchange);
        return Flow::Close;
    }
    match error.side {
        Side::Upstream => admit::give_up(session, core, error),
        _ => answer::refuse(session, core, &error),
    }
}

/// Sends the request again, at once or after a while.
fn try_again(session: &mut Session, core: &mut Core) -> Flow {
    let exchange = session.exchange.as_mut().expect("a request is sent again");
    core.telemetry.retried();
    exchange.reset_attempt();
    match backoff_ms(exchange, core) {
        0 => admit::admit(session, core),
        wait_ms => {
            exchange.try_again_ms = core.now_ms() + wait_ms;
            session.phase = Phase::Backoff;
            session.since_ms = core.now_ms();
            Flow::Wait
        }
    }
}

/// The request's endpoint turns out not to answer anybody: the attempt is over as if it had taken
/// too long, but only if another endpoint can serve; `None` if it goes on waiting.
pub(crate) fn pass_on(session: &mut Session, core: &mut Core) -> Option<Flow> {
    if !matches!(session.phase, Phase::Connecting | Phase::Exchange) {
        return None;
    }
    let exchange = session.exchange.as_mut()?;
    let Resend::NextUpstream(rules) = exchange.resend() else {
        return None;
    };
    let attempt = attempt(exchange, core, &rules, Ended::Timeout);
    let from = exchange.endpoint.as_ref()?.id;
    let goes = matches!(rules.decide(&attempt).0, Next::Again { .. })
        && exchange
            .cluster()
            .has_other(from, &exchange.picking, core.now_ns)
        && exchange.cluster().may_retry(core.now_ns);
    if !goes {
        return None;
    }
    let error = ProxyError::upstream(Stage::Respond, Kind::TryTimeout);
    give_up_attempt(exchange, core, error, Blame::Failed);
    Some(try_again(session, core))
}

/// How long to wait before the next try: a random time up to a bound that doubles each time.
fn backoff_ms(exchange: &Exchange, core: &mut Core) -> u64 {
    let route = exchange.route.as_ref();
    let Some(backoff) = route.and_then(|route| route.backoff) else {
        return 0;
    };
    let doublings = exchange.attempts.saturating_sub(1).min(16);
    let bound = backoff.base.saturating_mul(1 << doublings).min(backoff.max);
    let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
    // At least a millisecond: the timers know no less.
    core.draw(bound_ms).max(1)
}

/// Whether an answer of this status is declined in favour of another endpoint's, or of our own to
/// a health check. Asked before anything of it has gone out.
pub(crate) fn declines(exchange: &mut Exchange, core: &Core, status: u16) -> bool {
    if exchange.stand_in.is_some() && status == 404 {
        return true;
    }
    would_decline(exchange, core, status)
        && (hedge::has_rivals(exchange) || exchange.cluster().may_retry(core.now_ns))
}

/// Whether an answer of this status is declined, if the cluster bears another try.
pub(crate) fn would_decline(exchange: &Exchange, core: &Core, status: u16) -> bool {
    let Resend::NextUpstream(rules) = exchange.resend() else {
        return false;
    };
    if status < 400 || exchange.upgrade && status < 500 {
        return false;
    }
    let attempt = attempt(exchange, core, &rules, Ended::Status(status));
    matches!(rules.decide(&attempt).0, Next::Again { .. })
}

/// What nginx's rules make of a failed attempt, if it was the endpoint that failed it.
fn next_upstream(
    exchange: &mut Exchange,
    core: &Core,
    rules: &Rules,
    error: ProxyError,
) -> Option<(Next, Blame)> {
    let ended = match error.kind {
        Kind::ConnectFailed(_) | Kind::Closed | Kind::Broken(_) => Ended::Error,
        Kind::ConnectTimeout
        | Kind::TryTimeout
        | Kind::FirstByteTimeout
        | Kind::ResponseGapTimeout => Ended::Timeout,
        Kind::Garbage => Ended::InvalidHeader,
        Kind::Declined(status) => Ended::Status(status),
        _ => return None,
    };
    let attempt = attempt(exchange, core, rules, ended);
    let decided = rules.decide(&attempt);
    if let (Next::Again { tries }, _) = decided
        && tries >= attempt.tries
    {
        exchange.free_tries += 1;
    }
    Some(decided)
}

fn attempt(exchange: &Exchange, core: &Core, rules: &Rules, ended: Ended) -> Attempt {
    let (endpoints, alone) = exchange.cluster().tries();
    let made = exchange.attempts.saturating_sub(1);
    let upstream = exchange.upstream.as_ref();
    Attempt {
        ended,
        tries: (rules.tries_of(endpoints) + exchange.free_tries).saturating_sub(made),
        alone,
        reused: upstream.is_some_and(|upstream| upstream.reused),
        sent: exchange.sent > 0 || !exchange.held,
        non_idempotent: !exchange.method.is_idempotent(),
        held: exchange.held,
        answered: exchange.answering,
        elapsed: Duration::from_nanos(core.now_ns.saturating_sub(exchange.asked_ns)),
    }
}

/// Whether a request may go out again because it provably did not run, or may run twice.
fn is_safe(exchange: &Exchange, reached: Reached) -> bool {
    let attempt = FailedAttempt {
        reached,
        idempotent: exchange.method.is_idempotent(),
        held: exchange.held,
        answered: exchange.answering,
        attempts: exchange.attempts,
        attempts_max: match reached {
            Reached::Never => ATTEMPTS_MAX,
            Reached::Perhaps => ATTEMPTS_SEEN_MAX,
        },
    };
    attempt.may_resend()
}

/// Whether another attempt may fare better. Garbage and slowness are the application's own: it
/// would be as slow elsewhere, and asking again would only add to its load.
fn is_accident(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ConnectFailed(_)
            | Kind::ConnectTimeout
            | Kind::TryTimeout
            | Kind::Closed
            | Kind::Broken(_)
    )
}

/// Closes the attempt's connection and gives its slot back; says how far the request got.
fn give_up_attempt(
    exchange: &mut Exchange,
    core: &mut Core,
    error: ProxyError,
    blame: Blame,
) -> Reached {
    let mut reached = Reached::Never;
    if let Some(upstream) = exchange.upstream.take() {
        let taken_back = match (exchange.offered, &upstream.claims) {
            (Some(sequence), Some(claims)) => claims.take_back(sequence),
            _ => false,
        };
        // The endpoint says that it has not looked at the request (RFC 9113, 8.7).
        let refused = error.kind == Kind::Broken(ErrorKind::ConnectionRefused);
        if exchange.sent > 0 && !taken_back && !refused {
            reached = Reached::Perhaps;
        }
        core.close_upstream(upstream);
    }
    if let Some(endpoint) = exchange.endpoint.take() {
        let refused = matches!(error.kind, Kind::ConnectFailed(_) | Kind::ConnectTimeout);
        if refused && exchange.resend() == Resend::Safe {
            endpoint.suspect(core.now_ns);
        }
        let mut finished = Finished {
            pass: exchange.pass.take(),
            ..Finished::unjudged(exchange.picking.picked_ns())
        };
        if error.side == Side::Upstream {
            endpoint.count_failure();
            finished.observed = Some(match error.kind {
                Kind::Declined(status) => Observed::of_status(status),
                _ => Observed::Silence,
            });
            // As in nginx, one that has begun to answer is not blamed for the rest.
            finished.verdict = (!exchange.answering).then_some(match blame {
                Blame::Succeeded => Verdict::Succeeded,
                Blame::Failed => Verdict::Failed,
            });
        }
        exchange
            .cluster()
            .release(&endpoint, &finished, core.now_ns);
    }
    reached
}

/// The client has gone: nobody wants the answer any more.
pub(crate) fn abandon(session: &mut Session, core: &mut Core) -> Flow {
    if session.phase == Phase::Waiting {
        admit::leave_queue(session, core);
    }
    if let Some(mut exchange) = session.exchange.take() {
        let error = ProxyError::downstream(crate::error::Stage::Respond, Kind::ClientGone);
        core.telemetry.error(error.counter());
        give_up_attempt(&mut exchange, core, error, Blame::Failed);
        let status = exchange.answering.then_some(exchange.status);
        record::finished(&exchange, core, status);
        core.give_exchange(exchange);
    }
    Flow::Close
}

/// What is to be done about an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfferState {
    /// The worker has started the request, or the attempt is over: nothing more.
    Settled,
    /// The worker may still start it.
    Open,
    /// It was taken back and goes to another endpoint: drive the session.
    TakenBack,
}

/// Looks at a request that was sent to an Evener worker and takes it back if the worker's loop
/// stands still while another worker could start it.
pub(crate) fn review_offer(session: &mut Session, core: &mut Core, offer: &Offer) -> OfferState {
    let Some(exchange) = session.exchange.as_mut() else {
        return OfferState::Settled;
    };
    if exchange.offered != Some(offer.sequence) || exchange.answering {
        return OfferState::Settled;
    }
    let (Some(upstream), Some(endpoint)) = (&exchange.upstream, &exchange.endpoint) else {
        return OfferState::Settled;
    };
    let Some(claims) = &upstream.claims else {
        return OfferState::Settled;
    };
    if claims.is_claimed(offer.sequence) {
        return OfferState::Settled;
    }
    if !endpoint.note_waiting(offer.at_ns, core.now_ns) || !exchange.held {
        return OfferState::Open;
    }
    let Some(other) = exchange.cluster().admit_elsewhere(endpoint, core.now_ns) else {
        exchange.cluster().press(core.now_ns);
        return OfferState::Open;
    };
    if !claims.take_back(offer.sequence) {
        let finished = Finished::unjudged(core.now_ns);
        exchange.cluster().release(&other, &finished, core.now_ns);
        return OfferState::Settled;
    }
    core.telemetry.taken_back();
    let stalled = exchange.endpoint.take().expect("checked above");
    let finished = Finished::unjudged(exchange.picking.picked_ns());
    exchange.cluster().release(&stalled, &finished, core.now_ns);
    exchange.picking.note_picked(other.id.0, core.now_ns);
    if let Some(upstream) = exchange.upstream.take() {
        core.close_upstream(upstream);
    }
    exchange.reset_attempt();
    // The session's phase leads back to the connection, with the new endpoint.
    exchange.endpoint = Some(other);
    session.phase = Phase::Connecting;
    session.since_ms = core.now_ms();
    OfferState::TakenBack
}
