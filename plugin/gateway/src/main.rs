//! `magi-gateway`: stands between the kubelet and containerd's image service, passes every call on as it is, and can call
//! back a pull that magi-node condemns, in whatever stage it is.
//!
//! A process of its own, so that magi-node may come and go: without it every call passes. `serve.rs` takes connections,
//! `pass.rs` handles one call, `calls.rs` knows the pulls in flight, and `link.rs` speaks with magi-node.

mod body;
mod bounds;
mod calls;
mod decode;
mod link;
mod listen;
mod pass;
mod serve;
mod status;
mod upstream;

#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::calls::Calls;
use crate::listen::Listening;
use crate::serve::Serving;

/// Passes the kubelet's image calls on to containerd, and cancels the pulls that magi-node condemns.
///
/// Point the kubelet's `imageServiceEndpoint` to it. Takes the socket that systemd hands over, if it does.
#[derive(Debug, Parser)]
#[command(name = "magi-gateway", version)]
struct Cli {
    /// Where to listen, unless systemd hands over a socket.
    #[arg(
        long,
        value_name = "SOCKET",
        env = "MAGI_GATEWAY_LISTEN",
        default_value = "/run/magi/image.sock"
    )]
    listen: PathBuf,
    /// containerd's socket.
    #[arg(
        long,
        value_name = "SOCKET",
        env = "MAGI_GATEWAY_CONTAINERD",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: PathBuf,
    /// magi-node's control socket.
    #[arg(long, value_name = "SOCKET", env = "MAGI_SOCKET", default_value = magi_node_api::DEFAULT_SOCKET)]
    node: PathBuf,
    /// How long calls in flight may go on after SIGTERM, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "MAGI_GATEWAY_DRAIN",
        default_value_t = 300
    )]
    drain: u64,
    /// How long a pull waits for magi-node's admission, in milliseconds; 0: it does not ask.
    #[arg(long, value_name = "MILLISECONDS", env = "MAGI_GATEWAY_ASK_WITHIN", default_value_t = 50,
          value_parser = clap::value_parser!(u64).range(..=5_000))]
    ask_within: u64,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("magi-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // What libraries have to say helps nobody who runs this; their wire logs would even hold requests.
    let filter = EnvFilter::try_new("warn,magi_gateway=info,magi_node_api=info")
        .context("cannot set the log level")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(cli))
}

async fn serve(cli: Cli) -> anyhow::Result<()> {
    let mut terminates = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let listening = Listening::begin(&cli.listen, |name| std::env::var(name).ok())?;
    info!(
        listen = ?listening.listener().local_addr().ok(),
        containerd = %cli.containerd.display(),
        node = %cli.node.display(),
        "magi-gateway runs"
    );
    let calls = Calls::default();
    let link = tokio::spawn(link::keep(cli.node, calls.clone()));
    let serving = Serving {
        containerd: Arc::new(cli.containerd),
        calls,
        ask_within: Duration::from_millis(cli.ask_within),
        drain: Duration::from_secs(cli.drain),
    };
    let stop = async move {
        tokio::select! {
            _ = terminates.recv() => {}
            _ = interrupts.recv() => {}
        }
    };
    let served = serving.run(listening, stop).await;
    link.abort();
    served.context("cannot serve")
}
