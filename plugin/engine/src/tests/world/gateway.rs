//! magi's gateway: which pulls go through it, what it tells, and what it cancels.

use super::requests::{self, Asker};
use super::{World, images};
use crate::action::LeverOutcome;
use crate::event::{Event, Question};
use crate::evidence::Source;
use crate::ids::GatewayCallId;
use crate::tests::build;
use crate::tests::check::{Broken, Invariant};

impl World {
    pub(super) fn gateway_tells(&mut self, event: Event) {
        if self.up.contains(&Source::Gateway) {
            self.gateway.push_back(event);
        }
    }

    pub(super) fn deliver_gateway(&mut self, most: usize) -> Result<(), Broken> {
        for _ in 0..most {
            let Some(event) = self.gateway.pop_front() else {
                break;
            };
            self.tell(event)?;
        }
        Ok(())
    }

    /// It is connected anew, and tells of all that is in flight.
    pub(super) fn gateway_connects(&mut self) {
        for pull in &self.pulls {
            let Some((asked, call)) = pull.asked.and_then(|asked| Some((asked, asked.gateway?))) else {
                continue;
            };
            let request = requests::request(pull.image, asked.pod);
            let at = asked.at;
            self.gateway
                .push_back(Event::GatewayCallBegan { call, at, request });
        }
    }

    /// containerd ends the pulls of these calls.
    pub(super) fn cancel(&mut self, calls: &[GatewayCallId]) -> LeverOutcome {
        let mut count = 0;
        while let Some(pull) = self.pulls.iter().position(|pull| {
            let call = pull.asked.and_then(|asked| asked.gateway);
            call.is_some_and(|call| calls.contains(&call))
        }) {
            self.end_pull(pull, false);
            count += 1;
        }
        match count {
            0 => LeverOutcome::AlreadyGone,
            count => LeverOutcome::Done { count },
        }
    }

    /// The truth about calls that are to be cancelled: none is of a pull that the engine could know to be innocent.
    pub(super) fn cancels_no_bystander(&self, calls: &[GatewayCallId]) -> Result<(), Broken> {
        let hit = self.pulls.iter().find(|pull| {
            let call = pull.asked.and_then(|asked| asked.gateway);
            call.is_some_and(|call| calls.contains(&call)) && self.checker.is_innocent(&pull.lease)
        });
        match hit {
            Some(innocent) => Err(Broken {
                invariant: Invariant::RightPull,
                what: format!(
                    "{calls:?} are cancelled, and one is the innocent {}",
                    innocent.lease
                ),
            }),
            None => Ok(()),
        }
    }

    /// It asks whether a pull may go on.
    pub(super) fn admit(&mut self, image: usize, asker: Asker) -> Result<(), Broken> {
        let of = match asker {
            Asker::Pod(which) => Some(which),
            Asker::Nobody | Asker::Unseen => None,
        };
        let request = build::request(&images::reference(image), of.map(requests::pod));
        self.ask(Question::Admit { request })
    }
}
