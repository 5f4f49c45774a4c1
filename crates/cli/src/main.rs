//! The `evener` program: reads the command line, wires the crates together, and says what is
//! wrong in one message. Nothing else knows all of them.

mod application;
mod args;
mod balancer;
mod changes;
mod client;
mod cpus;
mod env_file;
mod failure;
mod python;
mod recipe;
mod resolve;
mod run;
mod signals;
mod source;
mod tls;
mod usage;
mod values;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Command, CommandLine};

/// Why the program ends with a status other than 0, in one message.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    /// The command line asks for what cannot be.
    pub(crate) fn usage(message: String) -> Failure {
        Failure { message, status: 2 }
    }

    /// The system, or the running program, does not do what was asked.
    pub(crate) fn system(message: String) -> Failure {
        Failure { message, status: 1 }
    }

    /// The application cannot be started.
    pub(crate) fn application(message: String) -> Failure {
        Failure { message, status: 3 }
    }
}

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return usage::explain(&error),
    };
    let shown = |answer: Result<String, String>| answer.map_err(Failure::system).map(print);
    let ended = match &line.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Status(arguments) => shown(client::status(arguments)),
        Command::Workers(arguments) => shown(client::workers(arguments)),
        Command::Reload(arguments) => shown(client::reload(arguments)),
        Command::Scale(arguments) => shown(client::scale(arguments)),
        Command::Drain(arguments) => shown(client::drain(arguments)),
        Command::Version => {
            print(format!("evener {}\n", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A closed standard error changes nothing about the status.
            let _ = writeln!(std::io::stderr(), "error: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}

fn print(text: String) {
    // The reader may have gone, as `head` does.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
