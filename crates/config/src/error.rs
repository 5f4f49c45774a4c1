//! What is wrong with a file: every error with its place, the rule, and what to do.

use std::fmt;
use std::ops::Range;

/// All that is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// The file, as it was named.
    pub file: String,
    /// In the order of the file; never empty.
    pub list: Vec<ConfigError>,
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it is.
    pub place: Place,
    /// What the rule is, what was found, and what was probably meant.
    pub message: String,
    /// The other place, when two do not go together, and what is there.
    pub other: Option<(Place, String)>,
}

/// A place in a file, as editors count: from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}: {}", self.file, error.place, error.message)?;
            if let Some((place, what)) = &error.other {
                write!(f, "\n  {}:{place}: {what}", self.file)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Errors as they are found, in bytes of the file.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
}

#[derive(Debug)]
struct Finding {
    span: Range<usize>,
    message: String,
    other: Option<(Range<usize>, String)>,
}

impl Findings {
    pub(crate) fn add(&mut self, span: &Range<usize>, message: impl Into<String>) {
        self.list.push(Finding {
            span: span.clone(),
            message: message.into(),
            other: None,
        });
    }

    pub(crate) fn add_pair(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        other: &Range<usize>,
        what: impl Into<String>,
    ) {
        self.list.push(Finding {
            span: span.clone(),
            message: message.into(),
            other: Some((other.clone(), what.into())),
        });
    }

    /// The errors of `file`, whose text is `text`; `None` if there are none.
    pub(crate) fn finish(mut self, file: &str, text: &str) -> Option<Errors> {
        self.list.sort_by_key(|finding| finding.span.start);
        let place = |span: &Range<usize>| place(text, span.start);
        let list: Vec<ConfigError> = self
            .list
            .into_iter()
            .map(|finding| ConfigError {
                place: place(&finding.span),
                message: finding.message,
                other: finding.other.map(|(span, what)| (place(&span), what)),
            })
            .collect();
        (!list.is_empty()).then(|| Errors {
            file: file.to_owned(),
            list,
        })
    }
}

/// The line and column of a byte.
pub(crate) fn place(text: &str, at: usize) -> Place {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let text = "a = 1\nß = 2\n";
        for (at, line, column) in [(0, 1, 1), (4, 1, 5), (6, 2, 1), (9, 2, 3), (99, 3, 1)] {
            assert_eq!(place(text, at), Place { line, column }, "{at}");
        }
    }
}
