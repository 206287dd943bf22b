//! The pod watch: the API server lists all pods, and then tells each change. Where it is available it is the ledger's base:
//! what is not in a list is gone, whatever audit logs lost.
//!
//! A list is read page by page at one version, and a watch goes on from there. Bookmarks keep the version young; where it is
//! too old all the same (410), the pods are listed again. Whatever fails is tried again, at growing, jittered pauses.
//!
//! All pods are watched, and not only bound ones: a pod that a selector hides looks like one that is gone.

mod cut;
mod read;

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use http_body_util::BodyExt as _;
use jiff::Timestamp;
use kube::Client;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::change::Change;
use cut::Cut;
use read::{Line, Page};

/// How many pods a page of the list has.
const PAGE: u32 = 500;
/// The largest page, in bytes. A pod has 1.5 MiB at most, and a few kilobytes mostly.
const MAX_PAGE: usize = 256 << 20;
/// For how many seconds the API server serves one watch.
const WATCH_FOR: u32 = 240;
/// How long an answer or the next piece of it may take. A watch tells something at least at its end.
const PATIENCE: Duration = Duration::from_secs(WATCH_FOR as u64 + 30);
/// A watch that lasted longer was none that failed.
const LONG: Duration = Duration::from_secs(5);
/// How many batches of changes wait at most.
pub const MAX_QUEUE: usize = 64;
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What went wrong with the watch. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The request could not be made.
    #[error("cannot ask for pods")]
    Ask(#[source] kube::core::request::Error),
    /// The API server could not be reached.
    #[error("cannot reach the API server")]
    Reach(#[source] kube::Error),
    /// It refused.
    #[error("the API server answered with status {status}")]
    Refused {
        /// The status.
        status: u16,
    },
    /// The answer broke off.
    #[error("the API server's answer broke off")]
    BrokeOff(#[source] kube::Error),
    /// The answer did not come, or not on.
    #[error("the API server was silent for {} s", PATIENCE.as_secs())]
    Silent,
    /// A page of the list is larger than is read.
    #[error("a page of the list of pods has over {MAX_PAGE} bytes")]
    PageTooLarge,
    /// The answer is no list of pods.
    #[error("the API server's answer is no list of pods")]
    NotAList,
}

/// What a watch tells.
#[derive(Debug)]
pub enum Told {
    /// Changes, in order.
    Changes(Vec<Change>),
    /// The ledger is whole now: all pods were told, and what is not among them is gone.
    Whole,
    /// It was interrupted, and is tried again.
    Trouble(WatchError),
    /// Lines that could not be used: too long, or no pod.
    Unusable(u64),
}

/// Nobody listens any more.
struct Unheard;

/// How a watch ended.
enum End {
    /// In good order, or cut off: to be taken up at the version reached.
    TakeUp,
    /// Its version is too old.
    TooOld,
}

/// Lists and watches until the receiver is dropped. `clock` tells when something was heard.
pub async fn watch(client: Client, clock: fn() -> Timestamp, tell: mpsc::Sender<Told>) {
    let watch = Watch {
        client,
        clock,
        tell: tell.clone(),
    };
    tokio::select! {
        Err(Unheard) = watch.run() => {}
        () = tell.closed() => {}
    }
}

struct Watch {
    client: Client,
    clock: fn() -> Timestamp,
    tell: mpsc::Sender<Told>,
}

impl Watch {
    async fn run(&self) -> Result<std::convert::Infallible, Unheard> {
        let mut failures = 0;
        loop {
            let mut version = match self.list().await? {
                Ok(version) => version,
                Err(problem) => {
                    self.trouble(problem, &mut failures).await?;
                    continue;
                }
            };
            self.say(Told::Whole).await?;
            loop {
                let (before, begun) = (version, Instant::now());
                match self.watch_from(&mut version).await? {
                    Ok(End::TakeUp) if version > before || begun.elapsed() > LONG => failures = 0,
                    // It ended at once and told nothing: as good as a failure, if it goes on so.
                    Ok(End::TakeUp) => pause(&mut failures).await,
                    Ok(End::TooOld) => break,
                    Err(problem) => self.trouble(problem, &mut failures).await?,
                }
            }
        }
    }

    async fn say(&self, told: Told) -> Result<(), Unheard> {
        self.tell.send(told).await.map_err(|_| Unheard)
    }

    async fn trouble(&self, problem: WatchError, failures: &mut u32) -> Result<(), Unheard> {
        self.say(Told::Trouble(problem)).await?;
        pause(failures).await;
        Ok(())
    }

    /// Tells all pods, and that they are all; returns the list's version.
    async fn list(&self) -> Result<Result<u64, WatchError>, Unheard> {
        let begun = (self.clock)();
        let (mut uids, mut rest) = (std::collections::BTreeSet::new(), None);
        loop {
            let mut page = match self.page(rest.as_deref()).await {
                Ok(page) => page,
                Err(problem) => return Ok(Err(problem)),
            };
            uids.append(&mut page.uids);
            if page.unusable > 0 {
                self.say(Told::Unusable(page.unusable)).await?;
            }
            if page.rest.is_some() {
                self.say(Told::Changes(page.changes)).await?;
                rest = page.rest;
                continue;
            }
            // A pod that could not be read is not known to be missing.
            if page.unusable == 0 {
                page.changes.push(read::all_listed(page.version, uids, begun));
            }
            self.say(Told::Changes(page.changes)).await?;
            return Ok(Ok(page.version));
        }
    }

    async fn page(&self, rest: Option<&str>) -> Result<Page, WatchError> {
        let mut params = ListParams::default().limit(PAGE);
        if let Some(rest) = rest {
            params = params.continue_token(rest);
        }
        let request = Request::new("/api/v1/pods")
            .list(&params)
            .map_err(WatchError::Ask)?;
        let mut body = self.send(request).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = next(&mut body).await? {
            if bytes.len() + piece.len() > MAX_PAGE {
                return Err(WatchError::PageTooLarge);
            }
            bytes.extend_from_slice(&piece);
        }
        read::page(&bytes, (self.clock)()).ok_or(WatchError::NotAList)
    }

    async fn send(&self, request: http::Request<Vec<u8>>) -> Result<kube::client::Body, WatchError> {
        let request = request.map(kube::client::Body::from);
        let response = timeout(PATIENCE, self.client.send(request)).await;
        let response = response
            .map_err(|_| WatchError::Silent)?
            .map_err(WatchError::Reach)?;
        let status = response.status();
        if status.is_success() {
            Ok(response.into_body())
        } else {
            Err(WatchError::Refused {
                status: status.as_u16(),
            })
        }
    }

    /// Tells what changes after `version`, and moves it on.
    async fn watch_from(&self, version: &mut u64) -> Result<Result<End, WatchError>, Unheard> {
        let params = WatchParams::default().timeout(WATCH_FOR);
        let request = match Request::new("/api/v1/pods").watch(&params, &version.to_string()) {
            Ok(request) => request,
            Err(problem) => return Ok(Err(WatchError::Ask(problem))),
        };
        let mut body = match self.send(request).await {
            Ok(body) => body,
            Err(WatchError::Refused { status: 410 }) => return Ok(Ok(End::TooOld)),
            Err(problem) => return Ok(Err(problem)),
        };
        let mut cut = Cut::default();
        loop {
            let piece = match next(&mut body).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(Ok(End::TakeUp)),
                Err(problem) => return Ok(Err(problem)),
            };
            let (mut changes, mut unusable, mut is_too_old) = (Vec::new(), 0, None);
            let now = (self.clock)();
            cut.feed(&piece, |line| match read::line(line, now) {
                Line::Change(change, at) => {
                    changes.push(change);
                    *version = at.unwrap_or(*version);
                }
                Line::Bookmark(at) => *version = at,
                Line::Error(code) => is_too_old = Some(code == 410),
                Line::Unusable => unusable += 1,
            });
            unusable += cut.take_too_long();
            if !changes.is_empty() {
                self.say(Told::Changes(changes)).await?;
            }
            if unusable > 0 {
                self.say(Told::Unusable(unusable)).await?;
                // What was in it is not known, so all is asked for again.
                return Ok(Ok(End::TooOld));
            }
            match is_too_old {
                Some(true) => return Ok(Ok(End::TooOld)),
                Some(false) => return Ok(Ok(End::TakeUp)),
                None => {}
            }
        }
    }
}

async fn next(body: &mut kube::client::Body) -> Result<Option<hyper::body::Bytes>, WatchError> {
    loop {
        let Some(frame) = timeout(PATIENCE, body.frame())
            .await
            .map_err(|_| WatchError::Silent)?
        else {
            return Ok(None);
        };
        if let Ok(piece) = frame.map_err(WatchError::BrokeOff)?.into_data() {
            return Ok(Some(piece));
        }
    }
}

/// Waits twice as long each time, and up to half as long again, so that many masters do not come at once.
async fn pause(failures: &mut u32) {
    let (first, longest) = PAUSES;
    let base = first.saturating_mul(1 << (*failures).min(16)).min(longest);
    *failures = failures.saturating_add(1);
    let jitter = RandomState::new().hash_one(()) % 512;
    let jitter = u32::try_from(jitter).unwrap_or(0);
    sleep(base + base * jitter / 1024).await;
}
