//! Waiting for a level with a bound: the one way in which the harness waits.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Polls `probe` every `step` until it gives a value; after `bound` the error names `what`.
pub async fn until<T, F, Fut>(what: &str, bound: Duration, step: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        if start.elapsed() >= bound {
            bail!("waited {bound:?} in vain for {what}");
        }
        tokio::time::sleep(step).await;
    }
}

/// As [`until`], for code outside of a runtime.
pub fn until_blocking<T>(
    what: &str,
    bound: Duration,
    step: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if start.elapsed() >= bound {
            bail!("waited {bound:?} in vain for {what}");
        }
        std::thread::sleep(step);
    }
}
