//! What the fuzzer starts from: a few well-formed messages, and every request of the tests' corpus.

/// The first inputs.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let messages: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /a?b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello",
        b"PUT http://a/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        b"\x015\r\nhello\r\n10;a=b\r\n0123456789abcdef\r\n0\r\nX-Digest: abc\r\n\r\n",
        b"\x01000a\r\n0123456789\r\n0\r\n\r\n",
    ];
    let corpus = concat!(
        include_str!("../../tests/corpus/malformed.toml"),
        include_str!("../../tests/corpus/unusual.toml"),
    );
    let requests = corpus
        .lines()
        .filter_map(|line| line.strip_prefix("send = \"")?.strip_suffix('"'));
    messages
        .iter()
        .map(|message| message.to_vec())
        .chain(requests.map(unescape))
        .collect()
}

/// Undoes TOML's escapes, each character a byte. What is to be repeated stays as it is written.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let meant = match (character, character == '\\') {
            (_, false) => character,
            _ => match characters.next() {
                Some('r') => '\r',
                Some('n') => '\n',
                Some('t') => '\t',
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    u32::from_str_radix(&digits, 16)
                        .ok()
                        .and_then(char::from_u32)
                        .unwrap_or('?')
                }
                Some(other) => other,
                None => break,
            },
        };
        bytes.push(meant as u32 as u8);
    }
    bytes
}
