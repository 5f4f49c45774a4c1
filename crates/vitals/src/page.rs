//! The mapping: creates, opens, checks and unmaps a vitals page.
//!
//! The page lives in a sealed memfd: neither side can shrink or grow it, so a mapped word can
//! never fault. Neither side trusts the other's words for memory safety: slots are bounds-checked
//! against the size fixed at creation, and every bit pattern of every word is valid.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::claim::{ClaimState, ClaimWord};
use crate::hold::HoldWord;
use crate::vitals::{State, VitalWords, Vitals, Writer};

/// The most request slots that a page may have.
pub const SLOTS_MAX: u32 = 1 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"EVENERvp");
const VERSION: u32 = 2;
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// The fixed head of the page; the slots follow it.
#[derive(Debug)]
#[repr(C, align(64))]
struct Header {
    magic: u64,
    version: u32,
    slots: u32,
    size_bytes: u64,
    reserved: [u64; 5],
    vitals: VitalWords,
}

const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(
    HEADER_BYTES == 128,
    "the layout is a contract between two processes"
);

/// What a connection between edge and worker has on the page.
#[derive(Debug)]
#[repr(C)]
struct Slot {
    claim: ClaimWord,
    hold: HoldWord,
}

/// A mapped vitals page. It unmaps when dropped.
#[derive(Debug)]
pub struct Page {
    base: NonNull<u8>,
    length: usize,
    slots: u32,
}

// SAFETY: the mapping belongs to this value alone, and everything shared in it is atomic.
unsafe impl Send for Page {}
// SAFETY: as above; the plain header words are written before the page is shared, never after.
unsafe impl Sync for Page {}

impl Page {
    /// Makes a page with `slots` request slots, and the descriptor to hand to the worker
    /// (close-on-exec: the one who spawns the worker places it).
    ///
    /// # Errors
    /// `InvalidInput` for more than [`SLOTS_MAX`] slots; otherwise what the system said.
    pub fn create(slots: u32) -> io::Result<(Page, OwnedFd)> {
        if slots > SLOTS_MAX {
            return Err(invalid(format!(
                "a vitals page of {slots} slots: at most {SLOTS_MAX}"
            )));
        }
        let length = page_bytes(slots);
        // SAFETY: the name is a nul-terminated literal.
        let raw = unsafe {
            libc::memfd_create(
                c"evener-vitals".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
            )
        };
        let fd = owned(raw)?;
        let size = libc::off_t::try_from(length).map_err(|_| invalid("page too large".into()))?;
        // SAFETY: `fd` is a descriptor that we own.
        check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
        let page = Page {
            base: map(fd.as_fd(), length)?,
            length,
            slots,
        };
        let header = page.base.cast::<Header>().as_ptr();
        // SAFETY: the mapping is at least a header long, aligned to a memory page, zeroed, and
        // not shared with anyone yet, so plain writes are fine.
        unsafe {
            (*header).magic = MAGIC;
            (*header).version = VERSION;
            (*header).slots = slots;
            (*header).size_bytes = length as u64;
        }
        Ok((page, fd))
    }

    /// Maps a page that another process made.
    ///
    /// # Errors
    /// `InvalidData` if the descriptor is not a sealed vitals page of this version; otherwise
    /// what the system said.
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Page> {
        // SAFETY: `fd` is open, and the command takes no argument.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(not_a_page("the descriptor is not a sealed memfd"));
        }
        // SAFETY: all-zero is a valid stat.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is a valid place for the answer.
        check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
        let length =
            usize::try_from(stat.st_size).map_err(|_| not_a_page("its size is negative"))?;
        if length < HEADER_BYTES || length > page_bytes(SLOTS_MAX) {
            return Err(not_a_page("its size fits no page"));
        }
        let mut page = Page {
            base: map(fd, length)?,
            length,
            slots: 0,
        };
        let header = page.header();
        let (magic, version, slots, size) = (
            header.magic,
            header.version,
            header.slots,
            header.size_bytes,
        );
        if magic != MAGIC {
            return Err(not_a_page("it does not begin with the magic word"));
        }
        if version != VERSION {
            return Err(not_a_page(&format!(
                "its version is {version}, this side has {VERSION}"
            )));
        }
        if slots > SLOTS_MAX || size != length as u64 || page_bytes(slots) != length {
            return Err(not_a_page("its size does not match its slots"));
        }
        page.slots = slots;
        Ok(page)
    }

    /// How many request slots the page has.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// A snapshot of all vitals.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.header().vitals.snapshot()
    }

    /// When the worker's loop last turned, in nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn tick_ns(&self) -> u64 {
        self.header().vitals.tick_ns.load(Ordering::Acquire)
    }

    /// Requests and WebSockets in flight in the worker.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.header().vitals.in_flight.load(Ordering::Acquire)
    }

    /// The phase of the worker's life.
    #[must_use]
    pub fn state(&self) -> State {
        State::from_word(self.header().vitals.state.load(Ordering::Acquire))
    }

    /// The worker's side: setters for the vitals.
    #[must_use]
    pub fn writer(&self) -> Writer<'_> {
        Writer {
            words: &self.header().vitals,
        }
    }

    /// The edge offers request `seq` on `slot`; to be called before its first byte is sent.
    ///
    /// # Panics
    /// If `slot` is not below [`Page::slots`]: slots are handed out by the edge itself.
    pub fn offer(&self, slot: u32, seq: u64) {
        self.claim_word(slot)
            .expect("the edge hands out slots below slots()")
            .offer(seq);
    }

    /// The edge takes request `seq` back. True: the worker has not started it and never will.
    #[must_use]
    pub fn take_back(&self, slot: u32, seq: u64) -> bool {
        self.claim_word(slot)
            .is_some_and(|word| word.take_back(seq))
    }

    /// The worker claims request `seq`, before it builds the scope. False: drop the request and
    /// the connection it came on.
    #[must_use]
    pub fn claim(&self, slot: u32, seq: u64) -> bool {
        self.claim_word(slot).is_some_and(|word| word.claim(seq))
    }

    /// Whether the worker has claimed request `seq`.
    #[must_use]
    pub fn is_claimed(&self, slot: u32, seq: u64) -> bool {
        self.claim_word(slot)
            .is_some_and(|word| word.is_claimed(seq))
    }

    /// The worker reports that request `seq` has held its event loop for so long at a stretch; to
    /// be called before the end of the response is sent.
    pub fn report_hold(&self, slot: u32, seq: u64, held: Duration) {
        if let Some(slot) = self.at(slot) {
            slot.hold.report(seq, held);
        }
    }

    /// For how long request `seq` has held its worker's event loop, if the worker found that worth
    /// reporting.
    #[must_use]
    pub fn hold(&self, slot: u32, seq: u64) -> Option<Duration> {
        self.at(slot)?.hold.of(seq)
    }

    /// The sequence and state of a slot; `None` if there is no such slot.
    #[must_use]
    pub fn slot(&self, slot: u32) -> Option<(u64, ClaimState)> {
        self.claim_word(slot).map(ClaimWord::load)
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping is at least a header long and aligned to a memory page; it lives
        // as long as `self`; the plain words are never written after creation.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    fn claim_word(&self, slot: u32) -> Option<&ClaimWord> {
        self.at(slot).map(|slot| &slot.claim)
    }

    fn at(&self, slot: u32) -> Option<&Slot> {
        if slot >= self.slots {
            return None;
        }
        // SAFETY: `slot < slots`, and creation and opening both made sure that the mapping holds
        // that many slots after the header; a slot is two atomic u64, 8-aligned.
        unsafe {
            let slots = self.base.add(HEADER_BYTES).cast::<Slot>();
            Some(slots.add(slot as usize).as_ref())
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are what mmap gave, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

fn page_bytes(slots: u32) -> usize {
    (HEADER_BYTES + slots as usize * size_of::<Slot>()).next_multiple_of(4096)
}

fn map(fd: BorrowedFd<'_>, length: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(base.cast()).expect("mmap never maps address 0 unasked"))
}

fn owned(raw: libc::c_int) -> io::Result<OwnedFd> {
    check(raw)?;
    // SAFETY: the call that made `raw` succeeded and gave it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn not_a_page(why: &str) -> io::Error {
    let text = format!("not a vitals page of this version of Evener: {why}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monotonic_ns;

    #[test]
    fn both_sides_see_the_same_words() {
        let (edge, fd) = Page::create(64).unwrap();
        let worker = Page::open(fd.as_fd()).unwrap();
        assert_eq!(worker.slots(), 64);
        assert_eq!(edge.vitals(), Vitals::default());

        let now = monotonic_ns();
        let writer = worker.writer();
        writer.begin();
        writer.tick(now);
        writer.set_lag_us(3);
        writer.set_queue_wait_us(4);
        writer.set_rss_bytes(5);
        writer.set_state(State::Ready);
        let expected = Vitals {
            tick_ns: now,
            lag_us: 3,
            in_flight: 1,
            queue_wait_us: 4,
            done: 0,
            rss_bytes: 5,
            state: State::Ready,
        };
        assert_eq!(edge.vitals(), expected);
        assert_eq!(
            (edge.tick_ns(), edge.in_flight(), edge.state()),
            (now, 1, State::Ready)
        );
        writer.end(true);
        assert_eq!((edge.vitals().in_flight, edge.vitals().done), (0, 1));

        edge.offer(63, 1);
        assert!(worker.claim(63, 1));
        assert!(edge.is_claimed(63, 1));
        assert!(!edge.take_back(63, 1));
    }

    #[test]
    fn a_slot_beyond_the_page_is_refused() {
        let (page, _fd) = Page::create(2).unwrap();
        assert!(!page.claim(2, 0));
        assert!(!page.take_back(u32::MAX, 0));
        assert_eq!(page.slot(2), None);
        assert!(Page::create(SLOTS_MAX + 1).is_err());
    }

    #[test]
    fn what_is_not_a_page_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Page::open(file.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("sealed memfd"), "{error}");
    }

    #[test]
    fn the_page_can_neither_shrink_nor_grow() {
        let (_page, fd) = Page::create(1).unwrap();
        // SAFETY: a call on a descriptor that we own.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), 0) }, -1);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), 1 << 20) }, -1);
    }
}
