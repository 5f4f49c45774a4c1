//! The operational log: one line per event on standard error, in uvicorn's look or as JSON.
//! Levels are uvicorn's. What goes into it is left to the callers; requests go into the access
//! log.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::access::push_json_string;
use crate::clock;

/// How important an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The program cannot go on.
    Critical,
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// uvicorn's name of the level.
    pub fn name(self) -> &'static str {
        match self {
            Level::Critical => "critical",
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }

    /// The name in the log: in capitals, padded as uvicorn pads it.
    fn tag(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Level::Critical => ("CRITICAL", " ", "\x1b[91m"),
            Level::Error => ("ERROR", "    ", "\x1b[31m"),
            Level::Warning => ("WARNING", "  ", "\x1b[33m"),
            Level::Info => ("INFO", "     ", "\x1b[32m"),
            Level::Debug => ("DEBUG", "    ", "\x1b[36m"),
            Level::Trace => ("TRACE", "    ", "\x1b[34m"),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `INFO:     message`.
    Text {
        /// Whether the level is coloured for a terminal.
        colors: bool,
    },
    /// `{"time":…,"level":…,"message":…}`.
    Json,
    /// `[2026-01-31 23:59:59 +0100] [77] [INFO] message`, as gunicorn's error log.
    Gunicorn {
        /// Seconds that local time is ahead of UTC.
        utc_offset: i32,
    },
}

/// Handle on the log; clones write to the same place, and what is worth a line is the same for all.
#[derive(Clone)]
pub struct Log {
    /// As a number: the greater, the more is written.
    level: Arc<AtomicU8>,
    format: LogFormat,
    sink: Sink,
}

/// Takes messages as they are; see [`Log::with_receiver`].
pub type Receiver = dyn Fn(Level, &str) + Send + Sync;

#[derive(Clone)]
enum Sink {
    Stderr,
    Writer(Arc<Mutex<dyn Write + Send>>),
    Receiver(Arc<Receiver>),
    Nowhere,
}

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Log")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Default for Log {
    /// Standard error, plain text, level info.
    fn default() -> Self {
        Log::new(Level::Info, LogFormat::Text { colors: false })
    }
}

impl Log {
    /// A log on standard error.
    pub fn new(level: Level, format: LogFormat) -> Log {
        Log {
            level: Arc::new(AtomicU8::new(level as u8)),
            format,
            sink: Sink::Stderr,
        }
    }

    /// The same log, written to `sink` instead.
    pub fn with_sink(self, sink: Arc<Mutex<dyn Write + Send>>) -> Log {
        Log {
            sink: Sink::Writer(sink),
            ..self
        }
    }

    /// The same log, its messages handed to `receiver` as they are, without form.
    pub fn with_receiver(self, receiver: Arc<Receiver>) -> Log {
        Log {
            sink: Sink::Receiver(receiver),
            ..self
        }
    }

    /// The same log, thrown away.
    pub fn to_nowhere(self) -> Log {
        Log {
            sink: Sink::Nowhere,
            ..self
        }
    }

    /// Whether events of this level are written.
    pub fn wants(&self, level: Level) -> bool {
        level as u8 <= self.level.load(Ordering::Relaxed)
    }

    /// From now on events up to this level are written, by all clones.
    pub fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// How lines look.
    pub fn format(&self) -> LogFormat {
        self.format
    }

    /// Writes one event. Line breaks in the message are kept as they are in text (a traceback
    /// stays readable) and escaped in JSON.
    pub fn write(&self, level: Level, message: fmt::Arguments<'_>) {
        if !self.wants(level) {
            return;
        }
        if let Sink::Receiver(receiver) = &self.sink {
            return receiver(level, &message.to_string());
        }
        let mut line = Vec::with_capacity(128);
        match self.format {
            LogFormat::Gunicorn { utc_offset } => {
                clock::push_error_log(&mut line, SystemTime::now(), utc_offset);
                let name = level.tag().0;
                // A `Vec` takes every write.
                let _ = writeln!(line, " [{}] [{name}] {message}", std::process::id());
            }
            LogFormat::Text { colors } => {
                let (name, padding, color) = level.tag();
                // A `Vec` takes every write.
                let _ = if colors {
                    writeln!(line, "{color}{name}\x1b[0m:{padding}{message}")
                } else {
                    writeln!(line, "{name}:{padding}{message}")
                };
            }
            LogFormat::Json => {
                line.extend_from_slice(b"{\"time\":\"");
                clock::push_rfc3339(&mut line, SystemTime::now());
                line.extend_from_slice(b"\",\"level\":\"");
                line.extend_from_slice(level.name().as_bytes());
                line.extend_from_slice(b"\",\"message\":");
                push_json_text(&mut line, &message.to_string());
                line.extend_from_slice(b"}\n");
            }
        }
        self.write_raw(&line);
    }

    /// Writes bytes that are lines already, such as a worker's own output, in one piece.
    pub fn write_raw(&self, lines: &[u8]) {
        // A closed standard error must not stop the service.
        let _ = match &self.sink {
            Sink::Stderr => std::io::stderr().write_all(lines),
            Sink::Nowhere => Ok(()),
            Sink::Receiver(receiver) => {
                receiver(Level::Info, String::from_utf8_lossy(lines).trim_end());
                Ok(())
            }
            Sink::Writer(writer) => writer
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(lines),
        };
    }

    /// Writes an event of level critical.
    pub fn critical(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Critical, message);
    }

    /// Writes an event of level error.
    pub fn error(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Error, message);
    }

    /// Writes an event of level warning.
    pub fn warning(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Warning, message);
    }

    /// Writes an event of level info.
    pub fn info(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Info, message);
    }

    /// Writes an event of level debug.
    pub fn debug(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Debug, message);
    }
}

/// Writes text as a JSON string, keeping its characters above ASCII.
fn push_json_text(out: &mut Vec<u8>, text: &str) {
    if text.is_ascii() {
        return push_json_string(out, text.as_bytes());
    }
    out.push(b'"');
    for character in text.chars() {
        if character.is_ascii() {
            let mut quoted = Vec::with_capacity(8);
            push_json_string(&mut quoted, &[character as u8]);
            out.extend_from_slice(&quoted[1..quoted.len() - 1]);
        } else {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(format: LogFormat, write: impl Fn(&Log)) -> String {
        let sink = Arc::new(Mutex::new(Vec::new()));
        write(&Log::new(Level::Info, format).with_sink(sink.clone()));
        let bytes = sink.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_looks_like_uvicorns() {
        let text = captured(LogFormat::Text { colors: false }, |log| {
            log.info(format_args!("one"));
            log.warning(format_args!("two"));
            log.debug(format_args!("not wanted"));
        });
        assert_eq!(text, "INFO:     one\nWARNING:  two\n");
        let text = captured(LogFormat::Text { colors: true }, |log| {
            log.error(format_args!("x"))
        });
        assert_eq!(text, "\x1b[31mERROR\x1b[0m:    x\n");
    }

    #[test]
    fn gunicorns_form_has_date_process_and_level() {
        let text = captured(LogFormat::Gunicorn { utc_offset: 0 }, |log| {
            log.warning(format_args!("one"))
        });
        let rest = format!(" +0000] [{}] [WARNING] one\n", std::process::id());
        assert!(text.starts_with("[20") && text.ends_with(&rest), "{text}");
    }

    #[test]
    fn a_receiver_gets_messages_as_they_are() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        let receiver = move |level: Level, text: &str| {
            ears.lock().unwrap().push((level, text.to_owned()));
        };
        let log = Log::default().with_receiver(Arc::new(receiver));
        log.error(format_args!("a {}", 1));
        log.debug(format_args!("not wanted"));
        assert_eq!(*heard.lock().unwrap(), [(Level::Error, "a 1".to_owned())]);
    }

    #[test]
    fn json_is_escaped_and_keeps_unicode() {
        let text = captured(LogFormat::Json, |log| log.error(format_args!("a \"b\"\nö")));
        assert!(
            text.ends_with("\"level\":\"error\",\"message\":\"a \\\"b\\\"\\u000aö\"}\n"),
            "{text}"
        );
    }
}
