//! What the demo promises, held against what it measured.

use std::fmt;

use super::report::{Name, Outcome, Report, Scenario};

/// The registry sends less than this of the layers of an oversize image.
pub const OVERSIZE_BYTES: u64 = 8 << 20;
/// The lying layer declares so many bytes.
pub const LYING_DECLARED: u64 = 1 << 20;
/// And is stopped at most this far beyond them.
pub const LYING_OVER: u64 = 4 << 20;
/// A stopped pull has returned so soon. The goal is 150 ms in 19 of 20 runs, which a test measures in a series; a single
/// look on a busy laptop gets some air.
pub const ABORT_MS: u64 = 500;
/// How many containerds there are.
pub const RUNS: usize = 2;

/// An expectation that was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// The containerd's version.
    pub containerd: String,
    /// Which pull; none for the whole run.
    pub scenario: Option<Name>,
    /// What was looked at.
    pub what: String,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub measured: String,
}

impl fmt::Display for Miss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            containerd,
            what,
            expected,
            measured,
            ..
        } = self;
        write!(out, "{containerd} ")?;
        if let Some(name) = self.scenario {
            write!(out, "{name} ")?;
        }
        write!(out, "· {what}: expected {expected}, measured {measured}")
    }
}

/// Collects misses of one pull or run.
#[derive(Debug)]
pub struct Checker {
    containerd: String,
    scenario: Option<Name>,
    misses: Vec<Miss>,
}

impl Checker {
    /// For a pull on that containerd, or the run as a whole.
    pub fn new(containerd: &str, scenario: Option<Name>) -> Self {
        Self {
            containerd: containerd.to_owned(),
            scenario,
            misses: Vec::new(),
        }
    }

    /// Records a miss unless `met`.
    pub fn expect(
        &mut self,
        met: bool,
        what: &str,
        expected: impl fmt::Display,
        measured: impl fmt::Display,
    ) {
        if !met {
            self.misses.push(Miss {
                containerd: self.containerd.clone(),
                scenario: self.scenario,
                what: what.to_owned(),
                expected: expected.to_string(),
                measured: measured.to_string(),
            });
        }
    }

    /// What was missed.
    pub fn misses(self) -> Vec<Miss> {
        self.misses
    }
}

/// Holds a report against the expectations; empty if all are met.
#[must_use]
pub fn check(report: &Report) -> Vec<Miss> {
    let mut whole = Checker::new("the demo", None);
    let runs = report.runs.len();
    whole.expect(runs == RUNS, "containerds", RUNS, runs);
    let mut misses = whole.misses();
    for run in &report.runs {
        for name in Name::ALL {
            let mut found = run.scenarios.iter().filter(|scenario| scenario.name == name);
            let Some(scenario) = found.next() else {
                let mut absent = Checker::new(&run.containerd, Some(name));
                absent.expect(false, "scenario", "in the report", "absent");
                misses.extend(absent.misses());
                continue;
            };
            let mut one = Checker::new(&run.containerd, Some(name));
            let more = found.count();
            one.expect(more == 0, "scenario", "in the report once", more + 1);
            check_scenario(scenario, &mut one);
            misses.extend(one.misses());
        }
    }
    misses
}

/// Holds one scenario against the expectations.
pub fn check_scenario(scenario: &Scenario, checker: &mut Checker) {
    let (outcome, most) = match scenario.name {
        Name::Oversize | Name::Again => (Outcome::Aborted, OVERSIZE_BYTES - 1),
        Name::Lying => (Outcome::Aborted, LYING_DECLARED + LYING_OVER),
        Name::Healthy => (Outcome::Completed, u64::MAX),
    };
    checker.expect(
        scenario.outcome == outcome,
        "outcome",
        outcome,
        format!("{} ({:?})", scenario.outcome, scenario.pull_error),
    );
    let received = scenario.received_layer_bytes;
    checker.expect(
        received <= most,
        "received_layer_bytes",
        format!("at most {most}"),
        received,
    );
    let sockets = scenario.sockets_closed;
    if outcome == Outcome::Completed {
        checker.expect(
            scenario.pull_error.is_empty(),
            "pull_error",
            "none",
            &scenario.pull_error,
        );
        checker.expect(
            received > 0,
            "received_layer_bytes",
            "those of the image",
            received,
        );
        checker.expect(sockets == 0, "sockets_closed", 0, sockets);
    } else {
        let blamed = Blamed::by(&scenario.pull_error);
        checker.expect(
            blamed.is_some(),
            "pull_error",
            "one that names a closed connection, or a lease that is gone",
            format!("{:?}", scenario.pull_error),
        );
        checker.expect(
            scenario.abort_ms <= ABORT_MS,
            "abort_ms",
            format!("at most {ABORT_MS}"),
            scenario.abort_ms,
        );
        // A pull that lost its lease in time never opened a connection for a layer.
        if blamed != Some(Blamed::Lease) {
            checker.expect(sockets > 0, "sockets_closed", "at least 1", sockets);
        }
    }
    let left = &scenario.left_behind;
    for (kind, count) in [
        ("left_behind.ingests", left.ingests),
        ("left_behind.leases", left.leases),
        ("left_behind.snapshots", left.snapshots),
        ("left_behind.blobs", left.blobs),
    ] {
        checker.expect(count == 0, kind, 0, count);
    }
    checker.expect(scenario.collateral == 0, "collateral", 0, scenario.collateral);
}

/// What somebody took from the pull, by the error that it ended with: a pull that failed for another reason was not stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blamed {
    /// A connection to the registry.
    Connection,
    /// The lease that holds what it has fetched.
    Lease,
}

impl Blamed {
    fn by(error: &str) -> Option<Self> {
        let words = [
            // ECONNABORTED of SOCK_DESTROY, ECONNRESET of a disconnect.
            ("connection abort", Self::Connection),
            ("connection reset", Self::Connection),
            // containerd 1.7.24 and 2.1.9: `ErrNotFound` of the snapshot's and the content's metadata store.
            ("lease does not exist", Self::Lease),
        ];
        let found = words.iter().find(|(words, _)| error.contains(words));
        found.map(|(_, blamed)| *blamed)
    }
}
