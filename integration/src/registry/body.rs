//! The body of a response: content from an offset, paced, cut, stalled or endless, and counted in its record.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::content::Content;
use super::log::{End, Record};

/// Largest piece handed over at once.
const PIECE: usize = 128 << 10;
/// Time that one piece of a paced body stands for: small, so that rates are smooth.
const SLICE: Duration = Duration::from_millis(4);
/// A client that fell behind by more does not get it made up in a burst.
const CATCH_UP: Duration = Duration::from_millis(40);

/// The reason for which a body breaks off: hyper closes the connection on it.
#[derive(Debug)]
pub(super) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("the registry closes the connection, as it was told to")
    }
}

impl std::error::Error for Broken {}

/// A body under way.
pub(super) struct Served {
    content: Content,
    at: u64,
    end: u64,
    /// What the Content-Length says; `None` for chunked.
    claimed: Option<u64>,
    flip: bool,
    stall_at: Option<u64>,
    close_at: Option<u64>,
    pace: Option<Pace>,
    record: Arc<Record>,
    ended: bool,
}

/// How a body deviates from plain content.
#[derive(Debug, Default, Clone)]
pub(super) struct Shape {
    pub(super) claimed: Option<u64>,
    pub(super) flip: bool,
    pub(super) stall_after: Option<u64>,
    pub(super) close_after: Option<u64>,
    pub(super) rate: Option<u64>,
}

impl Served {
    /// `content` from `at` up to `end`.
    pub(super) fn new(content: Content, at: u64, end: u64, shape: &Shape, record: Arc<Record>) -> Self {
        let mut served = Self {
            content,
            at,
            end,
            claimed: shape.claimed,
            flip: shape.flip,
            stall_at: shape.stall_after.map(|bytes| at.saturating_add(bytes)),
            close_at: shape.close_after.map(|bytes| at.saturating_add(bytes)),
            pace: shape.rate.map(Pace::new),
            record,
            ended: false,
        };
        if at >= end {
            served.finish(End::Complete);
        }
        served
    }

    /// A short body in memory.
    pub(super) fn whole(bytes: Bytes, record: Arc<Record>) -> Self {
        let len = bytes.len() as u64;
        let shape = Shape {
            claimed: Some(len),
            ..Shape::default()
        };
        Self::new(Content::Memory(bytes), 0, len, &shape, record)
    }

    fn finish(&mut self, how: End) {
        if !self.ended {
            self.ended = true;
            self.record.end(how);
        }
    }
}

impl Body for Served {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if this.at >= this.end {
            this.finish(End::Complete);
            return Poll::Ready(None);
        }
        let limit = [this.stall_at, this.close_at]
            .into_iter()
            .flatten()
            .fold(this.end, u64::min);
        if this.close_at.is_some_and(|at| this.at >= at) {
            this.finish(End::Closed);
            return Poll::Ready(Some(Err(Broken)));
        }
        if this.stall_at.is_some_and(|at| this.at >= at) {
            // Nobody wakes us: hyper does when the client goes away, and drops the body.
            return Poll::Pending;
        }
        let mut most = usize::try_from(limit - this.at).unwrap_or(PIECE).min(PIECE);
        if let Some(pace) = &mut this.pace {
            let Poll::Ready(allowed) = pace.poll_allowed(cx) else {
                return Poll::Pending;
            };
            most = most.min(allowed);
        }
        let mut piece = this.content.slice(this.at, most);
        if this.flip {
            piece = piece.iter().map(|byte| !byte).collect();
        }
        let bytes = piece.len() as u64;
        this.at += bytes;
        if let Some(pace) = &mut this.pace {
            pace.spent(bytes);
        }
        this.record.add(bytes);
        if this.at >= this.end {
            this.finish(End::Complete);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        // Only an honest length is told: hyper compares it with the header.
        match self.claimed {
            Some(claimed) if claimed == self.end - self.at => SizeHint::with_exact(claimed),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.finish(End::ClientGone);
    }
}

/// Lets through `rate` bytes per second against the clock, so that timer delays do not add up.
struct Pace {
    rate: u64,
    since: Instant,
    spent: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            since: Instant::now(),
            spent: 0,
            sleep: None,
        }
    }

    /// Bytes that may go now, at least one.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.sleep = None;
            }
            let now = Instant::now();
            let due = self.since + self.time_for(self.spent);
            if now > due + CATCH_UP {
                self.since = now - CATCH_UP;
                self.spent = 0;
            }
            if now >= due {
                let slice = (u128::from(self.rate) * SLICE.as_nanos() / 1_000_000_000).max(1);
                return Poll::Ready(usize::try_from(slice).unwrap_or(PIECE));
            }
            self.sleep = Some(Box::pin(tokio::time::sleep_until(due)));
        }
    }

    fn spent(&mut self, bytes: u64) {
        self.spent += bytes;
    }

    fn time_for(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
