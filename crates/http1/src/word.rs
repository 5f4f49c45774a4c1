//! Eight bytes at a time, in one register ("SIMD within a register", Lamport 1975; the exact zero
//! test is from Warren, "Hacker's Delight", 6-1). Each test answers in the highest bit of the byte
//! that it is about, without carries between bytes, so that the first byte that fails is exact.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x80 * ONES;

/// Eight bytes, the first of them lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    #[inline]
    pub(crate) fn of(bytes: [u8; 8]) -> Word {
        Word(u64::from_le_bytes(bytes))
    }

    /// All of four to eight bytes: the first four and the last four.
    #[inline]
    pub(crate) fn of_short(bytes: &[u8]) -> Option<Word> {
        let half = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
        let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
        Some(Word(half(first) | half(last) << 32))
    }

    /// With upper-case letters as lower-case ones. Other bytes change too, but none that may be in
    /// a token becomes a letter, a digit or `-` by it.
    #[inline]
    pub(crate) fn folded(self) -> Word {
        Word(self.0 | (0x20 * ONES))
    }

    /// The first byte that may not be in a field's value, tabs included, which may.
    #[inline]
    pub(crate) fn first_outside_value(self) -> Option<usize> {
        first(self.ascii() & !self.at_least(0x20) | self.equal(0x7f))
    }

    /// The first byte that may not be in a request target.
    #[inline]
    pub(crate) fn first_outside_target(self) -> Option<usize> {
        first(!(self.ascii() & self.at_least(0x21)) | self.equal(0x7f) | self.equal(b'#'))
    }

    /// The first byte that is no letter and no `-`, of which most field names are made.
    #[inline]
    pub(crate) fn first_outside_name(self) -> Option<usize> {
        let folded = self.folded();
        let letter = self.ascii() & folded.at_least(b'a') & !folded.at_least(b'z' + 1);
        first(!(letter | self.equal(b'-')))
    }

    #[inline]
    fn ascii(self) -> u64 {
        !self.0
    }

    /// Of its lower seven bits: whether they are at least `least`.
    #[inline]
    fn at_least(self, least: u8) -> u64 {
        (self.0 & !HIGHS) + u64::from(0x80 - least) * ONES
    }

    #[inline]
    fn equal(self, byte: u8) -> u64 {
        let difference = self.0 ^ (u64::from(byte) * ONES);
        !(((difference & !HIGHS) + 0x7f * ONES) | difference)
    }
}

#[inline]
fn first(found: u64) -> Option<usize> {
    let found = found & HIGHS;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{CLASS, TARGET, VALUE};

    /// Every byte at every place, among bytes of either kind.
    #[test]
    fn each_byte_is_told_for_itself() {
        type Find = fn(Word) -> Option<usize>;
        let value = |byte: u8| CLASS[byte as usize] & VALUE != 0 && byte != b'\t';
        let target = |byte: u8| CLASS[byte as usize] & TARGET != 0;
        let name = |byte: u8| byte.is_ascii_alphabetic() || byte == b'-';
        let tests: [(Find, &dyn Fn(u8) -> bool); 3] = [
            (Word::first_outside_value, &value),
            (Word::first_outside_target, &target),
            (Word::first_outside_name, &name),
        ];
        for (find, inside) in tests {
            for byte in 0..=u8::MAX {
                for after in [b'a', 0, 0x20, 0x7f, 0xff] {
                    for place in 0..8 {
                        let mut bytes = [b'z'; 8];
                        bytes[place..].fill(after);
                        bytes[place] = byte;
                        let expected = bytes.iter().position(|&byte| !inside(byte));
                        assert_eq!(find(Word::of(bytes)), expected, "{bytes:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn tokens_are_equal_in_any_case_and_only_then() {
        let of = |byte| Word::of([byte; 8]).folded();
        let tokens =
            || (0..=u8::MAX).filter(|byte| CLASS[*byte as usize] & crate::scan::TOKEN != 0);
        for one in tokens() {
            for other in tokens().filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
                let equal = one.eq_ignore_ascii_case(&other);
                assert_eq!(of(one) == of(other), equal, "{one} {other}");
            }
        }
    }
}
