//! The `evener` program: reads the command line, wires the crates together, and says what is
//! wrong in one message. Nothing else knows all of them.

mod administration;
mod application;
mod args;
mod balancer;
mod budget;
mod changes;
mod client;
mod cpus;
mod env_file;
mod failure;
mod generate;
mod gunicorn;
mod logs;
mod manners;
mod nursery;
mod pidfile;
mod python;
mod recipe;
mod reread;
mod resolve;
mod run;
mod running;
mod serve;
mod signals;
mod site;
mod sockets;
mod source;
mod speech;
mod spill;
mod start;
mod statsd;
mod systemd;
mod tls;
mod upgrade;
mod upkeep;
mod usage;
mod values;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Command, CommandLine};

/// Why the program ends with a status other than 0, in one message.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Whether the message has a place of its own at the start of each line.
    placed: bool,
    message: String,
    status: u8,
}

impl Failure {
    /// The command line asks for what cannot be.
    pub(crate) fn usage(message: String) -> Failure {
        Failure {
            placed: false,
            message,
            status: 2,
        }
    }

    /// The system, or the running program, does not do what was asked.
    pub(crate) fn system(message: String) -> Failure {
        Failure {
            placed: false,
            message,
            status: 1,
        }
    }

    /// What is wrong has been said already.
    pub(crate) fn said(status: i32) -> Failure {
        Failure {
            placed: false,
            message: String::new(),
            status: u8::try_from(status).unwrap_or(1),
        }
    }

    /// The application cannot be started.
    pub(crate) fn application(message: String) -> Failure {
        Failure {
            placed: false,
            message,
            status: 3,
        }
    }

    /// A configuration file is wrong; every line of the message says where.
    pub(crate) fn file(message: String) -> Failure {
        Failure {
            placed: true,
            message,
            status: 1,
        }
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
        Command::Serve(arguments) => serve::serve(arguments),
        Command::Check(arguments) => serve::check(arguments).map(print),
        Command::Gunicorn(arguments) => gunicorn::run(&arguments.arguments),
        Command::Status(arguments) => shown(client::status(arguments)),
        Command::Workers(arguments) => shown(client::workers(arguments)),
        Command::Reload(arguments) => shown(client::reload(arguments)),
        Command::Scale(arguments) => shown(client::scale(arguments)),
        Command::Reopen(arguments) => shown(client::reopen(arguments)),
        Command::Upgrade(arguments) => shown(client::upgrade(arguments)),
        Command::Rest(arguments) => shown(client::rest(arguments)),
        Command::Drain(arguments) => shown(client::drain(arguments)),
        Command::Generate(arguments) => generate::generate(arguments).map(print),
        Command::Version => {
            print(format!("evener {}\n", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                // A closed standard error changes nothing about the status.
                let prefix = if failure.placed { "" } else { "error: " };
                let _ = writeln!(std::io::stderr(), "{prefix}{}", failure.message);
            }
            ExitCode::from(failure.status)
        }
    }
}

fn print(text: String) {
    // The reader may have gone, as `head` does.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
