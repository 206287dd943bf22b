//! Each checker must be able to fail: it is fed a bad effect.

mod answers;
mod calls;

use std::time::Duration;

use super::Invariant;
use super::stage::*;
use crate::action::{Action, Answer, Lever, LeverOutcome};
use crate::audit::{AuditRecord, Entry};
use crate::bounds::{ANSWER_WITHIN, CLEANUP_GRACE};
use crate::event::{Event, View};
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::AttemptId;
use crate::policy::RuleVerdict;
use crate::tests::build::{
    self, GIB, MIB, enforce, feed, image, ingest_dir, ingest_key, ingest_ref, lease_key, lease_view, observe,
    policy, socket, stat,
};

#[test]
fn a_right_lever_breaks_nothing() {
    assert_eq!(Stage::new(enforce(GIB)).broken_by_lever(right()), None);
}

#[test]
fn one_source_is_not_enough() {
    for evidence in [
        vec![declared(5 * GIB)],
        vec![feeds(7)],
        vec![feeds(7), feeds(7)],
        vec![],
    ] {
        let lever = Pulled { evidence, ..right() };
        assert_eq!(
            Stage::new(enforce(GIB)).broken_by_lever(lever),
            Some(Invariant::TwoSources)
        );
    }
}

#[test]
fn what_nobody_said_is_no_evidence() {
    let overrun = Evidence::IngestOverrun {
        ingest: ingest_ref(3),
        offset: 9 * GIB,
        total: 5 * GIB,
    };
    for invented in [declared(6 * GIB), feeds(8), overrun] {
        let evidence = vec![invented, declared(5 * GIB), feeds(7)];
        let lever = Pulled { evidence, ..right() };
        assert_eq!(
            Stage::new(enforce(GIB)).broken_by_lever(lever),
            Some(Invariant::TwoSources)
        );
    }
}

#[test]
fn the_evidence_must_be_of_the_socket_that_is_closed() {
    let mut stage = Stage::new(enforce(GIB));
    stage.tell(Event::SocketFed {
        feed: feed(8, ingest_dir(K8S, 3), MIB),
    });
    let lever = Lever::DestroySocket { socket: socket(8) };
    assert_eq!(
        stage.broken_by_lever(Pulled { lever, ..right() }),
        Some(Invariant::TwoSources)
    );
}

#[test]
fn a_lever_without_a_record_needs_an_earlier_one() {
    let mut stage = Stage::new(enforce(GIB));
    let mut action = right().action();
    if let Action::PullLever { recorded, .. } = &mut action {
        *recorded = true;
    }
    assert_eq!(
        stage.broken_by(Event::Tick, vec![action]),
        Some(Invariant::TwoSources)
    );
}

#[test]
fn a_lever_needs_an_intent_of_its_own() {
    let mut stage = Stage::new(enforce(GIB));
    let Action::PullLever {
        lever, mut intent, ..
    } = right().action()
    else {
        return;
    };
    let attempt = AttemptId(2);
    let other = Action::PullLever {
        attempt,
        lever: lever.clone(),
        intent: intent.clone(),
        recorded: false,
    };
    assert_eq!(
        stage.broken_by(Event::Tick, vec![other]),
        Some(Invariant::TwoSources)
    );
    intent.entry = Entry::Clean { removed: 0 };
    let none = Action::PullLever {
        attempt: AttemptId(3),
        lever,
        intent,
        recorded: false,
    };
    assert_eq!(
        stage.broken_by(Event::Tick, vec![none]),
        Some(Invariant::TwoSources)
    );
}

#[test]
fn a_pull_that_the_last_look_does_not_show_is_left_alone() {
    let mut stage = Stage::new(enforce(GIB));
    stage.view = View::default();
    stage.look();
    assert_eq!(stage.broken_by_lever(right()), Some(Invariant::RightPull));
}

#[test]
fn a_tie_of_an_earlier_generation_is_none() {
    let mut stage = Stage::new(enforce(GIB));
    stage.view.leases = vec![lease_view(lease_key(K8S, "again"), &[3])];
    stage.look();
    let manifest = image(30, &[(3, 5 * GIB)], &[]);
    let lease = lease_key(K8S, "again");
    stage.tell(Event::ManifestRead {
        lease: lease.clone(),
        manifest,
    });
    let pull = Some(facts(2, lease));
    assert_eq!(
        stage.broken_by_lever(Pulled { pull, ..right() }),
        Some(Invariant::TwoSources)
    );
}

#[test]
fn a_tie_to_an_ingest_that_never_came_is_none() {
    let mut stage = Stage::new(enforce(GIB));
    let ingests = std::mem::take(&mut stage.view.ingests);
    stage.view.leases.clear();
    stage.look();
    stage.tell(Event::SocketFed {
        feed: feed(7, ingest_dir(K8S, 3), MIB),
    });
    stage.look();
    stage.look();
    stage.view.leases.push(lease_view(huge(), &[3]));
    stage.view.ingests = ingests;
    stage.look();
    let manifest = image(30, &[(3, 5 * GIB)], &[]);
    stage.tell(Event::ManifestRead {
        lease: huge(),
        manifest,
    });
    let pull = Some(facts(2, huge()));
    assert_eq!(
        stage.broken_by_lever(Pulled { pull, ..right() }),
        Some(Invariant::TwoSources)
    );
}

#[test]
fn an_ingest_of_an_innocent_pull_as_well_is_no_ground() {
    let mut stage = Stage::new(enforce(GIB));
    stage
        .view
        .leases
        .push(lease_view(lease_key(K8S, "innocent"), &[3]));
    stage.look();
    assert_eq!(stage.broken_by_lever(right()), Some(Invariant::RightPull));
}

#[test]
fn a_second_lever_must_wait_for_the_first() {
    let mut stage = Stage::new(enforce(GIB));
    assert_eq!(stage.broken_by_lever(right()), None);
    let second = Pulled {
        attempt: 2,
        ..right()
    };
    assert_eq!(stage.broken_by_lever(second), Some(Invariant::OneLever));
    let (attempt, outcome) = (AttemptId(1), LeverOutcome::AlreadyGone);
    stage.tell(Event::LeverDone { attempt, outcome });
    assert_eq!(
        stage.broken_by_lever(Pulled {
            attempt: 3,
            ..right()
        }),
        None
    );
}

#[test]
fn an_attempt_has_one_number_and_a_pull_one_lease() {
    let mut stage = Stage::new(enforce(GIB));
    assert_eq!(stage.broken_by_lever(right()), None);
    assert_eq!(stage.broken_by_lever(right()), Some(Invariant::Identity));
    let pull = Some(facts(1, lease_key(K8S, "other")));
    let lever = Pulled {
        attempt: 2,
        pull,
        ..right()
    };
    assert_eq!(stage.broken_by_lever(lever), Some(Invariant::Identity));
    let pull = Some(facts(2, huge()));
    let lever = Pulled {
        attempt: 3,
        pull,
        ..right()
    };
    assert_eq!(stage.broken_by_lever(lever), Some(Invariant::Identity));
}

#[test]
fn observe_and_exempt_pull_no_lever() {
    for policy in [observe(GIB), policy(RuleVerdict::Exempt), enforce(10 * GIB)] {
        assert_eq!(
            Stage::new(policy).broken_by_lever(right()),
            Some(Invariant::ObserveOnlyLooks)
        );
    }
}

#[test]
fn an_operators_lever_needs_an_operator() {
    let operator = || Pulled {
        reason: Reason::Operator,
        evidence: vec![asked(), feeds(7)],
        ..right()
    };
    let mut stage = Stage::new(observe(GIB));
    assert_eq!(
        stage.broken_by_lever(operator()),
        Some(Invariant::TwoSources),
        "nobody asked"
    );
    let mut stage = Stage::new(observe(GIB));
    let known = Action::Record {
        record: AuditRecord {
            pull: Some(facts(1, huge())),
            policy: String::new(),
            entry: Entry::Clean { removed: 0 },
        },
    };
    assert_eq!(stage.broken_by(Event::Tick, vec![known]), None);
    stage.tell(abort(1));
    assert_eq!(stage.broken_by_lever(operator()), None);
}

#[test]
fn a_source_that_is_down_says_nothing() {
    for source in [Source::Containerd, Source::Probes] {
        let mut stage = Stage::new(enforce(GIB));
        stage.tell(Event::SourceDown { source });
        let broken = stage.broken_by_lever(right());
        assert!(
            matches!(broken, Some(Invariant::LossIsHarmless | Invariant::TwoSources)),
            "{broken:?}"
        );
        stage.tell(Event::SourceUp { source });
        assert!(
            stage
                .broken_by_lever(Pulled {
                    attempt: 2,
                    ..right()
                })
                .is_some()
        );
    }
}

#[test]
fn a_loss_leads_to_no_lever() {
    let source = Source::SocketTable;
    for event in [Event::SourceDown { source }, Event::TiesLost] {
        let broken = Stage::new(enforce(GIB)).broken_by(event, vec![right().action()]);
        assert_eq!(broken, Some(Invariant::LossIsHarmless));
    }
}

#[test]
fn a_panic_lever_closes_what_is_listed_for_somebody_who_asked() {
    let sockets = vec![stat(7, MIB)];
    let mut stage = Stage::new(enforce(GIB));
    stage.tell(Event::SocketsListed {
        sockets: sockets.clone(),
    });
    assert_eq!(
        stage.broken_by_lever(panic_lever(&[7])),
        Some(Invariant::ObserveOnlyLooks)
    );
    stage.tell(panic_button(1));
    assert_eq!(
        stage.broken_by_lever(Pulled {
            attempt: 2,
            ..panic_lever(&[7, 8])
        }),
        Some(Invariant::LossIsHarmless)
    );
    assert_eq!(
        stage.broken_by_lever(Pulled {
            attempt: 3,
            ..panic_lever(&[7])
        }),
        None
    );
    let source = Source::SocketTable;
    stage.tell(Event::SourceDown { source });
    assert_eq!(
        stage.broken_by_lever(Pulled {
            attempt: 4,
            ..panic_lever(&[7])
        }),
        Some(Invariant::LossIsHarmless)
    );
}

/// The pull was stopped and is gone; its ingest is left.
fn left() -> Stage {
    let mut stage = Stage::new(enforce(GIB));
    assert_eq!(stage.broken_by_lever(right()), None);
    let (attempt, outcome) = (AttemptId(1), LeverOutcome::Done { count: 1 });
    stage.tell(Event::LeverDone { attempt, outcome });
    stage.view.leases.clear();
    stage.look();
    stage
}

#[test]
fn leftovers_are_removed_after_the_grace_and_only_if_nobody_has_them() {
    let mut stage = left();
    stage.look();
    assert_eq!(
        stage.broken_by_lever(abort_ingest()),
        Some(Invariant::RightPull),
        "too early"
    );

    let mut stage = left();
    stage.look();
    stage.pass(CLEANUP_GRACE);
    assert_eq!(stage.broken_by_lever(abort_ingest()), None);

    let mut stage = left();
    stage.pass(CLEANUP_GRACE);
    stage.view.ingests[0].offset += MIB;
    stage.look();
    assert_eq!(
        stage.broken_by_lever(abort_ingest()),
        Some(Invariant::RightPull),
        "it grows"
    );

    let mut stage = left();
    stage.pass(CLEANUP_GRACE);
    stage.view.leases = vec![lease_view(lease_key(K8S, "waiter"), &[3])];
    stage.look();
    stage.look();
    assert_eq!(
        stage.broken_by_lever(abort_ingest()),
        Some(Invariant::RightPull),
        "it is owned"
    );

    let mut stage = left();
    stage.pass(CLEANUP_GRACE);
    stage.look();
    let ingest = ingest_key(K8S, 4);
    let lever = Pulled {
        lever: Lever::AbortIngest { ingest },
        ..abort_ingest()
    };
    assert_eq!(
        stage.broken_by_lever(lever),
        Some(Invariant::RightPull),
        "it is another's"
    );

    let mut stage = left();
    stage.pass(CLEANUP_GRACE);
    stage.look();
    let snapshot = build::snapshot(K8S, "extract-1");
    let lever = Pulled {
        lever: Lever::RemoveSnapshot { snapshot },
        ..abort_ingest()
    };
    assert_eq!(
        stage.broken_by_lever(lever),
        Some(Invariant::RightPull),
        "it is another's"
    );
}

#[test]
fn a_pull_that_runs_has_no_leftovers() {
    assert_eq!(
        Stage::new(enforce(GIB)).broken_by_lever(abort_ingest()),
        Some(Invariant::RightPull)
    );
}
