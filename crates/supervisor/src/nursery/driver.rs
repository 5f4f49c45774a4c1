//! The task that talks to the nursery: numbers its orders, hands out its answers, and starts a new
//! one when it is gone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use evener_telemetry::Log;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use super::link::{Link, Message};
use super::{Kin, NurseryError, NurserySettings, NurseryStart, SetUp};
use crate::spawn;

/// How long a nursery that was told to go may take.
const QUIT: Duration = Duration::from_secs(2);
/// Pauses between attempts to start a nursery again.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(10);

type Reply = oneshot::Sender<Result<Value, NurseryError>>;

/// What the nursery is to do.
#[derive(Debug)]
pub(super) enum Order {
    SetUp {
        set_up: SetUp,
        reply: Reply,
    },
    Tell {
        message: Value,
        descriptors: Vec<OwnedFd>,
        reply: Reply,
    },
    Reload {
        reply: Reply,
    },
    Quit {
        reply: Reply,
    },
    /// What happens is told to this log from now on.
    Log(Log),
    /// The flags of workers from now on.
    Arguments(Vec<String>),
}

/// A running nursery process.
#[derive(Debug)]
struct Process {
    child: Child,
    pid: u32,
    link: Link,
}

/// What is done when an answer comes.
#[derive(Debug)]
struct Pending {
    reply: Reply,
    /// The age of the worker that was ordered.
    forked: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Driver {
    settings: NurserySettings,
    log: Log,
    orders: mpsc::UnboundedReceiver<Order>,
    kin: Kin,
    asked: mpsc::Sender<usize>,
    process: Process,
    outgoing: VecDeque<Message>,
    pending: HashMap<u64, Pending>,
    next_id: u64,
    set_up: Option<SetUp>,
    /// The environment that hooks have left behind.
    environment: Value,
    /// Process ids and ages of the workers that were forked and not reported gone.
    workers: BTreeMap<u64, u64>,
}

impl Driver {
    pub(super) async fn start(
        settings: NurserySettings,
        log: Log,
        orders: mpsc::UnboundedReceiver<Order>,
        kin: Kin,
        asked: mpsc::Sender<usize>,
    ) -> Result<(Driver, Value), NurseryStart> {
        let (process, loaded) = begin(&settings, &kin).await?;
        let driver = Driver {
            settings,
            log,
            orders,
            kin,
            asked,
            process,
            outgoing: VecDeque::new(),
            pending: HashMap::new(),
            next_id: 1,
            set_up: None,
            environment: Value::Null,
            workers: BTreeMap::new(),
        };
        Ok((driver, loaded))
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                sent = send_first(&self.process.link, self.outgoing.front()) => {
                    match sent {
                        Ok(()) => drop(self.outgoing.pop_front()),
                        Err(_) => self.restart().await,
                    }
                }
                message = self.process.link.receive() => match message {
                    Ok(Some(message)) => self.handle_message(message),
                    Ok(None) | Err(_) => self.restart().await,
                },
                order = self.orders.recv() => match order {
                    None => return,
                    Some(Order::Log(log)) => self.log = log,
                    Some(Order::Arguments(arguments)) => self.use_arguments(arguments),
                    Some(Order::Quit { reply }) => {
                        self.quit().await;
                        let _ = reply.send(Ok(Value::Null));
                        return;
                    }
                    Some(Order::Reload { reply }) => self.reload(reply).await,
                    Some(Order::SetUp { set_up, reply }) => {
                        let message = self.set_up_message(&set_up, false);
                        self.set_up = Some(set_up);
                        self.post(message, Vec::new(), reply);
                    }
                    Some(Order::Tell { message, descriptors, reply }) => {
                        self.post(message, descriptors, reply);
                    }
                },
            }
        }
    }

    /// Puts a message on its way.
    fn post(&mut self, mut message: Value, descriptors: Vec<OwnedFd>, reply: Reply) {
        let id = self.next_id;
        self.next_id += 1;
        let forked = (message["do"] == "fork").then(|| message["age"].as_u64().unwrap_or(0));
        if message["do"] == "exited" {
            self.workers
                .remove(&message["pid"].as_u64().unwrap_or_default());
        }
        message["id"] = json!(id);
        self.pending.insert(id, Pending { reply, forked });
        let text = message.to_string().into_bytes();
        self.outgoing.push_back(Message { text, descriptors });
    }

    fn handle_message(&mut self, mut message: Value) {
        if let Some(count) = message["count"].as_u64() {
            // One request more or less does not matter when there are very many.
            let _ = self.asked.try_send(usize::try_from(count).unwrap_or(1));
            return;
        }
        let Some(pending) = message["reply"]
            .as_u64()
            .and_then(|id| self.pending.remove(&id))
        else {
            return;
        };
        if let (Some(age), Some(pid)) = (pending.forked, message["pid"].as_u64()) {
            self.workers.insert(pid, age);
        }
        if message["environment"].is_object() {
            self.environment = message["environment"].take();
        }
        // Whoever asked may have left.
        let _ = pending.reply.send(judged(message));
    }

    fn use_arguments(&mut self, arguments: Vec<String>) {
        let Some(set_up) = &mut self.set_up else {
            return;
        };
        if set_up.arguments != arguments {
            set_up.arguments.clone_from(&arguments);
            let message = json!({"do": "arguments", "arguments": arguments});
            self.post(message, Vec::new(), oneshot::channel().0);
        }
    }

    fn set_up_message(&self, set_up: &SetUp, resumed: bool) -> Value {
        json!({
            "do": "set-up",
            "arguments": set_up.arguments,
            "preload": set_up.preload,
            "title": set_up.title,
            "upgraded_from": set_up.upgraded_from,
            "resumed": resumed,
            "environment": if resumed { self.environment.clone() } else { Value::Null },
            "workers": self.workers.iter().collect::<Vec<_>>(),
        })
    }

    /// The nursery is gone: whatever was asked of it is lost, and another one takes its place.
    async fn restart(&mut self) {
        let status = self.process.child.wait().await;
        self.kin.remove(self.process.pid);
        self.outgoing.clear();
        for (_, pending) in self.pending.drain() {
            let _ = pending.reply.send(Err(NurseryError::Gone));
        }
        let how = status.map_or_else(|error| error.to_string(), crate::worker::describe);
        self.log.warning(format_args!(
            "the nursery (pid {}) {how}: starting another; the workers go on",
            self.process.pid
        ));
        let mut pause = AGAIN_FIRST;
        loop {
            match self.begin_again().await {
                Ok((process, _)) => {
                    self.process = process;
                    return;
                }
                Err(reason) => {
                    let seconds = pause.as_secs_f64();
                    self.log.error(format_args!(
                        "cannot start another nursery: {reason}\n  Trying again in {seconds:.1} s"
                    ));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    /// A second nursery, with all that the first one was told.
    async fn begin_again(&self) -> Result<(Process, Value), String> {
        let (process, loaded) =
            begin(&self.settings, &self.kin)
                .await
                .map_err(|error| match error {
                    NurseryStart::System(error) => error.to_string(),
                    NurseryStart::Ended(status) => crate::worker::describe(status),
                })?;
        let Some(set_up) = &self.set_up else {
            return Ok((process, loaded));
        };
        let mut message = self.set_up_message(set_up, true);
        message["id"] = json!(0);
        let message = Message {
            text: message.to_string().into_bytes(),
            descriptors: Vec::new(),
        };
        let answered = async {
            process.link.send(&message).await?;
            loop {
                match process.link.receive().await? {
                    // Hooks may have had something to say first.
                    Some(words) if words["reply"].is_null() => {}
                    answer => return io::Result::Ok(answer),
                }
            }
        };
        let answer = answered.await.map_err(|error| error.to_string())?;
        let answer = answer.ok_or_else(|| "it ended before it was ready".to_owned())?;
        judged(answer).map_err(|error| error.to_string())?;
        Ok((process, loaded))
    }

    /// Without a preloaded application the settings can be read again where the hooks have left
    /// their traces; a preloaded one is imported anew by another nursery.
    async fn reload(&mut self, reply: Reply) {
        let preloaded = self.set_up.as_ref().is_some_and(|set_up| set_up.preload);
        if self.settings.gunicorn.is_some() && !preloaded {
            return self.post(json!({"do": "reload", "remember": true}), Vec::new(), reply);
        }
        match self.begin_again().await {
            Err(text) => {
                let raised = false;
                let _ = reply.send(Err(NurseryError::Refused { text, raised }));
            }
            Ok((process, loaded)) => {
                // What is under way is finished by the old one first.
                self.finish().await;
                self.quit().await;
                self.process = process;
                if self.settings.gunicorn.is_some() {
                    let count = json!({"do": "count", "count": loaded["values"]["workers"]});
                    self.post(count, Vec::new(), oneshot::channel().0);
                    let message = json!({"do": "call", "hook": "on_reload", "remember": true});
                    let (sent, answered) = oneshot::channel();
                    self.post(message, Vec::new(), sent);
                    tokio::spawn(async move {
                        let answer = answered.await.unwrap_or(Err(NurseryError::Gone));
                        let _ = reply.send(answer.map(|_| json!({"loaded": loaded})));
                    });
                } else {
                    let _ = reply.send(Ok(Value::Null));
                }
            }
        }
    }

    /// Waits for all answers that are still to come.
    async fn finish(&mut self) {
        while !self.pending.is_empty() {
            while let Some(message) = self.outgoing.front() {
                if self.process.link.send(message).await.is_err() {
                    break;
                }
                self.outgoing.pop_front();
            }
            match self.process.link.receive().await {
                Ok(Some(message)) => self.handle_message(message),
                Ok(None) | Err(_) => break,
            }
        }
        self.outgoing.clear();
        for (_, pending) in self.pending.drain() {
            let _ = pending.reply.send(Err(NurseryError::Gone));
        }
    }

    /// Ends the process.
    async fn quit(&mut self) {
        let message = Message {
            text: json!({"do": "quit", "id": 0}).to_string().into_bytes(),
            descriptors: Vec::new(),
        };
        // One that is gone already needs not be told.
        let _ = self.process.link.send(&message).await;
        if tokio::time::timeout(QUIT, self.process.child.wait())
            .await
            .is_err()
        {
            let _ = self.process.child.kill().await;
        }
        self.kin.remove(self.process.pid);
    }
}

/// Sends what comes first; never ends if there is nothing.
async fn send_first(link: &Link, first: Option<&Message>) -> io::Result<()> {
    match first {
        Some(message) => link.send(message).await,
        None => std::future::pending().await,
    }
}

/// An answer, or why there is none.
fn judged(answer: Value) -> Result<Value, NurseryError> {
    match answer["error"].as_str() {
        None => Ok(answer),
        Some(text) => Err(NurseryError::Refused {
            text: text.to_owned(),
            raised: answer["raised"] == true,
        }),
    }
}

/// Starts a process and waits for its first word.
async fn begin(settings: &NurserySettings, kin: &Kin) -> Result<(Process, Value), NurseryStart> {
    let (link, theirs) = Link::pair().map_err(NurseryStart::System)?;
    let mut command = Command::new(&settings.interpreter);
    command.args(["-m", "evener.nursery", &spawn::FIRST_FD.to_string()]);
    if let Some(arguments) = &settings.gunicorn {
        command.arg("--gunicorn").args(arguments);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let mut child = spawn::start_nursery(command, &settings.environment, theirs)
        .map_err(NurseryStart::System)?;
    let pid = child.id().unwrap_or_default();
    kin.add(pid);
    let gone = |status: io::Result<ExitStatus>| match status {
        Ok(status) => NurseryStart::Ended(status),
        Err(error) => NurseryStart::System(error),
    };
    match link.receive().await {
        Ok(Some(mut message)) => {
            let loaded = message["loaded"].take();
            Ok((Process { child, pid, link }, loaded))
        }
        Ok(None) | Err(_) => {
            let status = child.wait().await;
            kin.remove(pid);
            Err(gone(status))
        }
    }
}
