//! How the rest of the program talks to a running supervisor: commands in, snapshots out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::ReliefSettings;
use crate::nursery::Kin;
use crate::status::Status;

/// A number of workers that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleError {
    /// The most that can be asked for; the least is 1.
    pub count_max: usize,
    /// Why it is not more, in words that follow the number.
    pub reason: Option<String>,
}

impl fmt::Display for ScaleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the number of workers must be between 1 and {}{}",
            self.count_max,
            self.reason.as_deref().unwrap_or_default()
        )
    }
}

impl std::error::Error for ScaleError {}

pub(crate) enum Command {
    Reload(oneshot::Sender<u32>),
    Scale(usize, oneshot::Sender<usize>),
    ScaleBy(isize, oneshot::Sender<usize>),
    Bounds {
        count_max: usize,
        relief: Option<ReliefSettings>,
    },
    Rest,
    Lead,
    Signal(i32),
    Stop {
        grace: Duration,
        signal: Option<i32>,
    },
    Hurry,
}

/// A way to talk to a running supervisor. Calls after its end do nothing.
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) kin: Kin,
    pub(crate) alarm: Arc<Notify>,
    pub(crate) bounds: Arc<Mutex<ScaleError>>,
}

impl Handle {
    /// Has the workers looked at now: something is wrong with them. From any thread; never blocks.
    pub fn alarm(&self) {
        self.alarm.notify_one();
    }

    /// Replaces all workers one by one. Returns the generation whose rollout answers this
    /// request (see [`Status::rollouts`]); `None` when the supervisor is over.
    pub async fn reload(&self) -> Option<u32> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(Command::Reload(sender)).await.ok()?;
        receiver.await.ok()
    }

    /// Whether so many workers can be asked for.
    pub fn may_scale(&self, count: usize) -> Result<(), ScaleError> {
        let bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        match (1..=bounds.count_max).contains(&count) {
            true => Ok(()),
            false => Err(bounds.clone()),
        }
    }

    /// From now on so many workers can be asked for, and so many come by themselves.
    pub async fn set_bounds(&self, bounds: ScaleError, relief: Option<ReliefSettings>) {
        let count_max = bounds.count_max;
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = bounds;
        let _ = self
            .commands
            .send(Command::Bounds { count_max, relief })
            .await;
    }

    /// Changes the number of workers. Returns the new number.
    pub async fn scale(&self, count: usize) -> Result<usize, ScaleError> {
        self.may_scale(count)?;
        let (sender, receiver) = oneshot::channel();
        // A supervisor that is over keeps the number it had.
        let _ = self.commands.send(Command::Scale(count, sender)).await;
        Ok(receiver.await.unwrap_or(count))
    }

    /// Adds workers, or takes some away; stays within the bounds. Returns the new number; `None`
    /// when the supervisor is over.
    pub async fn scale_by(&self, difference: isize) -> Option<usize> {
        let (sender, receiver) = oneshot::channel();
        let command = Command::ScaleBy(difference, sender);
        self.commands.send(command).await.ok()?;
        receiver.await.ok()
    }

    /// Drains and ends all workers, and goes on without any until a number of them is wanted again.
    pub async fn rest(&self) {
        let _ = self.commands.send(Command::Rest).await;
    }

    /// Nobody outside leads any more: one of the workers does from now on.
    pub async fn lead(&self) {
        let _ = self.commands.send(Command::Lead).await;
    }

    /// Sends a signal to every worker that there is.
    pub async fn signal(&self, number: i32) {
        let _ = self.commands.send(Command::Signal(number)).await;
    }

    /// Drains and ends all workers; [`Supervisor::run`] then returns.
    pub async fn stop(&self, grace: Duration) {
        let signal = None;
        let _ = self.commands.send(Command::Stop { grace, signal }).await;
    }

    /// The same, and tells every worker first that it is to end at once, by a signal of its kind.
    pub async fn stop_by(&self, signal: i32, grace: Duration) {
        let signal = Some(signal);
        let _ = self.commands.send(Command::Stop { grace, signal }).await;
    }

    /// Takes the next step with every worker that is on its way out, without waiting for it.
    pub async fn hurry(&self) {
        let _ = self.commands.send(Command::Hurry).await;
    }

    /// Processes that somebody else waits for: their ends are not the supervisor's to take note of.
    pub fn kin(&self) -> &Kin {
        &self.kin
    }

    /// The fleet as it is now.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// Waits until the fleet is as `wanted`; false when the supervisor ended before.
    pub async fn wait(&mut self, mut wanted: impl FnMut(&Status) -> bool) -> bool {
        self.status.wait_for(|status| wanted(status)).await.is_ok()
    }
}
