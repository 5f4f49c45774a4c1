//! What workers write to their standard output and error: forwarded line by line with the
//! worker's name in front, and the last lines kept for the report of a crash.
//!
//! Output can be held back, so that several workers that fail over one bug say it once.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use evener_telemetry::{Log, LogFormat};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Lines kept for a report.
const TAIL_LINES: usize = 30;
/// Longer lines are forwarded in pieces.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of output held back for one worker; older ones are dropped.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// Where a worker's lines go.
#[derive(Clone)]
pub(crate) enum Destination {
    /// The program's own standard output.
    Stdout,
    /// The program's log stream.
    Log(Log),
}

impl Destination {
    fn write(&self, lines: &[u8]) {
        match self {
            // A closed standard output must not stop the service.
            Destination::Stdout => {
                let _ = std::io::stdout().write_all(lines);
                let _ = std::io::stdout().flush();
            }
            Destination::Log(log) => log.write_raw(lines),
        }
    }
}

/// One worker's output: shared by the readers of its two streams and the supervisor.
#[derive(Clone)]
pub(crate) struct Output {
    prefix: Arc<str>,
    state: Arc<Mutex<State>>,
}

struct State {
    held: Option<Vec<(Destination, Vec<u8>)>>,
    held_bytes: usize,
    tail: VecDeque<String>,
}

impl Output {
    /// Output of the worker called `name`; nothing is forwarded before [`Output::release`] when
    /// `hold` is set. Lines have no prefix in a JSON log: they may be JSON themselves.
    pub(crate) fn new(name: &str, format: LogFormat, hold: bool) -> Output {
        let prefix = match format {
            LogFormat::Text { colors: false } => format!("{name} | "),
            LogFormat::Text { colors: true } => format!("\x1b[2m{name} |\x1b[0m "),
            LogFormat::Json | LogFormat::Gunicorn { .. } => String::new(),
        };
        let held = hold.then(Vec::new);
        let state = State {
            held,
            held_bytes: 0,
            tail: VecDeque::new(),
        };
        Output {
            prefix: prefix.into(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Forwards what was held back, and everything from now on.
    pub(crate) fn release(&self) {
        let held = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .held
            .take();
        for (destination, lines) in held.unwrap_or_default() {
            destination.write(&lines);
        }
    }

    /// Whether output is still being held back.
    pub(crate) fn is_held(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .held
            .is_some()
    }

    /// The last lines of standard error.
    pub(crate) fn tail(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tail.iter().cloned().collect()
    }

    /// Reads a stream to its end. `keep` says whether its lines belong into the tail.
    pub(crate) async fn forward(
        self,
        mut stream: impl AsyncRead + Unpin,
        destination: Destination,
        keep: bool,
    ) {
        let mut buffer = Vec::with_capacity(LINE_BYTES_MAX);
        loop {
            let room = u64::try_from(LINE_BYTES_MAX - buffer.len()).expect("a small number");
            let read = (&mut stream).take(room).read_buf(&mut buffer).await;
            let end = matches!(read, Ok(0) | Err(_));
            let mut lines = Vec::with_capacity(buffer.len() + 64);
            let mut start = 0;
            while let Some(length) = buffer[start..].iter().position(|byte| *byte == b'\n') {
                self.push(&mut lines, &buffer[start..start + length], keep);
                start += length + 1;
            }
            buffer.drain(..start);
            if !buffer.is_empty() && (end || buffer.len() == LINE_BYTES_MAX) {
                self.push(&mut lines, &buffer, keep);
                buffer.clear();
            }
            self.write(&destination, lines);
            if end {
                return;
            }
        }
    }

    fn push(&self, lines: &mut Vec<u8>, line: &[u8], keep: bool) {
        lines.extend_from_slice(self.prefix.as_bytes());
        lines.extend_from_slice(line);
        lines.push(b'\n');
        if keep {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.tail.len() == TAIL_LINES {
                state.tail.pop_front();
            }
            state
                .tail
                .push_back(String::from_utf8_lossy(line).trim_end().to_owned());
        }
    }

    fn write(&self, destination: &Destination, lines: Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            held, held_bytes, ..
        } = &mut *state;
        match held {
            None => {
                drop(state);
                destination.write(&lines);
            }
            Some(held) => {
                *held_bytes += lines.len();
                held.push((destination.clone(), lines));
                while *held_bytes > HELD_BYTES_MAX && held.len() > 1 {
                    *held_bytes -= held.remove(0).1.len();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use evener_telemetry::Level;

    use super::*;

    fn log() -> (Log, Arc<Mutex<Vec<u8>>>) {
        let sink = Arc::new(Mutex::new(Vec::new()));
        let log = Log::new(Level::Info, LogFormat::Text { colors: false });
        (log.with_sink(sink.clone()), sink)
    }

    fn text(sink: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(sink.lock().unwrap().clone()).unwrap()
    }

    #[tokio::test]
    async fn lines_get_a_prefix_and_long_ones_are_cut() {
        let (log, sink) = log();
        let output = Output::new("worker-1", log.format(), false);
        let long = "x".repeat(LINE_BYTES_MAX + 10);
        let input = format!("one\n\n{long}\nlast");
        output
            .clone()
            .forward(input.as_bytes(), Destination::Log(log), true)
            .await;
        let text = text(&sink);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["worker-1 | one", "worker-1 | "]);
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX + 11));
        assert_eq!(lines.last(), Some(&"worker-1 | last"));
        assert_eq!(text.matches('x').count(), LINE_BYTES_MAX + 10);
        assert_eq!(output.tail().last().map(String::as_str), Some("last"));
    }

    #[tokio::test]
    async fn held_output_comes_when_released_and_is_bounded() {
        let (log, sink) = log();
        let output = Output::new("w", log.format(), true);
        let input = "a line of some length\n".repeat(10_000);
        output
            .clone()
            .forward(input.as_bytes(), Destination::Log(log.clone()), true)
            .await;
        assert_eq!(text(&sink), "");
        assert_eq!(output.tail().len(), TAIL_LINES);
        output.release();
        let length = text(&sink).len();
        assert!(
            length > 1000 && length <= HELD_BYTES_MAX + 2 * LINE_BYTES_MAX,
            "{length}"
        );
        output
            .clone()
            .forward("now\n".as_bytes(), Destination::Log(log), true)
            .await;
        assert!(text(&sink).ends_with("w | now\n"));
    }
}
