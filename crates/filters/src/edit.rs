//! Changes to the header fields of a message that has been written but not sent: renamed, removed,
//! set, added.

use evener_config::FieldEdits;
use evener_http1::list_items;

use crate::Fill;

/// Changes to one head, ready to be made.
#[derive(Debug, Default)]
pub struct Edits {
    list: Vec<Edit>,
    written: Vec<u8>,
}

#[derive(Debug)]
struct Edit {
    what: What,
    name: Box<[u8]>,
    value: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// `value` is the new name.
    Rename,
    Remove,
    /// Without a value it is removed, as nginx has it.
    Set,
    Add,
    /// Unless there is one.
    Default,
    /// The value is an item of the field's list.
    List,
    /// An entity tag no longer stands for the same bytes.
    Weaken,
}

impl Edits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes on what a route says, with its variables filled in.
    pub fn take_on(&mut self, edits: &FieldEdits, request: &dyn Fill) {
        for (old, new) in &edits.rename {
            self.push(What::Rename, old, new.as_bytes().to_vec());
        }
        for name in &edits.remove {
            self.push(What::Remove, name, Vec::new());
        }
        for (what, list) in [(What::Set, &edits.set), (What::Add, &edits.add)] {
            for (name, template) in list {
                let mut value = Vec::new();
                let mut filled = Vec::new();
                request.fill(template, &mut filled);
                push_value(&filled, &mut value);
                self.push(what, name, value);
            }
        }
    }

    /// A field is taken away.
    pub fn remove(&mut self, name: &str) {
        self.push(What::Remove, name, Vec::new());
    }

    /// A field has this value and no other.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.push(What::Set, name, value.to_vec());
    }

    /// A field is added.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        self.push(What::Add, name, value.to_vec());
    }

    /// A field has this value, whatever was to be done about it.
    pub fn replace(&mut self, name: &str, value: &[u8]) {
        let is_other = |edit: &Edit| !edit.name.eq_ignore_ascii_case(name.as_bytes());
        self.list.retain(is_other);
        self.set(name, value);
    }

    /// A field is added unless there is one of its name.
    pub fn unless_there(&mut self, name: &str, value: &[u8]) {
        self.push(What::Default, name, value.to_vec());
    }

    /// The response depends on a field of the request.
    pub fn vary(&mut self, on: &str) {
        self.push(What::List, "Vary", on.as_bytes().to_vec());
    }

    /// The entity tag becomes a weak one.
    pub fn weaken_tag(&mut self) {
        self.push(What::Weaken, "ETag", Vec::new());
    }

    fn push(&mut self, what: What, name: &str, value: Vec<u8>) {
        self.list.push(Edit {
            what,
            name: name.as_bytes().into(),
            value,
        });
    }

    /// Changes the head that begins at `from` and ends with an empty line; what follows it stays.
    pub fn apply(&mut self, message: &mut Vec<u8>, from: usize) {
        if self.list.is_empty() {
            return;
        }
        let head = &message[from..];
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
            return;
        };
        let mut out = std::mem::take(&mut self.written);
        out.clear();
        let mut lines = Lines(&head[..end + 2]);
        out.extend_from_slice(lines.next().unwrap_or_default());
        for line in lines {
            self.line(line, &mut out);
        }
        self.additions(&head[..end + 2], &mut out);
        message.splice(from..from + end + 2, out.iter().copied());
        self.written = out;
    }

    /// One field line as it is to be.
    fn line(&self, line: &[u8], out: &mut Vec<u8>) {
        let colon = line.iter().position(|&byte| byte == b':');
        let (mut name, rest) = line.split_at(colon.unwrap_or(line.len()));
        let of = |what: What, name: &[u8]| {
            let mut found = self.list.iter().filter(|edit| edit.what == what);
            found.find(|edit| edit.name.eq_ignore_ascii_case(name))
        };
        if let Some(edit) = of(What::Rename, name) {
            name = &edit.value;
        }
        if of(What::Remove, name).is_some() || of(What::Set, name).is_some() {
            return;
        }
        out.extend_from_slice(name);
        let value = rest[1.min(rest.len())..].trim_ascii_start();
        if of(What::Weaken, name).is_some() && value.starts_with(b"\"") {
            out.extend_from_slice(b": W/");
            out.extend_from_slice(value);
        } else {
            out.extend_from_slice(rest);
        }
    }

    fn additions(&self, head: &[u8], out: &mut Vec<u8>) {
        for edit in &self.list {
            let wanted = match edit.what {
                What::Set | What::Add => !edit.value.is_empty(),
                What::Default => values(head, &edit.name).next().is_none(),
                What::List => !values(out, &edit.name)
                    .flat_map(list_items)
                    .any(|item| item == b"*" || item.eq_ignore_ascii_case(&edit.value)),
                What::Rename | What::Remove | What::Weaken => false,
            };
            if wanted {
                out.extend_from_slice(&edit.name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(&edit.value);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

/// Appends a text as the value of a field: what would end it is written as `%0D` and the like.
pub fn push_value(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            0..=8 | 10..=31 | 127 => push_escape(byte, out),
            _ => out.push(byte),
        }
    }
}

/// Appends a byte as `%XX`.
pub(crate) fn push_escape(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'%');
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

/// The values of a field in a head that has been written.
fn values<'a>(head: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    Lines(head).skip(1).filter_map(move |line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let found = line[..colon].eq_ignore_ascii_case(name);
        found.then(|| line[colon + 1..].trim_ascii())
    })
}

/// Lines, each with its CRLF.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.windows(2).position(|two| two == b"\r\n")? + 2;
        let (line, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use evener_config::Template;

    use super::*;

    struct Plain;

    impl Fill for Plain {
        fn fill(&self, template: &Template, out: &mut Vec<u8>) {
            out.extend_from_slice(template.as_text().unwrap_or("a\r\nb").as_bytes());
        }
    }

    fn edited(make: impl FnOnce(&mut Edits)) -> String {
        let mut message =
            b"before HTTP/1.1 200 OK\r\nServer: u\r\nX-A: 1\r\nx-a: 2\r\nETag: \"t\"\r\n\
            Vary: Origin\r\n\r\nX-A: body\r\n\r\n"
                .to_vec();
        let mut edits = Edits::default();
        make(&mut edits);
        edits.apply(&mut message, 7);
        String::from_utf8(message).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn fields_are_renamed_removed_set_and_added_in_this_order() {
        let template = |text: &str| Template::parse(text).unwrap();
        let edits = FieldEdits {
            rename: vec![("x-a".to_owned(), "X-B".to_owned())],
            remove: vec!["SERVER".to_owned()],
            set: vec![
                ("etag".to_owned(), template("\"u\"")),
                ("X-Empty".to_owned(), template("")),
            ],
            add: vec![("X-B".to_owned(), template("$uri"))],
        };
        assert_eq!(
            edited(|one| one.take_on(&edits, &Plain)),
            "before HTTP/1.1 200 OK\nX-B: 1\nX-B: 2\nVary: Origin\netag: \"u\"\nX-B: a%0D%0Ab\n\n\
             X-A: body\n\n"
        );
    }

    #[test]
    fn lists_and_defaults_respect_what_is_there() {
        let head = "before HTTP/1.1 200 OK\nServer: u\nX-A: 1\nx-a: 2\n";
        assert_eq!(
            edited(|one| {
                one.vary("origin");
                one.vary("Accept-Encoding");
                one.vary("accept-encoding");
                one.unless_there("server", b"v");
                one.unless_there("X-C", b"v");
                one.weaken_tag();
            }),
            format!(
                "{head}ETag: W/\"t\"\nVary: Origin\nVary: Accept-Encoding\nX-C: v\n\nX-A: body\n\n"
            )
        );
        assert!(edited(|_| {}).contains("ETag: \"t\""));
    }
}
