//! Access-log lines as a format with atoms asks for, in the way of gunicorn's `access_log_format`:
//! `%(h)s "%(r)s" %(s)s %({x-request-id}o)s`. Compiled once; writing a line allocates nothing.

use std::time::{Duration, SystemTime};

use crate::access::AccessRecord;
use crate::clock;

/// A compiled format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTemplate {
    parts: Vec<Part>,
    request_fields: Vec<String>,
    response_fields: Vec<String>,
    /// Seconds that local time is ahead of UTC.
    utc_offset: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Client,
    User(usize),
    Date,
    RequestLine,
    Status,
    Method,
    Path,
    Query,
    Protocol,
    Bytes,
    Seconds,
    Millis,
    Micros,
    DecimalSeconds,
    Process,
    /// A field of the request or, after all of those, of the response.
    Field(usize),
    Nothing,
}

/// Values of header fields that a template asks for, as a shard keeps them.
#[derive(Debug, Clone, Copy, Default)]
pub struct FieldValues<'a> {
    /// Where the spans point into.
    pub text: &'a [u8],
    /// Start and end of each value: those of the request, then those of the response. Missing at
    /// the end, or with an end before its start, is a field that was not sent.
    pub spans: &'a [(u32, u32)],
}

impl<'a> FieldValues<'a> {
    fn of(&self, index: usize) -> Option<&'a [u8]> {
        let &(start, end) = self.spans.get(index)?;
        self.text.get(start as usize..end as usize)
    }
}

impl AccessTemplate {
    /// Compiles a format; an error says what in it is not understood.
    pub fn parse(format: &str, utc_offset: i32) -> Result<AccessTemplate, String> {
        let mut atoms = Vec::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            atoms.push(Atom::Text(&rest[..at]));
            let after = &rest[at + 1..];
            if let Some(more) = after.strip_prefix('%') {
                atoms.push(Atom::Text("%"));
                rest = more;
                continue;
            }
            let named = after
                .strip_prefix('(')
                .and_then(|named| named.split_once(')'))
                .ok_or_else(|| format!("`%{}` is not of the form %(name)s", head(after)))?;
            let (name, more) = named;
            rest = more.strip_prefix(['s', 'd']).ok_or_else(|| {
                format!("`%({name}){}` is not of the form %({name})s", head(more))
            })?;
            atoms.push(Atom::Name(name));
        }
        atoms.push(Atom::Text(rest));
        Ok(AccessTemplate::compile(&atoms, utc_offset))
    }

    fn compile(atoms: &[Atom<'_>], utc_offset: i32) -> AccessTemplate {
        let mut template = AccessTemplate {
            parts: Vec::new(),
            request_fields: Vec::new(),
            response_fields: Vec::new(),
            utc_offset,
        };
        // Fields of the request are numbered first.
        let wanted: Vec<Wanted> = atoms.iter().map(wanted).collect();
        for want in &wanted {
            match want {
                Wanted::Request(name) => push_once(&mut template.request_fields, name),
                Wanted::User => push_once(&mut template.request_fields, "authorization"),
                Wanted::Response(name) => push_once(&mut template.response_fields, name),
                Wanted::Part(_) => {}
            }
        }
        let place = |names: &[String], name: &str| names.iter().position(|known| known == name);
        for want in wanted {
            let part = match want {
                Wanted::Part(Part::Text(text)) if text.is_empty() => continue,
                Wanted::Part(part) => part,
                Wanted::Request(name) => {
                    place(&template.request_fields, &name).map_or(Part::Nothing, Part::Field)
                }
                Wanted::User => place(&template.request_fields, "authorization")
                    .map_or(Part::Nothing, Part::User),
                Wanted::Response(name) => {
                    let index = place(&template.response_fields, &name);
                    let after = template.request_fields.len();
                    index.map_or(Part::Nothing, |index| Part::Field(after + index))
                }
            };
            template.parts.push(part);
        }
        template
    }

    /// Names of the request's header fields that lines show, in lower case.
    pub fn request_fields(&self) -> &[String] {
        &self.request_fields
    }

    /// The same for the response.
    pub fn response_fields(&self) -> &[String] {
        &self.response_fields
    }

    /// Adds the line of one request.
    pub(crate) fn push(&self, out: &mut Vec<u8>, record: &AccessRecord<'_>) {
        for part in &self.parts {
            self.push_part(out, part, record);
        }
        out.push(b'\n');
    }

    fn push_part(&self, out: &mut Vec<u8>, part: &Part, record: &AccessRecord<'_>) {
        let status = match record.status {
            0 => 499,
            status => u64::from(status),
        };
        let (path, query) = split_target(record.target);
        let took = record.duration;
        match part {
            Part::Text(text) => out.extend_from_slice(text),
            Part::Client => push_safely(out, host(record.client).as_bytes()),
            Part::User(index) => push_user(out, record.fields.of(*index)),
            Part::Date => clock::push_common_log(out, SystemTime::now(), self.utc_offset),
            Part::RequestLine => {
                push_safely(out, record.method);
                out.push(b' ');
                push_safely(out, record.target);
                out.extend_from_slice(b" HTTP/");
                push_safely(out, record.version.as_bytes());
            }
            Part::Status => clock::push_decimal(out, status),
            Part::Method => push_safely(out, record.method),
            Part::Path => push_decoded(out, path),
            Part::Query => push_safely(out, query),
            Part::Protocol => {
                out.extend_from_slice(b"HTTP/");
                push_safely(out, record.version.as_bytes());
            }
            Part::Bytes => clock::push_decimal(out, record.bytes),
            Part::Seconds => clock::push_decimal(out, took.as_secs()),
            Part::Millis => clock::push_decimal(out, whole(took.as_millis())),
            Part::Micros => clock::push_decimal(out, whole(took.as_micros())),
            Part::DecimalSeconds => push_seconds(out, took),
            Part::Process => {
                out.push(b'<');
                clock::push_decimal(out, u64::from(record.process));
                out.push(b'>');
            }
            Part::Field(index) => match record.fields.of(*index) {
                Some(value) => push_safely(out, value),
                None => out.push(b'-'),
            },
            Part::Nothing => out.push(b'-'),
        }
    }
}

/// A piece of a format.
enum Atom<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// What a piece needs.
enum Wanted {
    Part(Part),
    Request(String),
    Response(String),
    User,
}

fn wanted(atom: &Atom<'_>) -> Wanted {
    let name = match atom {
        Atom::Text(text) => return Wanted::Part(Part::Text(text.as_bytes().to_vec())),
        Atom::Name(name) => *name,
    };
    if let Some((name, kind)) = name.strip_prefix('{').and_then(|name| name.split_once('}')) {
        let name = name.to_ascii_lowercase();
        return match kind {
            "i" => Wanted::Request(name),
            "o" => Wanted::Response(name),
            "e" => of_environment(&name),
            _ => Wanted::Part(Part::Nothing),
        };
    }
    Wanted::Part(match name {
        "h" => Part::Client,
        "u" => return Wanted::User,
        "t" => Part::Date,
        "r" => Part::RequestLine,
        "s" => Part::Status,
        "m" => Part::Method,
        "U" => Part::Path,
        "q" => Part::Query,
        "H" => Part::Protocol,
        "b" | "B" => Part::Bytes,
        "f" => return Wanted::Request("referer".to_owned()),
        "a" => return Wanted::Request("user-agent".to_owned()),
        "T" => Part::Seconds,
        "M" => Part::Millis,
        "D" => Part::Micros,
        "L" => Part::DecimalSeconds,
        "p" => Part::Process,
        _ => Part::Nothing,
    })
}

/// What gunicorn's ASGI worker has in the environment of a request.
fn of_environment(name: &str) -> Wanted {
    if let Some(field) = name.strip_prefix("http_") {
        return Wanted::Request(field.replace('_', "-"));
    }
    Wanted::Part(match name {
        "request_method" => Part::Method,
        "path_info" => Part::Path,
        "query_string" => Part::Query,
        "server_protocol" => Part::Protocol,
        "remote_addr" => Part::Client,
        _ => Part::Nothing,
    })
}

fn push_once(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

/// The beginning of a text, for a message.
fn head(text: &str) -> String {
    text.chars().take(12).collect()
}

/// An address without its port.
fn host(client: &str) -> &str {
    let host = client.rsplit_once(':').map_or(client, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|&byte| byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}

fn whole(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn push_seconds(out: &mut Vec<u8>, took: Duration) {
    clock::push_decimal(out, took.as_secs());
    out.push(b'.');
    clock::push_padded(out, u64::from(took.subsec_micros()), 6);
}

/// Writes bytes that came from outside: quotes as gunicorn writes them, control characters so that
/// nobody can forge a line, and bytes above ASCII as the characters of Latin-1 that they are.
fn push_safely(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        push_byte(out, byte);
    }
}

fn push_byte(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        0..=0x1f | 0x7f => {
            out.extend_from_slice(b"\\x");
            out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
        }
        0x20..=0x7e => out.push(byte),
        0x80.. => {
            let character = char::from(byte);
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

fn hex(digit: u8) -> u8 {
    if digit < 10 {
        b'0' + digit
    } else {
        b'a' + digit - 10
    }
}

/// A path with its escapes undone; what is no UTF-8 then stays as it was sent.
fn push_decoded(out: &mut Vec<u8>, path: &[u8]) {
    if !path.contains(&b'%') {
        return push_safely(out, path);
    }
    let start = out.len();
    let mut at = 0;
    while at < path.len() {
        let byte = match escaped(&path[at..]) {
            Some(byte) => {
                at += 3;
                byte
            }
            None => {
                at += 1;
                path[at - 1]
            }
        };
        match byte {
            0x80.. => out.push(byte),
            _ => push_byte(out, byte),
        }
    }
    if std::str::from_utf8(&out[start..]).is_err() {
        out.truncate(start);
        push_safely(out, path);
    }
}

/// The byte that an escape at the start stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The user of basic authentication, or `-`.
fn push_user(out: &mut Vec<u8>, authorization: Option<&[u8]>) {
    let start = out.len();
    let encoded = authorization.and_then(|value| {
        let (scheme, rest) = value.split_at_checked(6)?;
        scheme.eq_ignore_ascii_case(b"basic ").then_some(rest)
    });
    let mut bits = 0_u32;
    let mut held = 0;
    for &byte in encoded.unwrap_or_default().trim_ascii() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            let decoded = (bits >> held & 0xff) as u8;
            if decoded == b':' {
                break;
            }
            push_byte(out, decoded);
        }
    }
    if out.len() == start {
        out.push(b'-');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: &str, fields: FieldValues<'_>) -> String {
        let record = AccessRecord {
            client: "10.0.0.1:99",
            method: b"GET",
            target: b"/a%20b/%C3%A9?q=\"1",
            version: "1.1",
            status: 200,
            bytes: 12,
            duration: Duration::from_micros(2_003_004),
            worker: "worker-1",
            process: 77,
            request_id: "",
            fields,
        };
        let template = AccessTemplate::parse(format, 0).unwrap();
        let mut out = Vec::new();
        template.push(&mut out, &record);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_atom_is_written() {
        let none = FieldValues::default();
        assert_eq!(
            line(
                "%(h)s %(l)s %(u)s %(m)s %(U)s %(q)s %(H)s %(s)s %(b)s %(B)d",
                none
            ),
            "10.0.0.1 - - GET /a b/é q=\\\"1 HTTP/1.1 200 12 12\n"
        );
        assert_eq!(
            line(
                "100%% %(T)s %(M)s %(D)s %(L)s %(p)s %(f)s %(a)s %(x)s",
                none
            ),
            "100% 2 2003 2003004 2.003004 <77> - - -\n"
        );
        assert_eq!(
            line("%(r)s|%({remote_addr}e)s|%({X}i)s", none),
            "GET /a%20b/%C3%A9?q=\\\"1 HTTP/1.1|10.0.0.1|-\n"
        );
        let date = line("%(t)s", none);
        assert!(
            date.starts_with('[') && date.ends_with(" +0000]\n"),
            "{date}"
        );
    }

    #[test]
    fn header_fields_are_told_apart_and_cannot_forge_a_line() {
        let format = "%({X-Id}o)s %(f)s %({user-agent}i)s %(u)s %({HTTP_REFERER}e)s";
        let template = AccessTemplate::parse(format, 0).unwrap();
        assert_eq!(
            template.request_fields(),
            ["referer", "user-agent", "authorization"]
        );
        assert_eq!(template.response_fields(), ["x-id"]);
        let text = b"http://r/ag\"\n\xe9Basic YWRhOnNlY3JldA==id-7";
        let spans = [(0, 9), (9, 14), (14, 36), (36, 40)];
        let values = FieldValues {
            text,
            spans: &spans,
        };
        let said = line(format, values);
        assert_eq!(said, "id-7 http://r/ ag\\\"\\x0aé ada http://r/\n");
        let missing = [(0, 9), (u32::MAX, 0)];
        let values = FieldValues {
            text,
            spans: &missing,
        };
        assert_eq!(line(format, values), "- http://r/ - - http://r/\n");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (format, word) in [
            ("%h %s", "%h"),
            ("%(D).2f", "%(D).2f"),
            ("%(D", "%(D"),
            ("a %", "% "),
        ] {
            let error = AccessTemplate::parse(format, 0).unwrap_err();
            assert!(error.contains(word.trim()), "{format}: {error}");
        }
    }
}
