//! Messages to a shard from other threads. Posting wakes the shard out of its wait.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mio::{Registry, Token, Waker};

/// The receiving end, owned by the shard.
#[derive(Debug)]
pub struct Mailbox<M> {
    shared: Arc<Shared<M>>,
}

/// A sending end; cheap to clone.
#[derive(Debug)]
pub struct Postbox<M> {
    shared: Arc<Shared<M>>,
}

#[derive(Debug)]
struct Shared<M> {
    messages: Mutex<VecDeque<M>>,
    waker: Waker,
}

/// A mailbox whose arrival of messages is reported as readiness of `token`.
pub fn mailbox<M>(registry: &Registry, token: Token) -> io::Result<(Mailbox<M>, Postbox<M>)> {
    let waker = Waker::new(registry, token)?;
    let shared = Arc::new(Shared {
        messages: Mutex::new(VecDeque::new()),
        waker,
    });
    Ok((
        Mailbox {
            shared: shared.clone(),
        },
        Postbox { shared },
    ))
}

impl<M> Mailbox<M> {
    /// The oldest message, if there is one.
    pub fn take(&self) -> Option<M> {
        self.shared
            .messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

impl<M> Postbox<M> {
    /// Leaves a message and wakes the shard.
    pub fn post(&self, message: M) {
        let first = {
            let mut messages = self
                .shared
                .messages
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            messages.push_back(message);
            messages.len() == 1
        };
        // Only the first message needs a wake-up: the shard takes all there are. A failed wake-up
        // (descriptor gone) means that the shard has ended and nobody waits for the message.
        if first {
            let _ = self.shared.waker.wake();
        }
    }
}

impl<M> Clone for Postbox<M> {
    fn clone(&self) -> Self {
        Postbox {
            shared: self.shared.clone(),
        }
    }
}
