//! `make hostile`: runs the hostile suite, and writes its table into README.md.
//!
//! Exit code 0: no attack escapes where magi-gateway is, but those that are known to. 1: another one does, an innocent was
//! hit, something was left, or the stage broke. 130: interrupted.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use magi_integration::Line;
use magi_integration::hostile::verdict::{Cell, Verdict};
use magi_integration::hostile::{self, Mode, Selection, table};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "magi-hostile [--only CASE]… [--line 1.7|2.x]… [--mode passive|hooks|gateway]… \
                     [--json FILE] [--readme FILE] [--list]";

#[derive(Default)]
struct Options {
    selection: Selection,
    json: Option<PathBuf>,
    readme: Option<PathBuf>,
    list: bool,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut args = args;
        let mut options = Self::default();
        let (mut lines, mut modes) = (Vec::new(), Vec::new());
        while let Some(arg) = args.next() {
            if arg == "--list" {
                options.list = true;
                continue;
            }
            let value = args.next().context(USAGE)?;
            match arg.as_str() {
                "--only" => options.selection.cases.push(value),
                "--line" => lines.push(
                    Line::ALL
                        .into_iter()
                        .find(|line| line.to_string() == value)
                        .context(USAGE)?,
                ),
                "--mode" => modes.push(
                    Mode::ALL
                        .into_iter()
                        .find(|mode| mode.word() == value)
                        .context(USAGE)?,
                ),
                "--json" => options.json = Some(value.into()),
                "--readme" => options.readme = Some(value.into()),
                _ => bail!(USAGE),
            }
        }
        if !lines.is_empty() {
            options.selection.lines = lines;
        }
        if !modes.is_empty() {
            options.selection.modes = modes;
        }
        Ok(options)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("hostile: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitCode> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.list {
        for case in hostile::cases::all() {
            anstream::println!("{:<18} {}", case.name, case.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let suite = hostile::run(&options.selection, |cell| {
        anstream::eprintln!(
            "{} {:<7} {:<18} {} ({} ms, healthy {} ms)",
            cell.line,
            cell.mode.word(),
            cell.case,
            table::shown(cell, true),
            cell.took_ms,
            cell.healthy_ms
        );
    });
    // Dropping the run ends whatever it has started.
    let report = tokio::select! {
        report = suite => report?,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(130)),
    };
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report).context("write the report")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    match &options.readme {
        Some(path) => table::write(path, &report, &date)?,
        None => anstream::print!("{}", table::markdown(&report, &date)),
    }
    let escaped =
        |cell: &&Cell| cell.mode == Mode::Gateway && matches!(cell.verdict, Verdict::Escapes { .. });
    let (open, new): (Vec<&Cell>, Vec<&Cell>) = report
        .cells
        .iter()
        .filter(escaped)
        .partition(|cell| hostile::cases::OPEN.contains(&cell.case.as_str()));
    let hit = report
        .cells
        .iter()
        .filter(|cell| cell.collateral.is_some())
        .count();
    anstream::eprintln!(
        "hostile: in gateway mode {} attacks escape that are known to, {} that are not; {hit} innocent pulls failed",
        open.len(),
        new.len()
    );
    if hit > 0 || !new.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
