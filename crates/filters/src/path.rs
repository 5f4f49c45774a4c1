//! Paths as clusters get them: without a prefix, or rewritten by an expression.

use evener_config::{Filters, Part, PathRewrite, Template, Variable};
use regex::bytes::Captures;

use crate::Fill;
use crate::edit::push_escape;

/// A target that replaces the one of the request, in pieces of one buffer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewritten {
    /// Path and query, as they are sent on.
    pub target: Vec<u8>,
    /// The path in its normal form, decoded.
    pub normal: Vec<u8>,
}

/// Takes the prefix off and rewrites. `raw` is the path as it came, `normal` the same in its normal
/// form, which the conditions of routes are held to. `None` if it stays as it is.
pub fn rewrite(
    filters: &Filters,
    raw: &[u8],
    normal: &[u8],
    query: &[u8],
    request: &dyn Fill,
) -> Option<Rewritten> {
    if !normal.starts_with(b"/") {
        return None;
    }
    let prefix = filters.strip_prefix.as_deref().unwrap_or_default();
    let stripped = strip(normal, prefix.as_bytes());
    let path = stripped.unwrap_or(normal);
    let fitting = filters.rewrite.iter().find_map(|rewrite| {
        let captures = rewrite.regex.captures(path)?;
        Some((rewrite, captures))
    });
    if let Some((rewrite, captures)) = fitting {
        return Some(by_expression(rewrite, &captures, query, request));
    }
    let path = stripped?;
    let mut target = Vec::with_capacity(raw.len() + query.len() + 1);
    match strip(raw, prefix.as_bytes()).filter(|rest| !climbs(rest)) {
        // As the client wrote it.
        Some(rest) => target.extend_from_slice(rest),
        None => push_path(path, &mut target),
    }
    push_query(query, &mut target);
    Some(Rewritten {
        target,
        normal: path.to_vec(),
    })
}

/// `/a/b` without `/a` is `/b`, and `/a` is `/`.
fn strip<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    match path.strip_prefix(prefix) {
        Some(b"") if !prefix.is_empty() => Some(b"/"),
        Some(rest) if rest.starts_with(b"/") && !prefix.is_empty() => Some(rest),
        _ => None,
    }
}

/// Whether a path that came encoded has a segment that could lead up: without the prefix it would
/// lead elsewhere than with it.
fn climbs(path: &[u8]) -> bool {
    let mut dots = 0;
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let (is_dot, used) = match rest {
            [b'%', b'2', b'e' | b'E', ..] => (true, 3),
            _ => (first == b'.', 1),
        };
        dots = if is_dot { dots + 1 } else { 0 };
        if dots == 2 {
            return true;
        }
        rest = if used == 1 { after } else { &rest[used..] };
    }
    false
}

fn by_expression(
    rewrite: &PathRewrite,
    captures: &Captures<'_>,
    query: &[u8],
    request: &dyn Fill,
) -> Rewritten {
    let mut target = Vec::new();
    let mut normal = Vec::new();
    for part in &rewrite.path.parts {
        let start = normal.len();
        let decoded = push_part(part, captures, request, &mut normal);
        if decoded {
            push_path(&normal[start..], &mut target);
        } else {
            push_encoded(&normal[start..], &mut target);
        }
    }
    let mut added = Vec::new();
    if let Some(template) = &rewrite.query {
        for part in &template.parts {
            let mut piece = Vec::new();
            push_part(part, captures, request, &mut piece);
            push_encoded(&piece, &mut added);
        }
    }
    if !rewrite.drop_query && !query.is_empty() {
        if !added.is_empty() {
            added.push(b'&');
        }
        added.extend_from_slice(query);
    }
    if !target.starts_with(b"/") {
        target.insert(0, b'/');
        normal.insert(0, b'/');
    }
    push_query(&added, &mut target);
    Rewritten { target, normal }
}

/// Appends a piece of a template; returns whether it is text without percent-encoding.
fn push_part(part: &Part, captures: &Captures<'_>, request: &dyn Fill, out: &mut Vec<u8>) -> bool {
    match part {
        Part::Variable(Variable::Group(number)) => {
            let found = captures.get(*number).map(|found| found.as_bytes());
            out.extend_from_slice(found.unwrap_or_default());
            true
        }
        part => {
            let one = Template {
                parts: vec![part.clone()],
            };
            request.fill(&one, out);
            matches!(part, Part::Variable(Variable::Uri))
        }
    }
}

fn push_query(query: &[u8], target: &mut Vec<u8>) {
    if !query.is_empty() {
        target.push(b'?');
        target.extend_from_slice(query);
    }
}

/// Appends a decoded path as it stands in a request.
pub fn push_path(path: &[u8], out: &mut Vec<u8>) {
    for &byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(byte),
            _ if b"/-._~!$&'()*+,;=:@".contains(&byte) => out.push(byte),
            _ => push_escape(byte, out),
        }
    }
}

/// Appends text that may be encoded already: only what cannot stand in a request is encoded.
fn push_encoded(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'!'..=b'~' if !b"\"#<>".contains(&byte) => out.push(byte),
            _ => push_escape(byte, out),
        }
    }
}

/// Appends a URL as it stands in `Location`.
pub fn push_location(url: &[u8], out: &mut Vec<u8>) {
    for &byte in url {
        match byte {
            b'!'..=b'~' if !b"\"<>".contains(&byte) => out.push(byte),
            _ => push_escape(byte, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain;

    impl Fill for Plain {
        fn fill(&self, template: &Template, out: &mut Vec<u8>) {
            for part in &template.parts {
                match part {
                    Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                    Part::Variable(Variable::Uri) => out.extend_from_slice(b"/a b%"),
                    Part::Variable(_) => out.extend_from_slice(b"v%20w"),
                }
            }
        }
    }

    fn target(filters: &str, raw: &str, normal: &str, query: &str) -> Option<String> {
        let file = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[cluster.a]\nendpoints = [\"127.0.0.1:1\"]\n\
             [[route]]\ncluster = \"a\"\n{filters}\n"
        );
        let config = evener_config::read("f", &file, &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let filters = &config.routes[0].filters;
        let (raw, normal, query) = (raw.as_bytes(), normal.as_bytes(), query.as_bytes());
        let rewritten = rewrite(filters, raw, normal, query, &Plain)?;
        Some(String::from_utf8(rewritten.target).unwrap())
    }

    #[test]
    fn a_prefix_is_taken_off_as_the_client_wrote_the_rest() {
        let strip = |raw, normal| target("strip_prefix = \"/api\"", raw, normal, "q=1");
        for (raw, normal, expected) in [
            ("/api/x%2Fy", "/api/x/y", Some("/x%2Fy?q=1")),
            ("/api", "/api", Some("/?q=1")),
            ("/api/", "/api/", Some("/?q=1")),
            // Written in another way, or climbing: the normal form goes on.
            ("/%61pi/a%20b", "/api/a b", Some("/a%20b?q=1")),
            ("/api/..%2Fapi/z", "/api/z", Some("/z?q=1")),
            ("/api/%2E./api/z", "/api/z", Some("/z?q=1")),
            ("/apix", "/apix", None),
            ("*", "*", None),
        ] {
            assert_eq!(strip(raw, normal).as_deref(), expected, "{raw}");
        }
        assert_eq!(target("", "/a", "/a", ""), None);
    }

    #[test]
    fn expressions_rewrite_the_normal_form() {
        let to = |to: &str, normal: &str| {
            let rule = format!(
                "strip_prefix = \"/s\"\nrewrite = [{{ regex = \"^/old/(.*)$\", to = \"{to}\" }}]"
            );
            target(&rule, normal, normal, "q=1")
        };
        for (template, normal, expected) in [
            ("/new/$1", "/old/a b%", "/new/a%20b%25?q=1"),
            ("/new/$1", "/s/old/x", "/new/x?q=1"),
            ("/n?a=$1", "/old/x", "/n?a=x&q=1"),
            ("/n?", "/old/x", "/n"),
            ("/n?a=b?", "/old/x", "/n?a=b"),
            ("$1", "/old/x?y#", "/x%3Fy%23?q=1"),
            ("/$host", "/old/", "/v%20w?q=1"),
            ("$uri", "/old/", "/a%20b%25?q=1"),
        ] {
            assert_eq!(
                to(template, normal).as_deref(),
                Some(expected),
                "{template}"
            );
        }
        assert_eq!(to("/n", "/other"), None);
    }
}
