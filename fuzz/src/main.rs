//! Fuzzing on a stable toolchain: every parser of what strangers send, with mutated inputs, for a bounded time.
//!
//! `mezite-fuzz [SECONDS]` shares the time among the targets (default 30). A panic prints the target and the input, in
//! hexadecimal, and fails the run; `mezite-fuzz TARGET HEX` runs one input again. The mutations are random and know nothing of
//! coverage: what they lack in aim, the seeds have to give.

#![forbid(unsafe_code)]

mod mutate;
mod targets;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::{TARGETS, Target};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [target, hex] => again(target, hex),
        [seconds] => match seconds.parse() {
            Ok(seconds) => all(Duration::from_secs(seconds)),
            Err(_) => usage(),
        },
        [] => all(Duration::from_secs(30)),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    eprintln!("usage: mezite-fuzz [SECONDS] | mezite-fuzz TARGET HEX\ntargets: {}", names.join(" "));
    ExitCode::from(2)
}

fn all(time: Duration) -> ExitCode {
    let share = time / u32::try_from(TARGETS.len()).unwrap_or(1);
    let mut good = true;
    for target in TARGETS {
        good &= one(target, share);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(target: &Target, time: Duration) -> bool {
    let seeds = (target.seeds)();
    let mut mutator = Mutator::new();
    let (begin, mut runs) = (Instant::now(), 0_u64);
    while begin.elapsed() < time {
        let input = mutator.input(&seeds);
        runs += 1;
        if panic::catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{}: panicked; again with: mezite-fuzz {} {hex}", target.name, target.name);
            return false;
        }
    }
    println!("{}: {runs} inputs", target.name);
    true
}

fn again(name: &str, hex: &str) -> ExitCode {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else { return usage() };
    let pairs = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()));
    let Some(input) = pairs.collect::<Option<Vec<u8>>>() else { return usage() };
    (target.run)(&input);
    ExitCode::SUCCESS
}
