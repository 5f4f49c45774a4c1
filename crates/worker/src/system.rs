//! The system calls of the worker, made safe: epoll, timers, accept, receive, send.
//!
//! Everything here is non-blocking and returns what the kernel said; what to do about it is for
//! the callers. All the `unsafe` of the I/O path is in this file.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Readiness flags for a connection: edge-triggered, so that they are registered once.
pub(crate) const READ: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
/// As [`READ`], and woken when there is room to write again.
pub(crate) const READ_WRITE: u32 = READ | libc::EPOLLOUT as u32;
/// Readiness flags for listeners and timers: level-triggered.
pub(crate) const LEVEL: u32 = libc::EPOLLIN as u32;

/// What one receive brought.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes were appended.
    Bytes(usize),
    /// The sender has shut its side down.
    End,
    /// Nothing there now; readiness will be announced.
    Later,
    /// The connection is broken.
    Broken,
}

/// An epoll descriptor.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointer; the descriptor it returns is ours alone.
        unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }.map(Epoll)
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn add(&self, fd: RawFd, token: u64, flags: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, flags)
    }

    pub(crate) fn modify(&self, fd: RawFd, token: u64, flags: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, flags)
    }

    pub(crate) fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, flags: u32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: flags,
            u64: token,
        };
        // SAFETY: `event` is valid for the call, which keeps no pointer to it.
        check(unsafe { libc::epoll_ctl(self.raw(), operation, fd, &raw mut event) }).map(|_| ())
    }

    /// Fills `events` with what is ready now, without waiting; returns how many.
    pub(crate) fn ready(&self, events: &mut [libc::epoll_event]) -> usize {
        let room = i32::try_from(events.len()).unwrap_or(i32::MAX);
        // SAFETY: `events` has room for as many entries as the call is told.
        let count = unsafe { libc::epoll_wait(self.raw(), events.as_mut_ptr(), room, 0) };
        usize::try_from(count).unwrap_or(0)
    }
}

/// A one-shot or periodic timer that shows up as a readable descriptor.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Timer> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes no pointer; the descriptor it returns is ours alone.
        unsafe { owned(libc::timerfd_create(libc::CLOCK_MONOTONIC, flags)) }.map(Timer)
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Fires after `first`, then every `period` (never again if that is zero). Both zero: disarm.
    pub(crate) fn set(&self, first: Duration, period: Duration) {
        let timespec = |duration: Duration| libc::timespec {
            tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(duration.subsec_nanos() as i32),
        };
        let setting = libc::itimerspec {
            it_value: timespec(first),
            it_interval: timespec(period),
        };
        // SAFETY: `setting` is valid for the call; no old value is asked for.
        let status = unsafe {
            libc::timerfd_settime(self.raw(), 0, &raw const setting, std::ptr::null_mut())
        };
        debug_assert_eq!(
            status, 0,
            "a valid setting on a timer descriptor cannot fail"
        );
    }

    pub(crate) fn disarm(&self) {
        self.set(Duration::ZERO, Duration::ZERO);
    }

    /// Takes note that it fired, so that it is no longer readable.
    pub(crate) fn acknowledge(&self) {
        let mut count = 0_u64;
        // SAFETY: `count` has the eight bytes that the read is told.
        unsafe { libc::read(self.raw(), (&raw mut count).cast(), 8) };
    }
}

/// Takes one connection off the backlog; `None` when it is empty.
pub(crate) fn accept(listener: RawFd) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null address pointers are allowed; the descriptor it returns is ours alone.
    let raw = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    // SAFETY: as above.
    match unsafe { owned(raw) } {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ECONNABORTED | libc::EINTR) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Asks TCP to send small writes at once. Does nothing to other sockets.
pub(crate) fn set_no_delay(fd: RawFd) {
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `on` is valid for the call and has the size it is told.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size,
        )
    };
}

/// Appends up to `most` bytes to `buffer`.
pub(crate) fn receive(fd: RawFd, buffer: &mut Vec<u8>, most: usize) -> Received {
    buffer.reserve(most);
    let spare = buffer.spare_capacity_mut();
    // SAFETY: `spare` has room for at least `most` bytes.
    let count = unsafe { libc::recv(fd, spare.as_mut_ptr().cast(), most, libc::MSG_DONTWAIT) };
    match usize::try_from(count) {
        Ok(0) => Received::End,
        Ok(count) => {
            // SAFETY: the kernel wrote `count` bytes right after the old length.
            unsafe { buffer.set_len(buffer.len() + count) };
            Received::Bytes(count)
        }
        Err(_) => match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Received::Later,
            _ => Received::Broken,
        },
    }
}

/// Sends from `pieces` what the socket takes now; `Ok(0)` when it takes nothing.
pub(crate) fn send(fd: RawFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let count = if let [piece] = pieces {
        // SAFETY: the slice is valid for its length.
        unsafe { libc::send(fd, piece.as_ptr().cast(), piece.len(), flags) }
    } else {
        // SAFETY: all-zero is a valid message header: no address, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = pieces.len() as _;
        // SAFETY: `IoSlice` is `iovec` by contract; the call only reads through the pointers.
        unsafe { libc::sendmsg(fd, &raw const message, flags) }
    };
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(0),
                _ => Err(error),
            }
        }
    }
}

/// Ends our side of a connection: the other side reads an end after what was sent.
pub(crate) fn shut_down_sending(fd: RawFd) {
    // SAFETY: takes no pointer.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Duplicates a descriptor that someone else owns, close-on-exec.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer; an invalid descriptor is reported, and the new one is ours.
    unsafe { owned(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0)) }
}

/// Makes a socket non-blocking.
pub(crate) fn set_non_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })
        .map(|_| ())
}

/// An address as Python's `socket` shows it: host and port, or the path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Ip(String, u16),
    Unix(String),
}

/// The address of the socket itself (`local`) or of the one at its other end.
pub(crate) fn address(fd: RawFd, local: bool) -> Option<Address> {
    // SAFETY: all-zero is a valid `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let pointer = (&raw mut storage).cast::<libc::sockaddr>();
    // SAFETY: `storage` has room for any address, and `length` says how much.
    let status = unsafe {
        if local {
            libc::getsockname(fd, pointer, &raw mut length)
        } else {
            libc::getpeername(fd, pointer, &raw mut length)
        }
    };
    check(status).ok()?;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is what the kernel wrote.
            let address = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in>() };
            let ip = std::net::Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(Address::Ip(ip.to_string(), u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in6>() };
            let ip = std::net::Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(Address::Ip(ip.to_string(), u16::from_be(address.sin6_port)))
        }
        libc::AF_UNIX => {
            // SAFETY: as above.
            let address = unsafe { &*(&raw const storage).cast::<libc::sockaddr_un>() };
            let bytes: Vec<u8> = address
                .sun_path
                .iter()
                .map(|&c| c as u8)
                .take_while(|&b| b != 0)
                .collect();
            Some(Address::Unix(String::from_utf8_lossy(&bytes).into_owned()))
        }
        _ => None,
    }
}

/// # Safety
/// A non-negative `raw` is a descriptor that nobody else owns.
unsafe fn owned(raw: RawFd) -> io::Result<OwnedFd> {
    check(raw)?;
    // SAFETY: the caller's promise, and `check` has made sure that it is non-negative.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn check(status: i32) -> io::Result<i32> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(status)
    }
}

/// Seconds since 1970, from the coarse clock: a few milliseconds late, and almost free.
pub(crate) fn unix_seconds() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0)
}
