//! The clock that ends everything. Connecting to a full backlog, reading from a stopped node, writing to a full pipe: each
//! can block for ever, so none of them is done on the thread that watches the time.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::verdict::{Verdict, doubt};

/// Room for the work; it keeps no large thing on its stack.
const STACK: usize = 256 << 10;

/// What writing the last note may take after the deadline.
const LAST_WORDS: Duration = Duration::from_millis(5);

enum News {
    Deadline(Duration),
    Verdict(Verdict),
}

/// Where the work says how long it may take.
pub(crate) struct Clock(Sender<News>);

impl Clock {
    /// Moves the deadline to this long after the start.
    pub(crate) fn set(&self, deadline: Duration) {
        // Nobody listens any more: the deadline has passed, and the process is ending.
        let _too_late = self.0.send(News::Deadline(deadline));
    }
}

/// Does the work on a thread of its own and waits for its verdict, at most until the deadline.
///
/// Allows if the work is late, panics or cannot be started. The work may still run when this returns: the caller is to
/// end the process.
pub(crate) fn within<W>(started: Instant, deadline: Duration, work: W) -> Verdict
where
    W: FnOnce(&Clock) -> Verdict + Send + 'static,
{
    let (sender, news) = mpsc::channel();
    let clock = Clock(sender.clone());
    let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
        let verdict = work(&clock);
        // As above; and after a panic nothing is sent, which counts as a doubt too.
        let _too_late = sender.send(News::Verdict(verdict));
    });
    if let Err(error) = spawned {
        doubt(&format!("no thread to ask on: {error}"));
        return Verdict::Allow;
    }
    let mut deadline = deadline;
    loop {
        match news.recv_timeout(deadline.saturating_sub(started.elapsed())) {
            Ok(News::Deadline(moved)) => deadline = moved,
            Ok(News::Verdict(verdict)) => return verdict,
            Err(RecvTimeoutError::Timeout) => {
                last_words(format!("no answer within {} ms", deadline.as_millis()));
                return Verdict::Allow;
            }
            Err(RecvTimeoutError::Disconnected) => return Verdict::Allow,
        }
    }
}

/// Writes a note if standard error takes it at once.
fn last_words(what: String) {
    let (sender, written) = mpsc::channel();
    let writer = thread::Builder::new().stack_size(STACK).spawn(move || {
        doubt(&what);
        let _nobody_waits = sender.send(());
    });
    if writer.is_ok() {
        let _unwritten = written.recv_timeout(LAST_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_verdict_in_time_counts() {
        let refuse = Verdict::Refuse("too large".to_owned());
        let expected = refuse.clone();
        assert_eq!(within(Instant::now(), LONG, move |_| refuse), expected);
    }

    #[test]
    fn a_panic_allows_at_once() {
        let started = Instant::now();
        let verdict = within(started, LONG, |_| {
            panic!("on purpose");
        });
        assert_eq!(verdict, Verdict::Allow);
        assert!(started.elapsed() < LONG / 2);
    }

    #[test]
    fn work_that_hangs_allows_at_the_deadline() {
        let (never, hangs) = mpsc::channel::<()>();
        let started = Instant::now();
        let verdict = within(started, SHORT, move |_| {
            let _hung = hangs.recv();
            Verdict::Refuse("too late".to_owned())
        });
        assert_eq!(verdict, Verdict::Allow);
        assert!(started.elapsed() >= SHORT);
        drop(never);
    }

    #[test]
    fn the_work_may_move_the_deadline_both_ways() {
        let (never, hangs) = mpsc::channel::<()>();
        let started = Instant::now();
        let verdict = within(started, LONG, move |clock| {
            clock.set(SHORT);
            let _hung = hangs.recv();
            Verdict::Refuse("too late".to_owned())
        });
        assert_eq!(verdict, Verdict::Allow);
        assert!(started.elapsed() < LONG / 2);
        drop(never);
        let (sender, waits) = mpsc::channel();
        let verdict = thread::spawn(move || {
            within(Instant::now(), SHORT, move |clock| {
                clock.set(LONG);
                let _moved = sender.send(());
                thread::park_timeout(SHORT * 2);
                Verdict::Refuse("in time".to_owned())
            })
        });
        waits.recv().unwrap();
        assert_eq!(verdict.join().unwrap(), Verdict::Refuse("in time".to_owned()));
    }
}
