//! Which other origins may read responses (the Fetch standard's CORS protocol).

use evener_config::{Cors, OriginPattern};
use evener_http1::list_items;

use crate::edit::Edits;

/// What a request is to the CORS protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preflight {
    /// Not a preflight request.
    No,
    /// One whose origin or method may not.
    Refused(&'static str),
    /// One that may; the fields of the answer.
    Granted(Vec<(&'static str, Vec<u8>)>),
}

/// Looks at what may be a preflight request: `OPTIONS` with an origin and the method that is meant.
pub fn preflight(
    cors: &Cors,
    origin: Option<&[u8]>,
    method: Option<&[u8]>,
    headers: Option<&[u8]>,
) -> Preflight {
    let (Some(origin), Some(method)) = (origin, method) else {
        return Preflight::No;
    };
    let Some(allowed) = allowed(cors, origin) else {
        return Preflight::Refused("this origin may not read what is served here");
    };
    // What is always allowed: the safelisted methods.
    let may = |one: &[u8]| {
        [&b"GET"[..], b"HEAD", b"POST"].contains(&one)
            || cors.methods.iter().any(|known| known.as_bytes() == one)
    };
    if !may(method) {
        return Preflight::Refused("this method may not be used from other origins");
    }
    let mut fields = vec![("Access-Control-Allow-Origin", allowed.to_vec())];
    if cors.credentials {
        fields.push(("Access-Control-Allow-Credentials", b"true".to_vec()));
    }
    let methods = cors.methods.join(", ").into_bytes();
    fields.push(("Access-Control-Allow-Methods", methods));
    let asked = list_items(headers.unwrap_or_default()).filter(|item| is_token(item));
    let granted: Vec<&[u8]> = asked
        .filter(|item| {
            let known = |name: &String| name == "*" || name.as_bytes().eq_ignore_ascii_case(item);
            cors.headers.iter().any(known)
        })
        .collect();
    if !granted.is_empty() {
        fields.push(("Access-Control-Allow-Headers", granted.join(&b", "[..])));
    }
    let age = cors.max_age.to_string().into_bytes();
    fields.push(("Access-Control-Max-Age", age));
    Preflight::Granted(fields)
}

/// The fields of any other response. What the application says about it is replaced.
pub fn cors_fields(cors: &Cors, origin: Option<&[u8]>, edits: &mut Edits) {
    for name in [
        "Access-Control-Allow-Origin",
        "Access-Control-Allow-Credentials",
        "Access-Control-Expose-Headers",
    ] {
        edits.remove(name);
    }
    if !is_for_all(cors) {
        edits.vary("Origin");
    }
    let Some(allowed) = origin.and_then(|origin| allowed(cors, origin)) else {
        return;
    };
    edits.add("Access-Control-Allow-Origin", allowed);
    if cors.credentials {
        edits.add("Access-Control-Allow-Credentials", b"true");
    }
    if !cors.expose.is_empty() {
        let names = cors.expose.join(", ");
        edits.add("Access-Control-Expose-Headers", names.as_bytes());
    }
}

/// Whether the answer is the same for every origin.
fn is_for_all(cors: &Cors) -> bool {
    !cors.credentials && cors.origins.contains(&OriginPattern::Any)
}

/// What an origin is told that may read responses.
fn allowed<'a>(cors: &Cors, origin: &'a [u8]) -> Option<&'a [u8]> {
    if is_for_all(cors) {
        return Some(b"*");
    }
    let fits = |pattern: &OriginPattern| match pattern {
        OriginPattern::Any => true,
        OriginPattern::Exact(exact) => exact.as_bytes().eq_ignore_ascii_case(origin),
        OriginPattern::Below { scheme, suffix } => {
            let lower = origin.to_ascii_lowercase();
            let host = lower.strip_prefix(scheme.as_bytes());
            let name = host.and_then(|host| host.strip_suffix(suffix.as_bytes()));
            name.is_some_and(|name| {
                let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
                !name.is_empty() && name.iter().all(plain)
            })
        }
    };
    cors.origins.iter().any(fits).then_some(origin)
}

fn is_token(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(credentials: bool) -> Cors {
        Cors {
            origins: vec![
                OriginPattern::Exact("https://a.test".to_owned()),
                OriginPattern::Below {
                    scheme: "https://".to_owned(),
                    suffix: ".b.test".to_owned(),
                },
            ],
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            headers: vec!["x-a".to_owned()],
            expose: vec!["X-Total".to_owned()],
            credentials,
            max_age: 60,
        }
    }

    fn told(cors: &Cors, origin: &str) -> String {
        let mut edits = Edits::default();
        cors_fields(cors, Some(origin.as_bytes()), &mut edits);
        let mut head = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\n\r\n".to_vec();
        edits.apply(&mut head, 0);
        String::from_utf8(head).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn only_the_named_origins_may_read() {
        for (origin, may) in [
            ("https://a.test", true),
            ("https://A.test", true),
            ("http://a.test", false),
            ("https://a.test:8443", false),
            ("https://x.b.test", true),
            ("https://x.y.b.test", true),
            ("https://b.test", false),
            ("https://.b.test", false),
            ("https://evil.test/.b.test", false),
            ("https://xb.test", false),
            ("null", false),
        ] {
            let told = told(&rules(true), origin);
            let allowed = format!("Access-Control-Allow-Origin: {origin}\n");
            assert_eq!(told.contains(&allowed), may, "{origin}: {told}");
            assert_eq!(told.contains("Credentials: true"), may, "{origin}");
            assert!(told.contains("Vary: Origin\n") && !told.contains("Origin: *"));
        }
        let all = Cors {
            origins: vec![OriginPattern::Any],
            ..rules(false)
        };
        let told = told(&all, "https://c.test");
        assert!(
            told.contains("Origin: *\n") && !told.contains("Vary"),
            "{told}"
        );
        assert!(told.contains("Access-Control-Expose-Headers: X-Total\n"));
    }

    #[test]
    fn preflight_requests_are_granted_what_they_may() {
        let ask = |origin: &str, method: &str, headers: &str| {
            let headers = Some(headers.as_bytes()).filter(|text| !text.is_empty());
            let method = Some(method.as_bytes()).filter(|text| !text.is_empty());
            preflight(&rules(true), Some(origin.as_bytes()), method, headers)
        };
        assert_eq!(ask("https://a.test", "", ""), Preflight::No);
        assert_eq!(
            preflight(&rules(true), None, Some(b"PUT"), None),
            Preflight::No
        );
        assert!(matches!(
            ask("https://c.test", "PUT", ""),
            Preflight::Refused(_)
        ));
        assert!(matches!(
            ask("https://a.test", "DELETE", ""),
            Preflight::Refused(_)
        ));
        let Preflight::Granted(fields) = ask("https://a.test", "PUT", "X-A, x-b, a b") else {
            panic!("refused");
        };
        let has = |name: &str, value: &str| {
            fields.contains(&(
                [
                    "Access-Control-Allow-Headers",
                    "Access-Control-Allow-Methods",
                    "Access-Control-Max-Age",
                ]
                .into_iter()
                .find(|known| *known == name)
                .unwrap(),
                value.as_bytes().to_vec(),
            ))
        };
        assert!(has("Access-Control-Allow-Headers", "X-A"), "{fields:?}");
        assert!(
            has("Access-Control-Allow-Methods", "GET, PUT"),
            "{fields:?}"
        );
        assert!(has("Access-Control-Max-Age", "60"), "{fields:?}");
    }
}
