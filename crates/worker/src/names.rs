//! Header names as Python objects, made once per name and not once per request.
//!
//! A request's header names come from a small set. The table below remembers the lower-cased
//! `bytes` object of each name that it saw last in its place; it is bounded, and what is not in
//! it is simply made anew.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

const PLACES: usize = 256;
/// A longer name is not remembered.
const NAME_BYTES_MAX: usize = 48;

/// A name as it was sent, and its object.
type Remembered = (Box<[u8]>, Py<PyBytes>);

/// The table of one server.
#[derive(Debug)]
pub(crate) struct HeaderNames {
    places: Vec<Option<Remembered>>,
}

impl HeaderNames {
    pub(crate) fn new() -> HeaderNames {
        HeaderNames {
            places: (0..PLACES).map(|_| None).collect(),
        }
    }

    /// The name in lower case.
    pub(crate) fn lowered<'py>(&mut self, py: Python<'py>, name: &[u8]) -> Bound<'py, PyBytes> {
        let place = &mut self.places[place_of(name)];
        if let Some((seen, object)) = place
            && **seen == *name
        {
            return object.bind(py).clone();
        }
        let object = PyBytes::new(py, &name.to_ascii_lowercase());
        if name.len() <= NAME_BYTES_MAX {
            *place = Some((name.into(), object.clone().unbind()));
        }
        object
    }
}

/// Mixes the first and last bytes and the length; a multiplication spreads them.
fn place_of(name: &[u8]) -> usize {
    let four = |bytes: &[u8]| {
        bytes
            .iter()
            .take(4)
            .fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte | 0x20))
    };
    let last = name.len().saturating_sub(4);
    let mixed = four(name) << 32 ^ four(&name[last..]) ^ (name.len() as u64) << 28;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::place_of;

    #[test]
    fn places_are_in_range_for_any_name() {
        for length in 0..300 {
            assert!(place_of(&vec![0xff; length]) < super::PLACES);
        }
    }

    #[test]
    fn usual_names_rarely_share_a_place() {
        let names = [
            "host",
            "user-agent",
            "accept",
            "accept-encoding",
            "accept-language",
            "connection",
            "content-length",
            "content-type",
            "cookie",
            "authorization",
            "origin",
            "referer",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-real-ip",
            "x-request-id",
            "cache-control",
            "if-none-match",
            "range",
            "sec-fetch-mode",
            "sec-fetch-site",
            "sec-fetch-dest",
            "upgrade-insecure-requests",
            "traceparent",
        ];
        let places: std::collections::HashSet<_> =
            names.iter().map(|name| place_of(name.as_bytes())).collect();
        assert!(
            places.len() >= names.len() - 2,
            "{} of {}",
            places.len(),
            names.len()
        );
    }
}
