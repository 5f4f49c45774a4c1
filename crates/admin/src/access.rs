//! Who may use the API. On the unix socket: whoever the file system lets in. On TCP: whoever has
//! the token; without one, only programs on this machine, and no web page of another origin.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::{Method, StatusCode};

/// The rule of one listener.
#[derive(Clone)]
pub struct Access {
    rule: Rule,
}

#[derive(Clone)]
enum Rule {
    Owner,
    Loopback,
    Token(String),
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.rule {
            Rule::Owner => "Access::Owner",
            Rule::Loopback => "Access::Loopback",
            Rule::Token(_) => "Access::Token",
        })
    }
}

/// An address that would be open to everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError {
    /// The address.
    pub address: SocketAddr,
}

impl fmt::Display for AccessError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the admin address {} can be reached from other machines and has no token: set \
             --admin-token or $EVENER_ADMIN_TOKEN, or use 127.0.0.1",
            self.address
        )
    }
}

impl std::error::Error for AccessError {}

impl Access {
    /// For a unix socket whose mode lets its owner in.
    pub fn owner() -> Access {
        Access { rule: Rule::Owner }
    }

    /// For a TCP address; one that is not a loopback address needs a token.
    pub fn tcp(address: SocketAddr, token: Option<String>) -> Result<Access, AccessError> {
        match token {
            Some(token) => Ok(Access {
                rule: Rule::Token(token),
            }),
            None if address.ip().to_canonical().is_loopback() => Ok(Access {
                rule: Rule::Loopback,
            }),
            None => Err(AccessError { address }),
        }
    }

    /// Whether a request may be answered; if not, the status that says so.
    pub(crate) fn check(
        &self,
        method: &Method,
        path: &str,
        fields: &HeaderMap,
    ) -> Result<(), StatusCode> {
        match &self.rule {
            Rule::Owner => Ok(()),
            Rule::Loopback => check_local(method, fields),
            // The page holds no data; it asks for the token itself. The health checks tell
            // nothing but yes or no.
            Rule::Token(_) if matches!(path, "/" | "/healthz" | "/readyz") => Ok(()),
            Rule::Token(token) => {
                let given = fields
                    .get(AUTHORIZATION)
                    .map_or(&b""[..], |value| value.as_bytes());
                let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
                if equal(given, token.as_bytes()) {
                    Ok(())
                } else {
                    Err(StatusCode::UNAUTHORIZED)
                }
            }
        }
    }
}

/// Refuses what a web page could make a browser send: a name that was rebound to this machine
/// as `Host`, or a command from a page of another origin.
fn check_local(method: &Method, fields: &HeaderMap) -> Result<(), StatusCode> {
    let host = fields
        .get(HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let literal = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if !literal && !name.eq_ignore_ascii_case("localhost") {
        return Err(StatusCode::FORBIDDEN);
    }
    if method == Method::GET || method == Method::HEAD {
        return Ok(());
    }
    match fields.get(ORIGIN) {
        None => Ok(()),
        Some(origin) if origin.as_bytes() == format!("http://{host}").as_bytes() => Ok(()),
        Some(_) => Err(StatusCode::FORBIDDEN),
    }
}

/// Compares in a time that depends on the length of `given` only.
fn equal(given: &[u8], secret: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != secret.len());
    for (index, byte) in given.iter().enumerate() {
        let other = secret
            .get(index % secret.len().max(1))
            .copied()
            .unwrap_or(0);
        difference |= byte ^ other;
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn fields(list: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn an_open_address_needs_a_token() {
        assert!(Access::tcp("0.0.0.0:9000".parse().unwrap(), None).is_err());
        assert!(Access::tcp("[::1]:9000".parse().unwrap(), None).is_ok());
        let access = Access::tcp("0.0.0.0:9000".parse().unwrap(), Some("secret".into())).unwrap();
        let check = |value: &str| {
            access.check(&Method::GET, "/metrics", &fields(&[(AUTHORIZATION, value)]))
        };
        assert_eq!(check("Bearer secret"), Ok(()));
        for wrong in [
            "Bearer secre",
            "Bearer secrets",
            "Bearer ",
            "secret",
            "Bearer secretsecret",
        ] {
            assert_eq!(check(wrong), Err(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(
            access.check(&Method::GET, "/healthz", &HeaderMap::new()),
            Ok(())
        );
        assert!(
            access
                .check(&Method::POST, "/api/v1/drain", &HeaderMap::new())
                .is_err()
        );
    }

    #[test]
    fn web_pages_of_others_cannot_command_a_loopback_address() {
        let access = Access::tcp("127.0.0.1:9000".parse().unwrap(), None).unwrap();
        let check = |method: Method, list: &[_]| {
            access
                .check(&method, "/api/v1/drain", &fields(list))
                .is_ok()
        };
        assert!(check(Method::POST, &[(HOST, "127.0.0.1:9000")]));
        assert!(check(
            Method::POST,
            &[(HOST, "localhost:9"), (ORIGIN, "http://localhost:9")]
        ));
        assert!(!check(
            Method::POST,
            &[(HOST, "localhost:9"), (ORIGIN, "http://evil.test")]
        ));
        assert!(!check(Method::GET, &[(HOST, "rebound.test:9000")]));
        assert!(check(Method::GET, &[(HOST, "[::1]:9000")]));
        assert!(!check(Method::GET, &[]));
    }
}
