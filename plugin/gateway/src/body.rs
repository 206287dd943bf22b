//! Bodies that are passed on as they come: what was read of one already, then the rest of it, then its trailers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};

/// A body on its way, in either direction.
///
/// It claims no length, not even where it knows one: hyper would add a header that the other end did not send.
#[derive(Debug)]
pub(crate) struct Passed<Guard> {
    before: VecDeque<Bytes>,
    rest: Option<Incoming>,
    /// Let go of when the body is over, or nobody wants it any more.
    _guard: Option<Guard>,
}

impl<Guard> Passed<Guard> {
    /// As it comes.
    pub(crate) fn on(body: Incoming) -> Self {
        Self::after(VecDeque::new(), body)
    }

    /// With what was read of it.
    pub(crate) fn after(before: VecDeque<Bytes>, rest: Incoming) -> Self {
        Self {
            before,
            rest: Some(rest),
            _guard: None,
        }
    }

    /// Nothing at all.
    pub(crate) fn empty() -> Self {
        Self {
            before: VecDeque::new(),
            rest: None,
            _guard: None,
        }
    }

    /// Keeps `guard` for as long as the body lasts.
    pub(crate) fn guarded(self, guard: Option<Guard>) -> Self {
        Self {
            _guard: guard,
            ..self
        }
    }
}

impl<Guard: Unpin> Body for Passed<Guard> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(piece) = self.before.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(rest).poll_frame(context));
        if frame.is_none() {
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.before.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }
}
