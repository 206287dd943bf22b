//! `make bench`: what magi costs and how fast it is, each figure beside what it is compared with, in one run.
//!
//! The method, and how to read the figures, stands in `integration/benches/README.md`.

mod abort;
mod attack;
mod by_hand;
mod figure;
mod gateway;
mod idle;
mod intake;
mod machine;
mod options;
mod orphan;
mod process_cost;
mod recordings;
mod sandbox;
mod throughput;
mod unpack;
mod verify;

use std::process::ExitCode;

use anyhow::{Context, Result};
use figure::{Figure, Setting};
use magi_integration::stats;
use options::{Options, What};

fn main() -> ExitCode {
    match options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => match run(&options) {
            Ok(all_met) if all_met || !options.check => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("magi-bench: {error:#}");
                ExitCode::FAILURE
            }
        },
        Ok(None) => {
            println!("{}", options::USAGE);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("magi-bench: {problem}\n\n{}", options::USAGE);
            ExitCode::FAILURE
        }
    }
}

/// Measures what is asked for, and says whether every goal was met.
fn run(options: &Options) -> Result<bool> {
    let setting = Setting::look(options)?;
    setting.warn();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start a runtime")?;
    let mut figures: Vec<Figure> = Vec::new();
    for what in &options.what {
        let found = runtime.block_on(async {
            match what {
                What::Abort => abort::measure(options).await.map(|figure| vec![figure]),
                What::Throughput => throughput::measure(options).await.map(|figure| vec![figure]),
                What::Orphan => orphan::measure(options).await.map(|figure| vec![figure]),
                What::Intake => intake::measure(options).map(|figure| vec![figure]),
                What::Unpack => unpack::measure(options).await.map(|figure| vec![figure]),
                What::Idle => idle::measure(options).await,
                What::Gateway => gateway::measure(options).await.map(|figure| vec![figure]),
                What::Verify => verify::measure(options).await.map(|figure| vec![figure]),
                What::Sandbox => sandbox::measure(options).await.map(|figure| vec![figure]),
            }
        });
        for figure in found.with_context(|| format!("measure {what:?}"))? {
            // At once: a later figure that fails takes no finished one with it.
            let path = setting.write(&figure)?;
            eprintln!("wrote {}", path.display());
            figures.push(figure);
        }
    }
    println!("{}", setting.headline());
    for figure in &figures {
        println!("\n{}", figure.table());
    }
    let missed: Vec<String> = figures.iter().flat_map(Figure::missed).collect();
    if missed.is_empty() {
        println!("\nEvery goal is met.");
    } else {
        println!(
            "\nMISSED, {} of the goals:\n  {}",
            missed.len(),
            missed.join("\n  ")
        );
    }
    Ok(missed.is_empty())
}
