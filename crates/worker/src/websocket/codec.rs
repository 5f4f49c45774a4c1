//! RFC 6455 without I/O: bytes in, events out; messages in, frames out.
//!
//! Frame headers and close codes are read and written by `tungstenite`; here frames become
//! messages, with every check that a server owes: masking, reserved bits, order of fragments,
//! control frames between them, UTF-8 as it arrives, and the bound on a message's size *after*
//! decompression. What the events mean for the application is for `socket`.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::deflate::Deflate;

/// RFC 6455, 5.5: the payload of a control frame.
const CONTROL_BYTES_MAX: u64 = 125;
/// The longest frame header.
const HEADER_BYTES_MAX: usize = 14;
/// Smaller messages gain nothing from compression.
const COMPRESS_BYTES_MIN: usize = 64;

/// What the other side sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A complete message, valid UTF-8.
    Text(Vec<u8>),
    /// A complete message.
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A close frame; no code if it had none.
    Close {
        code: Option<u16>,
        reason: String,
    },
}

/// A violation, with the close code that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

const fn protocol(reason: &'static str) -> Violation {
    Violation { code: 1002, reason }
}

const NOT_UTF8: Violation = Violation {
    code: 1007,
    reason: "text is not UTF-8",
};
const TOO_BIG: Violation = Violation {
    code: 1009,
    reason: "message too big",
};

/// A frame whose payload is being read.
#[derive(Debug)]
struct Frame {
    header: FrameHeader,
    left: u64,
    /// Bytes of the payload read so far, for the place in the mask.
    at: usize,
}

/// A message whose frames are being read.
#[derive(Debug)]
struct Message {
    text: bool,
    compressed: bool,
    data: Vec<u8>,
    /// Bytes of `data` known to be UTF-8.
    valid: usize,
}

/// The state of one connection's framing.
#[derive(Debug)]
pub(crate) struct Codec {
    message_bytes_max: usize,
    deflate: Option<Deflate>,
    /// The start of a frame header that has not come in full.
    header: Vec<u8>,
    frame: Option<Frame>,
    message: Option<Message>,
    control: Vec<u8>,
}

impl Codec {
    pub(crate) fn new(message_bytes_max: usize, deflate: Option<Deflate>) -> Codec {
        Codec {
            message_bytes_max,
            deflate,
            header: Vec::new(),
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    /// Takes bytes off the front of `input` until an event is complete or nothing is left.
    pub(crate) fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        loop {
            if self.frame.is_none() {
                let Some(frame) = self.next_header(input)? else {
                    return Ok(None);
                };
                self.open(&frame)?;
                self.frame = Some(frame);
            }
            if let Some(event) = self.payload(input)? {
                return Ok(Some(event));
            }
            if input.is_empty() && self.frame.is_some() {
                return Ok(None);
            }
        }
    }

    fn next_header(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Violation> {
        let kept = self.header.len();
        let wanted = input.len().min(HEADER_BYTES_MAX - kept);
        self.header.extend_from_slice(&input[..wanted]);
        let mut cursor = Cursor::new(&self.header);
        let parsed =
            FrameHeader::parse(&mut cursor).map_err(|_| protocol("the opcode is not known"))?;
        let Some((header, length)) = parsed else {
            *input = &input[wanted..];
            return Ok(None);
        };
        let used = usize::try_from(cursor.position()).unwrap_or(HEADER_BYTES_MAX);
        if used != header.len(length) {
            return Err(protocol("the payload length is not in its shortest form"));
        }
        *input = &input[used - kept..];
        self.header.clear();
        Ok(Some(Frame {
            header,
            left: length,
            at: 0,
        }))
    }

    /// Checks a frame against the rules and what went before it.
    fn open(&mut self, frame: &Frame) -> Result<(), Violation> {
        let header = &frame.header;
        if header.mask.is_none() {
            return Err(protocol("a client's frame must be masked"));
        }
        let first = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        let may_compress = first && self.deflate.is_some();
        if header.rsv2 || header.rsv3 || (header.rsv1 && !may_compress) {
            return Err(protocol("a reserved bit is set"));
        }
        match header.opcode {
            OpCode::Control(_) if !header.is_final => {
                Err(protocol("a control frame is fragmented"))
            }
            OpCode::Control(_) if frame.left > CONTROL_BYTES_MAX => {
                Err(protocol("a control frame is longer than 125 bytes"))
            }
            OpCode::Control(_) => {
                self.control.clear();
                Ok(())
            }
            OpCode::Data(Data::Continue) if self.message.is_none() => {
                Err(protocol("nothing to continue"))
            }
            OpCode::Data(Data::Continue) => self.fits(frame.left),
            OpCode::Data(_) if self.message.is_some() => {
                Err(protocol("a message begins before the last one has ended"))
            }
            OpCode::Data(kind) => {
                self.message = Some(Message {
                    text: kind == Data::Text,
                    compressed: header.rsv1,
                    data: Vec::new(),
                    valid: 0,
                });
                self.fits(frame.left)
            }
        }
    }

    /// Refuses a frame that would take its message beyond the bound (a compressed one is checked
    /// as it is inflated).
    fn fits(&self, length: u64) -> Result<(), Violation> {
        let message = self.message.as_ref().filter(|message| !message.compressed);
        let sum = message
            .map_or(0, |message| message.data.len() as u64)
            .checked_add(length);
        match (message, sum) {
            (Some(_), Some(sum)) if sum <= self.message_bytes_max as u64 => Ok(()),
            (None, _) => Ok(()),
            _ => Err(TOO_BIG),
        }
    }

    fn payload(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        let Some(frame) = &mut self.frame else {
            return Ok(None);
        };
        let take = usize::try_from(frame.left)
            .unwrap_or(usize::MAX)
            .min(input.len());
        let (bytes, rest) = input.split_at(take);
        *input = rest;
        let (mask, at) = (frame.header.mask.unwrap_or_default(), frame.at);
        frame.left -= take as u64;
        frame.at += take;
        let frame_ended = frame.left == 0;
        let (opcode, is_final) = (frame.header.opcode, frame.header.is_final);
        if let OpCode::Control(kind) = opcode {
            append_unmasked(&mut self.control, bytes, mask, at);
            if !frame_ended {
                return Ok(None);
            }
            self.frame = None;
            return control_event(kind, std::mem::take(&mut self.control)).map(Some);
        }
        let ended = frame_ended && is_final;
        self.data(bytes, mask, at, ended)?;
        if frame_ended {
            self.frame = None;
        }
        if !ended {
            return Ok(None);
        }
        let message = self
            .message
            .take()
            .expect("a data frame has a message, open() saw to it");
        let Message { text, data, .. } = message;
        Ok(Some(if text {
            Event::Text(data)
        } else {
            Event::Binary(data)
        }))
    }

    fn data(
        &mut self,
        bytes: &[u8],
        mask: [u8; 4],
        at: usize,
        ended: bool,
    ) -> Result<(), Violation> {
        let message = self.message.as_mut().expect("a data frame has a message");
        match &mut self.deflate {
            Some(deflate) if message.compressed => {
                let mut plain = Vec::with_capacity(bytes.len());
                append_unmasked(&mut plain, bytes, mask, at);
                let most = self.message_bytes_max;
                deflate.inflate(&plain, ended, &mut message.data, most)?;
            }
            _ => append_unmasked(&mut message.data, bytes, mask, at),
        }
        if !message.text {
            return Ok(());
        }
        match std::str::from_utf8(&message.data[message.valid..]) {
            Ok(_) => message.valid = message.data.len(),
            Err(error) if error.error_len().is_some() || ended => return Err(NOT_UTF8),
            Err(error) => message.valid += error.valid_up_to(),
        }
        Ok(())
    }

    /// Appends a message as one frame.
    pub(crate) fn encode(&mut self, out: &mut Vec<u8>, text: bool, data: &[u8]) {
        let opcode = OpCode::Data(if text { Data::Text } else { Data::Binary });
        match &mut self.deflate {
            Some(deflate) if data.len() >= COMPRESS_BYTES_MIN => {
                let compressed = deflate.compress(data);
                let header = FrameHeader {
                    rsv1: true,
                    opcode,
                    ..FrameHeader::default()
                };
                write_frame(out, &header, compressed);
            }
            _ => write_frame(
                out,
                &FrameHeader {
                    opcode,
                    ..FrameHeader::default()
                },
                data,
            ),
        }
    }
}

/// Appends a ping.
pub(crate) fn ping(out: &mut Vec<u8>, payload: &[u8]) {
    let opcode = OpCode::Control(Control::Ping);
    write_frame(
        out,
        &FrameHeader {
            opcode,
            ..FrameHeader::default()
        },
        payload,
    );
}

/// Appends the answer to a ping.
pub(crate) fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    let opcode = OpCode::Control(Control::Pong);
    write_frame(
        out,
        &FrameHeader {
            opcode,
            ..FrameHeader::default()
        },
        payload,
    );
}

/// Appends a close frame; without a code it is empty. The reason must be short enough.
pub(crate) fn close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let mut payload = Vec::with_capacity(2 + reason.len());
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    write_frame(out, &FrameHeader::default(), &payload);
}

fn write_frame(out: &mut Vec<u8>, header: &FrameHeader, payload: &[u8]) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    header
        .format(payload.len() as u64, out)
        .expect("writing to a Vec cannot fail");
    out.extend_from_slice(payload);
}

fn control_event(kind: Control, payload: Vec<u8>) -> Result<Event, Violation> {
    match kind {
        Control::Ping => Ok(Event::Ping(payload)),
        Control::Pong => Ok(Event::Pong(payload)),
        _ => match &payload[..] {
            [] => Ok(Event::Close {
                code: None,
                reason: String::new(),
            }),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !CloseCode::from(code).is_allowed() {
                    return Err(protocol("the close code is not allowed"));
                }
                let reason = std::str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
                Ok(Event::Close {
                    code: Some(code),
                    reason: reason.to_owned(),
                })
            }
            [_] => Err(protocol("a close frame holds half a code")),
        },
    }
}

/// Appends `bytes` unmasked; `at` is their place in the frame's payload.
fn append_unmasked(out: &mut Vec<u8>, bytes: &[u8], mut mask: [u8; 4], at: usize) {
    mask.rotate_left(at % 4);
    let start = out.len();
    out.extend_from_slice(bytes);
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let mut words = out[start..].chunks_exact_mut(8);
    for word in &mut words {
        let plain = u64::from_ne_bytes([
            word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
        ]) ^ wide;
        word.copy_from_slice(&plain.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::deflate::Parameters;

    /// A client's frame: first byte as given, payload masked.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut out = vec![first];
        match payload.len() {
            length @ 0..126 => out.push(0x80 | length as u8),
            length @ 126..65_536 => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        out
    }

    /// Decodes everything, fed `step` bytes at a time.
    fn decode(codec: &mut Codec, bytes: &[u8], step: usize) -> Result<Vec<Event>, Violation> {
        let mut events = Vec::new();
        for mut piece in bytes.chunks(step) {
            while let Some(event) = codec.decode(&mut piece)? {
                events.push(event);
            }
            assert!(piece.is_empty(), "bytes left over");
        }
        Ok(events)
    }

    fn plain() -> Codec {
        Codec::new(1000, None)
    }

    #[test]
    fn messages_in_any_pieces() {
        let mut bytes = frame(0x01, "h\u{e9}".as_bytes());
        bytes.extend(frame(0x89, b"are you there"));
        bytes.extend(frame(0x80, "llo \u{1f40e}".as_bytes()));
        bytes.extend(frame(0x82, &[0xff; 300]));
        bytes.extend(frame(0x81, b""));
        bytes.extend(frame(0x88, b"\x03\xe8bye"));
        for step in 1..bytes.len() {
            let events = decode(&mut plain(), &bytes, step).unwrap();
            let expected = [
                Event::Ping(b"are you there".to_vec()),
                Event::Text("h\u{e9}llo \u{1f40e}".into()),
                Event::Binary(vec![0xff; 300]),
                Event::Text(Vec::new()),
                Event::Close {
                    code: Some(1000),
                    reason: "bye".into(),
                },
            ];
            assert_eq!(events, expected, "step {step}");
        }
    }

    #[test]
    fn violations_and_their_codes() {
        let unmasked = vec![0x81, 0x01, b'a'];
        let long_ping = frame(0x89, &[0; 126]);
        let not_shortest = [&[0x81, 0x80 | 126, 0, 5][..], &[0; 4], b"aaaaa"].concat();
        let two_starts = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
        let late_utf8 = [frame(0x01, b"\xce\xba"), frame(0x00, b"\xed\xa0\x80")].concat();
        for (bytes, code) in [
            (unmasked, 1002),
            (frame(0xc1, b"a"), 1002),
            (frame(0xa1, b"a"), 1002),
            (frame(0x91, b"a"), 1002),
            (frame(0x83, b"a"), 1002),
            (frame(0x8b, b"a"), 1002),
            (frame(0x09, b"a"), 1002),
            (long_ping, 1002),
            (not_shortest, 1002),
            (frame(0x80, b"a"), 1002),
            (two_starts, 1002),
            (frame(0x88, b"\x03"), 1002),
            (frame(0x88, b"\x03\xed"), 1002),
            (frame(0x88, b"\x03\xe8\xff"), 1007),
            (frame(0x81, b"\xff"), 1007),
            (frame(0x81, b"\xce"), 1007),
            (late_utf8, 1007),
            (frame(0x82, &[0; 1001]), 1009),
            (
                [frame(0x02, &[0; 600]), frame(0x80, &[0; 600])].concat(),
                1009,
            ),
        ] {
            for step in [1, 3, bytes.len()] {
                let violation = decode(&mut plain(), &bytes, step).unwrap_err();
                assert_eq!(violation.code, code, "{} by {step}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn bad_utf8_is_refused_before_the_message_ends() {
        let mut codec = plain();
        assert!(
            decode(&mut codec, &frame(0x01, b"ok \xce"), 64)
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            decode(&mut codec, &frame(0x00, b"ok"), 64).unwrap_err(),
            NOT_UTF8
        );
    }

    #[test]
    fn compressed_both_ways() {
        let (deflate, _) = Deflate::negotiate(&[Parameters::default()], true).unwrap();
        let mut codec = Codec::new(100_000, Some(deflate));
        let text = "the same words again and again, ".repeat(1000);
        for round in 0..3 {
            let mut out = Vec::new();
            codec.encode(&mut out, true, text.as_bytes());
            assert!(out.len() < 1000, "{} bytes in round {round}", out.len());
            assert_eq!(out[0], 0xc1);
            // Played back as a client's frame.
            let skip = match out[1] {
                126 => 4,
                _ => 2,
            };
            let events = decode(&mut codec, &frame(0xc1, &out[skip..]), 7).unwrap();
            assert_eq!(events, [Event::Text(text.clone().into_bytes())]);
        }
    }

    #[test]
    fn inflation_is_bounded() {
        let (deflate, _) = Deflate::negotiate(&[Parameters::default()], true).unwrap();
        let mut sender = Codec::new(0, Some(deflate));
        let mut out = Vec::new();
        sender.encode(&mut out, false, &vec![0; 10_000_000]);
        let (deflate, _) = Deflate::negotiate(&[Parameters::default()], true).unwrap();
        let mut codec = Codec::new(1_000_000, Some(deflate));
        let skip = if out[1] == 126 { 4 } else { 2 };
        assert_eq!(
            decode(&mut codec, &frame(0xc2, &out[skip..]), 4096).unwrap_err(),
            TOO_BIG
        );
        let garbage = frame(0xc2, &[0xff; 50]);
        let (deflate, _) = Deflate::negotiate(&[Parameters::default()], true).unwrap();
        let mut codec = Codec::new(1_000_000, Some(deflate));
        assert_eq!(decode(&mut codec, &garbage, 64).unwrap_err().code, 1007);
    }
}
