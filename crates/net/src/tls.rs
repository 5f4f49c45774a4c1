//! TLS on one connection: records in and out of a TCP stream, by rustls.
//!
//! rustls does the protocol, this file the moving of bytes: what is encrypted and not yet taken by
//! the kernel is kept, and nothing more is encrypted until it has gone, so that a slow peer is felt
//! by whoever writes. What certificates and protocols to use is left to those who make the
//! configuration.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection, InvalidMessage, ServerConfig, ServerConnection,
};

/// Most bytes of clear text that one write encrypts before they are handed to the kernel: four
/// records of the largest size (RFC 8446, 5.1).
const PLAIN_BYTES_MAX: usize = 64 * 1024;

/// A TCP stream that carries TLS.
pub(crate) struct TlsStream {
    pub(crate) tcp: TcpStream,
    connection: Connection,
    /// What goes ahead of TLS in clear text, and has not gone yet.
    before: Vec<u8>,
    /// Clear text that was decrypted and not read yet.
    plain_bytes: usize,
    /// The kernel had no more bytes when it was last asked.
    drained: bool,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

/// Reads from the kernel, and notes when it has given all it had.
struct Metered<'a> {
    tcp: &'a mut TcpStream,
    drained: &'a mut bool,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.tcp.read(buffer);
        *self.drained = match &result {
            Ok(count) => *count > 0 && *count < buffer.len(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        result
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

impl TlsStream {
    /// The server's side of a connection that was just accepted.
    pub(crate) fn server(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream> {
        ServerConnection::new(config)
            .map(|connection| TlsStream::new(tcp, connection.into()))
            .map_err(invalid)
    }

    /// The client's side of a connection that is being made.
    pub(crate) fn client(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        before: &[u8],
    ) -> io::Result<TlsStream> {
        let connection = ClientConnection::new(config, name).map_err(invalid)?;
        let mut stream = TlsStream::new(tcp, connection.into());
        stream.before = before.to_vec();
        Ok(stream)
    }

    fn new(tcp: TcpStream, mut connection: Connection) -> TlsStream {
        connection.set_buffer_limit(Some(PLAIN_BYTES_MAX));
        TlsStream {
            tcp,
            connection,
            before: Vec::new(),
            plain_bytes: 0,
            drained: false,
        }
    }

    /// The protocol that both sides agreed on (ALPN, RFC 7301), once the handshake is over.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// The certificate chain that the peer has shown, its own certificate first.
    pub(crate) fn peer_certificates(&self) -> &[rustls::pki_types::CertificateDer<'static>] {
        self.connection.peer_certificates().unwrap_or_default()
    }

    /// Whether a read could give something without a further event.
    pub(crate) fn may_have_more(&self) -> bool {
        self.plain_bytes > 0 || !self.drained
    }

    /// Notes that the kernel has something new to give.
    pub(crate) fn refilled(&mut self) {
        self.drained = false;
    }

    /// Clear text into `buffer`; 0 when the peer has ended its side properly. An end without
    /// TLS's own closing alert is `UnexpectedEof`: the stream may have been cut by anybody.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Ok(count) => {
                    self.plain_bytes = self.plain_bytes.saturating_sub(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.pull()?;
        }
    }

    /// Sends bytes as they are, to a peer that has shown that it speaks no TLS.
    pub(crate) fn write_clear(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.write(bytes)
    }

    /// Moves the handshake on; `true` once it is over.
    pub(crate) fn shake_hands(&mut self) -> io::Result<bool> {
        while self.connection.is_handshaking() {
            self.flush()?;
            match self.pull() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Takes encrypted bytes from the kernel and decrypts them, and sends what TLS itself has to
    /// say to them.
    fn pull(&mut self) -> io::Result<()> {
        let mut metered = Metered {
            tcp: &mut self.tcp,
            drained: &mut self.drained,
        };
        if self.connection.read_tls(&mut metered)? == 0 && self.connection.is_handshaking() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match self.connection.process_new_packets() {
            Ok(state) => self.plain_bytes = state.plaintext_bytes_to_read(),
            Err(error) => {
                let speaks_clear_text =
                    rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
                if self.connection.is_handshaking() && error == speaks_clear_text {
                    return Err(io::Error::new(ErrorKind::Unsupported, error));
                }
                // The alert tells the peer what was wrong, if it still listens.
                let _ = self.flush();
                return Err(invalid(error));
            }
        }
        if self.connection.wants_write() {
            self.flush()?;
        }
        Ok(())
    }

    /// Encrypts and sends; returns how many bytes of clear text were taken. They may still be on
    /// their way to the kernel: see [`TlsStream::is_flushed`].
    pub(crate) fn write(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let count = self.connection.writer().write(rest)?;
                taken += count;
                rest = &rest[count..];
                if !rest.is_empty() && !self.flush()? {
                    return Ok(taken);
                }
            }
        }
        self.flush()?;
        Ok(taken)
    }

    /// Hands what is encrypted to the kernel; returns whether all of it has gone.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while !self.before.is_empty() {
            match self.tcp.write(&self.before) {
                Ok(count) => drop(self.before.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether nothing waits for the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.connection.wants_write()
    }

    /// Says that nothing more will be sent (RFC 8446, 6.1).
    pub(crate) fn send_close_notify(&mut self) {
        // Before the handshake is over there is nothing that could be cut short.
        if self.connection.is_handshaking() {
            return;
        }
        self.connection.send_close_notify();
        // A kernel that takes it no more has no peer to give it to, or a slow one.
        let _ = self.flush();
    }
}
