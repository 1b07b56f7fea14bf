//! Measures meshage and the alternatives that people would pick instead, and writes a report.
//! Started by `cargo xtask bench`.

mod counters;
mod entities;
mod instructions;
mod languages;
mod load;
mod measure;
mod process;
mod report;
mod servers;
mod suites;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use measure::Effort;
use suites::{Bench, SUITES};

const USAGE: &str = "usage: meshage-bench HOST GUESTS DOCUMENT [--check | --bless | --seconds N | --rounds N | SUITE]…";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context(USAGE);
    let (host, guests, document) = (
        PathBuf::from(next()?),
        PathBuf::from(next()?),
        PathBuf::from(next()?),
    );
    let mut effort = Effort {
        seconds: 3.0,
        rounds: 5,
    };
    let (mut wanted, mut counts) = (Vec::new(), None);
    while let Ok(argument) = next() {
        match argument.as_str() {
            "--check" => counts = Some(false),
            "--bless" => counts = Some(true),
            "--seconds" => effort.seconds = next()?.parse()?,
            "--rounds" => effort.rounds = next()?.parse()?,
            suite if SUITES.iter().any(|(name, _)| *name == suite) => wanted.push(argument),
            other => {
                let names: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
                bail!(
                    "there is no suite {other:?}; the suites are {}",
                    names.join(", ")
                );
            }
        }
    }
    let bench = Bench {
        host,
        guests,
        effort,
    };
    if let Some(bless) = counts {
        let baseline = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml");
        return instructions::check(&bench, baseline.as_ref(), bless);
    }
    for (program, what) in [("haproxy", "HAProxy"), ("nginx", "nginx")] {
        if process::installed(program).is_none() {
            eprintln!("{what} is not installed: it is left out");
        }
    }
    if servers::wasmtime_binary().is_none() {
        eprintln!(
            "wasmtime is neither installed nor named by WASMTIME: `wasmtime serve` is left out"
        );
    }
    let mut sections = Vec::new();
    for (name, suite) in SUITES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("{name}");
            let section = suite(&bench)?;
            println!("{}", section.markdown("performance"));
            sections.push(section);
        }
    }
    if !wanted.is_empty() {
        eprintln!(
            "{} is written by a run of all suites only",
            document.display()
        );
        return Ok(());
    }
    let folder = document.with_extension("");
    sections
        .iter()
        .try_for_each(|section| section.draw(&folder))?;
    let text: Vec<String> = sections
        .iter()
        .map(|section| section.markdown("performance"))
        .collect();
    fs::write(
        &document,
        format!("{}\n{}", preface(&bench), text.join("\n")),
    )?;
    Ok(())
}

/// How it was measured, so that others can reproduce it.
fn preface(bench: &Bench) -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let versions: Vec<String> = suites::versions(&bench.host)
        .into_iter()
        .map(|(name, said)| format!("- {name}: {said}"))
        .collect();
    let Effort { seconds, rounds } = bench.effort;
    format!(
        "# Performance\n\n\
         Written by `cargo xtask bench`, which measures all of this again. Each figure is the median of {rounds} runs of {seconds} s; servers that are \
         compared take turns within a round, and ratios are made round by round, for the machine drifts: in parentheses stand the least and the most. \
         The client is a thread of its own on the same machine, and takes its share of the cores. Everything is switched on as by default, and \
         nodes without a secret speak plain TCP on loopback. CPU is that of all processes of the server (in parentheses each of them, in the order in which a message meets them; medians of their own, which need not add up), and beside it that of the client. What a call costs inside the process, `cargo bench --package meshage-bench` says.\n\n\
         {cores} cores, {cpu}, Linux {}\n\n{}\n",
        kernel.trim(),
        versions.join("\n")
    )
}
