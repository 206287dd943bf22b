//! The one connection to magi-node: tells it of the pulls in flight, and carries out its orders.
//!
//! Nothing waits for this. magi-node may be absent, slow or hung: then its orders do not come, and calls pass.

use std::path::PathBuf;

use magi_node_api::gateway::{FromGateway, Talk, TalkError, ToGateway};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::bounds::{RECONNECT_FIRST, RECONNECT_LONGEST, TELL_WITHIN};
use crate::calls::Calls;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum Over {
    /// It did not even begin, or broke.
    #[error(transparent)]
    Talk(#[from] TalkError),
    /// magi-node takes nothing in.
    #[error("magi-node takes nothing in")]
    Hung,
    /// magi-node hung up.
    #[error("magi-node hung up")]
    HungUp,
}

/// Keeps the connection for as long as the gateway runs.
pub(crate) async fn keep(socket: PathBuf, calls: Calls) {
    let mut pause = RECONNECT_FIRST;
    loop {
        let over = match timeout(TELL_WITHIN, Talk::begin(&socket)).await {
            Ok(Ok(talk)) => {
                info!(socket = %socket.display(), "connected to magi-node");
                pause = RECONNECT_FIRST;
                calls.connected();
                let over = converse(talk, &calls).await;
                calls.disconnected();
                info!(reason = %in_one_line(&over), "no connection to magi-node; pulls pass unjudged");
                over
            }
            Ok(Err(error)) => error.into(),
            Err(_) => Over::Hung,
        };
        debug!(reason = %in_one_line(&over), ?pause, "magi-node cannot be reached");
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(RECONNECT_LONGEST);
    }
}

async fn converse(mut talk: Talk, calls: &Calls) -> Over {
    loop {
        let done = tokio::select! {
            () = calls.news() => tell(&mut talk, calls.untold()).await,
            heard = talk.hear() => match heard {
                Ok(Some(order)) => {
                    let said = carry_out(order, calls);
                    tell(&mut talk, said.into_iter().collect()).await
                }
                Ok(None) => Err(Over::HungUp),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(over) = done {
            return over;
        }
    }
}

fn carry_out(order: ToGateway, calls: &Calls) -> Option<FromGateway> {
    match order {
        ToGateway::Admission { call, refusal } => {
            calls.admission(call, refusal);
            None
        }
        ToGateway::Cancel {
            order,
            calls: numbers,
            refusal,
        } => {
            let count = calls.cancel(&numbers, &refusal);
            info!(count, reason = refusal.text, "calls are cancelled");
            Some(FromGateway::Cancelled { order, count })
        }
    }
}

async fn tell(talk: &mut Talk, news: Vec<FromGateway>) -> Result<(), Over> {
    for one in news {
        within(talk.tell(&one)).await?;
    }
    Ok(())
}

async fn within(telling: impl Future<Output = Result<(), TalkError>>) -> Result<(), Over> {
    Ok(timeout(TELL_WITHIN, telling).await.map_err(|_| Over::Hung)??)
}

/// An error with its causes, for a log line.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text.push_str(": ");
        text.push_str(&one.to_string());
        cause = one.source();
    }
    text
}
