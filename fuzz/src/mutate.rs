//! Makes new inputs from kept ones: flips, splices, and the words that HTTP/1.1 is made of.

/// A seeded generator (splitmix64; Steele, Lea and Flood, 2014).
pub(crate) struct Generator {
    state: u64,
}

const WORDS: [&[u8]; 44] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b":",
    b";",
    b",",
    b"\"",
    b"\x7f",
    b"\x80",
    b"GET ",
    b"POST ",
    b"OPTIONS * HTTP/1.1\r\n",
    b"CONNECT a:1 ",
    b"PRI ",
    b"/",
    b"http://a/",
    b"?#",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 204\r\n",
    b"HTTP/1.1 101 x\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 18446744073709551615\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade, keep-alive\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"X: y\r\n",
    b" folded\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"fffffffffffffff\r\n",
    b"5;a=b\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"chunked",
    b"Content-Length",
];

impl Generator {
    /// A generator that always gives the same numbers for the same seed.
    pub(crate) fn new(seed: u64) -> Generator {
        Generator { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A changed copy of one of the kept inputs, at most so long.
    pub(crate) fn mutation(&mut self, corpus: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(5) {
            self.change(&mut input, corpus);
        }
        input.truncate(bytes_max);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(24)).min(input.len());
        match self.below(10) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.next() as u8,
            2 => input.insert(at, self.next() as u8),
            3 if at < end => drop(input.drain(at..end)),
            4 if at < end => {
                let piece = input[at..end].to_vec();
                let times = 1 + self.below(4);
                for _ in 0..times {
                    input.splice(at..at, piece.iter().copied());
                }
            }
            5 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let piece = other[from..].to_vec();
                input.splice(at.., piece);
            }
            6 if at < input.len() => input[at] = input[at].to_ascii_uppercase() ^ 0x20,
            7 => input.truncate(at),
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                let over = if self.below(2) == 0 {
                    at..at
                } else {
                    at..end.max(at)
                };
                input.splice(over, word.iter().copied());
            }
        }
    }
}
