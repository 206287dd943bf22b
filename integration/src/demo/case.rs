//! One attack with a healthy pull beside it: runs both at once, and gives the figures of each.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::check::{Checker, Miss};
use super::inventory::{self, Belongings, Inventory};
use super::measure::{Ended, Offsets, Sent, figures, is_intact};
use super::report::{Name, Scenario};
use super::screen::size;
use super::story;
use super::timeline::{Stage, Timeline};
use super::watch::{TICK, Watch};
use crate::image::Image;
use crate::{Api, Behaviour, Containerd, Magi, Pod, Registry};

/// A pull that nobody stops is cancelled by us, before it fills the disk.
const PULL_BOUND: Duration = Duration::from_secs(10);
/// How long containerd may take to collect what a pull left, and magi to record it.
const COLLECT_BOUND: Duration = Duration::from_secs(10);
const LOOK_STEP: Duration = Duration::from_millis(25);

/// The name of the healthy pull in the timeline.
pub(super) const WEB: &str = "web";

/// What runs while the scenarios run.
#[derive(Clone, Copy)]
pub(super) struct Stand<'s> {
    /// The node.
    pub(super) node: &'s Containerd,
    /// Its agent.
    pub(super) magi: &'s Magi,
    /// Where it pulls from.
    pub(super) registry: &'s Registry,
}

/// An attack.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// Which scenario it is.
    pub(super) name: Name,
    /// What it is called in the timeline; also its pod's name.
    pub(super) who: &'static str,
    /// The bad image.
    pub(super) bad: Image,
    /// How the registry serves it.
    pub(super) bad_behaviour: Behaviour,
    /// The healthy image beside it.
    pub(super) good: Image,
    /// How the registry serves that.
    pub(super) good_behaviour: Behaviour,
    /// The reason for which magi should stop the bad one.
    pub(super) reason: &'static str,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Played {
    /// The attack's figures.
    pub(super) attack: Scenario,
    /// Those of the healthy pull beside it.
    pub(super) healthy: Scenario,
    /// Expectations beyond the report's that were missed.
    pub(super) misses: Vec<Miss>,
}

/// One of the two pulls.
#[derive(Debug)]
struct Side<'c> {
    who: &'static str,
    namespace: &'static str,
    repository: String,
    reference: String,
    image: &'c Image,
    /// `None` while in flight.
    ended: Option<Ended>,
}

impl<'c> Side<'c> {
    fn publish(
        stand: &Stand<'_>,
        case: Name,
        (namespace, who): (&'static str, &'static str),
        image: &'c Image,
        behaviour: &Behaviour,
    ) -> Self {
        // The registry's log is one for all: a name of its own for each containerd, scenario and pull.
        let repository = format!("{}/{case}/{who}", stand.node.line());
        let reference = stand.registry.put(&repository, "1", image);
        stand.registry.behave(&repository, behaviour.clone());
        Self {
            who,
            namespace,
            repository,
            reference,
            image,
            ended: None,
        }
    }

    fn start(&self, node: &Containerd, pulls: &mut JoinSet<(&'static str, Ended)>) {
        let (cri, reference, who) = (node.cri(), self.reference.clone(), self.who);
        let pod = Pod::new(self.namespace, who);
        pulls.spawn(async move {
            let pull = cri.pull_as(&reference, Some(&pod), None);
            (who, tokio::time::timeout(PULL_BOUND, pull).await.ok())
        });
    }

    fn pull(&self) -> Option<&crate::cri::Pull> {
        self.ended.as_ref().and_then(Option::as_ref)
    }
}

impl Case {
    /// Runs it.
    pub(super) async fn play(&self, stand: &Stand<'_>, timeline: &mut Timeline) -> Result<Played> {
        let Stand { node, magi, registry } = *stand;
        let (api, log) = (node.api(), registry.log());
        let mut good = Side::publish(
            stand,
            self.name,
            ("team-a", WEB),
            &self.good,
            &self.good_behaviour,
        );
        let mut bad = Side::publish(
            stand,
            self.name,
            ("team-b", self.who),
            &self.bad,
            &self.bad_behaviour,
        );
        let baseline = Inventory::look(&api).await?;
        let mut watch = Watch::new(magi, log, timeline)?;
        watch.add(WEB, &good.repository, self.good.declared());
        watch.add(self.who, &bad.repository, self.bad.declared());

        // Asking costs containerd time, so it is done only where bytes in the ingest are what counts.
        let offsets = (self.name == Name::Lying).then(|| Offsets::watch(&api, &self.bad));
        let most_in_ingest = || offsets.as_ref().map_or(0, Offsets::most);
        self.run(stand, &mut watch, &baseline, &mut good, &mut bad, &most_in_ingest)
            .await?;

        // Both pulls are over: a strict look, in which no lease may be anybody's.
        let belongings = Belongings::of(&self.good, false);
        let (left, _) = inventory::settle(&api, &baseline, &belongings, COLLECT_BOUND).await?;
        let intact = is_intact(&api, good.pull(), &good.reference, &self.good).await?;
        let collateral = u64::from(!intact);
        let sent = Sent::count(log, &bad.repository).await?;
        let attack = figures(self.name, bad.pull(), &sent, left.counts(), collateral);

        node.cri().remove(&good.reference).await?;
        let (remains, at) = inventory::settle(&api, &baseline, &Belongings::default(), COLLECT_BOUND).await?;
        let good_sent = Sent::count(log, &good.repository).await?;
        let healthy = figures(
            Name::Healthy,
            good.pull(),
            &good_sent,
            remains.counts(),
            collateral,
        );
        if remains.is_empty() {
            let text = "containerd's API: image removed again, nothing of it remains";
            watch.timeline().measured(at, Stage::End, WEB, text);
        }
        watch.tick()?;
        timeline.show_all();

        let mut checker = Checker::new(node.version(), Some(self.name));
        checker.expect(left.is_empty(), "left behind", "nothing", &left);
        checker.expect(
            remains.is_empty(),
            "left of the healthy pull",
            "nothing",
            &remains,
        );
        let (bytes, declared) = (good_sent.bytes, self.good.declared());
        checker.expect(
            bytes == declared,
            "layer bytes of the healthy pull",
            declared,
            bytes,
        );
        story::expect_overlap(&mut checker, bad.pull(), good.pull());
        story::expect_ingest_bound(&mut checker, self.name, most_in_ingest());
        story::expect_trail(&mut checker, magi, self.reason, &bad.repository, &good.repository)?;
        Ok(Played {
            attack,
            healthy,
            misses: checker.misses(),
        })
    }

    /// Starts both pulls and watches until they are over, containerd holds nothing of the bad one, and magi says so.
    async fn run(
        &self,
        stand: &Stand<'_>,
        watch: &mut Watch<'_>,
        baseline: &Inventory,
        good: &mut Side<'_>,
        bad: &mut Side<'_>,
        most_in_ingest: &dyn Fn() -> u64,
    ) -> Result<()> {
        let (api, log) = (stand.node.api(), stand.registry.log());
        let mut pulls = JoinSet::new();
        for side in [&*good, &*bad] {
            let text = format!(
                "{}:1 for pod {}/{}: {} in {}",
                side.who,
                side.namespace,
                side.who,
                size(side.image.declared()),
                match side.image.layers.len() {
                    1 => "1 layer".to_owned(),
                    layers => format!("{layers} layers"),
                }
            );
            watch
                .timeline()
                .measured(Instant::now(), Stage::Pull, side.who, text);
            side.start(stand.node, &mut pulls);
        }
        let (mut counted, mut clean) = (false, false);
        let mut looked = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        let deadline = Instant::now() + PULL_BOUND + COLLECT_BOUND;
        loop {
            tokio::select! {
                biased;
                Some(done) = pulls.join_next() => {
                    let (who, ended) = done.context("the task of a pull")?;
                    if who == WEB {
                        story::good_end(watch.timeline(), ended.as_ref(), good.image);
                        good.ended = Some(ended);
                    } else {
                        let first = log.first_layer_byte(&bad.repository);
                        story::bad_end(watch.timeline(), who, ended.as_ref(), first);
                        bad.ended = Some(ended);
                    }
                }
                _ = tick.tick() => {}
            }
            watch.tick()?;
            if bad.ended.is_some()
                && !counted
                && let Some(sent) = Sent::look(log, &bad.repository)
            {
                counted = true;
                story::bytes(
                    watch.timeline(),
                    self.who,
                    &sent,
                    self.bad.declared(),
                    most_in_ingest(),
                );
            }
            if bad.ended.is_some() && !clean && looked.elapsed() >= LOOK_STEP {
                looked = Instant::now();
                clean = self.is_gone(&api, baseline, good.ended.is_none()).await?;
                if clean {
                    let text = "containerd's API: no lease, ingest, snapshot or blob of it";
                    watch
                        .timeline()
                        .measured(Instant::now(), Stage::End, self.who, text);
                }
            }
            let over = good.ended.is_some() && bad.ended.is_some();
            // Of a pull that was not stopped, magi has no end to record.
            let stopped = bad.pull().is_some_and(|pull| pull.outcome.is_err());
            let told = clean && (!stopped || watch.has_recorded("clean", &bad.repository)?);
            if over && (told || Instant::now() >= deadline) {
                return Ok(());
            }
        }
    }

    async fn is_gone(&self, api: &Api, baseline: &Inventory, good_in_flight: bool) -> Result<bool> {
        let belongings = Belongings::of(&self.good, good_in_flight);
        Ok(Inventory::look(api)
            .await?
            .beyond(baseline, &belongings)
            .is_empty())
    }
}
