//! `magictl doctor`: proves each source and lever on this node, and says what to do about what fails.
//!
//! Facts are gathered once (`facts`), each area makes its checks of them (`kernel`, `levers`, `runtime`, `node`,
//! `verifier`), and with `--active` a real pull (`active`) proves what nothing else can. Nothing is changed on the node,
//! but for that pull, which is removed again.

mod active;
pub(crate) mod check;
mod containerd;
mod facts;
mod image;
mod kernel;
mod levers;
mod node;
mod registry;
mod runtime;
mod stages;
mod verifier;

use std::path::Path;

use crate::args::DoctorArgs;
use crate::output::{Exit, Failure, print, print_json};
use crate::show;
use crate::terminal::room;

use check::{Check, Outcome, Report, outcome};
use facts::Facts;

/// `magictl doctor`
pub(crate) async fn run(socket: &Path, args: DoctorArgs) -> Result<Exit, Failure> {
    let facts = Facts::gather(socket, &args).await?;
    let checks = checks(&facts, args.active).await?;
    let report = Report {
        ok: checks.iter().all(|check| check.outcome != Outcome::Fail),
        version: env!("CARGO_PKG_VERSION"),
        stages: stages::stages(&checks),
        checks,
    };
    let _nothing_more_to_print = if args.json {
        print_json(&report)?
    } else {
        print(&(show::doctor::report(&report, room()).join("\n") + "\n"))?
    };
    Ok(if report.ok { Exit::Done } else { Exit::Unwell })
}

async fn checks(facts: &Facts, active: bool) -> Result<Vec<Check>, Failure> {
    let pid = facts.containerd.as_ref().ok().map(|found| found.pid);
    let pid = pid.filter(|pid| *pid != 0 && magi_sys::exists(*pid));
    let levers = tokio::task::spawn_blocking(move || levers::checks(pid))
        .await
        .map_err(|error| Failure::new(Exit::Failed, format!("the levers could not be tried: {error}")))?;
    let mut checks = kernel::checks(facts);
    checks.extend(levers);
    checks.extend(runtime::checks(facts));
    checks.extend(node::checks(facts));
    checks.push(verifier::check(facts));
    checks.extend(if active {
        let local = outcome(&checks, "pull-path") == Outcome::Warn;
        active::checks(facts, outcome(&checks, "verifier"), local).await
    } else {
        active::not_asked()
    });
    Ok(checks)
}
