//! `make demo`: what magi does, shown to somebody who has never seen it, and measured while it is shown.
//!
//! On each containerd: a gigantic image is stopped while a healthy one beside it completes; then a layer that never ends
//! under a small declared size; then another gigantic image, for the same magi-node. The timeline says who says what:
//! `magi` is its audit trail, `measured` is the registry, containerd's API and the pull's own return. The report holds
//! measured figures only.

mod case;
pub mod check;
mod inventory;
pub(crate) mod measure;
pub mod report;
pub mod screen;
mod story;
pub mod summary;
mod timeline;
pub(crate) mod trail;
mod watch;

use anyhow::{Context, Result, ensure};

use crate::image::{Compression, Image, ImageBuilder, Layer};
use crate::magi::{self, Magi};
use crate::registry::Behaviour;
use crate::{Containerd, Registry, containerd, crictl};
use case::{Case, Stand};
use check::{Checker, LYING_DECLARED, Miss};
use report::{Name, Report, Run};
use screen::{Styled, style};
use timeline::Timeline;

/// What one connection of an attacker gets.
const ATTACK_RATE: u64 = 20_000_000;
/// Slow enough that the healthy pull is in flight for all of the attack.
const HEALTHY_RATE: u64 = 12_000_000;
const GIGANTIC: u64 = 12 << 30;
const LIMIT: &str = "1GiB";

/// The demo as far as it has come: dropped at any point, it ends everything that it started.
#[derive(Debug)]
pub struct Demo {
    /// What was measured so far.
    pub report: Report,
    /// Expectations beyond the report's that were missed so far.
    pub misses: Vec<Miss>,
    timeline: Timeline,
    /// Turned off for the second containerd if the first one showed that this machine cannot have them.
    probes: bool,
}

impl Demo {
    /// Ready to run.
    pub fn new(screen: screen::Screen) -> Self {
        Self {
            report: Report::default(),
            misses: Vec::new(),
            timeline: Timeline::new(screen),
            probes: true,
        }
    }

    /// For what comes after the timeline.
    pub fn screen(&mut self) -> &mut screen::Screen {
        self.timeline.screen()
    }

    /// Runs all of it. An error is a broken stage, not a missed expectation.
    pub async fn run(&mut self) -> Result<()> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the demo runs containerds of its own and reads the kernel: run it as root"
        );
        let screen = self.timeline.screen();
        screen.line(Styled(
            style::HEAD,
            "magi: a gigantic and a lying image are stopped, the healthy one beside them is not touched",
        ));
        screen.line(format_args!(
            "kernel {} · {}",
            rustix::system::uname().release().to_string_lossy(),
            match crictl::found() {
                Some(path) => format!(
                    "crictl found at {}; pulls go through the demo's own CRI client, which names a pod",
                    path.display()
                ),
                None => "crictl is not on PATH; pulls go through the demo's own CRI client".to_owned(),
            }
        ));
        screen.line(format_args!(
            "{} from magi's audit trail · {} from outside: registry's byte counts, containerd's API, PullImage's return",
            Styled(style::MAGI, "magi"),
            Styled(style::MEASURED, "measured")
        ));
        screen.status("building images …");
        let cases = tokio::task::spawn_blocking(cases)
            .await
            .context("build images")??;
        self.timeline
            .screen()
            .status("starting a registry and both containerds …");
        let registry = Registry::start()?;
        for node in containerd::both().await? {
            node.trust(&registry)?;
            self.run_on(node, &registry, &cases).await?;
        }
        Ok(())
    }

    async fn run_on(&mut self, node: Containerd, registry: &Registry, cases: &[Case]) -> Result<()> {
        self.timeline.screen().status("starting magi-node …");
        let magi = self.start_magi(&node).await?;
        self.head(&node, &magi)?;
        self.timeline.restart();
        self.report.runs.push(Run {
            containerd: node.version().to_owned(),
            scenarios: Vec::new(),
        });
        let stand = Stand {
            node: &node,
            magi: &magi,
            registry,
        };
        for case in cases {
            self.timeline
                .screen()
                .line(format_args!("  {}", Styled(style::HEAD, title(case.name))));
            let played = case.play(&stand, &mut self.timeline).await.with_context(|| {
                format!(
                    "scenario {} on containerd {}\n{}",
                    case.name,
                    node.version(),
                    magi.log_tail(20)
                )
            })?;
            self.misses.extend(played.misses);
            if let Some(run) = self.report.runs.last_mut() {
                run.scenarios.push(played.attack);
                if case.name == Name::Oversize {
                    run.scenarios.push(played.healthy);
                }
            }
        }
        self.timeline.screen().status("ending magi-node and containerd …");
        let version = node.version().to_owned();
        magi.stop()?;
        let residue = node.shutdown()?;
        let mut checker = Checker::new(&version, None);
        checker.expect(
            residue.is_empty(),
            "left on the machine",
            "nothing",
            format!("{residue:?}"),
        );
        self.misses.extend(checker.misses());
        Ok(())
    }

    /// With kernel probes if this machine lets it, else without.
    async fn start_magi(&mut self, node: &Containerd) -> Result<Magi> {
        let mut options = magi::Options::policy(magi::enforce(LIMIT));
        if self.probes {
            match Magi::start(node, &options).await {
                Ok(magi) => return Ok(magi),
                Err(_) => self.probes = false,
            }
        }
        options.probes = false;
        Magi::start(node, &options).await
    }

    fn head(&mut self, node: &Containerd, magi: &Magi) -> Result<()> {
        let probes = magi
            .audit_of("source-changed")?
            .iter()
            .rfind(|record| record["source"] == "probes")
            .is_some_and(|record| record["up"] == true);
        let by = if probes {
            "kernel probes tie sockets to pulls"
        } else {
            "no kernel probes here: byte counts tie sockets to pulls"
        };
        let screen = self.timeline.screen();
        screen.line("");
        screen.line(format_args!(
            "{} · magi-node pid {} · {by} · policy: image ≤ 1 GiB, enforce",
            Styled(style::HEAD, format_args!("containerd {}", node.version())),
            magi.process().pid(),
        ));
        Ok(())
    }
}

fn title(name: Name) -> &'static str {
    match name {
        Name::Oversize | Name::Healthy => "a gigantic image, and a healthy one beside it",
        Name::Lying => "a layer that declares 1 MiB and never ends",
        Name::Again => "a gigantic image again: same magi-node, no restart",
    }
}

fn cases() -> Result<Vec<Case>> {
    let gigantic = |seed: u64| {
        ImageBuilder::oci()
            .layers((0..3).map(|layer| Layer::declared(seed + layer, GIGANTIC / 3)))
            .build()
    };
    let lying = ImageBuilder::oci()
        .layer(Layer::lying(50, LYING_DECLARED, LYING_DECLARED))
        .build()?;
    let oversize = |name: Name, bad: Image, good: Image| Case {
        name,
        who: "gigantic",
        bad,
        bad_behaviour: Behaviour::rate(ATTACK_RATE),
        good,
        good_behaviour: Behaviour::rate(HEALTHY_RATE),
        reason: "image-too-large",
    };
    Ok(vec![
        oversize(Name::Oversize, gigantic(10)?, healthy(20)?),
        Case {
            who: "liar",
            bad_behaviour: Behaviour::endless().at(ATTACK_RATE),
            reason: "layer-overruns-manifest",
            ..oversize(Name::Lying, lying, healthy(30)?)
        },
        oversize(Name::Again, gigantic(60)?, healthy(40)?),
    ])
}

/// 24 MiB in two layers: containerd 2.x downloads three at a time on the whole node, and the attack should get one.
fn healthy(seed: u64) -> Result<Image> {
    ImageBuilder::oci()
        .layer(Layer::random(seed, 12 << 20, Compression::Gzip)?)
        .layer(Layer::random(seed + 1, 12 << 20, Compression::Gzip)?)
        .build()
}
