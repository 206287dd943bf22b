//! The steps that a test may take at random, and the stretches in which the world behaves.

use std::time::Duration;

use super::images::{self, POLICIES};
use super::requests::Asker;
use super::{Pull, World};
use crate::bounds::AFTERMATH_LONGEST;
use crate::event::{Event, Question};
use crate::evidence::{Source, TieMethod};
use crate::ids::LeaseKey;
use crate::switch::SwitchHolder;
use crate::tests::build::{KIB, MIB, disk_seen};
use crate::tests::check::{Broken, Invariant};
use crate::time::Time;

const NAMESPACES: [&str; 2] = ["k8s.io", "other"];
const SOURCES: [Source; 7] = [
    Source::Containerd,
    Source::Probes,
    Source::SocketTable,
    Source::Requests,
    Source::Nri,
    Source::Master,
    Source::Gateway,
];
/// How time may pass, in microseconds.
const PAUSES: [u64; 10] = [
    0, 50, 700, 3_000, 6_000, 30_000, 120_000, 700_000, 4_500_000, 13_000_000,
];
/// After so long a time a pull that is to be stopped must have heard from the engine.
const PATIENCE: Duration = Duration::from_secs(13);

/// What may happen next. Numbers are taken modulo whatever there is.
#[derive(Clone, Debug)]
pub(in crate::tests) enum Step {
    Pass(u8),
    /// The tick comes so many microseconds after the time that was asked for.
    TickAtWake(u16),
    TickNow,
    Begin {
        image: u8,
        namespace: bool,
        asker: Asker,
    },
    Requests(u8),
    /// So many things that the gateway tells arrive.
    Gateway(u8),
    /// The gateway asks whether a pull may go on.
    Admit {
        image: u8,
        asker: Asker,
    },
    LoseRequests,
    Pod(u8),
    /// The master says that a pod wants an image no longer.
    PodLost {
        pod: u8,
        image: u8,
    },
    Verify(u8),
    Resolve(u8),
    AskPods,
    Advance {
        pull: u8,
        layer: u8,
        kib: u16,
        /// By whom the kernel notices it; none: nobody does.
        heard: Option<TieMethod>,
    },
    Share {
        pull: u8,
        layer: u8,
    },
    Commit {
        pull: u8,
        layer: u8,
    },
    EndPull {
        pull: u8,
        leave: bool,
    },
    CloseSocket(u8),
    /// Somebody without a lease writes to the ingests that nobody holds.
    Drip,
    Collect,
    StartLook,
    EndLook,
    StartListing,
    EndListing,
    Document(u8),
    Records(u8),
    LeverBack {
        which: u8,
        outcome: Outcome,
    },
    Source {
        which: u8,
        up: bool,
    },
    RestartContainerd,
    /// The connection to containerd is lost and found at once; nothing else happens to it.
    Flap,
    TiesLost,
    Policy(u8),
    /// So many percent of the disk are free.
    Disk(u8),
    /// Somebody takes hold of the kill switch, or lets go of it.
    Switch {
        by_master: bool,
        engaged: bool,
    },
    AskAbort(u8),
    AskPanic,
    AskPulls,
    /// For so many tenths of a second everything is delivered at once.
    Behave {
        tenths: u8,
        levers: Outcome,
    },
}

/// How a lever comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tests) enum Outcome {
    Works,
    DoneInVain,
    AlreadyGone,
    NotAsExpected,
    Unsupported,
    Failed,
    IntentNotWritten,
}

impl World {
    pub(in crate::tests) fn step(&mut self, step: &Step) -> Result<(), Broken> {
        match step {
            Step::Pass(which) => self.pass(Duration::from_micros(PAUSES[usize::from(*which) % PAUSES.len()])),
            Step::TickAtWake(late) => {
                let Some(at) = self.wake else { return Ok(()) };
                self.now = self.now.max(at).after(Duration::from_micros(u64::from(*late)));
                self.tell(Event::Tick)?;
            }
            Step::TickNow => self.tell(Event::Tick)?,
            Step::Begin {
                image,
                namespace,
                asker,
            } => self.begin_pull(usize::from(*image), NAMESPACES[usize::from(*namespace)], *asker),
            Step::Requests(most) => self.deliver_requests(usize::from(*most))?,
            Step::Gateway(most) => self.deliver_gateway(usize::from(*most))?,
            Step::Admit { image, asker } => self.admit(usize::from(*image), *asker)?,
            Step::LoseRequests => self.lose_requests()?,
            Step::Pod(which) => self.change_pod(*which)?,
            Step::PodLost { pod, image } => self.lose_pod(*pod, usize::from(*image))?,
            Step::Verify(image) => self.verify(usize::from(*image))?,
            Step::Resolve(image) => self.resolve(usize::from(*image))?,
            Step::AskPods => self.ask(Question::Pods)?,
            Step::Advance {
                pull,
                layer,
                kib,
                heard,
            } => {
                let (pull, layer) = (self.which_pull(*pull), usize::from(*layer));
                let cookie = self.advance(pull, layer, u64::from(*kib) * KIB);
                if let (Some(cookie), Some(method)) = (cookie, *heard) {
                    self.record_feed(cookie, method);
                }
            }
            Step::Share { pull, layer } => self.share(self.which_pull(*pull), usize::from(*layer)),
            Step::Commit { pull, layer } => {
                let (pull, layer) = (self.which_pull(*pull), usize::from(*layer));
                self.advance(pull, layer, 64 * MIB);
                self.commit(pull, layer);
            }
            Step::EndPull { pull, leave } => self.end_pull(self.which_pull(*pull), *leave),
            Step::CloseSocket(which) => {
                let place = usize::from(*which) % self.sockets.len().max(1);
                if let Some(cookie) = self.sockets.keys().nth(place).copied() {
                    self.close_socket(cookie);
                }
            }
            Step::Drip => self.drip(),
            Step::Collect => self.collect(),
            Step::StartLook => self.start_look(),
            Step::EndLook => {
                self.start_look();
                self.end_look()?;
            }
            Step::StartListing => self.start_listing(),
            Step::EndListing => {
                self.start_listing();
                self.end_listing()?;
            }
            Step::Document(pull) => {
                self.tell_document(self.which_pull(*pull))?;
            }
            Step::Records(most) => self.deliver_records(usize::from(*most))?,
            Step::LeverBack { which, outcome } => {
                let place = usize::from(*which) % self.levers.len().max(1);
                if let Some(attempt) = self.levers.keys().nth(place).copied() {
                    self.lever_back(attempt, *outcome)?;
                }
            }
            Step::Source { which, up } => {
                self.change_source(SOURCES[usize::from(*which) % SOURCES.len()], *up)?;
            }
            Step::RestartContainerd => {
                self.change_source(Source::Containerd, false)?;
                self.restart_containerd();
            }
            Step::Flap => {
                self.change_source(Source::Containerd, false)?;
                self.change_source(Source::Containerd, true)?;
            }
            Step::TiesLost => {
                self.records.clear();
                self.tell(Event::TiesLost)?;
            }
            Step::Switch { by_master, engaged } => self.tell(Event::KillSwitch {
                holder: if *by_master {
                    SwitchHolder::Master
                } else {
                    SwitchHolder::Node
                },
                engaged: *engaged,
                by: "root".to_owned(),
            })?,
            Step::Disk(free) => self.tell(disk_seen(u64::from(*free) << 20, 100 << 20))?,
            Step::Policy(which) => self.load(usize::from(*which))?,
            Step::AskAbort(which) => {
                let pull = self.some_pull_id(usize::from(*which));
                let actor = "root".to_owned();
                self.ask(Question::Abort { pull, actor })?;
            }
            Step::AskPanic => {
                let actor = "root".to_owned();
                self.ask(Question::Panic { actor })?;
            }
            Step::AskPulls => self.ask(Question::Pulls { ended: true })?,
            Step::Behave { tenths, levers } => {
                self.behave(Duration::from_millis(u64::from(*tenths) * 100), *levers)?;
            }
        }
        Ok(())
    }

    pub(in crate::tests) fn load(&mut self, policy: usize) -> Result<(), Broken> {
        let policy = POLICIES[policy % POLICIES.len()].clone();
        self.tell(Event::PolicyLoaded { policy })
    }

    pub(in crate::tests) fn all_up(&mut self) -> Result<(), Broken> {
        for source in SOURCES {
            self.change_source(source, true)?;
        }
        Ok(())
    }

    fn which_pull(&self, which: u8) -> usize {
        usize::from(which) % self.pulls.len().max(1)
    }

    /// A stretch of time in which nothing is late and bytes flow; in the end nothing may have been given up. One in
    /// which sources are down, or shorter than [`PATIENCE`], proves nothing and is only lived through.
    fn behave(&mut self, time: Duration, levers: Outcome) -> Result<(), Broken> {
        let start = self.now;
        self.live_until(self.now.after(time), levers, true)?;
        let fair = self.up.contains(&Source::Containerd) && self.up.contains(&Source::Probes);
        if fair && time >= PATIENCE {
            self.checker.nothing_was_given_up(start)?;
        }
        Ok(())
    }

    fn live_until(&mut self, end: Time, levers: Outcome, flow: bool) -> Result<(), Broken> {
        let pause = Duration::from_millis(700);
        let mut bytes_at = if flow { self.now } else { end.after(pause) };
        loop {
            while self.deliver(levers)? {}
            if self.now >= end {
                return Ok(());
            }
            let next = self.wake.unwrap_or(end).min(bytes_at).min(end);
            self.now = self.now.max(next);
            if self.now >= bytes_at {
                bytes_at = self.now.after(pause);
                self.flow();
            }
            if self.wake.is_some_and(|at| at <= self.now) {
                self.tell(Event::Tick)?;
            }
        }
    }

    /// Delivers whatever is on its way; `false` if nothing was.
    fn deliver(&mut self, levers: Outcome) -> Result<bool, Broken> {
        let told = self.trace.len();
        self.deliver_gateway(usize::MAX)?;
        self.deliver_requests(usize::MAX)?;
        self.deliver_records(usize::MAX)?;
        while let Some(attempt) = self.levers.keys().next().copied() {
            self.lever_back(attempt, levers)?;
        }
        if self.wants_look && self.up.contains(&Source::Containerd) {
            self.pass(Duration::from_millis(2));
            self.start_look();
        }
        self.end_look()?;
        for pull in 0..self.pulls.len() {
            while self.tell_document(pull)? {}
        }
        if self.wants_listing {
            self.start_listing();
        }
        self.end_listing()?;
        Ok(self.trace.len() > told)
    }

    /// Every pull gets bytes for its first unfinished layer, and ends when it has all.
    fn flow(&mut self) {
        for pull in 0..self.pulls.len() {
            // One without its lease may end here.
            let Some(one) = self.pulls.get(pull) else { break };
            let layers = images::layers(one.image).len();
            for layer in 0..layers {
                if let Some(cookie) = self.advance(pull, layer, 700 * KIB) {
                    self.record_feed(cookie, TieMethod::Goroutine);
                    self.commit(pull, layer);
                    break;
                }
            }
        }
        if let Some(pull) = (0..self.pulls.len()).find(|pull| self.is_complete(*pull)) {
            self.end_pull(pull, false);
        }
    }

    /// Pulls that fetch, although they could be stopped.
    fn stubborn(&self) -> Vec<LeaseKey> {
        let runs_on = |pull: &&Pull| {
            let feeds = |socket: &super::Socket| socket.owner == pull.lease && socket.feeds.is_some();
            pull.runs && self.sockets.values().any(feeds) && self.checker.could_be_stopped(&pull.lease)
        };
        let pulls = self.pulls.iter().filter(runs_on);
        pulls.map(|pull| pull.lease.clone()).collect()
    }

    /// The end of every story: the world behaves, and the engine must get done with everything.
    pub(in crate::tests) fn wind_down(&mut self) -> Result<(), Broken> {
        self.all_up()?;
        self.live_until(self.now.after(Duration::from_secs(25)), Outcome::Works, true)?;
        // One that has begun to fetch only at the end of that time has its own.
        let before = self.stubborn();
        self.live_until(self.now.after(PATIENCE), Outcome::Works, false)?;
        let mut stubborn = self.stubborn();
        stubborn.retain(|lease| before.contains(lease));
        if !stubborn.is_empty() {
            return Err(Broken {
                invariant: Invariant::NoGivingUp,
                what: format!("levers work, and yet these run on: {stubborn:?}"),
            });
        }
        while !self.pulls.is_empty() {
            self.end_pull(0, true);
        }
        for pod in self.pods.clone() {
            self.change_pod(pod)?;
        }
        self.start_look();
        self.end_look()?;
        let start = self.now;
        while !self.engine.footprint().is_nothing() && self.now.since(start) < AFTERMATH_LONGEST {
            self.live_until(self.now.after(Duration::from_secs(2)), Outcome::Works, false)?;
            // The source looks now and then, whether it is asked to or not.
            self.start_look();
            self.end_look()?;
        }
        let footprint = self.engine.footprint();
        if footprint.is_nothing() && self.checker.questions_waiting() == 0 {
            return Ok(());
        }
        Err(Broken {
            invariant: Invariant::BoundedMemory,
            what: format!("all is over, and this is remembered: {footprint:?}"),
        })
    }
}
