//! Clients that stay at their endpoint by a cookie: one that is set here, or one of the
//! application's that is remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use evener_config::Binding;
use evener_http1::Fields;

use crate::session::Exchange;

/// Which endpoint the values of an application's cookie came from.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    known: Mutex<HashMap<Box<[u8]>, Session>>,
}

#[derive(Debug)]
struct Session {
    route: String,
    used_ns: u64,
}

/// Longest value that is remembered.
const VALUE_BYTES_MAX: usize = 1024;

impl Learned {
    /// The route of the endpoint that a value came from, which counts as used.
    fn recall(&self, value: &[u8], ttl: Duration, now_ns: u64) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let session = known.get_mut(value)?;
        if is_over(session, ttl, now_ns) {
            known.remove(value);
            return None;
        }
        session.used_ns = now_ns;
        Some(session.route.clone())
    }

    fn learn(&self, value: &[u8], route: &str, ttl: Duration, most: usize, now_ns: u64) {
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= most && !known.contains_key(value) {
            known.retain(|_, session| !is_over(session, ttl, now_ns));
        }
        if known.len() >= most && !known.contains_key(value) {
            // Room for many at once, so that a full table is not walked for each one.
            let mut used: Vec<u64> = known.values().map(|session| session.used_ns).collect();
            let place = used.len() / 16;
            let (_, oldest, _) = used.select_nth_unstable(place);
            let oldest = *oldest;
            known.retain(|_, session| session.used_ns > oldest);
        }
        let session = Session {
            route: route.to_owned(),
            used_ns: now_ns,
        };
        known.insert(value.into(), session);
    }
}

fn is_over(session: &Session, ttl: Duration, now_ns: u64) -> bool {
    u128::from(now_ns.saturating_sub(session.used_ns)) > ttl.as_nanos()
}

/// What the request's cookie says becomes the route of an endpoint, if it is one that is learned.
pub(crate) fn recall(exchange: &mut Exchange, now_ns: u64) {
    let Some(route) = exchange.route.clone() else {
        return;
    };
    let treatment = route.treatment.as_deref();
    if let (Some(Binding::Learn { ttl, .. }), Some(cluster)) = (
        treatment.and_then(|treatment| treatment.binding.as_ref()),
        &route.cluster,
    ) {
        let known = cluster.learned().recall(&exchange.bound_to, *ttl, now_ns);
        exchange.bound_to.clear();
        exchange.bound_to.extend(known.unwrap_or_default().bytes());
    }
}

/// The endpoint answers: the client is given its cookie, or what it is given is remembered.
pub(crate) fn note(exchange: &mut Exchange, bytes: &[u8], fields: &Fields, now_ns: u64) {
    let (Some(route), Some(endpoint)) = (&exchange.route, &exchange.endpoint) else {
        return;
    };
    let treatment = route.treatment.as_deref();
    match treatment.and_then(|treatment| treatment.binding.as_ref()) {
        Some(Binding::Cookie {
            name,
            attributes,
            again,
        }) => {
            let has_it = exchange.bound_to == endpoint.route.as_bytes();
            if let (true, Some(filtered)) = (*again || !has_it, &mut exchange.filtered) {
                let cookie = format!("{name}={}{attributes}", endpoint.route);
                filtered.edits.add("Set-Cookie", cookie.as_bytes());
            }
        }
        Some(Binding::Learn {
            name,
            ttl,
            sessions_max,
        }) if !exchange.fallen => {
            let set = fields
                .iter()
                .filter(|field| field.name.of(bytes).eq_ignore_ascii_case(b"set-cookie"));
            for field in set {
                if let Some(value) = cookie_value(field.value.of(bytes), name) {
                    let learned = exchange.cluster().learned();
                    learned.learn(value, &endpoint.route, *ttl, *sessions_max, now_ns);
                }
            }
        }
        _ => {}
    }
}

/// The value that a `Set-Cookie` gives to this cookie.
fn cookie_value<'a>(set: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pair = set.split(|&byte| byte == b';').next()?.trim_ascii();
    let rest = pair.strip_prefix(name.as_bytes())?.trim_ascii_start();
    rest.strip_prefix(b"=").map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_nanos(100);

    #[test]
    fn values_are_remembered_while_they_are_used() {
        let learned = Learned::default();
        learned.learn(b"a", "one", TTL, 10, 0);
        assert_eq!(learned.recall(b"a", TTL, 100).as_deref(), Some("one"));
        assert_eq!(learned.recall(b"a", TTL, 200).as_deref(), Some("one"));
        assert_eq!(learned.recall(b"a", TTL, 301), None);
        assert_eq!(learned.recall(b"a", TTL, 301), None);
        learned.learn(b"", "one", TTL, 10, 0);
        learned.learn(&[b'x'; VALUE_BYTES_MAX + 1], "one", TTL, 10, 0);
        assert_eq!(learned.known.lock().unwrap().len(), 0);
    }

    #[test]
    fn those_used_longest_ago_make_room() {
        let learned = Learned::default();
        for number in 0..1000u64 {
            let long = Duration::from_secs(1);
            learned.learn(&number.to_le_bytes(), "one", long, 100, number);
            assert!(learned.known.lock().unwrap().len() <= 100);
            assert!(
                learned
                    .recall(&number.to_le_bytes(), long, number)
                    .is_some()
            );
        }
        assert!(learned.known.lock().unwrap().len() > 80);
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        assert_eq!(cookie_value(b"sid=abc; Path=/", "sid"), Some(&b"abc"[..]));
        assert_eq!(cookie_value(b" sid = a=b", "sid"), Some(&b"a=b"[..]));
        assert_eq!(cookie_value(b"sid2=abc", "sid"), None);
        assert_eq!(cookie_value(b"x=sid=1", "sid"), None);
    }
}
