//! The command line of `evener generate`.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    #[command(subcommand)]
    pub(crate) what: Generated,
}

/// What can be written.
#[derive(Debug, Subcommand)]
pub(crate) enum Generated {
    /// A unit file for systemd, on standard output.
    Systemd(SystemdArguments),
}

#[derive(Debug, Args)]
pub(crate) struct SystemdArguments {
    /// The user that the service runs as [default: the present one].
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The name of the unit, and of the program for `evener status`.
    #[arg(long, value_name = "NAME", default_value = "evener")]
    pub(crate) name: String,
    /// Write the socket unit that belongs to it instead, for this port or address: systemd then
    /// listens, also while the service restarts.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) socket: Option<String>,
    /// What to run: `run`, `serve` or `gunicorn` with its arguments; APP and flags of `evener run`
    /// without that word [default: `serve` if there is an evener.toml, else `run`].
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) arguments: Vec<String>,
}
