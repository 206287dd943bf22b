//! `magi-master`: reads its command line, and hands over.

use std::io::{self, BufWriter};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// magi's master: hears which pods are gone, and tells the node that pulls for them.
#[derive(Debug, Parser)]
#[command(name = "magi-master", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Replay { audit, jsonl } => {
            let mut out = BufWriter::new(io::stdout().lock());
            magi_master::replay::run(&audit, jsonl, &mut out, &mut io::stderr().lock())
        }
    }
}
