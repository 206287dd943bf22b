//! `make demo`: shows magi on both containerds and writes what was measured to `target/demo/report.json`.
//!
//! Exit code 0: every scenario came out as expected. 1: one did not, or the stage broke. 130: interrupted.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use magi_integration::demo::screen::{Screen, Styled, style};
use magi_integration::demo::{Demo, check, summary};
use magi_integration::parts;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match show().await {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("{} {error:#}", Styled(style::BAD, "demo:"));
            ExitCode::FAILURE
        }
    }
}

async fn show() -> Result<ExitCode> {
    let begin = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut demo = Demo::new(Screen::stdout());
    let path = parts::target_dir().join("demo/report.json");
    // A run that is broken off must not leave the report of an earlier one.
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("remove {}", path.display()));
    }
    // Dropping the run ends whatever it has started.
    let outcome = tokio::select! {
        outcome = demo.run() => Some(outcome),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let Some(outcome) = outcome else {
        demo.screen().line(Styled(
            style::BAD,
            "interrupted: everything that was started has been ended",
        ));
        return Ok(ExitCode::from(130));
    };
    let mut misses = std::mem::take(&mut demo.misses);
    misses.extend(check::check(&demo.report));
    let report = demo.report.clone();
    report.write(&path)?;
    let as_expected = summary::write(demo.screen(), &report, &misses);
    outcome?;
    let shown = std::env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(ToOwned::to_owned))
        .unwrap_or(path);
    let verdict = if as_expected {
        Styled(style::GOOD, "all as expected")
    } else {
        Styled(style::BAD, "not as expected")
    };
    let seconds = begin.elapsed().as_secs_f64();
    demo.screen().line("");
    demo.screen().line(format_args!(
        "{verdict} · {seconds:.1} s · figures in {}",
        shown.display()
    ));
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
