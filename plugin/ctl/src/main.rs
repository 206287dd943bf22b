//! magictl: what an operator types. Asks magi-node over its control socket, containerd for a pull, or the master.

mod args;
mod doctor;
mod install;
mod master;
mod node;
mod output;
mod pull;
mod show;
mod terminal;
mod trial;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use master::args::{AuditCommand, MasterCommand, PolicyCommand, SwitchCommand};
use output::{Exit, Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot start: {error}"))),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Pulls(args) => node::pulls(&cli.socket, args).await,
        Command::Abort(args) => node::abort(&cli.socket, args).await,
        Command::Panic(args) => node::panic(&cli.socket, args).await,
        Command::Status(args) => node::status(&cli.socket, args).await,
        Command::Pods(args) => node::pods(&cli.socket, args).await,
        Command::Doctor(args) => doctor::run(&cli.socket, args).await,
        Command::Pull(args) => pull::pull(args).await,
        Command::Policy(PolicyCommand::Status(args)) => master::policy::status(args).await,
        Command::Policy(PolicyCommand::Push(args)) => master::policy::push(args).await,
        Command::Policy(PolicyCommand::Diff(args)) => master::policy::diff(args).await,
        Command::Policy(PolicyCommand::Test(args)) => trial::test(&args),
        Command::Audit(AuditCommand::Tail(args)) => master::audit::tail(args).await,
        Command::Audit(AuditCommand::Query(args)) => master::audit::query(args).await,
        Command::Master(MasterCommand::Status(args)) => master::status::status(args).await,
        Command::Switch(SwitchCommand::On(args)) => master::status::switch(true, args).await,
        Command::Switch(SwitchCommand::Off(args)) => master::status::switch(false, args).await,
        Command::Install(args) => install::install(&args),
        Command::Uninstall(args) => install::uninstall(&args),
    }
}
