//! Which calls in magi's gateway are a pull's, so that it ends with them and nobody else's does.

use std::collections::BTreeSet;

use super::Engine;
use crate::action::Effects;
use crate::bounds::MAX_GATEWAY_CALLS;
use crate::evidence::Source;
use crate::gateway::{Wanted, wanted};
use crate::ids::GatewayCallId;
use crate::owner::PullRequest;
use crate::pull::Pull;
use crate::time::Time;

impl Engine {
    pub(super) fn gateway_call_began(
        &mut self,
        call: GatewayCallId,
        at: Time,
        request: PullRequest,
        fx: &mut Effects,
    ) {
        if !self.is_up(Source::Gateway) {
            return;
        }
        let had_room = self.gateway.began(call, at, request);
        if !had_room && !self.said.too_many_gateway_calls {
            let what = format!("calls in the gateway, beyond {MAX_GATEWAY_CALLS} at once");
            self.forgotten(fx, None, &what);
        }
        self.said.too_many_gateway_calls = !had_room;
    }

    /// The calls to cancel for a pull: those that want what its asker wants. None if its asker may be somebody without a
    /// call there, or if another pull that may be one of these calls' is not `condemned`.
    pub(super) fn calls_of(
        &self,
        pull: &Pull,
        condemned: impl Fn(&Pull) -> bool,
    ) -> Option<Vec<GatewayCallId>> {
        let askers = wants(pull)?;
        // Whose request is over left only its lease behind; the same pod may ask for the same again, in another pull.
        let mut own = pull.owners.hypotheses().into_iter().flatten();
        if !own.all(|asker| self.requests.is_open(asker.call)) {
            return None;
        }
        let mut calls = Vec::new();
        for what in &askers {
            let requests = self.requests.open_that_want(*what);
            let its = self.gateway.passed_on_as(*what, &requests)?;
            // Without an open request it is over already; and one that was not seen may be what a call was passed on as.
            let (first, last) = (its.first()?.0, *requests.last()?);
            if self.requests.may_have_missed(first, last) {
                return None;
            }
            calls.extend(its.into_iter().map(|(_, call)| call));
        }
        let is_alone = calls.len() == 1 && pull.owners.known().is_some();
        let mut others = self.pulls.values().filter(|other| other.id != pull.id);
        let all_may_go = others.all(|other| {
            condemned(other)
                || match wants(other) {
                    Some(wants) => wants.is_disjoint(&askers),
                    // The one call is this pull's, so it is nobody else's.
                    None => is_alone,
                }
        });
        all_may_go.then_some(calls)
    }
}

/// What those want who may have asked for a pull; none: it may be somebody unknown.
fn wants(pull: &Pull) -> Option<BTreeSet<Wanted<'_>>> {
    let askers = pull.owners.hypotheses().into_iter();
    askers
        .map(|asker| asker.map(|asker| wanted(&asker.request)))
        .collect()
}
