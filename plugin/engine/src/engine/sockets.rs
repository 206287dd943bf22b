//! What the kernel tells: which socket feeds which ingest, and what follows from that before containerd shows it.

use std::time::Duration;

use super::Engine;
use crate::action::Effects;
use crate::bounds::{LOOK_FIRST, LOOK_LONGEST, STRANGER_LONGEST};
use crate::event::{Feed, SocketStat};
use crate::evidence::Source;
use crate::ids::Cookie;
use crate::pull::Pull;
use crate::time::Time;

impl Engine {
    pub(super) fn fed(&mut self, now: Time, feed: Feed, fx: &mut Effects) {
        if !self.is_up(Source::Probes) {
            return;
        }
        let fed = self.ties.fed(now, feed);
        if fed.evicted && !self.said.too_many_ties {
            self.forgotten(fx, None, "the oldest socket, because too many feed ingests");
        }
        if fed.is_new {
            self.said.too_many_ties = fed.evicted;
        }
        let Some(held) = self.picture.ingest(feed.dir) else {
            // An ingest that no look has shown yet: a pull has just begun with it. If no look shows it soon, it is
            // none that is watched, and `seek_strangers` sets the pace.
            if fed.is_new {
                self.stranger = None;
                self.agenda.look_by(now);
            }
            return;
        };
        let declared = held.leases.iter().find_map(|lease| {
            let pull = self.pulls.get(lease)?;
            pull.declared_for(pull.ingests.get(&held.reference)?)
        });
        if self.suspicion.is_none() && declared.is_some_and(|declared| feed.bytes > declared) {
            self.suspicion = Some(LOOK_FIRST);
            self.agenda.look_by(now);
        }
    }

    /// The kernel counts more bytes on a socket than its ingest may ever hold. That alone is no proof (headers, TLS),
    /// so containerd is asked again and again, at growing intervals, until it shows the overrun or the end.
    pub(super) fn suspect_overruns(&mut self, now: Time) {
        let suspected = self.ties.fed_dirs().any(|dir| {
            self.picture.ingest(dir).is_some_and(|held| {
                held.leases
                    .iter()
                    .filter_map(|lease| self.pulls.get(lease))
                    .filter(|pull| !pull.is_pursued())
                    .filter_map(|pull| Some((pull, pull.ingests.get(&held.reference)?)))
                    .any(|(pull, ingest)| {
                        let declared = pull.declared_for(ingest);
                        declared.is_some_and(|declared| {
                            ingest.offset <= declared && self.ties.bytes_for(dir) > declared
                        })
                    })
            })
        });
        self.suspicion = suspected.then(|| self.suspicion.unwrap_or(LOOK_FIRST));
        if let Some(pause) = &mut self.suspicion {
            self.agenda.look_by(now.after(*pause));
            *pause = doubled(*pause, LOOK_LONGEST);
        }
    }

    /// A socket feeds an ingest that containerd has not shown. A look may have been under way when it began; but it
    /// may also belong to nobody who is watched, so the looks for it become rare.
    pub(super) fn seek_strangers(&mut self, now: Time) {
        let unknown = self.ties.fed_dirs().any(|dir| self.picture.ingest(dir).is_none());
        self.stranger = unknown.then(|| self.stranger.unwrap_or(LOOK_FIRST));
        if let Some(pause) = &mut self.stranger {
            self.agenda.look_by(now.after(*pause));
            *pause = doubled(*pause, STRANGER_LONGEST);
        }
    }

    pub(super) fn closed(&mut self, now: Time, cookie: Cookie) {
        self.ties.closed(cookie);
        // The end of a socket of a condemned pull is the first sign of its end.
        if self.pulls.values().any(Pull::is_pursued) {
            self.agenda.look_by(now.after(LOOK_FIRST));
        }
    }

    pub(super) fn listed(&mut self, now: Time, sockets: &[SocketStat], fx: &mut Effects) {
        if !self.is_up(Source::SocketTable) {
            return;
        }
        self.agenda.listed();
        self.ties.listed(sockets);
        if self.ties.awaits_look() {
            self.agenda.look_by(now);
        }
        self.panic_listed(sockets, fx);
    }
}

fn doubled(pause: Duration, longest: Duration) -> Duration {
    pause.saturating_mul(2).min(longest)
}
