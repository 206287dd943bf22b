//! The checker of the gateway's lever must be able to fail.

use super::super::Invariant;
use super::super::stage::*;
use crate::action::{Lever, Refusal, RefusalKind};
use crate::event::Event;
use crate::evidence::{Evidence, Reason, Source};
use crate::ids::{CallId, GatewayCallId};
use crate::tests::build::{self, GIB, enforce};

const APP: &str = "reg.x/huge:1";

fn called_through(pod: &str) -> Evidence {
    let request = build::request(APP, Some(pod));
    Evidence::CalledThrough {
        image: request.image,
        pod: request.pod,
        calls: 1,
    }
}

fn cancel(call: u64, evidence: Vec<Evidence>) -> Pulled {
    Pulled {
        lever: Lever::CancelCalls {
            calls: vec![GatewayCallId(call)],
            refusal: Refusal {
                kind: RefusalKind::Exhausted,
                text: Reason::ImageTooLarge.to_string(),
            },
        },
        evidence,
        ..right()
    }
}

/// A stage on which nobody is known to have asked for the pull, and calls of two pods are in the gateway.
fn stage() -> Stage {
    let mut stage = Stage::new(enforce(GIB));
    stage.tell(Event::SourceUp {
        source: Source::Requests,
    });
    stage.tell(Event::SourceUp {
        source: Source::Gateway,
    });
    for (number, pod) in [(1, "a/one"), (2, "b/two")] {
        let request = build::request(APP, Some(pod));
        stage.tell(Event::GatewayCallBegan {
            call: GatewayCallId(number),
            at: stage.now,
            request: request.clone(),
        });
        stage.tell(Event::CallBegan {
            call: CallId(number),
            at: stage.now,
            request,
        });
    }
    stage
}

#[test]
fn a_call_is_cancelled_only_for_a_pull_whose_asker_is_known() {
    let evidence = vec![declared(5 * GIB), called_through("a/one")];
    let broken = stage().broken_by_lever(cancel(1, evidence));
    assert!(
        matches!(broken, Some(Invariant::RightOwner | Invariant::TwoSources)),
        "{broken:?}"
    );
}

#[test]
fn two_sources_must_speak_for_it_and_the_caller_hear_the_reason() {
    assert_eq!(
        stage().broken_by_lever(cancel(1, vec![declared(5 * GIB)])),
        Some(Invariant::TwoSources)
    );
    let lever = Pulled {
        reason: Reason::Operator,
        ..cancel(1, vec![declared(5 * GIB), called_through("a/one")])
    };
    assert_eq!(stage().broken_by_lever(lever), Some(Invariant::TwoSources));
}
