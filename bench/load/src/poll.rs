//! Readiness by epoll, level-triggered, with deadlines in nanoseconds (a coarse timer would show
//! up as latency).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::clock::SECOND;

/// What happened to the descriptor that was registered under `key`.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// What the descriptor was registered as.
    pub key: u64,
    /// Data, an end or an error can be read.
    pub readable: bool,
    /// A write, or the end of a connect, will not block.
    pub writable: bool,
}

/// An epoll descriptor and the room for what it reports.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    /// A poller that watches nothing yet.
    ///
    /// # Errors
    /// The kernel's, when descriptors have run out.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(1024),
        })
    }

    /// Watches a descriptor, for writability too if `writable`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&self, source: impl AsFd, key: u64, writable: bool) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            source,
            EventData::new_u64(key),
            flags(writable),
        )?;
        Ok(())
    }

    /// Changes what a watched descriptor is watched for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(&self, source: impl AsFd, key: u64, writable: bool) -> io::Result<()> {
        epoll::modify(
            &self.epoll,
            source,
            EventData::new_u64(key),
            flags(writable),
        )?;
        Ok(())
    }

    /// Watches a descriptor no more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        epoll::delete(&self.epoll, source)?;
        Ok(())
    }

    /// Waits for at most `nanoseconds` (for ever, if none) and gives what happened.
    ///
    /// # Errors
    /// The kernel's; an interruption is no error and gives nothing.
    pub fn wait(&mut self, nanoseconds: Option<u64>) -> io::Result<Vec<Ready>> {
        let timeout = nanoseconds.map(|n| Timespec {
            tv_sec: (n / SECOND) as i64,
            tv_nsec: (n % SECOND) as i64,
        });
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(ready).collect())
    }
}

fn flags(writable: bool) -> EventFlags {
    if writable {
        EventFlags::IN | EventFlags::OUT
    } else {
        EventFlags::IN
    }
}

fn ready(event: &Event) -> Ready {
    let flags = event.flags;
    let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
    Ready {
        key: event.data.u64(),
        readable: broken || flags.contains(EventFlags::IN),
        writable: broken || flags.contains(EventFlags::OUT),
    }
}
