//! The socket between the program and its nursery: whole messages, with descriptors. What they
//! mean is left to the driver.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use serde_json::Value;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest message; settings with long lists stay far below.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Descriptors that go along with one message.
const DESCRIPTORS_MAX: usize = 8;

/// Our end of the socket.
#[derive(Debug)]
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) text: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Link {
    /// A new socket, and the end that the nursery gets.
    pub(crate) fn pair() -> io::Result<(Link, OwnedFd)> {
        let mut ends = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: `ends` has room for the two descriptors.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made and belong to nobody else.
        let (ours, theirs) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // SAFETY: plain numbers; the descriptor is open.
        if unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: an owned descriptor stands for the same open file all its life.
        let socket = unsafe { AsyncFd::register_with_interest(ours, interest) }?;
        Ok((Link { socket }, theirs))
    }

    /// The next message; `None` when the nursery has let go of its end. Nothing is lost when the
    /// future is dropped.
    pub(crate) async fn receive(&self) -> io::Result<Option<Value>> {
        let mut buffer = vec![0_u8; MESSAGE_BYTES_MAX];
        let length = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                // SAFETY: the buffer is as long as it is said to be.
                let length = unsafe {
                    libc::recv(
                        socket.as_raw_fd(),
                        buffer.as_mut_ptr().cast(),
                        buffer.len(),
                        0,
                    )
                };
                usize::try_from(length).map_err(|_| io::Error::last_os_error())
            })
            .await?;
        if length == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&buffer[..length])
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Sends one message, once there is room for it.
    pub(crate) async fn send(&self, message: &Message) -> io::Result<()> {
        let raw: Vec<RawFd> = message.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        assert!(raw.len() <= DESCRIPTORS_MAX, "descriptors have a bound");
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                send(socket.as_raw_fd(), &message.text, &raw)
            })
            .await
    }
}

fn send(socket: RawFd, text: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let mut part = libc::iovec {
        iov_base: text.as_ptr().cast_mut().cast(),
        iov_len: text.len(),
    };
    let bytes = size_of_val(descriptors);
    // Words, so that the control message is aligned.
    let mut control = [0_u64; 16];
    // SAFETY: all-zero is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !descriptors.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: these compute lengths from a length; `control` has room for `DESCRIPTORS_MAX`.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(bytes as u32) } as _;
        // SAFETY: the header has room for one control message, which is written within it.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(bytes as u32) as _;
            std::ptr::copy_nonoverlapping(
                descriptors.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(message),
                bytes,
            );
        }
    }
    // SAFETY: everything that the header points to lives until the call returns.
    let sent = unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
