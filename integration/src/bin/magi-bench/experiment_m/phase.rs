//! One phase: legit pods and, beside them, pods that are deleted while their gigantic images are pulled.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use magi_integration::api::Counts;
use magi_integration::cri::Pull;
use magi_integration::master::{self, Happening};
use magi_integration::orphans::Stage;
use magi_integration::{Containerd, Cri, Pod, Registry};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep_until, timeout_at};

use super::plan::{Legit, Phase, Plan, Queue};

const CLEAN_WITHIN: Duration = Duration::from_secs(60);

/// A legit image. Times are seconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Wanted {
    pub(super) queue: Queue,
    pub(super) phase: Phase,
    pub(super) image: String,
    pub(super) bytes: u64,
    /// When its pod was created, from the phase's beginning.
    pub(super) created: f64,
    /// From then until PullImage was called.
    pub(super) waited: Option<f64>,
    /// From the pod's creation to the return of PullImage; nothing if the phase was over before.
    pub(super) pulled: Option<f64>,
    /// Why it failed, if it did.
    pub(super) error: Option<String>,
}

/// An image of the attack. Times are seconds from its pod's creation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Unwanted {
    pub(super) queue: Queue,
    pub(super) phase: Phase,
    pub(super) repository: String,
    pub(super) layers: usize,
    /// From the phase's beginning.
    pub(super) created: f64,
    pub(super) deleted: f64,
    /// When PullImage was called.
    pub(super) called: Option<f64>,
    /// When it returned, by itself or cancelled; nothing if it was under way at the phase's end.
    pub(super) ended: Option<f64>,
    /// Bytes of layers that the registry gave to sockets before the pod was deleted, and after.
    pub(super) sent_alive: u64,
    pub(super) sent_dead: u64,
    /// When magi wrote down that it meant to stop it, by its own clock.
    pub(super) intents: Vec<f64>,
    pub(super) error: Option<String>,
}

/// Where a phase takes place.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) registry: &'a Registry,
    pub(super) node: &'a Containerd,
    /// magi, if it is there.
    pub(super) stage: Option<&'a Stage>,
}

/// What all pods of a phase share.
#[derive(Clone)]
struct Kubelet {
    cri: Cri,
    /// First come, first served.
    slots: Arc<Semaphore>,
    began: Instant,
    until: Instant,
}

impl Kubelet {
    /// Pulls when it is the image's turn; `called` says when that was. The pod's deletion changes nothing.
    async fn pull(&self, reference: &str, pod: &Pod, called: &mut Option<Instant>) -> Result<Pull> {
        let _slot = self.slots.acquire().await.context("the queue")?;
        *called = Some(Instant::now());
        Ok(self.cri.pull_as(reference, Some(pod), None).await)
    }
}

/// Runs it, and leaves nothing behind.
pub(super) async fn run(
    place: Place<'_>,
    plan: &Plan,
    queue: Queue,
    phase: Phase,
) -> Result<(Vec<Wanted>, Vec<Unwanted>)> {
    let Place { registry, node, .. } = place;
    node.expect_nothing_left(&Counts::default(), CLEAN_WITHIN).await?;
    // What the phase before left to be written must not be written during this one.
    let dir = std::fs::File::open(node.dir()).context("open containerd's folder")?;
    rustix::fs::syncfs(&dir).context("flush the file system")?;
    let (began, wall) = (Instant::now(), SystemTime::now());
    let kubelet = Kubelet {
        cri: node.cri(),
        slots: Arc::new(Semaphore::new(queue.slots())),
        began,
        until: began + plan.limit,
    };
    let (over, is_over) = watch::channel(false);
    let legit = plan
        .legit
        .iter()
        .map(|legit| want(place, kubelet.clone(), legit, (queue, phase)));
    let legit = async {
        let wanted = try_join_all(legit).await;
        over.send_replace(true);
        wanted
    };
    let attacks = if phase == Phase::Baseline {
        0
    } else {
        plan.attacks()
    };
    let attacks = (0..attacks).map(|number| {
        attack(
            place,
            kubelet.clone(),
            plan,
            (queue, phase),
            number,
            is_over.clone(),
        )
    });
    let (wanted, unwanted) = tokio::try_join!(legit, try_join_all(attacks))?;
    let mut unwanted: Vec<Unwanted> = unwanted.into_iter().flatten().collect();
    let legit = wanted.iter().map(|one| (&one.image, one.pulled.is_some()));
    let attacks = unwanted
        .iter()
        .map(|one| (&one.repository, one.ended.is_some() && one.error.is_none()));
    for (repository, is_there) in legit.chain(attacks) {
        if is_there {
            node.cri().remove(&registry.reference(repository, "1")).await?;
        }
    }
    node.expect_nothing_left(&Counts::default(), CLEAN_WITHIN).await?;
    for one in &mut unwanted {
        let sent = registry.log().layer_bytes(&one.repository);
        one.sent_dead = sent.saturating_sub(one.sent_alive);
    }
    registry.log().clear();
    if let Some(stage) = place.stage {
        intents(stage, wall, &mut unwanted)?;
    }
    Ok((wanted, unwanted))
}

/// Adds what magi meant to do to the attacks; that it meant to do anything else is an error.
fn intents(stage: &Stage, began: SystemTime, attacks: &mut [Unwanted]) -> Result<()> {
    for intent in &stage.intents()? {
        ensure!(intent["reason"] == "orphaned", "{intent}");
        let at = intent["at"].as_str().context("a record without a time")?;
        let at: jiff::Timestamp = at.parse().with_context(|| format!("the time {at}"))?;
        // What came before belongs to the pulls by which the stage was tried.
        let Ok(at) = SystemTime::from(at).duration_since(began) else {
            continue;
        };
        let attack = attacks
            .iter_mut()
            .find(|one| {
                let reference = stage.registry().reference(&one.repository, "1");
                intent.pointer("/pull/owner/image") == Some(&json!(reference))
            })
            .with_context(|| format!("a legit pull was to be stopped: {intent}"))?;
        attack.intents.push(at.as_secs_f64() - attack.created);
    }
    Ok(())
}

fn tell(place: Place<'_>, happened: &[Happening]) -> Result<()> {
    place.stage.map_or(Ok(()), |stage| stage.tell(happened))
}

async fn want(
    place: Place<'_>,
    kubelet: Kubelet,
    legit: &Legit,
    (queue, phase): (Queue, Phase),
) -> Result<Wanted> {
    let reference = legit.publish(place.registry);
    sleep_until((kubelet.began + legit.at).into()).await;
    let pod = Pod::new(
        "team",
        &format!("{}-{queue:?}-{phase:?}", legit.name).to_lowercase(),
    );
    let created = Instant::now();
    tell(place, &master::created(&pod, &reference))?;
    let mut called = None;
    let pull = timeout_at(kubelet.until.into(), kubelet.pull(&reference, &pod, &mut called)).await;
    let pull = pull.ok().transpose()?;
    let since = |at: Instant| at.duration_since(created).as_secs_f64();
    let error = pull.as_ref().and_then(|pull| pull.outcome.as_ref().err());
    Ok(Wanted {
        queue,
        phase,
        image: legit.name.clone(),
        bytes: legit.bytes,
        created: created.duration_since(kubelet.began).as_secs_f64(),
        waited: called.map(since),
        pulled: pull
            .as_ref()
            .filter(|pull| pull.outcome.is_ok())
            .map(|pull| since(pull.ended)),
        error: error.map(ToString::to_string),
    })
}

/// An attack's pod from its creation to the end of its pull; nothing if the phase is over before its time.
async fn attack(
    place: Place<'_>,
    kubelet: Kubelet,
    plan: &Plan,
    (queue, phase): (Queue, Phase),
    number: u32,
    mut over: watch::Receiver<bool>,
) -> Result<Option<Unwanted>> {
    let at = kubelet.began + plan.attack_at + plan.attack_every * number;
    if !over_before(&mut over, at).await {
        return Ok(None);
    }
    let repository = format!("attack-{number}");
    let image = plan.attack(number.into())?;
    let reference = place.registry.put(&repository, "1", &image);
    let pod = Pod::new(
        "tenant",
        &format!("{repository}-{queue:?}-{phase:?}").to_lowercase(),
    );
    let created = Instant::now();
    tell(place, &master::created(&pod, &reference))?;
    let mut called = None;
    let mut pull = Box::pin(kubelet.pull(&reference, &pod, &mut called));
    let mut ended = None;
    let dies = created + plan.alive;
    tokio::select! {
        pull = &mut pull => ended = Some(pull?),
        _ = over_before(&mut over, dies) => {}
    }
    if ended.is_some() {
        over_before(&mut over, dies).await;
    }
    let sent_alive = place.registry.log().layer_bytes(&repository);
    tell(place, &[master::force_deleted(&pod, &reference)])?;
    let deleted = Instant::now();
    if ended.is_none() && phase != Phase::Hand {
        tokio::select! {
            pull = &mut pull => ended = Some(pull?),
            _ = over.wait_for(|over| *over) => {}
        }
    }
    // If it is under way still, this cancels it.
    drop(pull);
    let since = |at: Instant| at.duration_since(created).as_secs_f64();
    let error = ended.as_ref().and_then(|pull| pull.outcome.as_ref().err());
    Ok(Some(Unwanted {
        queue,
        phase,
        repository,
        layers: image.layers.len(),
        created: created.duration_since(kubelet.began).as_secs_f64(),
        deleted: since(deleted),
        called: called.map(since),
        ended: ended.as_ref().map(|pull| since(pull.ended)),
        sent_alive,
        sent_dead: 0,
        intents: Vec::new(),
        error: error.map(ToString::to_string),
    }))
}

/// Waits until then, or until the phase is over; whether it is not.
async fn over_before(over: &mut watch::Receiver<bool>, at: Instant) -> bool {
    timeout_at(at.into(), over.wait_for(|over| *over)).await.is_err()
}
