//! A file as written: every value with its place, held to the definitions. Whatever is wrong is
//! noted and reading goes on, so that all errors are found at once. What values mean together is
//! left to `resolve`.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::definition::{Default, Key, Kind, Table};
use crate::error::Findings;
use crate::near::nearest;
use crate::substitute::substitute;
use crate::values;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// It was wrong, and that has been noted.
    Faulty,
    Text(String),
    Flag(bool),
    Whole(u64),
    Fraction(f64),
    Time(Duration),
    Deadline(Option<Duration>),
    Size(u64),
    SizeLimit(Option<u64>),
    List(Vec<Node>),
    Section(Section),
    /// Names of the file's own, each with its place.
    Named(Vec<(String, Range<usize>, Node)>),
}

/// A table with the keys of its definition; those with a default value are always there.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) span: Range<usize>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    key: &'static str,
    /// Where the key stands; `None` for a default.
    key_span: Option<Range<usize>>,
    node: Node,
}

/// What reading needs everywhere.
pub(crate) struct Reader<'a> {
    pub(crate) findings: &'a mut Findings,
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads a file held to `definition`.
pub(crate) fn read(text: &str, definition: &'static Table, reader: &mut Reader<'_>) -> Section {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim_end();
        if message == "duplicate key" {
            let name = text.get(span.clone()).unwrap_or_default();
            let message = format!("`{name}` is given twice");
            match earlier(document.get_ref(), name, span.start) {
                Some(first) => {
                    let what = format!("`{name}` is given here first");
                    reader.findings.add_pair(&span, message, &first, what);
                }
                None => reader.findings.add(&span, message),
            }
        } else {
            reader
                .findings
                .add(&span, format!("this is not TOML: {message}"));
        }
    }
    let whole = 0..0;
    // A file that is not TOML lacks keys only because they were not understood.
    let complete = errors.is_empty();
    reader.section(document.get_ref(), definition, whole, "", complete)
}

/// Where a key of this name stands last before `at`.
fn earlier(table: &DeTable<'_>, name: &str, at: usize) -> Option<Range<usize>> {
    let mut found: Option<Range<usize>> = None;
    let mut look = |span: Option<Range<usize>>| {
        if let Some(span) = span
            && span.start < at
            && found.as_ref().is_none_or(|found| found.start < span.start)
        {
            found = Some(span);
        }
    };
    for (key, value) in table {
        if key.get_ref().as_ref() == name {
            look(Some(key.span()));
        }
        match value.get_ref() {
            DeValue::Table(inner) => look(earlier(inner, name, at)),
            DeValue::Array(list) => {
                for item in list.iter() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        look(earlier(inner, name, at));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

impl Reader<'_> {
    fn section(
        &mut self,
        table: &DeTable<'_>,
        definition: &'static Table,
        span: Range<usize>,
        path: &str,
        complete: bool,
    ) -> Section {
        let mut section = Section {
            span: span.clone(),
            entries: Vec::new(),
        };
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match definition.key(name) {
                Some(Key {
                    default: Default::NotYet,
                    ..
                }) => {
                    let message = format!("`{}` has no effect yet; leave it out", join(path, name));
                    self.findings.add(&key.span(), message);
                }
                Some(known) => section.entries.push(Entry {
                    key: known.name,
                    key_span: Some(key.span()),
                    node: self.node(value, &known.kind, &join(path, name)),
                }),
                None => {
                    let message = unknown(name, definition);
                    self.findings.add(&key.span(), message);
                }
            }
        }
        for key in definition.keys {
            if section.entry(key.name).is_some() {
                continue;
            }
            match key.default {
                Default::Required if complete => {
                    let message = format!(
                        "{} needs `{}`: {}",
                        definition.title,
                        key.name,
                        key.kind.describe()
                    );
                    self.findings.add(&span, message);
                }
                Default::Value(text) => {
                    let node = self.default(text, key, &span);
                    section.entries.push(Entry {
                        key: key.name,
                        key_span: None,
                        node,
                    });
                }
                _ => {}
            }
        }
        section
    }

    fn default(&mut self, text: &'static str, key: &'static Key, span: &Range<usize>) -> Node {
        let value = match DeValue::parse(text) {
            Ok(value) => self.value(value.get_ref(), &key.kind, span, key.name),
            // Tests read every default, so this is never seen.
            Err(_) => Value::Faulty,
        };
        Node {
            span: span.clone(),
            value,
        }
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>, kind: &'static Kind, path: &str) -> Node {
        let span = value.span();
        let value = self.value(value.get_ref(), kind, &span, path);
        Node { span, value }
    }

    fn value(
        &mut self,
        value: &DeValue<'_>,
        kind: &'static Kind,
        span: &Range<usize>,
        path: &str,
    ) -> Value {
        match (kind, value) {
            (Kind::Either(kinds), _) => {
                let fitting = kinds.iter().find(|kind| fits(kind, value));
                match fitting {
                    Some(kind) => self.value(value, kind, span, path),
                    None => self.wrong_type(value, kind, span, path),
                }
            }
            (Kind::OneOrMore(inner), DeValue::Array(_))
            | (Kind::List(inner), DeValue::Array(_)) => self.list(value, inner, path),
            (Kind::OneOrMore(inner), _) => Value::List(vec![Node {
                span: span.clone(),
                value: self.value(value, inner, span, path),
            }]),
            (Kind::Tables(table), DeValue::Array(list)) => {
                let read = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                    DeValue::Table(inner) => Node {
                        span: item.span(),
                        value: Value::Section(self.section(inner, table, item.span(), path, true)),
                    },
                    other => Node {
                        span: item.span(),
                        value: self.wrong_type(other, kind, &item.span(), path),
                    },
                };
                Value::List(list.iter().map(read).collect())
            }
            (Kind::Tables(table), DeValue::Table(_)) => {
                let message = format!(
                    "`{path}` is a list of tables: write `[[{path}]]` with two brackets, see {}",
                    table.title
                );
                self.findings.add(span, message);
                Value::Faulty
            }
            (Kind::Table(table), DeValue::Table(inner)) => {
                Value::Section(self.section(inner, table, span.clone(), path, true))
            }
            (Kind::Named(table), DeValue::Table(inner)) => self.named(
                inner,
                &mut |reader, item, path| match item.get_ref() {
                    DeValue::Table(inner) => {
                        let section = reader.section(inner, table, item.span(), path, true);
                        Value::Section(section)
                    }
                    other => reader.wrong_type(other, kind, &item.span(), path),
                },
                path,
            ),
            (Kind::Map(inner_kind), DeValue::Table(inner)) => self.named(
                inner,
                &mut |reader, item, path| {
                    reader.value(item.get_ref(), inner_kind, &item.span(), path)
                },
                path,
            ),
            _ => self.scalar(value, kind, span, path),
        }
    }

    fn list(&mut self, value: &DeValue<'_>, inner: &'static Kind, path: &str) -> Value {
        let DeValue::Array(list) = value else {
            return Value::Faulty;
        };
        Value::List(
            list.iter()
                .map(|item| self.node(item, inner, path))
                .collect(),
        )
    }

    fn named(
        &mut self,
        table: &DeTable<'_>,
        read: &mut dyn FnMut(&mut Self, &Spanned<DeValue<'_>>, &str) -> Value,
        path: &str,
    ) -> Value {
        let mut list: Vec<(String, Range<usize>, Node)> = Vec::new();
        for (key, item) in table {
            let name = key.get_ref().as_ref();
            let node = Node {
                span: item.span(),
                value: read(self, item, &join(path, name)),
            };
            list.push((name.to_owned(), key.span(), node));
        }
        // The parser orders keys by name; people mean the order in which they wrote them.
        list.sort_by_key(|(_, span, _)| span.start);
        Value::Named(list)
    }

    fn scalar(
        &mut self,
        value: &DeValue<'_>,
        kind: &'static Kind,
        span: &Range<usize>,
        path: &str,
    ) -> Value {
        let text = match value {
            DeValue::String(text) => match substitute(text, self.variable) {
                Ok(text) => text,
                Err(error) => {
                    self.findings.add(span, format!("`{path}`: {error}"));
                    return Value::Faulty;
                }
            },
            DeValue::Integer(number) if takes_numbers(kind) => decimal(number),
            DeValue::Float(number)
                if matches!(kind, Kind::Fraction(..) | Kind::Time | Kind::Deadline) =>
            {
                number.as_str().to_owned()
            }
            DeValue::Boolean(flag) if matches!(kind, Kind::Flag) => return Value::Flag(*flag),
            other => return self.wrong_type(other, kind, span, path),
        };
        match parse(&text, kind) {
            Ok(value) => value,
            Err(error) => {
                self.findings.add(span, format!("`{path}`: {error}"));
                Value::Faulty
            }
        }
    }

    fn wrong_type(
        &mut self,
        value: &DeValue<'_>,
        kind: &Kind,
        span: &Range<usize>,
        path: &str,
    ) -> Value {
        let found = match value {
            DeValue::String(text) => format!("the text \"{text}\""),
            DeValue::Integer(number) => format!("the number {number}"),
            DeValue::Float(number) => format!("the number {number}"),
            DeValue::Boolean(flag) => format!("`{flag}`"),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        let message = format!("`{path}` is {found}; it must be {}", kind.describe());
        self.findings.add(span, message);
        Value::Faulty
    }
}

/// A whole number in decimal digits, whatever base it was written in.
fn decimal(number: &toml::de::DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.to_string(), |number| number.to_string())
}

fn takes_numbers(kind: &Kind) -> bool {
    match kind {
        Kind::Whole(..)
        | Kind::Fraction(..)
        | Kind::Time
        | Kind::Deadline
        | Kind::Size
        | Kind::SizeLimit => true,
        Kind::Formed(form) => form.numbers,
        _ => false,
    }
}

/// Whether a value has the type of this kind, right or wrong.
fn fits(kind: &Kind, value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => matches!(kind, Kind::Table(_) | Kind::Named(_) | Kind::Map(_)),
        DeValue::Array(_) => matches!(kind, Kind::List(_) | Kind::OneOrMore(_) | Kind::Tables(_)),
        DeValue::Boolean(_) => matches!(kind, Kind::Flag),
        DeValue::Integer(_) | DeValue::Float(_) => takes_numbers(kind),
        DeValue::String(_) => !matches!(
            kind,
            Kind::Table(_)
                | Kind::Named(_)
                | Kind::Map(_)
                | Kind::List(_)
                | Kind::Tables(_)
                | Kind::Flag
        ),
        DeValue::Datetime(_) => false,
    }
}

fn parse(text: &str, kind: &Kind) -> Result<Value, String> {
    match kind {
        Kind::Text => Ok(Value::Text(text.to_owned())),
        Kind::Flag => match text {
            "true" => Ok(Value::Flag(true)),
            "false" => Ok(Value::Flag(false)),
            _ => Err(format!("`{text}` is neither `true` nor `false`")),
        },
        Kind::Whole(least, most) => match text.trim().parse::<u64>() {
            Ok(number) if (*least..=*most).contains(&number) => Ok(Value::Whole(number)),
            _ => Err(format!("`{text}` is not {}", kind.describe())),
        },
        Kind::Fraction(least, most) => match text.trim().parse::<f64>() {
            Ok(number) if number >= *least && number <= *most => Ok(Value::Fraction(number)),
            _ => Err(format!("`{text}` is not {}", kind.describe())),
        },
        Kind::Time => values::time(text).map(Value::Time),
        Kind::Deadline => values::deadline(text).map(Value::Deadline),
        Kind::Size => values::size(text).map(Value::Size),
        Kind::SizeLimit => values::size_limit(text).map(Value::SizeLimit),
        Kind::Word(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
        Kind::Word(words) => Err(match nearest(text, words.iter().copied()) {
            Some(meant) => format!("`{text}` is none of its values; did you mean `{meant}`?"),
            None => format!(
                "`{text}` is none of its values: write one of {}",
                words.join(", ")
            ),
        }),
        Kind::Formed(form) => (form.check)(text).map(|()| Value::Text(text.to_owned())),
        _ => Err(format!("it must be {}", kind.describe())),
    }
}

fn unknown(name: &str, definition: &'static Table) -> String {
    let names = definition.keys.iter().map(|key| key.name);
    let help = match nearest(name, names.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => {
            let mut names: Vec<&str> = names.collect();
            names.sort_unstable();
            format!("it may have {}", names.join(", "))
        }
    };
    format!("unknown key `{name}` in {}; {help}", definition.title)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl Section {
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key, written or by default; `None` if there is none or it was faulty.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key)
            .map(|entry| &entry.node)
            .filter(|node| !matches!(node.value, Value::Faulty))
    }

    /// Whether a key was written, rightly or wrongly.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.key_span(key).is_some()
    }

    /// Where a key was written.
    pub(crate) fn key_span(&self, key: &str) -> Option<&Range<usize>> {
        self.entry(key)?.key_span.as_ref()
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(
            self.get(key).map(|node| &node.value),
            Some(Value::Flag(true))
        )
    }

    pub(crate) fn whole(&self, key: &str) -> Option<u64> {
        match self.get(key)?.value {
            Value::Whole(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn time(&self, key: &str) -> Option<Duration> {
        match self.get(key)?.value {
            Value::Time(time) => Some(time),
            _ => None,
        }
    }

    /// A deadline; the outer `None` is one that was not given.
    pub(crate) fn deadline(&self, key: &str) -> Option<Option<Duration>> {
        match self.get(key)?.value {
            Value::Deadline(time) => Some(time),
            _ => None,
        }
    }

    pub(crate) fn size(&self, key: &str) -> Option<u64> {
        match self.get(key)?.value {
            Value::Size(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A size limit; the outer `None` is one that was not given.
    pub(crate) fn size_limit(&self, key: &str) -> Option<Option<u64>> {
        match self.get(key)?.value {
            Value::SizeLimit(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn section(&self, key: &str) -> Option<&Section> {
        self.get(key)?.as_section()
    }

    /// The items of a list; none if it was not given.
    pub(crate) fn list(&self, key: &str) -> &[Node] {
        match self.get(key).map(|node| &node.value) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// The texts of a list.
    pub(crate) fn texts(&self, key: &str) -> impl Iterator<Item = (&str, &Range<usize>)> {
        self.list(key)
            .iter()
            .filter_map(|node| node.as_text().map(|text| (text, &node.span)))
    }

    /// The entries of a table whose names the file chose.
    pub(crate) fn named(&self, key: &str) -> &[(String, Range<usize>, Node)] {
        match self.get(key).map(|node| &node.value) {
            Some(Value::Named(list)) => list,
            _ => &[],
        }
    }
}

impl Node {
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_section(&self) -> Option<&Section> {
        match &self.value {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }
}
