//! The image verifier that containerd executes for each pull: it asks magi-node, and allows whatever is in doubt.
//!
//! containerd blocks a pull whose verifier fails, is late or leaves anything but 0 as its exit code (2.1.9,
//! pkg/imageverifier/bindir/bindir.go). magi must never be the reason that a good pull fails, so here every doubt is an
//! allowance: no node, a node that hangs, an answer that is not understood, a panic. Only a refusal that magi-node
//! clearly speaks, and that reaches containerd with its reason, ends with 1.
//!
//! It is small, needs nothing but the standard library, starts no process, and ends at its deadline whatever happens.
#![forbid(unsafe_code)]

mod call;
mod deadline;
mod json;
mod node;
mod settings;
mod verdict;

use std::panic::{self, catch_unwind};
use std::time::Instant;

use call::Call;
use deadline::Clock;
use settings::Settings;
use verdict::{Verdict, doubt};

fn main() {
    let started = Instant::now();
    // The default hook writes pages; whoever reads containerd's log wants a line.
    panic::set_hook(Box::new(|info| {
        doubt(&format!("a defect of magi-verify: {info}"))
    }));
    // Nothing in there should panic; but 101, Rust's own exit code after a panic, would block every pull.
    let verdict = catch_unwind(|| deadline::within(started, settings::DEFAULT_DEADLINE, judge));
    let verdict = verdict.unwrap_or(Verdict::Allow);
    std::process::exit(verdict.exit_code());
}

/// Asks, and says why if the answer is no. Runs beside the clock, which ends everything at the deadline.
fn judge(clock: &Clock) -> Verdict {
    let settings = Settings::load();
    clock.set(settings.deadline);
    let verdict = Call::hear(settings.deadline)
        .map_err(|problem| problem.to_string())
        .and_then(|call| node::ask(&settings.socket, &call).map_err(|problem| problem.to_string()));
    let said = match verdict {
        Ok(Verdict::Refuse(why)) => match verdict::tell(&why) {
            Ok(()) => return Verdict::Refuse(why),
            Err(error) => Err(format!("nobody hears the reason of a refusal: {error}")),
        },
        Ok(Verdict::Allow) => Ok(()),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = said {
        doubt(&problem);
    }
    Verdict::Allow
}
