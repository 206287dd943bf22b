//! The gateways that are connected, and the calls that each of them has in flight: where the source that hears them and
//! the lever that cancels meet.

use std::collections::BTreeMap;
use std::sync::Arc;

use magi_engine::action::Refusal;
use magi_engine::ids::GatewayCallId;
use magi_node_api::GatewayStatus;
use magi_node_api::gateway::CallNumber;
use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot, watch};

/// Gateways at once: one, and another that takes over from it.
pub(crate) const MAX_GATEWAYS: usize = 4;
/// Orders to one gateway that may wait.
pub(crate) const MAX_ORDERS: usize = 256;
/// Calls of one gateway; it tells of fewer itself.
pub(crate) const MAX_CALLS: usize = 2048;

/// Calls to be cancelled in one gateway.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) calls: Vec<CallNumber>,
    pub(crate) refusal: Refusal,
    /// Hears how many were cancelled.
    pub(crate) done: oneshot::Sender<u64>,
}

/// One of the gateways.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) calls: BTreeMap<CallNumber, GatewayCallId>,
}

/// All of them, by a number of their connection.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) connected: BTreeMap<u64, Connected>,
    pub(crate) connections: u64,
    pub(crate) calls: u64,
}

/// Clones share the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gateways {
    table: Arc<Mutex<Table>>,
    status: watch::Sender<GatewayStatus>,
}

impl Gateways {
    /// The table; whoever tells the engine of a change tells it before letting go, so that it hears changes in order.
    pub(crate) async fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().await
    }

    /// For the node's status.
    pub(crate) fn status(&self) -> GatewayStatus {
        *self.status.borrow()
    }

    /// The table has changed.
    pub(crate) fn changed(&self, table: &Table) {
        let count = |many: usize| u64::try_from(many).unwrap_or(u64::MAX);
        let pulls = table.connected.values().map(|one| one.calls.len()).sum();
        self.status.send_replace(GatewayStatus {
            connected: count(table.connected.len()),
            pulls: count(pulls),
        });
    }
}
