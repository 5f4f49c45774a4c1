//! Finds the end of a head in bytes that arrive piece by piece, so that a slow sender costs work
//! once per byte and not once per read; and within a head, the end of what may stand where.

use crate::word::Word;

/// Bounds on one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Start line and header section together, in bytes.
    pub head_bytes: usize,
    /// Number of header fields.
    pub header_count: usize,
    /// The request line alone, without its CRLF.
    pub line_bytes: usize,
    /// Each header field line, with its CRLF.
    pub field_bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits {
            head_bytes: 32 * 1024,
            header_count: 100,
            line_bytes: usize::MAX,
            field_bytes: usize::MAX,
        }
    }
}

/// What [`scan_head`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadScan {
    /// An empty line ends the head, or a line ends wrongly: either way it is time to parse.
    Parse,
    /// The head goes on; scan again from this offset when there is more.
    More(usize),
}

/// Looks for the end of a head in `buffer`, of which everything before `from` was scanned before.
/// A bare LF also ends the search, so that the parser can refuse it without waiting for more.
pub fn scan_head(buffer: &[u8], from: usize) -> HeadScan {
    let mut at = from.min(buffer.len());
    // Empty lines before the start line are skipped by the parser; they do not end a head.
    if from == 0 {
        at = skip_empty_lines(buffer);
    }
    while let Some(found) = buffer[at..].iter().position(|&byte| byte == b'\n') {
        let line_feed = at + found;
        if line_feed == 0 || buffer[line_feed - 1] != b'\r' {
            return HeadScan::Parse;
        }
        if line_feed >= 3 && buffer[line_feed - 3] == b'\r' && buffer[line_feed - 2] == b'\n' {
            return HeadScan::Parse;
        }
        at = line_feed + 1;
        if buffer[at..].starts_with(b"\r\n") {
            return HeadScan::Parse;
        }
    }
    HeadScan::More(buffer.len())
}

/// Two empty lines.
pub(crate) const EMPTY_LINES_BYTES_MAX: usize = 4;

/// Length of the empty lines (CRLF) at the start, of which RFC 9112, 2.2 wants at least one
/// ignored; more than two are left for the parser to refuse.
pub(crate) fn skip_empty_lines(buffer: &[u8]) -> usize {
    let mut at = 0;
    while at < EMPTY_LINES_BYTES_MAX && buffer[at..].starts_with(b"\r\n") {
        at += 2;
    }
    at
}

/// What a byte may be part of.
pub(crate) const TOKEN: u8 = 1;
pub(crate) const VALUE: u8 = 2;
pub(crate) const TARGET: u8 = 4;
pub(crate) const NAME: u8 = 8;

/// One table for all classes: `tchar` (RFC 9110, 5.6.2), field content (visible, space, tab and
/// obs-text), the bytes of a request target (visible ASCII without `#`), and those of a registered
/// name (RFC 3986, 3.2.2).
pub(crate) const CLASS: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        let tchar = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        if tchar {
            table[byte] |= TOKEN;
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            table[byte] |= VALUE;
        }
        if b > 0x20 && b < 0x7f && b != b'#' {
            table[byte] |= TARGET;
        }
        let punctuation = matches!(
            b,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
        );
        if b.is_ascii_alphanumeric() || punctuation {
            table[byte] |= NAME;
        }
        byte += 1;
    }
    table
};

/// Offset of the first byte at or after `from` that is not in a token.
#[inline]
pub(crate) fn token_end(buffer: &[u8], from: usize) -> usize {
    // Digits, `_` and the like are rare in names.
    let at = words_while(buffer, from, Word::first_outside_name);
    span_while(buffer, at, TOKEN)
}

/// Offset of the first byte at or after `from` that is not in a field's value.
#[inline]
pub(crate) fn value_end(buffer: &[u8], from: usize) -> usize {
    // So are tabs in values.
    let at = words_while(buffer, from, Word::first_outside_value);
    span_while(buffer, at, VALUE)
}

/// Offset of the first byte at or after `from` that is not in a request target.
#[inline]
pub(crate) fn target_end(buffer: &[u8], from: usize) -> usize {
    let at = words_while(buffer, from, Word::first_outside_target);
    span_while(buffer, at, TARGET)
}

/// Offset of the first byte that `find` finds, or of the last few, which fill no word.
#[inline]
fn words_while(buffer: &[u8], from: usize, find: impl Fn(Word) -> Option<usize>) -> usize {
    let (words, _) = buffer[from..].as_chunks();
    for (index, word) in words.iter().enumerate() {
        if let Some(place) = find(Word::of(*word)) {
            return from + 8 * index + place;
        }
    }
    from + 8 * words.len()
}

#[inline]
fn span_while(buffer: &[u8], from: usize, class: u8) -> usize {
    let rest = &buffer[from..];
    from + rest
        .iter()
        .position(|&byte| CLASS[byte as usize] & class == 0)
        .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_whatever_the_pieces() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for step in 1..head.len() {
            let mut from = 0;
            let mut seen = 0;
            let end = loop {
                seen = (seen + step).min(head.len());
                match scan_head(&head[..seen], from) {
                    HeadScan::Parse => break seen,
                    HeadScan::More(next) => from = next,
                }
                assert!(seen < head.len(), "step {step}: end not found");
            };
            assert!(end >= head.len() - 2, "step {step}: stopped at {end}");
        }
    }

    #[test]
    fn empty_lines_first_and_bare_line_feeds() {
        assert_eq!(scan_head(b"\r\nGET", 0), HeadScan::More(5));
        assert_eq!(scan_head(b"\n", 0), HeadScan::Parse);
        assert_eq!(scan_head(b"GET / HTTP/1.1\nHost", 0), HeadScan::Parse);
        assert_eq!(scan_head(b"\r\n\r\n\r\n", 0), HeadScan::Parse);
    }
}
