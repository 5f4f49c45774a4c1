//! What a table of the file may hold, as data: reading, the JSON schema and the reference page
//! are all made of it, so that none of them can say what the others do not.

/// A table and its keys.
#[derive(Debug)]
pub struct Table {
    /// How people call it, as in `[cluster.NAME]`.
    pub title: &'static str,
    /// What it is for, in Markdown.
    pub doc: &'static str,
    /// The keys it may have.
    pub keys: &'static [Key],
}

/// One key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What happens when it is left out.
    pub default: Default,
    /// What it does, in Markdown.
    pub doc: &'static str,
}

/// What happens when a key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It must not be.
    Required,
    /// Nothing: what it stands for is off, or said elsewhere.
    Absent,
    /// This value, as one would write it.
    Value(&'static str),
    /// What these words say; found out elsewhere.
    Said(&'static str),
    /// It must be left out for now: it is planned and has no effect yet.
    NotYet,
}

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number between two bounds.
    Whole(u64, u64),
    /// A number that may have a fraction, between two bounds.
    Fraction(f64, f64),
    /// A time: `500ms`, `10s`, `2m`, or bare seconds.
    Time,
    /// A time above zero, or `off`.
    Deadline,
    /// A number of bytes: `4096`, `64k`, `1MiB`.
    Size,
    /// A size, or `off`.
    SizeLimit,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text with a form of its own.
    Formed(&'static Form),
    /// A list.
    List(&'static Kind),
    /// One, or a list of them.
    OneOrMore(&'static Kind),
    /// A table.
    Table(&'static Table),
    /// A list of tables, `[[name]]`.
    Tables(&'static Table),
    /// A table of tables under names that the file chooses, `[name.NAME]`.
    Named(&'static Table),
    /// Values under names that the file chooses.
    Map(&'static Kind),
    /// One of several; which one is told by the type of the value.
    Either(&'static [Kind]),
}

/// Text that has to be written in a certain way.
pub struct Form {
    /// What it is, with an article: `an address`.
    pub name: &'static str,
    /// A bare number is taken as its text.
    pub numbers: bool,
    /// Examples, for the schema and the reference.
    pub examples: &'static [&'static str],
    /// Says what is wrong with a text.
    pub check: fn(&str) -> Result<(), String>,
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kind {
    /// The kind in words, for messages and the reference.
    pub fn describe(&self) -> String {
        match self {
            Kind::Text => "text".to_owned(),
            Kind::Flag => "`true` or `false`".to_owned(),
            Kind::Whole(least, u64::MAX) => format!("a whole number from {least} up"),
            Kind::Whole(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Fraction(least, most) => format!("a number from {least} to {most}"),
            Kind::Time => "a time".to_owned(),
            Kind::Deadline => "a time or `\"off\"`".to_owned(),
            Kind::Size => "a size".to_owned(),
            Kind::SizeLimit => "a size or `\"off\"`".to_owned(),
            Kind::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                words.join(", ")
            }
            Kind::Formed(form) => form.name.to_owned(),
            Kind::List(inner) => format!("a list, each {}", inner.describe()),
            Kind::OneOrMore(inner) => format!("{}, or a list of such", inner.describe()),
            Kind::Table(table) => format!("a table, see {}", table.title),
            Kind::Tables(table) => format!("a list of tables, see {}", table.title),
            Kind::Named(table) => format!("tables by name, see {}", table.title),
            Kind::Map(inner) => format!("a table of names, each with {}", inner.describe()),
            Kind::Either(kinds) => {
                let kinds: Vec<String> = kinds.iter().map(Kind::describe).collect();
                kinds.join("; or ")
            }
        }
    }
}

impl Table {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
