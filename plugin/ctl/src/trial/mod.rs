//! `magictl policy test`: pulls of the past, judged by a policy. Reads files, asks nobody; the judge is the engine's.

mod cases;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use magi_engine::Reason;
use magi_engine::policy::{Mode, Policy};
use magi_engine::trial::{Missing, Opinion, judge};
use serde::{Serialize, Serializer};

use crate::output::{Exit, Failure, print, print_json};
use crate::show;
use crate::terminal::room;

use cases::{Case, Cases, Skipped};

/// Images that are shown of each row.
const EXAMPLES: usize = 3;

/// Options of `policy test`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl pulls --ended --json > pulls.jsonl; magictl policy test --policy new.yaml --pulls pulls.jsonl
  magictl audit query --json > audit.jsonl; magictl policy test --policy new.yaml --audit audit.jsonl
  magictl policy test --policy new.yaml --audit /var/lib/magi/audit.jsonl* --json | jq '.would_abort[]'

Audit records tell only of pulls that some policy condemned, or would have; what `magictl pulls` prints tells of all.
A record does not tell everything. Where the policy hangs on what is missing, the pull is not judged, and it is said why.
Where only is known who most likely asked, that pod counts, and it is said how often that was so. Labels of pods are in no record. Budgets, and `denyFor`, hang on other pulls: they are left out.

In JSON, sizes are bytes, and a namespace that is not known is null. Exits with 0 whatever the policy would do, and with 1 if
a file cannot be read or the policy is wrong.")]
pub(crate) struct TestArgs {
    /// The policy.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// Audit records: JSON lines of a node's trail, of the master's store, or of `audit query --json`.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "pulls")]
    audit: Vec<PathBuf>,

    /// What `magictl pulls --json` printed.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pulls: Vec<PathBuf>,

    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

/// What the policy would do.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// The policy's digest.
    pub(crate) policy: String,
    /// Pulls that were read.
    pub(crate) pulls: u64,
    /// Those that would go on.
    pub(crate) spared: u64,
    /// Those that were judged as of whoever most likely asked, which was not known for sure when it was recorded.
    pub(crate) likely: u64,
    pub(crate) would_abort: Vec<Row<Verdict>>,
    pub(crate) not_judged: Vec<Row<Unknown>>,
    pub(crate) skipped: Skipped,
    /// What of the policy was left out.
    pub(crate) left_out: Vec<&'static str>,
}

/// Pulls of one namespace of which the same is said.
#[derive(Debug, Serialize)]
pub(crate) struct Row<S> {
    /// None: not known.
    pub(crate) namespace: Option<String>,
    #[serde(flatten)]
    pub(crate) said: S,
    pub(crate) pulls: u64,
    /// Declared, or stored where that is not known.
    pub(crate) bytes: u64,
    /// Images of some of them.
    pub(crate) examples: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Verdict {
    pub(crate) reason: Reason,
    pub(crate) mode: Mode,
    /// None: the policy's defaults.
    pub(crate) rule: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Unknown {
    #[serde(serialize_with = "in_words")]
    pub(crate) missing: Vec<Missing>,
}

fn in_words<S: Serializer>(missing: &[Missing], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(missing.iter().map(|missing| missing.words()))
}

/// `magictl policy test`
pub(crate) fn test(args: &TestArgs) -> Result<Exit, Failure> {
    let policy = magi_config::load_policy(&args.policy)
        .map_err(|error| Failure::verbatim(Exit::Failed, error.to_string()))?;
    let failed = |error: read::ReadError| Failure::caused(Exit::Failed, &error);
    let mut cases = Cases::default();
    for path in &args.audit {
        read::lines(path, |line| cases.audit(line)).map_err(failed)?;
    }
    for path in &args.pulls {
        read::lines(path, |line| cases.pulls(path, line)).map_err(failed)?;
    }
    let outcome = outcome(&policy, &cases);
    let _nothing_more_to_print = if args.json {
        print_json(&outcome)?
    } else {
        print(&(show::trial::outcome(&outcome, room()).join("\n") + "\n"))?
    };
    Ok(Exit::Done)
}

fn outcome(policy: &Policy, cases: &Cases) -> Outcome {
    let mut would_abort = Rows::default();
    let mut not_judged = Rows::default();
    let (mut pulls, mut spared, mut likely) = (0_u64, 0_u64, 0_u64);
    for case in cases.all() {
        pulls = pulls.saturating_add(case.times);
        if case.is_likely {
            likely = likely.saturating_add(case.times);
        }
        match judge(policy, &case.recorded) {
            Opinion::Condemned { reason, mode, rule } => {
                would_abort.add(case, Verdict { reason, mode, rule })
            }
            Opinion::Spared => spared = spared.saturating_add(case.times),
            Opinion::Unknown(missing) => not_judged.add(case, Unknown { missing }),
        }
    }
    let left_out = [
        ("budgets", !policy.budgets.is_empty()),
        ("headroom", policy.headroom.is_some()),
        ("denyFor", !policy.deny_for.is_zero()),
    ];
    Outcome {
        policy: policy.revision.clone(),
        pulls,
        spared,
        likely,
        would_abort: would_abort.into_vec(),
        not_judged: not_judged.into_vec(),
        skipped: cases.skipped.clone(),
        left_out: left_out
            .into_iter()
            .filter_map(|(what, is_there)| is_there.then_some(what))
            .collect(),
    }
}

struct Rows<S>(BTreeMap<(Option<String>, S), Row<S>>);

impl<S> Default for Rows<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<S: Clone + Ord> Rows<S> {
    fn add(&mut self, case: &Case, said: S) {
        let namespace = case.namespace();
        let row = self
            .0
            .entry((namespace.clone(), said.clone()))
            .or_insert_with(|| Row {
                namespace,
                said,
                pulls: 0,
                bytes: 0,
                examples: Vec::new(),
            });
        row.pulls = row.pulls.saturating_add(case.times);
        let bytes = case.recorded.declared.unwrap_or(case.stored);
        row.bytes = row.bytes.saturating_add(bytes.saturating_mul(case.times));
        if let Some(image) = case.image()
            && row.examples.len() < EXAMPLES
            && !row.examples.contains(&image)
        {
            row.examples.push(image);
        }
    }

    fn into_vec(self) -> Vec<Row<S>> {
        self.0.into_values().collect()
    }
}
