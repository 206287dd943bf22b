//! What of a pull can be stopped on this node, by what was proven.

use super::check::{Check, Outcome, Stage, outcome};

/// The stages, from the first byte to the last.
pub(super) fn stages(checks: &[Check]) -> Vec<Stage> {
    let is_ok = |id| outcome(checks, id) == Outcome::Ok;
    let stage = |stage, covered, by: &str| Stage {
        stage,
        covered,
        by: by.to_owned(),
    };
    let runs = is_ok("magi-node") && is_ok("watches-containerd") && is_ok("audit");
    if !runs {
        let why = "nothing: magi-node must run, watch containerd, and be able to write its audit trail";
        return ["before the first byte", "downloading", "unpacking"]
            .map(|name| stage(name, false, why))
            .to_vec();
    }
    let called = outcome(checks, "verifier-called");
    let first = match (is_ok("verifier"), outcome(checks, "pull-path"), called) {
        (_, _, Outcome::Ok) => (true, "the image verifier says no: proven"),
        (_, _, Outcome::Fail) => (false, "nothing: the image verifier is not heard"),
        (true, Outcome::Ok, Outcome::Skip | Outcome::Warn) => {
            (true, "the image verifier says no: installed, not proven")
        }
        (true, Outcome::Warn | Outcome::Fail | Outcome::Skip, _) => {
            (false, "nothing: pulls go past the image verifier")
        }
        (false, _, _) => (false, "nothing: there is no image verifier"),
    };
    let lever = match (is_ok("destroy-socket"), is_ok("disconnect-socket")) {
        (true, _) => Some("its socket is destroyed"),
        (false, true) => Some("its socket is disconnected"),
        (false, false) => None,
    };
    let ties = if is_ok("probes") {
        "tied by probes"
    } else {
        "tied by byte counts, which takes longer"
    };
    let downloading = lever.map_or_else(
        || (false, "nothing: no lever works".to_owned()),
        |lever| (true, format!("{lever}, {ties}")),
    );
    let unpacking = if is_ok("gateway") {
        (
            true,
            "its call in the gateway is cancelled, if it goes through it",
        )
    } else {
        (
            false,
            "nothing: an unpack is reported and not stopped; what it leaves behind is removed",
        )
    };
    vec![
        stage("before the first byte", first.0, first.1),
        stage("downloading", downloading.0, &downloading.1),
        stage("unpacking", unpacking.0, unpacking.1),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Question;

    fn covered(oks: &[&'static str], others: &[(&'static str, Outcome)]) -> Vec<bool> {
        let question = |id| Question { id, proves: "" };
        let mut checks: Vec<_> = oks.iter().map(|id| question(*id).ok("")).collect();
        for (id, outcome) in others {
            let mut check = question(*id).skip("");
            check.outcome = *outcome;
            checks.push(check);
        }
        stages(&checks).into_iter().map(|stage| stage.covered).collect()
    }

    #[test]
    fn a_stage_is_covered_by_what_works_for_it() {
        let runs = ["magi-node", "watches-containerd", "audit"];
        let with = |more: &[&'static str]| [&runs[..], more].concat();
        assert_eq!(covered(&runs, &[]), [false; 3]);
        assert_eq!(covered(&with(&["disconnect-socket"]), &[]), [false, true, false]);
        assert_eq!(
            covered(&with(&["verifier", "pull-path"]), &[]),
            [true, false, false]
        );
        assert_eq!(covered(&with(&["gateway"]), &[]), [false, false, true]);
        let local = [("pull-path", Outcome::Warn)];
        assert_eq!(covered(&with(&["verifier"]), &local), [false; 3]);
        let deaf = [("verifier-called", Outcome::Fail)];
        assert_eq!(covered(&with(&["verifier", "pull-path"]), &deaf), [false; 3]);
        assert_eq!(
            covered(&["destroy-socket", "verifier", "pull-path"], &[]),
            [false; 3]
        );
    }
}
