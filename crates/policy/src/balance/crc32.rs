//! CRC-32 (ISO-HDLC, as in Ethernet and zip), which nginx hashes with.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                0xEDB8_8320 ^ (value >> 1)
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// A checksum that more bytes may follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crc32(u32);

impl Crc32 {
    pub(super) fn new() -> Crc32 {
        Crc32(u32::MAX)
    }

    pub(super) fn with(self, bytes: &[u8]) -> Crc32 {
        let step = |state: u32, byte: &u8| {
            TABLE[((state ^ u32::from(*byte)) & 0xff) as usize] ^ (state >> 8)
        };
        Crc32(bytes.iter().fold(self.0, step))
    }

    pub(super) fn value(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Crc32;

    #[test]
    fn the_check_value() {
        assert_eq!(
            Crc32::new().with(b"1234").with(b"56789").value(),
            0xCBF4_3926
        );
    }
}
