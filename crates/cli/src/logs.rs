//! Where a program that is run as gunicorn writes: its error log and its access log, to standard
//! output and error, to files, or through Python's loggers.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use evener_supervisor::Nursery;
use evener_telemetry::{
    AccessFormat, AccessTemplate, Level, Log, LogFile, LogFormat, Receiver, Telemetry,
    TelemetryConfig,
};
use serde_json::json;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The level of the error log.
    pub(crate) level: Level,
    /// Where the error log goes: a file, or `-` for standard error.
    pub(crate) errors: Option<&'a str>,
    /// Where the access log goes: a file, or `-` for standard output.
    pub(crate) access: Option<&'a str>,
    /// The form of its lines.
    pub(crate) format: &'a str,
    /// Whether the error log goes through Python's loggers.
    pub(crate) errors_in_python: bool,
    /// Whether workers write the access log, through Python's loggers.
    pub(crate) access_in_python: bool,
    /// Seconds that local time is ahead of UTC.
    pub(crate) utc_offset: i32,
    /// Where relative paths begin.
    pub(crate) folder: &'a Path,
    /// Who owns the files: the workers' user and group.
    pub(crate) owner: (u32, u32),
}

/// The logs, open.
pub(crate) struct Logs {
    log: Log,
    access: Option<(AccessFormat, Box<dyn Write + Send>)>,
    /// Files that can be opened again.
    pub(crate) files: Vec<LogFile>,
}

impl Logs {
    /// Opens what is asked for. An error says what cannot be.
    pub(crate) fn open(wanted: &Wanted<'_>, nursery: &Nursery) -> Result<Logs, String> {
        let mut files = Vec::new();
        let mut file = |path: &str| -> Result<LogFile, String> {
            let path = wanted.folder.join(path);
            let file = LogFile::open(&path)?;
            // Without the right to give files away they stay ours.
            let (user, group) = wanted.owner;
            let _ = std::os::unix::fs::chown(&path, Some(user), Some(group));
            files.push(file.clone());
            Ok(file)
        };
        let utc_offset = wanted.utc_offset;
        let log = Log::new(wanted.level, LogFormat::Gunicorn { utc_offset });
        let log = match wanted.errors {
            _ if wanted.errors_in_python => log.with_receiver(through(nursery.clone())),
            None => log.to_nowhere(),
            Some("-") => log,
            Some(path) => log.with_sink(Arc::new(std::sync::Mutex::new(file(path)?))),
        };
        let access = match wanted.access {
            Some(place) if !wanted.access_in_python => {
                let template = AccessTemplate::parse(wanted.format, utc_offset)?;
                let sink: Box<dyn Write + Send> = match place {
                    "-" => Box::new(io::stdout()),
                    path => Box::new(file(path)?),
                };
                Some((AccessFormat::Template(Arc::new(template)), sink))
            }
            _ => None,
        };
        Ok(Logs { log, access, files })
    }

    /// The error log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// What the program writes to.
    pub(crate) fn telemetry(self) -> Telemetry {
        match self.access {
            Some((format, sink)) => Telemetry::with_access_sink(self.log, format, sink),
            None => Telemetry::new(TelemetryConfig {
                log: self.log,
                access: None,
            }),
        }
    }
}

/// Hands messages to the nursery, whose loggers the configuration file has set up.
fn through(nursery: Nursery) -> Arc<Receiver> {
    Arc::new(move |level, text| {
        let level = match level {
            Level::Trace => Level::Debug,
            level => level,
        };
        nursery.post(json!({"do": "log", "level": level.name(), "text": text}));
    })
}
