//! Fuzzes the HTTP/1.1 codec for so many minutes, guided by the edges that inputs reach.
//!
//! Prints its seed, so that a run can be repeated; an input that breaks an invariant is kept under
//! `fuzz/found/` and ends the run. The invariants are in `targets`, the mutations in `mutate`.

mod coverage;
mod mutate;
mod seeds;
mod targets;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coverage::Coverage;
use mutate::Generator;
use targets::Target;

/// Largest input, in bytes: beyond this only the bounds are left to find.
const INPUT_BYTES_MAX: usize = 4096;
const REPORT_EVERY: Duration = Duration::from_secs(20);

struct Options {
    minutes: f64,
    seed: u64,
    only: Option<String>,
    replay: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("fuzz: {message}");
            return ExitCode::FAILURE;
        }
    };
    let chosen = |target: &&Target| {
        options
            .only
            .as_deref()
            .is_none_or(|name| name == target.name)
    };
    let targets: Vec<&Target> = targets::ALL.iter().filter(chosen).collect();
    if targets.is_empty() {
        eprintln!("fuzz: there is no such target; there are: request, response, body, chunks");
        return ExitCode::FAILURE;
    }
    if let Some(file) = &options.replay {
        return replay(file, &targets);
    }
    println!(
        "fuzz: seed {}, {} minutes over {} targets",
        options.seed,
        options.minutes,
        targets.len()
    );
    let share = Duration::from_secs_f64(options.minutes * 60.0 / targets.len() as f64);
    for target in targets {
        if !Run::new(target, options.seed).go(share) {
            return ExitCode::FAILURE;
        }
    }
    println!("fuzz: clean");
    ExitCode::SUCCESS
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_nanos() as u64);
    let mut options = Options {
        minutes: 1.0,
        seed: now,
        only: None,
        replay: None,
    };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or(format!("{flag} needs a value"))?;
        let bad = |_| format!("{flag}: `{value}` is no number");
        match flag.as_str() {
            "--minutes" => options.minutes = value.parse().map_err(bad)?,
            "--seed" => options.seed = value.parse().map_err(|_| format!("{flag}: no number"))?,
            "--target" => options.only = Some(value),
            "--replay" => options.replay = Some(value.into()),
            _ => {
                return Err(format!(
                    "{flag} is not known; there are --minutes, --seed, --target, --replay"
                ));
            }
        }
    }
    Ok(options)
}

fn replay(file: &Path, targets: &[&Target]) -> ExitCode {
    match std::fs::read(file) {
        Ok(input) => {
            targets.iter().for_each(|target| (target.check)(&input));
            println!("fuzz: {} breaks nothing", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fuzz: cannot read {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

/// The fuzzing of one target.
struct Run<'a> {
    target: &'a Target,
    generator: Generator,
    coverage: Coverage,
    corpus: Vec<Vec<u8>>,
    executions: u64,
}

impl<'a> Run<'a> {
    fn new(target: &'a Target, seed: u64) -> Run<'a> {
        let generator = Generator::new(seed);
        Run {
            target,
            generator,
            coverage: Coverage::new(),
            corpus: Vec::new(),
            executions: 0,
        }
    }

    /// Runs for so long; false when an input broke an invariant.
    fn go(&mut self, share: Duration) -> bool {
        let started = Instant::now();
        let mut report = started + REPORT_EVERY;
        for seed in seeds::all() {
            if !self.execute(&seed) {
                return false;
            }
            self.corpus.push(seed);
        }
        while started.elapsed() < share {
            for _ in 0..256 {
                let input = self.generator.mutation(&self.corpus, INPUT_BYTES_MAX);
                if !self.execute(&input) {
                    return false;
                }
            }
            if Instant::now() >= report {
                self.report(started);
                report += REPORT_EVERY;
            }
        }
        self.report(started);
        true
    }

    /// Executes one input, and keeps it if it reached something new.
    fn execute(&mut self, input: &[u8]) -> bool {
        self.executions += 1;
        self.coverage.clear();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target.check)(input)));
        if self.coverage.is_new() && input.len() <= INPUT_BYTES_MAX {
            self.corpus.push(input.to_vec());
        }
        if outcome.is_ok() {
            return true;
        }
        let name: String = input
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
        let file = folder.join(format!("{}-{name}-{}", self.target.name, input.len()));
        let kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, input));
        println!(
            "fuzz: target {} broke on:\n{}",
            self.target.name,
            input.escape_ascii()
        );
        if kept.is_ok() {
            println!("fuzz: kept as {}; repeat it with --replay", file.display());
        }
        false
    }

    fn report(&self, started: Instant) {
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "fuzz: {:8} {:5.0} s, {:9} executions ({:.0} a second), {} inputs kept, {} edges",
            self.target.name,
            seconds,
            self.executions,
            self.executions as f64 / seconds,
            self.corpus.iter().collect::<BTreeSet<_>>().len(),
            self.coverage.edges(),
        );
    }
}
