//! `magi-master`: reads its command line, and hands over.

use std::io::{self, BufWriter};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use magi_master::certs::{self, Order};
use magi_master::server::Master;
use magi_master::settings;
use magi_master::truth;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// magi's master: hears which pods are gone, and tells the node that pulls for them.
#[derive(Debug, Parser)]
#[command(name = "magi-master", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the nodes
    Run(SettingsFile),
    /// Check the settings, and say everything that is wrong with them
    Check(SettingsFile),
    /// Make certificates: an authority, and what nodes, operators and the master need
    Certs(Certs),
    /// Print the verdicts that follow from recorded audit logs, one JSON object per line
    Replay {
        /// Audit logs, or bodies that an audit webhook received; read in this order as one stream
        #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
        audit: Vec<PathBuf>,
        /// Print the summary as JSON too, on one line of standard error
        #[arg(long)]
        jsonl: bool,
    },
}

#[derive(Debug, Args)]
struct SettingsFile {
    /// The settings
    #[arg(long, default_value = "/etc/magi/master.yaml")]
    settings: PathBuf,
}

#[derive(Debug, Args)]
struct Certs {
    /// The folder that they are written into; an authority that is there signs them
    #[arg(long)]
    out: PathBuf,
    /// A node, by the name that Kubernetes knows it by; may be given several times
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// An operator; may be given several times
    #[arg(long = "operator", value_name = "NAME")]
    operators: Vec<String>,
    /// A name or address of the master, as nodes call it; may be given several times
    #[arg(long = "master-name", value_name = "NAME")]
    master: Vec<String>,
    /// Days for which they are good
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(i64).range(1..=3650))]
    days: i64,
    /// Replace certificates that are there; the authority stays
    #[arg(long)]
    overwrite: bool,
}

fn main() -> Result<()> {
    let Cli { command } = Cli::parse();
    match command {
        Command::Run(SettingsFile { settings }) => run(&settings),
        Command::Check(SettingsFile { settings }) => {
            magi_config::load_master_settings(&settings)?;
            Ok(())
        }
        Command::Certs(order) => make(order),
        Command::Replay { audit, jsonl } => {
            let mut out = BufWriter::new(io::stdout().lock());
            magi_master::replay::run(&audit, jsonl, &mut out, &mut io::stderr().lock())
        }
    }
}

fn make(certs: Certs) -> Result<()> {
    let order = Order {
        out: certs.out,
        master: certs.master,
        nodes: certs.nodes,
        operators: certs.operators,
        days: certs.days,
        overwrite: certs.overwrite,
    };
    for folder in certs::make(&order, Timestamp::now())? {
        say(&folder.display().to_string());
    }
    Ok(())
}

/// A line on standard output; nobody reading it is no failure.
fn say(line: &str) {
    use std::io::Write;
    let _no_reader = writeln!(io::stdout(), "{line}");
}

/// Each node is a descriptor; what services get by default is enough for a thousand. The hard limit is the operator's.
fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the number of descriptors to the hard limit")
}

#[tokio::main]
async fn run(path: &std::path::Path) -> Result<()> {
    let settings = magi_config::load_master_settings(path)?;
    settings::log(&settings);
    raise_descriptors()?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (intake, hearing) = truth::start(&settings, stop.clone()).await?;
    let master = Master::start(&settings, intake, stop.clone()).await?;
    let stopping = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        tracing::info!("told to stop");
    });
    master.run().await;
    // It ends with the streams; a panic there was told already.
    drop(hearing.await);
    stopping.abort();
    Ok(())
}
