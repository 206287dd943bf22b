//! Pulls in flight through magi's gateway, each of which can be called back.
//!
//! Changed by: a call that begins or ends there, and the gateway that goes away.
//!
//! containerd is asked once more for each of them, by the gateway, and that request is seen on its socket as every other
//! (`requests.rs`). The same call must not count twice, so it is the request that has a pull, and a request is known to be
//! a gateway's by what it asks for: the same image for the same pod. Requests that are equal in that are not told
//! apart but by time: a call is passed on at once. Where one fits no call it came past the gateway, and none is called back.

use std::collections::BTreeMap;

use crate::bounds::{CLOCKS_DIFFER, MAX_GATEWAY_CALLS, PASSED_ON_WITHIN};
use crate::ids::{GatewayCallId, ImageName};
use crate::owner::{PodIdentity, PullRequest};
use crate::time::Time;

/// What makes two requests equal: a pod asks once for an image, and again only when it has its answer.
pub(crate) type Wanted<'a> = (&'a ImageName, Option<&'a PodIdentity>);

/// What a request wants.
pub(crate) fn wanted(request: &PullRequest) -> Wanted<'_> {
    (&request.image, request.pod.as_ref())
}

/// The calls in flight.
#[derive(Debug, Default)]
pub(crate) struct GatewayCalls {
    /// With when the gateway read them.
    calls: BTreeMap<GatewayCallId, (Time, PullRequest)>,
}

impl GatewayCalls {
    /// Takes a call over; `false` if there are too many, and it cannot be called back.
    pub(crate) fn began(&mut self, call: GatewayCallId, at: Time, request: PullRequest) -> bool {
        if self.calls.len() >= MAX_GATEWAY_CALLS && !self.calls.contains_key(&call) {
            return false;
        }
        self.calls.insert(call, (at, request));
        true
    }

    /// A call is over, or is out of reach.
    pub(crate) fn ended(&mut self, call: GatewayCallId) {
        self.calls.remove(&call);
    }

    /// All are out of reach.
    pub(crate) fn lost(&mut self) {
        self.calls.clear();
    }

    /// The calls that want this, and when the gateway read them: oldest first.
    pub(crate) fn that_want(&self, what: Wanted<'_>) -> Vec<(Time, GatewayCallId)> {
        let same = self
            .calls
            .iter()
            .filter(|(_, (_, request))| wanted(request) == what);
        let mut same: Vec<_> = same.map(|(call, (at, _))| (*at, *call)).collect();
        same.sort_unstable();
        same
    }

    /// For each of these requests for the same, oldest first, the call that was passed on as it. None if one of them cannot
    /// have been any: it came past the gateway, or its call's own request was not seen.
    pub(crate) fn passed_on_as(
        &self,
        what: Wanted<'_>,
        requests: &[Time],
    ) -> Option<Vec<(Time, GatewayCallId)>> {
        let mut calls = self.that_want(what).into_iter();
        let passed_on = |request: &Time| {
            calls.find(|(read, _)| {
                *read <= request.after(CLOCKS_DIFFER) && *request <= read.after(PASSED_ON_WITHIN)
            })
        };
        requests.iter().map(passed_on).collect()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }
}
