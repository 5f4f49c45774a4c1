//! Which streams of a connection have something new, be it that `h2` says so or a pipe.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The streams to look at, and the wakers by which `h2` names them.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    woken: Arc<Woken>,
    /// One for each place.
    list: Vec<Waker>,
}

#[derive(Debug, Default)]
struct Woken {
    places: Mutex<Vec<usize>>,
}

impl Woken {
    fn add(&self, place: usize) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.last() != Some(&place) {
            places.push(place);
        }
    }
}

#[derive(Debug)]
struct StreamWaker {
    woken: Arc<Woken>,
    place: usize,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.woken.add(self.place);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.add(self.place);
    }
}

impl Wakers {
    /// There is something new for the stream at this place.
    pub(super) fn add(&self, place: usize) {
        self.woken.add(place);
    }

    /// The places with something new; some may be named twice, or be empty by now.
    pub(super) fn take(&self) -> Vec<usize> {
        let places = self.woken.places.lock();
        std::mem::take(&mut *places.unwrap_or_else(PoisonError::into_inner))
    }

    /// What wakes the stream at this place.
    pub(super) fn of(&mut self, place: usize) -> &Waker {
        while self.list.len() <= place {
            self.list.push(Waker::from(Arc::new(StreamWaker {
                woken: self.woken.clone(),
                place: self.list.len(),
            })));
        }
        &self.list[place]
    }

    /// No stream is left: gives memory back.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }
}
