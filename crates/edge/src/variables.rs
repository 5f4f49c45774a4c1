//! Variables of a request: what a [`Template`] of the configuration stands for.

use std::net::IpAddr;

use evener_config::{Part, RequestIdRule, Template, Variable};
use evener_filters::Fill;
use evener_http1::{FieldName, Version, write};
use evener_net::Peer;

use crate::config::TrustedPeers;
use crate::head;
use crate::route::{ActiveRoute, Asked, arguments, push_host, push_normal_path, split_query};

/// Longest id that is taken from a client who is not trusted.
const ID_BYTES_MAX: usize = 128;

/// What variables are made of.
pub(crate) struct Facts<'a> {
    pub(crate) asked: Asked<'a>,
    pub(crate) peer: Peer,
    /// Whether the connection is secured by TLS.
    pub(crate) tls: bool,
    pub(crate) trusted: &'a TrustedPeers,
    /// The id that it gets unless its own is kept.
    pub(crate) request_id: &'a [u8],
    /// The route it takes, for what its expression found and whose ids it keeps.
    pub(crate) route: Option<&'a ActiveRoute>,
}

impl Fill for Facts<'_> {
    fn fill(&self, template: &Template, out: &mut Vec<u8>) {
        Facts::fill(self, template, out);
    }
}

impl Facts<'_> {
    /// Appends what a template stands for.
    pub(crate) fn fill(&self, template: &Template, out: &mut Vec<u8>) {
        for part in &template.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => self.push(variable, out),
            }
        }
    }

    fn push(&self, variable: &Variable, out: &mut Vec<u8>) {
        let Asked {
            bytes,
            head,
            fields,
            ..
        } = self.asked;
        let target = head.path_and_query(bytes);
        let (path, query) = split_query(target);
        match variable {
            Variable::Host => push_host(&self.asked, out),
            Variable::Field(name) => push_field(&self.asked, name, out),
            Variable::Cookie(name) => {
                out.extend_from_slice(cookie(&self.asked, name).unwrap_or_default());
            }
            Variable::Argument(name) => {
                let mut found = arguments(query).filter(|(key, _)| *key == name.as_bytes());
                out.extend_from_slice(found.next().map(|(_, value)| value).unwrap_or_default());
            }
            Variable::RemoteAddress => match self.client() {
                Some(ip) => head::push_ip(out, ip),
                None => out.extend_from_slice(b"unix:"),
            },
            Variable::PeerAddress => match self.peer {
                Peer::Tcp(address) => head::push_ip(out, address.ip()),
                Peer::Unix => out.extend_from_slice(b"unix:"),
            },
            Variable::RemotePort => {
                if let Peer::Tcp(address) = self.peer {
                    write::decimal(out, u64::from(address.port()));
                }
            }
            Variable::ForwardedFor => {
                head::forwarded_for(out, bytes, fields, self.peer, self.trusted);
            }
            Variable::Scheme => {
                out.extend_from_slice(if self.tls { b"https" } else { b"http" });
            }
            Variable::RequestId => out.extend_from_slice(self.effective_id()),
            Variable::Method => out.extend_from_slice(head.method_span.of(bytes)),
            Variable::RequestUri => out.extend_from_slice(target),
            Variable::Uri => push_normal_path(path, out),
            Variable::Arguments => out.extend_from_slice(query),
            Variable::IsArguments => {
                if !query.is_empty() {
                    out.push(b'?');
                }
            }
            Variable::Protocol => out.extend_from_slice(match head.version {
                Version::H10 => b"HTTP/1.0",
                Version::H11 => b"HTTP/1.1",
            }),
            Variable::Group(number) => self.push_group(*number, out),
        }
    }

    /// Appends what a group of the route's expression found. Without one there are no groups.
    fn push_group(&self, number: usize, out: &mut Vec<u8>) {
        let Some(expression) = self.route.and_then(ActiveRoute::expression) else {
            return;
        };
        let (path, _) = split_query(self.asked.head.path_and_query(self.asked.bytes));
        let mut normal = Vec::new();
        push_normal_path(path, &mut normal);
        let captures = expression.captures(&normal);
        let found = captures.as_ref().and_then(|captures| captures.get(number));
        out.extend_from_slice(found.map(|found| found.as_bytes()).unwrap_or_default());
    }

    /// The id of the request as it is sent on.
    pub(crate) fn effective_id(&self) -> &[u8] {
        let treatment = self.route.and_then(|route| route.treatment.as_deref());
        let rule = treatment.map_or(RequestIdRule::Trusted, |one| one.filters.request_id);
        let own = match self.peer {
            Peer::Tcp(address) => Some(address.ip()),
            Peer::Unix => None,
        };
        let keeps = match rule {
            RequestIdRule::Trusted => self.trusted.believes(own),
            RequestIdRule::Keep => true,
            RequestIdRule::New => false,
        };
        let field = self.asked.fields.first(FieldName::XRequestId);
        let brought = field.map(|field| field.value.of(self.asked.bytes));
        // What strangers send is kept only if it can be an id.
        let can_be = |id: &&[u8]| {
            !id.is_empty() && id.len() <= ID_BYTES_MAX && id.iter().all(u8::is_ascii_graphic)
        };
        match (keeps, brought, rule) {
            (true, Some(id), RequestIdRule::Trusted) => id,
            (true, Some(id), _) if can_be(&id) => id,
            _ => self.request_id,
        }
    }

    /// The client's address, as far as trusted peers tell it; `None` on a unix socket.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        let Asked { bytes, fields, .. } = self.asked;
        let own = match self.peer {
            Peer::Tcp(address) => Some(address.ip().to_canonical()),
            Peer::Unix => None,
        };
        if !self.trusted.believes(own) {
            return own;
        }
        let text = head::vouched_client(bytes, fields, self.trusted);
        let told = text.and_then(|text| std::str::from_utf8(text).ok()?.parse::<IpAddr>().ok());
        told.map(|ip| ip.to_canonical()).or(own)
    }
}

/// Appends the values of a field; more than one are a list, as nginx has it.
fn push_field(asked: &Asked<'_>, name: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for field in asked.fields.iter() {
        let found = field.name.of(asked.bytes);
        if found.eq_ignore_ascii_case(name.as_bytes()) {
            if out.len() > start {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(field.value.of(asked.bytes));
        }
    }
}

/// The value of a cookie.
fn cookie<'a>(asked: &Asked<'a>, name: &str) -> Option<&'a [u8]> {
    let fields = asked.fields.iter();
    let cookies = fields.filter(|field| field.name.of(asked.bytes).eq_ignore_ascii_case(b"cookie"));
    cookies
        .flat_map(|field| field.value.of(asked.bytes).split(|&byte| byte == b';'))
        .find_map(|cookie| {
            let rest = cookie.trim_ascii_start().strip_prefix(name.as_bytes())?;
            rest.strip_prefix(b"=").map(<[u8]>::trim_ascii)
        })
}

/// A client's address as the methods of balancing take it: 4 bytes, 16, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClientBytes {
    bytes: [u8; 16],
    length: usize,
}

impl ClientBytes {
    pub(crate) fn of(client: Option<IpAddr>) -> ClientBytes {
        let mut bytes = [0; 16];
        let length = match client {
            Some(IpAddr::V4(ip)) => {
                bytes[..4].copy_from_slice(&ip.octets());
                4
            }
            Some(IpAddr::V6(ip)) => {
                bytes = ip.octets();
                16
            }
            None => 0,
        };
        ClientBytes { bytes, length }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use evener_http1::{Fields, HeadLimits, parse_request};

    use super::*;

    #[test]
    fn variables_stand_for_what_the_request_says() {
        let bytes = b"GET /a/%62?q=1&r=x%20y HTTP/1.1\r\nHost: Example.com:8080\r\n\
            Cookie: a=1; user=me\r\nX-Forwarded-For: 1.2.3.4, 8.8.8.8\r\nX-A: 1\r\nX-A: 2\r\n\r\n";
        let mut fields = Fields::new();
        let limits = HeadLimits::default();
        let head = parse_request(bytes, &mut fields, &limits).unwrap().unwrap();
        let filled = |template: &str, trusted: &str| {
            let facts = Facts {
                asked: Asked {
                    listener: 0,
                    bytes,
                    head: &head,
                    fields: &fields,
                },
                peer: Peer::Tcp("10.0.0.1:99".parse().unwrap()),
                tls: false,
                trusted: &TrustedPeers::parse(trusted).unwrap(),
                request_id: b"id1",
                route: None,
            };
            let mut out = Vec::new();
            facts.fill(&Template::parse(template).unwrap(), &mut out);
            String::from_utf8(out).unwrap()
        };
        for (template, expected) in [
            (
                "$scheme://$host$request_uri",
                "http://example.com/a/%62?q=1&r=x%20y",
            ),
            ("$uri$is_args$args", "/a/b?q=1&r=x%20y"),
            ("$cookie_user/$cookie_a/$cookie_none", "me/1/"),
            ("$arg_q,$arg_r,$arg_s", "1,x%20y,"),
            ("$http_x_a $http_host", "1, 2 Example.com:8080"),
            (
                "$request_method $server_protocol $request_id",
                "GET HTTP/1.1 id1",
            ),
            ("$remote_port $$", "99 $"),
        ] {
            assert_eq!(filled(template, "127.0.0.1"), expected, "{template}");
        }
        assert_eq!(filled("$remote_addr", "127.0.0.1"), "10.0.0.1");
        assert_eq!(filled("$remote_addr", "10.0.0.0/8"), "8.8.8.8");
        assert_eq!(filled("$realip_remote_addr", "10.0.0.0/8"), "10.0.0.1");
        assert_eq!(
            filled("$proxy_add_x_forwarded_for", "10.0.0.0/8"),
            "8.8.8.8, 10.0.0.1"
        );
        assert_eq!(filled("$proxy_add_x_forwarded_for", ""), "10.0.0.1");
    }
}
