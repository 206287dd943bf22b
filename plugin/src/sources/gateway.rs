//! What the gateways tell: pulls that go through them. Each conversation also carries the orders that levers have for
//! that gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use magi_engine::action::Answer;
use magi_engine::event::Question;
use magi_engine::ids::GatewayCallId;
use magi_engine::owner::PullRequest;
use magi_engine::{Event, Source, Time};
use magi_node_api::gateway::{CallNumber, FromGateway, OrderNumber, Refusal, Talk, TalkError, ToGateway};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::asking::Asking;
use crate::causes;
use crate::gateways::{Connected, Gateways, MAX_CALLS, MAX_GATEWAYS, MAX_ORDERS, Order};
use crate::inbox::{Inbox, Stopping};

/// How long a gateway may take to read an order.
const TELL_WITHIN: Duration = Duration::from_secs(5);
/// Admissions that are looked for at a time; a gateway that asks for more hears nothing, and lets the call pass.
const MAX_ADMISSIONS: usize = 64;

/// Why a conversation is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    Talk(#[from] TalkError),
    #[error("it takes nothing in")]
    Hung,
    #[error("it hung up")]
    HungUp,
    #[error("it tells of more than {MAX_CALLS} calls")]
    TooMany,
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

/// Holds conversations with gateways.
#[derive(Clone, Debug)]
pub(crate) struct GatewaySource {
    pub(crate) gateways: Gateways,
    pub(crate) inbox: Inbox,
    pub(crate) asking: Asking,
}

impl GatewaySource {
    /// Until either end hangs up.
    pub(crate) async fn converse(&self, talk: Talk) {
        let (orders, ordered) = mpsc::channel(MAX_ORDERS);
        let mut table = self.gateways.table().await;
        if table.connected.len() >= MAX_GATEWAYS {
            warn!("a gateway is turned away, because {MAX_GATEWAYS} are connected");
            return;
        }
        table.connections = table.connections.saturating_add(1);
        let own = table.connections;
        let calls = BTreeMap::new();
        table.connected.insert(own, Connected { orders, calls });
        self.gateways.changed(&table);
        let told = if table.connected.len() == 1 {
            let source = Source::Gateway;
            self.inbox.send(Event::SourceUp { source }).await
        } else {
            Ok(())
        };
        drop(table);
        info!("a gateway is connected");
        let over = match told {
            Ok(()) => self.exchange(own, talk, ordered).await,
            Err(stopping) => stopping.into(),
        };
        info!(reason = causes::in_one_line(&over), "a gateway is gone");
        // Nobody is there to be told only when the node stops.
        let _stopping = self.gone(own).await;
    }

    async fn exchange(&self, own: u64, mut talk: Talk, mut ordered: mpsc::Receiver<Order>) -> Over {
        let mut waiting: BTreeMap<OrderNumber, oneshot::Sender<u64>> = BTreeMap::new();
        let mut admissions: JoinSet<ToGateway> = JoinSet::new();
        let mut counted = 0_u64;
        loop {
            let done = tokio::select! {
                heard = talk.hear() => match heard {
                    Ok(Some(FromGateway::Began { call, at, request, asks })) => {
                        if asks && admissions.len() < MAX_ADMISSIONS {
                            admissions.spawn(admission(self.asking.clone(), call, request.clone()));
                        }
                        self.began(own, call, at, request).await
                    }
                    Ok(Some(FromGateway::Ended { call })) => self.ended(own, call).await,
                    Ok(Some(FromGateway::Cancelled { order, count })) => {
                        if let Some(done) = waiting.remove(&order) {
                            let _lever_gave_up = done.send(count);
                        }
                        Ok(())
                    }
                    Ok(None) => Err(Over::HungUp),
                    Err(error) => Err(error.into()),
                },
                Some(Order { calls, refusal, done }) = ordered.recv() => {
                    counted = counted.saturating_add(1);
                    let order = OrderNumber(counted);
                    waiting.retain(|_, lever| !lever.is_closed());
                    waiting.insert(order, done);
                    tell(&mut talk, &ToGateway::Cancel { order, calls, refusal }).await
                }
                Some(Ok(word)) = admissions.join_next() => tell(&mut talk, &word).await,
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    async fn began(&self, own: u64, number: CallNumber, at: Time, request: PullRequest) -> Result<(), Over> {
        let mut table = self.gateways.table().await;
        table.calls = table.calls.saturating_add(1);
        let call = GatewayCallId(table.calls);
        let Some(gateway) = table.connected.get_mut(&own) else {
            return Ok(());
        };
        if gateway.calls.contains_key(&number) {
            return Ok(());
        }
        if gateway.calls.len() >= MAX_CALLS {
            return Err(Over::TooMany);
        }
        gateway.calls.insert(number, call);
        self.gateways.changed(&table);
        Ok(self
            .inbox
            .send(Event::GatewayCallBegan { call, at, request })
            .await?)
    }

    async fn ended(&self, own: u64, number: CallNumber) -> Result<(), Over> {
        let mut table = self.gateways.table().await;
        let gateway = table.connected.get_mut(&own);
        let Some(call) = gateway.and_then(|gateway| gateway.calls.remove(&number)) else {
            return Ok(());
        };
        self.gateways.changed(&table);
        Ok(self.inbox.send(Event::GatewayCallEnded { call }).await?)
    }

    /// Its calls are out of reach, until it is connected again.
    async fn gone(&self, own: u64) -> Result<(), Stopping> {
        let mut table = self.gateways.table().await;
        let calls = table
            .connected
            .remove(&own)
            .map(|gone| gone.calls)
            .unwrap_or_default();
        self.gateways.changed(&table);
        for call in calls.into_values() {
            self.inbox.send(Event::GatewayCallEnded { call }).await?;
        }
        if table.connected.is_empty() {
            let source = Source::Gateway;
            self.inbox.send(Event::SourceDown { source }).await?;
        }
        Ok(())
    }
}

/// The engine's word on whether a call may go on; without one, it may.
async fn admission(asking: Asking, call: CallNumber, request: PullRequest) -> ToGateway {
    let refusal: Option<Refusal> = match asking.ask(Question::Admit { request }).await {
        Ok((_, Answer::TurnedAway { refusal })) => Some(refusal),
        Ok(_) | Err(_) => None,
    };
    ToGateway::Admission { call, refusal }
}

async fn tell(talk: &mut Talk, word: &ToGateway) -> Result<(), Over> {
    Ok(timeout(TELL_WITHIN, talk.tell(word))
        .await
        .map_err(|_| Over::Hung)??)
}
