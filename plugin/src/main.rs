//! `magi-node`: reads its command line, and hands over.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use magi_config::{LogFormat, LogSettings, Settings};
use tracing_subscriber::EnvFilter;

/// magi's node agent: watches image pulls and stops exactly the bad ones.
#[derive(Debug, Parser)]
#[command(name = "magi-node", version, arg_required_else_help = false)]
struct Cli {
    /// The node's settings; without it the defaults hold.
    #[arg(long, value_name = "FILE", env = "MAGI_SETTINGS", global = true)]
    settings: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch and decide (what happens without a command).
    Run,
    /// Check settings and policy, print every problem, and end.
    Check,
    /// Run a recorded trace through the engine and print what it decides.
    Replay {
        /// A trace: JSON lines, as `trace:` in the settings records them and failing property tests print them.
        trace: PathBuf,
        /// Print nothing but differences from the recorded effects.
        #[arg(long)]
        quiet: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("magi-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if let Some(Command::Replay { trace, quiet }) = &cli.command {
        return magi_plugin::replay::run(trace, *quiet, &mut std::io::stdout().lock());
    }
    let settings = match &cli.settings {
        Some(path) => magi_config::load_settings(path)?,
        None => Settings::default(),
    };
    if let Some(Command::Check) = cli.command {
        let policy = magi_config::load_policy(&settings.policy)?;
        println!(
            "settings and policy are good; the policy's revision is {}",
            policy.revision
        );
        return Ok(ExitCode::SUCCESS);
    }
    start_log(&settings.log)?;
    // One thread is enough for a node's pulls, and keeps the agent's memory small.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("cannot start the runtime")?
        .block_on(magi_plugin::node::run(settings))?;
    Ok(ExitCode::SUCCESS)
}

fn start_log(settings: &LogSettings) -> anyhow::Result<()> {
    // What libraries have to say helps nobody who runs this; their wire logs would even hold requests.
    let level = settings.level.as_str();
    let filter = EnvFilter::try_new(format!(
        "warn,magi={level},magi_plugin={level},magi_node_api={level}"
    ))
    .context("cannot set the log level")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match settings.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
