//! `magi-master`: reads its command line, and hands over.

use clap::Parser;

/// magi's master: hears which pods are gone, and tells the node that pulls for them.
#[derive(Debug, Parser)]
#[command(name = "magi-master", version)]
struct Cli {}

fn main() {
    let Cli {} = Cli::parse();
}
