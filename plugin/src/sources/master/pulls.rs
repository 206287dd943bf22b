//! What is being pulled, in a few numbers, told to the master now and then.

use std::time::Duration;

use magi_engine::action::Answer;
use magi_engine::event::Question;
use magi_engine::policy::Mode;
use magi_engine::report::Report;
use magi_master_api::client::ToMaster;
use magi_master_api::message::Pulls;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::trail::Stops;
use crate::asking::Asking;

/// Numbers that are older than this help nobody; a master of thousands of nodes hears enough with it.
const EVERY: Duration = Duration::from_secs(15);

/// Tells it for ever; whatever is the same as the last time is not said again.
pub(super) async fn tell(asking: Asking, stops: Stops, say: mpsc::Sender<ToMaster>) {
    let mut pace = interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        pace.tick().await;
        // An engine that is busy is asked again with the next tick.
        let Ok((_, Answer::Pulls { report })) = asking.ask(Question::Pulls { ended: false }).await else {
            continue;
        };
        let pulls = summary(&report, &stops);
        if last != Some(pulls) && say.send(ToMaster::Pulls(pulls)).await.is_err() {
            // The agent stops; whoever runs this ends it.
            return std::future::pending().await;
        }
        last = Some(pulls);
    }
}

fn summary(report: &Report, stops: &Stops) -> Pulls {
    let count = |wanted: usize| u32::try_from(wanted).unwrap_or(u32::MAX);
    let is_condemned = |mode: Option<Mode>| mode == Some(Mode::Enforce);
    let condemned = report
        .pulls
        .iter()
        .filter(|pull| is_condemned(pull.verdict.as_ref().map(|verdict| verdict.mode)));
    Pulls {
        in_flight: count(report.pulls.len()),
        condemned: count(condemned.count()),
        bytes_stored: report
            .pulls
            .iter()
            .fold(0, |sum, pull| sum.saturating_add(pull.stored)),
        stopped: stops.stopped(),
        would_have_stopped: stops.would_have_stopped(),
    }
}
