//! The name in a certificate as text, in the form of RFC 2253 as OpenSSL prints it with
//! `-nameopt RFC2253`: most specific part first, and nothing in it but printable ASCII, so that it
//! can stand in a header field whatever the certificate says.

/// Types of attributes that have a short name, by the content bytes of their object identifiers.
const SHORT_NAMES: [(&[u8], &str); 14] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 42], "GN"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 9, 1], "emailAddress"),
    (&[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 100, 1, 1], "UID"),
    (&[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 100, 1, 25], "DC"),
];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 6;

/// The content of a `Name` (RFC 5280, 4.1.2.4) as text; `None` if it is not one.
pub(crate) fn text(mut name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !name.is_empty() {
        let (tag, mut set, _) = element(&mut name)?;
        let mut part = String::new();
        while !set.is_empty() {
            let (inner, mut pair, _) = element(&mut set)?;
            let (identifies, kind, _) = element(&mut pair)?;
            let (value_tag, value, whole) = element(&mut pair)?;
            if (tag, inner, identifies) != (SET, SEQUENCE, OBJECT_IDENTIFIER) || !pair.is_empty() {
                return None;
            }
            if !part.is_empty() {
                part.push('+');
            }
            push_attribute(&mut part, kind, value_tag, value, whole)?;
        }
        parts.push(part);
    }
    parts.reverse();
    Some(parts.join(","))
}

/// Takes one element of DER off the front: its tag, its content, and all of it.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let (&[tag, first], after) = rest.split_first_chunk::<2>()?;
    let (size, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81 => {
            let (&size, after) = after.split_first()?;
            (usize::from(size), after)
        }
        0x82 => {
            let (&size, after) = after.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(size)), after)
        }
        _ => return None,
    };
    let content = after.get(..size)?;
    let length = rest.len() - after.len() + size;
    let (whole, behind) = rest.split_at(length);
    *rest = behind;
    Some((tag, content, whole))
}

fn push_attribute(
    out: &mut String,
    kind: &[u8],
    tag: u8,
    value: &[u8],
    whole: &[u8],
) -> Option<()> {
    let known = SHORT_NAMES.iter().find(|(bytes, _)| *bytes == kind);
    match known {
        Some((_, name)) => out.push_str(name),
        None => push_dotted(out, kind)?,
    }
    out.push('=');
    match characters(tag, value).filter(|_| known.is_some()) {
        Some(text) => push_escaped(out, &text),
        None => {
            out.push('#');
            whole.iter().for_each(|byte| push_hexadecimal(out, *byte));
        }
    }
    Some(())
}

/// The characters of a value, if it is a text.
fn characters(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        // UTF8String, NumericString, PrintableString, IA5String, VisibleString.
        0x0c | 0x12 | 0x13 | 0x16 | 0x1a => String::from_utf8(value.to_vec()).ok(),
        // TeletexString, which everybody takes for Latin-1.
        0x14 => Some(value.iter().map(|byte| char::from(*byte)).collect()),
        // BMPString.
        0x1e => {
            let (pairs, []) = value.as_chunks::<2>() else {
                return None;
            };
            let units = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

fn push_escaped(out: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        let special = match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => true,
            b'#' => at == 0,
            b' ' => at == 0 || at == last,
            _ => false,
        };
        if special || !(b' '..=b'~').contains(&byte) {
            out.push('\\');
        }
        if (b' '..=b'~').contains(&byte) {
            out.push(char::from(byte));
        } else {
            push_hexadecimal(out, byte);
        }
    }
}

fn push_hexadecimal(out: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
    }
}

/// An object identifier with dots.
fn push_dotted(out: &mut String, bytes: &[u8]) -> Option<()> {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for &byte in bytes {
        number = number.checked_mul(128)? + u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first.to_string());
                number -= first * 40;
            }
            numbers.push(number.to_string());
            number = 0;
        }
    }
    out.push_str(&numbers.join("."));
    bytes.last().filter(|byte| **byte & 0x80 == 0).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match content.len() {
            size @ 0..=0x7f => out.push(size as u8),
            size => out.extend([0x82, (size >> 8) as u8, size as u8]),
        }
        out.extend_from_slice(content);
        out
    }

    fn attribute(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &[der(6, kind), der(tag, value)].concat())
    }

    fn one(tag: u8, value: &[u8]) -> String {
        text(&der(SET, &attribute(&[0x55, 4, 3], tag, value))).unwrap()
    }

    #[test]
    fn the_most_specific_part_comes_first() {
        let parts = [
            der(SET, &attribute(&[0x55, 4, 6], 0x13, b"DE")),
            der(SET, &attribute(&[0x55, 4, 10], 0x0c, b"Shop, Inc.")),
            der(
                SET,
                &[
                    attribute(&[0x55, 4, 3], 0x0c, b"till"),
                    attribute(&[0x2a, 3, 0x87, 0x68], 0x0c, b"x"),
                ]
                .concat(),
            ),
        ];
        assert_eq!(
            text(&parts.concat()).unwrap(),
            "CN=till+1.2.3.1000=#0C0178,O=Shop\\, Inc.,C=DE"
        );
        assert_eq!(text(b"").unwrap(), "");
    }

    #[test]
    fn no_text_gets_out_of_its_quotes() {
        assert_eq!(one(0x0c, b"a\"b\\c\r\nX: y"), "CN=a\\\"b\\\\c\\0D\\0AX: y");
        assert_eq!(one(0x0c, "é".as_bytes()), "CN=\\C3\\A9");
        assert_eq!(one(0x14, b"\xe9"), "CN=\\C3\\A9");
        assert_eq!(one(0x1e, b"\x00a\x20\xac"), "CN=a\\E2\\82\\AC");
        assert_eq!(one(0x0c, b" # "), "CN=\\ #\\ ");
        assert_eq!(one(0x0c, b"#"), "CN=\\#");
        assert_eq!(one(0x04, b"\x01"), "CN=#040101");
        assert_eq!(one(0x0c, b"\xff"), "CN=#0C01FF");
        for value in 0..=255 {
            let text = one(0x0c, &[value, b'x']);
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }

    #[test]
    fn what_is_cut_or_no_name_is_none() {
        let whole = der(SET, &attribute(&[0x55, 4, 3], 0x0c, &[b'x'; 300]));
        assert!(text(&whole).is_some());
        for cut in 1..whole.len() {
            assert_eq!(text(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(
            text(&der(SEQUENCE, &attribute(&[0x55, 4, 3], 0x0c, b"x"))),
            None
        );
        assert_eq!(text(&der(SET, &attribute(&[0x80], 0x0c, b"x"))), None);
    }
}
