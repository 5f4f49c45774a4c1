//! What must hold for any bytes: no panic; the same meaning however the bytes are cut; what was
//! accepted is unambiguous, and means the same when it is written out again.

use evener_http1::write::{chunk_start, field, last_chunk};
use evener_http1::{
    BodyDecoder, BodyError, FieldName, Fields, Framing, HeadError, HeadLimits, HeadScan,
    RequestHead, ResponseHead, parse_request, parse_response, scan_head,
};

/// A name and what it checks; a broken invariant is a panic.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) check: fn(&[u8]),
}

/// All targets.
pub(crate) const ALL: [Target; 4] = [
    Target {
        name: "request",
        check: request,
    },
    Target {
        name: "response",
        check: response,
    },
    Target {
        name: "body",
        check: body,
    },
    Target {
        name: "chunks",
        check: chunks,
    },
];

const LIMITS: HeadLimits = HeadLimits {
    head_bytes: 2048,
    header_count: 24,
    line_bytes: 1024,
    field_bytes: 512,
};

type Parsed<H> = Result<Option<H>, HeadError>;

/// Ends of prefixes worth trying: every one of a short input, a spread of a long one.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..=length).step_by((length / 64).max(1))
}

fn request(input: &[u8]) {
    let mut fields = Fields::new();
    let whole = parse_request(input, &mut fields, &LIMITS);
    let mut others = Fields::new();
    for cut in cuts(input.len()) {
        let part = parse_request(&input[..cut], &mut others, &LIMITS);
        compare(&whole, &part, cut, |head: &RequestHead| head.length);
    }
    let Ok(Some(head)) = whole else { return };
    scanned_to_the_end(&input[..head.length]);
    unambiguous(&input[..head.length], &fields, head.framing);

    let mut again = Vec::new();
    again.extend_from_slice(head.method_span.of(input));
    again.push(b' ');
    again.extend_from_slice(head.target.of(input));
    again.extend_from_slice(match head.version {
        evener_http1::Version::H10 => b" HTTP/1.0\r\n",
        evener_http1::Version::H11 => b" HTTP/1.1\r\n",
    });
    write_fields(&mut again, &fields, input);
    let second = parse_request(&again, &mut others, &LIMITS);
    let Ok(Some(second)) = second else {
        panic!("written again it is {second:?}")
    };
    assert_eq!(
        (second.method, second.framing, second.version),
        (head.method, head.framing, head.version)
    );
    assert_eq!(
        (second.keep_alive, second.upgrade),
        (head.keep_alive, head.upgrade)
    );
    assert_eq!(second.path_and_query(&again), head.path_and_query(input));
    same_fields(&fields, input, &others, &again);
}

fn response(input: &[u8]) {
    for to_head in [false, true] {
        let mut fields = Fields::new();
        let whole = parse_response(input, &mut fields, &LIMITS, to_head);
        let mut others = Fields::new();
        for cut in cuts(input.len()) {
            let part = parse_response(&input[..cut], &mut others, &LIMITS, to_head);
            compare(&whole, &part, cut, |head: &ResponseHead| head.length);
        }
        let Ok(Some(head)) = whole else { continue };
        assert!((100..=999).contains(&head.status));
        if to_head || head.status < 200 || head.status == 204 || head.status == 304 {
            assert_eq!(head.framing, Framing::Length(0), "these have no body");
        } else {
            unambiguous(&input[..head.length], &fields, head.framing);
        }
        let mut again = b"HTTP/1.1 ".to_vec();
        again.extend_from_slice(head.status.to_string().as_bytes());
        again.push(b' ');
        again.extend_from_slice(head.reason.of(input));
        again.extend_from_slice(b"\r\n");
        if head.version == evener_http1::Version::H10 {
            again[7] = b'0';
        }
        write_fields(&mut again, &fields, input);
        let second = parse_response(&again, &mut others, &LIMITS, to_head);
        let Ok(Some(second)) = second else {
            panic!("written again it is {second:?}")
        };
        assert_eq!((second.status, second.framing), (head.status, head.framing));
        assert_eq!(second.keep_alive, head.keep_alive);
        same_fields(&fields, input, &others, &again);
    }
}

/// A part may know less than the whole, but nothing else.
fn compare<H: std::fmt::Debug>(
    whole: &Parsed<H>,
    part: &Parsed<H>,
    cut: usize,
    length: fn(&H) -> usize,
) {
    match (whole, part) {
        (_, Ok(None)) => {
            if let Ok(Some(head)) = whole {
                assert!(
                    cut < length(head),
                    "{cut} bytes hold a head of {}",
                    length(head)
                );
            }
        }
        (Err(_), Err(_)) => {}
        (Ok(Some(head)), Ok(Some(part))) => {
            assert_eq!(length(head), length(part), "the head ends where it ended");
            assert!(length(part) <= cut);
        }
        (whole, part) => panic!("the whole is {whole:?}, its first {cut} bytes are {part:?}"),
    }
}

/// A complete head is found by the scanner, however it is cut.
fn scanned_to_the_end(head: &[u8]) {
    let mut from = 0;
    for cut in cuts(head.len()).chain([head.len()]) {
        match scan_head(&head[..cut], from) {
            HeadScan::Parse => return,
            HeadScan::More(next) => {
                assert!(next <= cut, "scanned past the end");
                from = next;
            }
        }
    }
    panic!("the scanner did not find the end of a complete head");
}

/// An accepted head can be read in one way only, by an oracle that knows nothing of the parser.
fn unambiguous(head: &[u8], fields: &Fields, framing: Framing) {
    let text: Vec<u8> = head
        .iter()
        .copied()
        .skip_while(|byte| b"\r\n".contains(byte))
        .collect();
    assert!(text.ends_with(b"\r\n\r\n"));
    assert!(
        !text.iter().any(|byte| matches!(byte, 0 | 0x7f)),
        "no NUL, no DEL"
    );
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\n' => assert_eq!(text[at - 1], b'\r', "no bare LF"),
            b'\r' => assert_eq!(text[at + 1], b'\n', "no bare CR"),
            _ => {}
        }
    }
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').skip(1).collect();
    let named = |name: &[u8]| {
        let found = lines.iter().filter(|line| {
            let upto = line.iter().position(|byte| *byte == b':').unwrap_or(0);
            line[..upto].trim_ascii().eq_ignore_ascii_case(name)
        });
        found.count()
    };
    let (lengths, codings) = (named(b"content-length"), named(b"transfer-encoding"));
    assert!(
        lengths <= 1 && (lengths == 0 || codings == 0),
        "{lengths} lengths, {codings} codings"
    );
    assert_eq!(framing == Framing::Chunked, codings > 0);
    assert!(
        !lines
            .iter()
            .any(|line| line.first().is_some_and(|b| b" \t".contains(b))),
        "no folds"
    );
    assert!(fields.len() <= LIMITS.header_count);
}

fn write_fields(out: &mut Vec<u8>, fields: &Fields, input: &[u8]) {
    for each in fields.iter() {
        field(out, each.name.of(input), each.value.of(input));
    }
    out.extend_from_slice(b"\r\n");
}

fn same_fields(fields: &Fields, input: &[u8], others: &Fields, again: &[u8]) {
    assert_eq!(fields.len(), others.len());
    for (one, other) in fields.iter().zip(others.iter()) {
        assert_eq!(one.name.of(input), other.name.of(again));
        assert_eq!(one.value.of(input), other.value.of(again));
        assert_eq!(one.known, other.known);
        assert_eq!(one.known, FieldName::of(one.name.of(input)));
    }
}

/// What decoding came to.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    data: Vec<u8>,
    trailer: Vec<u8>,
    consumed: usize,
    done: bool,
    error: Option<BodyError>,
}

/// Decodes, given the input in pieces of so many bytes.
fn decode(framing: Framing, input: &[u8], piece_bytes: usize) -> Decoded {
    let mut decoder = BodyDecoder::new(framing);
    let mut decoded = Decoded {
        data: Vec::new(),
        trailer: Vec::new(),
        consumed: 0,
        done: false,
        error: None,
    };
    let mut available = 0;
    'input: while !decoder.is_done() && available < input.len() {
        available = (available + piece_bytes).min(input.len());
        while decoded.consumed < available && !decoder.is_done() {
            let rest = &input[decoded.consumed..available];
            match decoder.decode(rest) {
                Ok(piece) => {
                    assert!(piece.data.end <= piece.consumed && piece.consumed <= rest.len());
                    assert!(piece.consumed > 0, "no progress");
                    assert_eq!(piece.done, decoder.is_done());
                    decoded.data.extend_from_slice(&rest[piece.data]);
                    decoded.consumed += piece.consumed;
                }
                Err(error) => {
                    decoded.error = Some(error);
                    break 'input;
                }
            }
        }
    }
    decoded.done = decoder.is_done();
    decoded.trailer = decoder.trailer().to_vec();
    if decoded.error.is_some() {
        // How far it came before the error depends on the cut; that it errs does not.
        decoded.consumed = 0;
        decoded.data.clear();
        decoded.trailer.clear();
    }
    decoded
}

/// The first byte says how the rest is framed.
fn body(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    let framing = match kind % 4 {
        0 => Framing::Length(rest.len() as u64 / 2),
        2 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let whole = decode(framing, rest, rest.len().max(1));
    for piece_bytes in [1, 2, 3, 7, 61] {
        assert_eq!(
            whole,
            decode(framing, rest, piece_bytes),
            "in pieces of {piece_bytes}"
        );
    }
    if framing == Framing::Chunked && whole.done {
        let mut again = Vec::new();
        if !whole.data.is_empty() {
            chunk_start(&mut again, whole.data.len());
            again.extend_from_slice(&whole.data);
            again.extend_from_slice(b"\r\n");
        }
        last_chunk(&mut again, &whole.trailer);
        let second = decode(framing, &again, again.len());
        assert!(second.done && second.consumed == again.len());
        assert_eq!((second.data, second.trailer), (whole.data, whole.trailer));
    }
}

/// Whatever is put into chunks comes out again, and the byte after the end stays untouched.
fn chunks(input: &[u8]) {
    let mut framed = Vec::new();
    let mut data = Vec::new();
    let mut rest = input;
    while let Some((&size, after)) = rest.split_first() {
        let (piece, after) = after.split_at(usize::from(size).min(after.len()));
        if !piece.is_empty() {
            chunk_start(&mut framed, piece.len());
            framed.extend_from_slice(piece);
            framed.extend_from_slice(b"\r\n");
            data.extend_from_slice(piece);
        }
        rest = after;
    }
    last_chunk(&mut framed, b"");
    let end = framed.len();
    framed.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let decoded = decode(
        Framing::Chunked,
        &framed,
        1 + usize::from(input.first().copied().unwrap_or(0)),
    );
    assert_eq!(
        decoded,
        Decoded {
            data,
            trailer: Vec::new(),
            consumed: end,
            done: true,
            error: None
        }
    );
}
