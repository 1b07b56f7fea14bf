//! Counts the instructions of a message with callgrind: a figure that hardly depends on the load of
//! the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::load;
use crate::measure::Traffic;
use crate::process::installed;
use crate::servers::{MeshOptions, Server, callgrind_file};
use crate::suites::Bench;

const WARM_UP: usize = 300;
const COUNTED: usize = 1_000;

/// Runs differ by 1 to 2 %: for forwarded messages, by how many of them share a write.
const GROWTH_MAX: f64 = 0.03;

/// Smaller parts are added up as `others`.
const PART_MIN: u64 = 100;

/// Instructions of one message, by the crate or component that they belong to.
type Parts = BTreeMap<String, u64>;

/// Counts, and compares with a baseline; or writes that (`bless`).
pub(crate) fn check(bench: &Bench, baseline: &Path, bless: bool) -> Result<()> {
    for tool in ["valgrind", "callgrind_annotate", "callgrind_control"] {
        ensure!(
            installed(tool).is_some(),
            "{tool} is not installed: it comes with valgrind"
        );
    }
    let counted = |nodes| MeshOptions {
        counted: true,
        ..bench.json_mesh(nodes)
    };
    let local = count(&bench.server("local", counted(1))?)?;
    let forwarded = count(&bench.server("forwarded", counted(2))?)?;
    let found = [("local", local), ("forwarded", forwarded)];
    if bless {
        fs::write(baseline, write(&found))?;
        println!("{} is what they take now", baseline.display());
        return Ok(());
    }
    let before = fs::read_to_string(baseline)
        .with_context(|| format!("cannot read {}", baseline.display()))?;
    let before = read(&before)?;
    let mut grown = Vec::new();
    for (name, parts) in &found {
        let before = before
            .get(*name)
            .with_context(|| format!("the baseline has no [{name}]"))?;
        let (was, is) = (before.values().sum::<u64>(), parts.values().sum::<u64>());
        println!(
            "{name}: {is} instructions, {was} in the baseline ({:+.1} %)",
            (is as f64 / was as f64 - 1.0) * 100.0
        );
        for (part, is) in parts {
            let was = before.get(part).copied().unwrap_or_default();
            if is.abs_diff(was) > was / 50 + PART_MIN {
                println!("  {part}: {is}, was {was}");
            }
        }
        if is as f64 > was as f64 * (1.0 + GROWTH_MAX) {
            grown.push(*name);
        }
    }
    if !grown.is_empty() {
        bail!(
            "more than {:.0} % was added: {}; if that is meant: `cargo xtask bench --bless`",
            GROWTH_MAX * 100.0,
            grown.join(", ")
        );
    }
    Ok(())
}

/// Sends messages one after the other, and counts the instructions of all processes of the server
/// per message.
fn count(server: &Server) -> Result<Parts> {
    let requests = Traffic::default().requests(server);
    load::send_in_turn(server.addr, &requests, WARM_UP)?;
    for process in &server.processes {
        control(&["-i", "on"], process.id())?;
    }
    load::send_in_turn(server.addr, &requests, COUNTED)?;
    let mut parts = Parts::new();
    for process in &server.processes {
        control(&["-d"], process.id())?;
        let files = server.files().context("a counted server has files")?;
        add(
            &mut parts,
            &files.join(format!("{}.1", callgrind_file(process.id()))),
        )?;
    }
    parts
        .values_mut()
        .for_each(|instructions| *instructions /= COUNTED as u64);
    let small: u64 = parts.values().filter(|part| **part < PART_MIN).sum();
    parts.retain(|_, part| *part >= PART_MIN);
    parts.insert("others".into(), small);
    Ok(parts)
}

fn control(arguments: &[&str], process: u32) -> Result<()> {
    let output = Command::new("callgrind_control")
        .args(arguments)
        .arg(process.to_string())
        .output()?;
    ensure!(
        output.status.success(),
        "callgrind_control: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Adds the instructions of a process, from the file that callgrind has written.
fn add(parts: &mut Parts, file: &Path) -> Result<()> {
    let output = Command::new("callgrind_annotate")
        .arg("--threshold=100")
        .arg(file)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = 0;
    for line in text.lines() {
        // 1,764,000 ( 3.83%)  file:function [object]
        let Some((count, rest)) = line.split_once('(') else {
            continue;
        };
        let Ok(count) = count.trim().replace(',', "").parse::<u64>() else {
            continue;
        };
        let Some((_, place)) = rest.split_once(')') else {
            continue;
        };
        let Some((_, function)) = place.trim().split_once(':') else {
            continue;
        };
        *parts.entry(part(function).to_owned()).or_default() += count;
        lines += 1;
    }
    ensure!(
        lines > 100,
        "callgrind_annotate has little to say of {}",
        file.display()
    );
    Ok(())
}

/// The part that a function belongs to.
fn part(function: &str) -> &str {
    let name = function
        .trim_start_matches(['<', '&', '*', '(', '['])
        .trim_start_matches("mut ")
        .trim_start_matches("dyn ");
    // A blanket implementation (`<T as Trait>`) counts as code of its trait.
    let name = name.strip_prefix("T as ").unwrap_or(name);
    let first = name
        .split([':', ' ', '<', '>', '[', '(', ','])
        .next()
        .unwrap_or_default();
    match first {
        _ if function.starts_with("0x") => "guest",
        _ if first.starts_with("mi_")
            || first.starts_with("_mi_")
            || first.starts_with("__rust") =>
        {
            "allocator"
        }
        _ if first.starts_with("wasmtime") || first.starts_with("cranelift") => "wasmtime",
        _ if first.starts_with("hyper") || first.starts_with("http") => "hyper",
        _ if first.starts_with("tokio") || first == "mio" => "tokio",
        "meshage_host" => "meshage",
        "core" | "alloc" | "std" => "std",
        _ if !function.contains("::") => "libc",
        _ => first,
    }
}

fn write(found: &[(&str, Parts)]) -> String {
    let mut text = "# Instructions of one message, by whose code they are: `cargo xtask bench --bless` writes them, and --check compares.\n".to_owned();
    for (name, parts) in found {
        text.push_str(&format!("\n[{name}]\n"));
        text.extend(
            parts
                .iter()
                .map(|(part, instructions)| format!("{part} = {instructions}\n")),
        );
    }
    text
}

fn read(text: &str) -> Result<BTreeMap<String, Parts>> {
    let table: toml::Table = text.parse()?;
    let parts = |value: toml::Value| -> Result<Parts> { Ok(value.try_into()?) };
    table
        .into_iter()
        .map(|(name, value)| Ok((name, parts(value)?)))
        .collect()
}
