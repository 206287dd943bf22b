//! Cancels calls in the gateways that have them.

use std::time::Duration;

use magi_engine::action::{LeverOutcome, Refusal};
use magi_engine::ids::GatewayCallId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::gateways::{Gateways, Order};

/// How long the gateways may take to say what became of it; they do nothing but look into a table.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// The way to the gateways.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    gateways: Gateways,
}

impl Calls {
    pub(crate) const fn new(gateways: Gateways) -> Self {
        Self { gateways }
    }

    /// Cancels all of them; `Done` if one was still in flight.
    pub(crate) async fn cancel(&self, calls: &[GatewayCallId], refusal: Refusal) -> LeverOutcome {
        let mut answers = Vec::new();
        let mut busy = false;
        let table = self.gateways.table().await;
        for gateway in table.connected.values() {
            let its = gateway.calls.iter().filter(|(_, call)| calls.contains(call));
            let numbers: Vec<_> = its.map(|(number, _)| *number).collect();
            if numbers.is_empty() {
                continue;
            }
            let (done, answer) = oneshot::channel();
            let order = Order {
                calls: numbers,
                refusal: refusal.clone(),
                done,
            };
            match gateway.orders.try_send(order) {
                Ok(()) => answers.push(answer),
                Err(_) => busy = true,
            }
        }
        drop(table);
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut count = 0_u64;
        for answer in answers {
            match timeout_at(deadline, answer).await {
                Ok(Ok(cancelled)) => count = count.saturating_add(cancelled),
                Ok(Err(_)) | Err(_) => busy = true,
            }
        }
        match (count, busy) {
            (0, false) => LeverOutcome::AlreadyGone,
            (0, true) => LeverOutcome::Failed {
                why: "the gateway does not answer".to_owned(),
            },
            (count, _) => LeverOutcome::Done { count },
        }
    }
}
