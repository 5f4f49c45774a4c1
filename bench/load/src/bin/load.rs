//! `load PLAN.json`: does what the plan says and prints one JSON object a line.

use std::error::Error;
use std::process::ExitCode;

use evener_bench_load::plan::{Mode, Plan, Protocol};
use evener_bench_load::{drive, events, hold};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: load PLAN.json")?;
    let plan: Plan = serde_json::from_slice(&std::fs::read(path)?)?;
    if plan.classes.is_empty() {
        return Err("the plan has no classes".into());
    }
    match (&plan.mode, plan.protocol) {
        (Mode::Hold, _) => hold::hold(&plan)?,
        (_, Protocol::Events) => events::receive(&plan)?,
        (_, Protocol::Http | Protocol::Websocket) => drive::drive(&plan)?,
    }
    Ok(())
}
