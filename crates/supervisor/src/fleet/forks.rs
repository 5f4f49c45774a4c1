//! What the supervisor has to do with its nursery, and with processes that nobody waits for.

use std::time::Duration;

use evener_policy::lifecycle::{Event, State};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Death, Supervisor};
use crate::nursery::NurseryError;
use crate::spawn;
use crate::worker::{Note, Worker};

impl Supervisor {
    /// What the nursery, and the tasks that wait for its answers, have to say.
    pub(super) fn handle_fork_note(&mut self, note: Note) {
        match note {
            Note::Forked(id, pid) => {
                if let Some(worker) = self.workers.iter_mut().find(|worker| worker.id == id) {
                    worker.born(pid);
                    self.log
                        .debug(format_args!("{} (pid {pid}) started", worker.name));
                }
            }
            Note::Unborn(id) => {
                if let Some(index) = self.workers.iter().position(|worker| worker.id == id) {
                    let worker = self.forget(index);
                    if worker.restarts > 0 {
                        self.vacated.push(worker.restarts);
                    }
                }
            }
            Note::Refused(id, NurseryError::Refused { text, raised: true }) => {
                if let Some(index) = self.workers.iter().position(|worker| worker.id == id) {
                    self.forget(index);
                }
                self.handle_raised(&format!("exception in a hook:\n{text}"));
            }
            Note::Refused(id, error) => self.handle_unforked(id, &error),
            Note::Raised(text) => self.handle_raised(&text),
            Note::Renewed { answer, reply } => self.handle_renewed(answer, reply),
            Note::Answered(..) | Note::Exited(..) => unreachable!("handled by the caller"),
        }
    }

    /// A worker that never had a process is no more.
    fn forget(&mut self, index: usize) -> Worker {
        let now = self.now();
        let acts = self.workers[index].life.handle(now, Event::Exited);
        self.act(index, &acts);
        self.workers.remove(index)
    }

    /// The nursery is there, and could not fork: there is no memory, or no number, for a process.
    fn handle_unforked(&mut self, id: crate::WorkerId, error: &NurseryError) {
        let Some(index) = self.workers.iter().position(|worker| worker.id == id) else {
            return;
        };
        let worker = self.forget(index);
        self.handle_death(Death {
            name: worker.name,
            reason: format!("could not be forked: {error}"),
            started: worker.life.started(),
            ready: None,
            generation: worker.generation,
            why: worker.why,
            restarts: worker.restarts,
            code: None,
            signal: None,
            held: false,
            tail: Vec::new(),
        });
    }

    /// An exception in a hook of the server's side ends the program, as it ends gunicorn.
    fn handle_raised(&mut self, text: &str) {
        self.log.error(format_args!("{text}"));
        if self.raised {
            return;
        }
        self.raised = true;
        self.stopping = true;
        self.target = 0;
        let now = self.now();
        for index in 0..self.workers.len() {
            self.workers[index].leaving = true;
            let grace = Duration::ZERO;
            let acts = self.workers[index].life.handle(now, Event::Drain { grace });
            self.act(index, &acts);
        }
    }

    /// Has the nursery do something that it does in its own time; an exception that a hook raises
    /// is heard of later.
    pub(super) fn tell_nursery(&self, message: Value) {
        let Some(nursery) = self.settings.recipe.nursery().cloned() else {
            return;
        };
        let notes = self.notes_sender.clone();
        let answer = nursery.fork(message, Vec::new());
        tokio::spawn(async move {
            if let Ok(Err(NurseryError::Refused { text, raised: true })) = answer.await {
                let text = format!("exception in a hook:\n{text}");
                let _ = notes.send(Note::Raised(text)).await;
            }
        });
    }

    /// Replaces all workers, after the nursery has taken up what has changed.
    pub(super) fn reload(&mut self, reply: Option<oneshot::Sender<u32>>) {
        let Some(nursery) = self.settings.recipe.nursery().cloned() else {
            return self.replace_all(reply);
        };
        let notes = self.notes_sender.clone();
        tokio::spawn(async move {
            let answer = nursery.reload().await;
            let _ = notes.send(Note::Renewed { answer, reply }).await;
        });
    }

    fn handle_renewed(
        &mut self,
        answer: Result<Value, NurseryError>,
        reply: Option<oneshot::Sender<u32>>,
    ) {
        let judged = match answer {
            Err(NurseryError::Refused { text, raised: true }) => {
                return self.handle_raised(&format!("exception in a hook:\n{text}"));
            }
            Err(error) => Err(error.to_string()),
            Ok(settings) => match &self.settings.reconfigure {
                Some(reconfigure) if settings.is_object() => (reconfigure.0)(&settings).map(Some),
                _ => Ok(None),
            },
        };
        match judged {
            Ok(changes) => {
                let changes = changes.unwrap_or_default();
                if let Some(recycle) = changes.recycle {
                    self.settings.recycle = recycle;
                }
                if let Some(stall) = changes.stall {
                    self.settings.stall = stall;
                }
                if let Some(grace) = changes.grace {
                    self.settings.patience.grace = grace;
                    self.grace = grace;
                }
                if let Some(count) = changes.count {
                    // The hook has heard of it already.
                    self.target = count.clamp(1, self.settings.count_max);
                }
                self.replace_all(reply);
            }
            Err(reason) => {
                self.log.error(format_args!(
                    "the reload was given up, and nothing has changed: {reason}"
                ));
                // Whoever waits for it learns that it failed.
                let generation = self.rollout.request();
                if let Some(end) = self.rollout.handle_failure(&reason) {
                    self.finish_rollout(end);
                }
                if let Some(reply) = reply {
                    let _ = reply.send(generation);
                }
            }
        }
    }

    fn replace_all(&mut self, reply: Option<oneshot::Sender<u32>>) {
        if self.stopping {
            return;
        }
        self.restarts.forgive();
        let generation = self.rollout.request();
        if let Some(reply) = reply {
            // The one who asked may have left.
            let _ = reply.send(generation);
        }
    }

    /// Takes note of the end of processes that came to us because their parents are gone: as the
    /// first process of a container, or below a nursery.
    pub(super) fn reap_strangers(&self) {
        if self.settings.recipe.nursery().is_none() && std::process::id() != 1 {
            // Nobody's children come to us: what ends is waited for by whoever started it.
            return;
        }
        let ordered = |worker: &crate::worker::Worker| {
            worker.pid == 0 && worker.life.state() == State::Starting
        };
        if self.workers.iter().any(ordered) {
            // One of them may be the worker whose number is not known yet; the next end, or the
            // next worker, brings us back.
            return;
        }
        for pid in spawn::ended_children() {
            let worker = self.workers.iter().any(|worker| worker.pid == pid);
            let kin = self.kin.has(pid);
            if !worker && !kin && matches!(spawn::reap(pid), Ok(Some(_))) {
                self.log.debug(format_args!(
                    "process {pid}, whose parent was gone, has ended"
                ));
            }
        }
    }
}
