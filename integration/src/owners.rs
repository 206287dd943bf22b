//! Whoever asked before magi-node looked was not seen, and for a second any pull may be theirs: small pulls show when that
//! is over.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::cri::{Cri, Pod};
use crate::image::{Compression, ImageBuilder, Layer};
use crate::magi::Magi;
use crate::{Behaviour, Registry};

const BOUND: Duration = Duration::from_secs(20);

/// Pulls small images over `cri` until magi says whose they are; nothing of them is left in containerd then.
pub async fn until_known(magi: &Magi, cri: &Cri, registry: &Registry) -> Result<()> {
    let layer = Layer::random(99, 100_000, Compression::Gzip)?;
    let image = ImageBuilder::oci().layer(layer).build()?;
    let reference = registry.put("whose", "1", &image);
    registry.behave("whose", Behaviour::rate(500_000));
    let began = Instant::now();
    while began.elapsed() < BOUND {
        let pod = Pod::new("first", "try");
        let pull = cri.pull_as(&reference, Some(&pod), None).await;
        ensure!(pull.outcome.is_ok(), "{}", pull.error());
        let answer = magi.ask(&json!({"v": 1, "ask": "pulls", "ended": true})).await?;
        cri.remove(&reference).await?;
        let ended = answer
            .pointer("/reply/answer/report/ended")
            .and_then(Value::as_array);
        if ended
            .into_iter()
            .flatten()
            .any(|pull| pull.pointer("/owner/pod/name") == Some(&json!("try")))
        {
            return Ok(());
        }
    }
    bail!("no owner is known after {BOUND:?}:\n{}", magi.log_tail(30));
}
