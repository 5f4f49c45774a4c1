//! Hedging: a request that has no answer after a while goes to another endpoint as well. When, and
//! how often, is `policy::hedge`'s; here the rivals of the present attempt are kept, moved on, put
//! in its place if they are first or it fails, and closed if they are not.
//!
//! A rival takes the attempt's place before anything of its answer goes out, so all that comes
//! after, from parsing the head to giving the connection back, is as for any other attempt.

use std::io::ErrorKind;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use evener_http1::{Method, parse_response};
use evener_net::{Ring, Socket, Transfer};
use evener_policy::balance::Verdict;
use evener_policy::hedge::{Asked, Delay, Plan, Settings};
use evener_policy::outlier::Observed;
use mio::Token;
use mio::event::Event;

use crate::admission::{Finished, Marks};
use crate::connect;
use crate::core::{Core, Offer, Owner, READ_BYTES};
use crate::endpoint::Endpoint;
use crate::error::Kind;
use crate::http2::{self, upstream};
use crate::pool::Upstream;
use crate::respond;
use crate::retry;
use crate::session::{Exchange, Flow, Phase, Session};

/// The attempts of a request beside the present one.
#[derive(Debug)]
pub(crate) struct Race {
    plan: Plan,
    rivals: Vec<Rival>,
}

/// An attempt that may take the place of the present one.
#[derive(Debug)]
struct Rival {
    upstream: Upstream,
    endpoint: Arc<Endpoint>,
    picked_ns: u64,
    connected: bool,
    /// The request as this endpoint gets it, unsent from `sent` on.
    outgoing: Vec<u8>,
    preface_bytes: usize,
    sent: usize,
    offered: Option<u64>,
    /// What has come of the answer, which is no complete head.
    incoming: Vec<u8>,
}

/// How far a rival is.
enum Step {
    Waits,
    /// The head of its answer is there, of this status.
    Head(u16),
    Failed(Kind),
}

/// An attempt begins: its first hedge is due some time from now, if its route has any.
pub(crate) fn prepare(exchange: &mut Exchange, core: &Core, settings: Settings) {
    let now = Duration::from_nanos(core.now_ns);
    if let Some(race) = &mut exchange.race {
        match exchange.fallen {
            // That is another cluster.
            true => race.plan.give_up(),
            false => race.plan.restart(now),
        }
        return;
    }
    let asked = Asked {
        safe: matches!(
            exchange.method,
            Method::Get | Method::Head | Method::Options | Method::Trace
        ),
        bodiless: exchange.request_body.is_done() && exchange.request_body_bytes == 0,
        upgrade: exchange.upgrade,
        bound: !exchange.bound_to.is_empty(),
    };
    let own = exchange.stand_in.is_some() || exchange.fallen;
    if own || !asked.may_hedge() {
        return;
    }
    let delay = match settings.delay {
        Delay::After(delay) => Some(delay),
        Delay::Quantile { least, .. } => exchange
            .cluster()
            .usual_latency(core.now_ns)
            .map(|usual| usual.max(least)),
    };
    if let Some(delay) = delay {
        exchange.race = Some(Box::new(Race {
            plan: Plan::begin(&settings, delay, now),
            rivals: Vec::new(),
        }));
    }
}

/// When the next hedge is due, in milliseconds.
#[inline]
pub(crate) fn next_ms(exchange: &Exchange) -> Option<u64> {
    let next = exchange.race.as_ref()?.plan.next()?;
    // The timers know no less than a millisecond, and must not ring before it is due.
    let ms = u64::try_from(next.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    (!exchange.answering).then_some(ms)
}

/// A hedge is due.
pub(crate) fn send(session: &mut Session, core: &mut Core) -> Flow {
    let Some(exchange) = session.exchange.as_mut() else {
        return Flow::Wait;
    };
    let Some(mut race) = exchange.race.take() else {
        return Flow::Wait;
    };
    let now = Duration::from_nanos(core.now_ns);
    if race.plan.is_due(now) {
        match start(session, core) {
            Some(rival) => {
                core.telemetry.hedged();
                race.plan.sent(now);
                race.rivals.push(rival);
            }
            None => race.plan.give_up(),
        }
    }
    if let Some(exchange) = session.exchange.as_mut() {
        exchange.race = Some(race);
    }
    Flow::Continue
}

/// Finds another endpoint, and begins to reach it.
fn start(session: &mut Session, core: &mut Core) -> Option<Rival> {
    let exchange = session.exchange.as_mut()?;
    let marks = Marks {
        client: exchange.client,
        key: &exchange.key,
        bound_to: &[],
        importance: exchange.route.as_ref()?.importance,
        class: exchange.class,
    };
    let cluster = exchange.cluster().clone();
    let endpoint = cluster.admit_rival(marks, &mut exchange.picking, core.now_ns)?;
    endpoint.count_request();
    let mut outgoing = core.buffers.take();
    outgoing.extend_from_slice(&exchange.outgoing[exchange.preface_bytes..]);
    let mut rival = Rival {
        upstream: match reach(session, core, &endpoint, &mut outgoing) {
            Ok(upstream) => upstream,
            Err(kind) => {
                // One whose backlog is full is alive and behind.
                let finished = match kind {
                    Kind::ConnectFailed(ErrorKind::WouldBlock) => Finished::unjudged(core.now_ns),
                    kind => failed(&endpoint, kind, core.now_ns),
                };
                cluster.release(&endpoint, &finished, core.now_ns);
                core.buffers.give(outgoing);
                return None;
            }
        },
        endpoint,
        picked_ns: core.now_ns,
        connected: false,
        preface_bytes: 0,
        outgoing,
        sent: 0,
        offered: None,
        incoming: Vec::new(),
    };
    let request = session.exchange.as_ref()?;
    rival.preface_bytes = rival.outgoing.len() + request.preface_bytes - request.outgoing.len();
    Some(rival)
}

/// A connection to an endpoint, idle until now or begun to be made.
fn reach(
    session: &Session,
    core: &mut Core,
    endpoint: &Arc<Endpoint>,
    outgoing: &mut Vec<u8>,
) -> Result<Upstream, Kind> {
    let owner = Owner::Rival(session.key.index);
    let not_made = |error: std::io::Error| Kind::ConnectFailed(error.kind());
    if endpoint.terms.http2 {
        let end = upstream::open(core, endpoint).map_err(not_made)?;
        end.answer_to(Ring {
            index: session.key.index,
            serial: session.key.serial,
            part: 0,
            table: http2::SESSIONS,
        });
        let token = core.tokens.assign(owner);
        let socket = Socket::piped(end, token);
        return Ok(connect::open(socket, endpoint.clone(), None));
    }
    while let Some(mut upstream) = core.pools.take(endpoint.id, 0) {
        if upstream.is_quiet() {
            core.tokens.reassign(upstream.socket.token(), owner);
            core.telemetry.upstream_reused();
            return Ok(upstream);
        }
        core.close_upstream(upstream);
    }
    // As if its backlog were full.
    let slot = connect::room(core, endpoint).ok_or(Kind::ConnectFailed(ErrorKind::WouldBlock))?;
    let token = core.tokens.assign(owner);
    let mut preface_bytes = 0;
    let before = connect::say_whose(outgoing, &mut preface_bytes, endpoint, session.peer);
    match endpoint.connect(&core.registry, token, &before) {
        Ok(socket) => {
            core.telemetry.upstream_opened();
            Ok(connect::open(socket, endpoint.clone(), slot))
        }
        Err(error) => {
            core.tokens.free(token);
            Err(not_made(error))
        }
    }
}

/// Remembers an event of a rival's connection; false if it is nobody's.
pub(crate) fn note(exchange: &mut Exchange, token: Token, event: &Event) -> bool {
    let rivals = exchange.race.iter_mut().flat_map(|race| &mut race.rivals);
    let mut its = rivals.filter(|rival| rival.upstream.socket.token() == token);
    let Some(rival) = its.next() else {
        return false;
    };
    rival.upstream.socket.note(event);
    true
}

/// Remembers what the other ends of pipes have done.
pub(crate) fn note_rings(exchange: &mut Exchange) {
    for rival in exchange.race.iter_mut().flat_map(|race| &mut race.rivals) {
        rival.upstream.socket.note_ring();
    }
}

/// Moves the rivals on. If one of them has an answer, it takes the place of the present attempt,
/// and the session goes on with it.
pub(crate) fn advance(session: &mut Session, core: &mut Core) -> Option<Flow> {
    let exchange = session.exchange.as_mut()?;
    let mut race = exchange.race.take()?;
    let mut at = 0;
    let mut first = None;
    while at < race.rivals.len() {
        let kind = match step(&mut race.rivals[at], core, exchange) {
            Step::Waits => {
                at += 1;
                continue;
            }
            // Another answer may be better than one that is asked for again.
            Step::Head(status) if retry::would_decline(exchange, core, status) => {
                Kind::Declined(status)
            }
            Step::Head(_) => {
                first = Some(race.rivals.swap_remove(at));
                break;
            }
            Step::Failed(kind) => kind,
        };
        let rival = race.rivals.swap_remove(at);
        let finished = failed(&rival.endpoint, kind, rival.picked_ns);
        close(exchange, core, rival, &finished);
    }
    exchange.race = Some(race);
    let rival = first?;
    core.telemetry.hedge_won();
    outrun(exchange, core);
    install(session, core, rival);
    let kept = take(&mut session.exchange.as_mut()?.incoming);
    Some(match respond::take_kept(session, core, kept) {
        Ok(()) => Flow::Continue,
        Err(error) => retry::fail(session, core, error),
    })
}

/// Sends what a rival has not sent, and reads what its endpoint says.
fn step(rival: &mut Rival, core: &mut Core, exchange: &Exchange) -> Step {
    let socket = &mut rival.upstream.socket;
    if !rival.connected {
        match socket.connected() {
            None => return Step::Waits,
            Some(Err(error)) => return Step::Failed(Kind::ConnectFailed(error.kind())),
            Some(Ok(())) => {}
        }
        rival.connected = true;
        rival.offered = connect::offer(
            &mut rival.upstream,
            &mut rival.outgoing,
            &mut rival.preface_bytes,
            exchange.over_http2,
            core,
        );
    }
    let socket = &mut rival.upstream.socket;
    while rival.sent < rival.outgoing.len() {
        match socket.write(&rival.outgoing[rival.sent..]) {
            Transfer::Bytes(count) => rival.sent += count,
            Transfer::Blocked | Transfer::End => {
                // Without the registration it is as if the endpoint were slow.
                let _ = socket.await_writable(&core.registry);
                return Step::Waits;
            }
            Transfer::Broken(kind) => return Step::Failed(Kind::Broken(kind)),
        }
    }
    loop {
        match socket.read(&mut core.scratch[..READ_BYTES]) {
            Transfer::Bytes(count) => {
                core.buffers.furnish(&mut rival.incoming);
                rival.incoming.extend_from_slice(&core.scratch[..count]);
            }
            Transfer::Blocked => return Step::Waits,
            Transfer::End => return Step::Failed(Kind::Closed),
            Transfer::Broken(kind) => return Step::Failed(Kind::Broken(kind)),
        }
        match final_status(&rival.incoming, core, exchange.method) {
            Ok(Some(status)) => return Step::Head(status),
            Ok(None) => {}
            Err(()) => return Step::Failed(Kind::Garbage),
        }
    }
}

/// The status of the final head in these bytes, if it is complete.
fn final_status(bytes: &[u8], core: &mut Core, method: Method) -> Result<Option<u16>, ()> {
    let mut at = 0;
    loop {
        let (fields, limits) = (&mut core.fields, &core.head_limits);
        match parse_response(&bytes[at..], fields, limits, method == Method::Head) {
            Ok(Some(head)) if head.is_interim() => at += head.length,
            Ok(head) => return Ok(head.map(|head| head.status)),
            Err(_) => return Err(()),
        }
    }
}

/// The present attempt has failed: the rival that is furthest takes its place. False if there is
/// none.
pub(crate) fn take_over(session: &mut Session, core: &mut Core) -> bool {
    let exchange = session.exchange.as_mut();
    let Some(race) = exchange.and_then(|exchange| exchange.race.as_mut()) else {
        return false;
    };
    let places = race.rivals.iter().enumerate();
    let best = places.min_by_key(|(place, rival)| (!rival.connected, *place));
    let Some((place, _)) = best else {
        return false;
    };
    let rival = race.rivals.remove(place);
    install(session, core, rival);
    true
}

/// Whether there are rivals.
pub(crate) fn has_rivals(exchange: &Exchange) -> bool {
    let race = exchange.race.as_ref();
    race.is_some_and(|race| !race.rivals.is_empty())
}

/// Puts a rival in the place of the present attempt, which is over.
fn install(session: &mut Session, core: &mut Core, rival: Rival) {
    let Some(exchange) = session.exchange.as_mut() else {
        return;
    };
    exchange.reset_attempt();
    core.buffers
        .give(std::mem::replace(&mut exchange.outgoing, rival.outgoing));
    core.buffers
        .give(std::mem::replace(&mut exchange.incoming, rival.incoming));
    exchange.preface_bytes = rival.preface_bytes;
    exchange.sent = rival.sent;
    exchange.offered = rival.offered;
    exchange.connect_again_ms = 0;
    exchange.attempts += 1;
    exchange
        .picking
        .note_picked(rival.endpoint.id.0, rival.picked_ns);
    exchange.endpoint = Some(rival.endpoint);
    let token = rival.upstream.socket.token();
    core.tokens
        .reassign(token, Owner::Upstream(session.key.index));
    exchange.upstream = Some(rival.upstream);
    exchange.upload_moved_ms = core.now_ms();
    exchange.response_moved_ms = core.now_ms();
    if let Some(sequence) = rival.offered {
        core.offers.push(Offer {
            session: session.key,
            sequence,
            at_ns: core.now_ns,
        });
    }
    session.phase = match rival.connected {
        true => Phase::Exchange,
        false => Phase::Connecting,
    };
    session.since_ms = core.now_ms();
}

/// The present attempt was not first: it is given up. Its breaker's pass stays with the request,
/// whose answer it is now for.
fn outrun(exchange: &mut Exchange, core: &mut Core) {
    core.telemetry.hedge_cancelled();
    if let Some(upstream) = exchange.upstream.take() {
        if let (Some(sequence), Some(claims)) = (exchange.offered, &upstream.claims) {
            claims.take_back(sequence);
        }
        core.close_upstream(upstream);
    }
    if let Some(endpoint) = exchange.endpoint.take() {
        let finished = Finished {
            outrun: true,
            ..Finished::unjudged(exchange.picking.picked_ns())
        };
        exchange
            .cluster()
            .release(&endpoint, &finished, core.now_ns);
    }
}

/// Gives the rivals up: the request has its answer, or needs none any more.
pub(crate) fn cancel(exchange: &mut Exchange, core: &mut Core) {
    let Some(race) = exchange.race.take() else {
        return;
    };
    for rival in race.rivals {
        core.telemetry.hedge_cancelled();
        if let (Some(sequence), Some(claims)) = (rival.offered, &rival.upstream.claims) {
            claims.take_back(sequence);
        }
        let finished = Finished::unjudged(rival.picked_ns);
        close(exchange, core, rival, &finished);
    }
}

/// Closes a rival's connection and gives its slot back.
fn close(exchange: &Exchange, core: &mut Core, rival: Rival, finished: &Finished) {
    core.close_upstream(rival.upstream);
    core.buffers.give(rival.outgoing);
    core.buffers.give(rival.incoming);
    exchange
        .cluster()
        .release(&rival.endpoint, finished, core.now_ns);
}

/// What a failure says of a rival's endpoint.
fn failed(endpoint: &Endpoint, kind: Kind, picked_ns: u64) -> Finished {
    endpoint.count_failure();
    Finished {
        verdict: Some(Verdict::Failed),
        observed: Some(match kind {
            Kind::Declined(status) => Observed::of_status(status),
            _ => Observed::Silence,
        }),
        ..Finished::unjudged(picked_ns)
    }
}
