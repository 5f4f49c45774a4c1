//! WebSocket: handshake, framing, compression, and the conversation with the application.
//!
//! `handshake` reads the request and writes the answer, `codec` and `deflate` turn bytes into
//! messages and back, `socket` is the state of one WebSocket between them and ASGI. Sockets and
//! buffers are `connection`'s.

pub(crate) mod codec;
pub(crate) mod deflate;
pub(crate) mod handshake;
pub(crate) mod socket;
