//! A real pull: of an image that magictl makes and serves itself, for a pod that does not exist.
//!
//! Three things can be proven by it only: that containerd calls the verifier and magi-node hears its question, that the
//! request is read off containerd's socket, and that it is tied to the lease of the very pull that it began.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use magi_engine::Source;
use magi_engine::report::{PullReport, Report};
use magi_node_api::{Client, ClientError, NodeStatus, Patience};
use magi_wire::runtime::v1::image_service_client::ImageServiceClient;
use magi_wire::runtime::v1::{
    ImageSpec, PodSandboxConfig, PodSandboxMetadata, PullImageRequest, RemoveImageRequest,
};
use tokio::signal::ctrl_c;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use super::check::{Check, Outcome, Question, causes};
use super::facts::Facts;
use super::image::Image;
use super::registry::Registry;

const PULL: Question = Question {
    id: "active-pull",
    proves: "containerd pulls a tiny image through CRI, and gives it up again",
};
const CALLED: Question = Question {
    id: "verifier-called",
    proves: "containerd called magi-verify for that very image, and magi-node heard its question: the pull path is real",
};
const OWNER: Question = Question {
    id: "owner-known",
    proves: "the request was read off containerd's socket and tied to the lease of its pull: its pod is known, without NRI",
};

/// The pod in whose name is pulled.
const POD: &str = "magi-doctor";
/// How long magi-node gets to say whose pull it is, while the layer is held back.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// How often a pull is made whose owner stays unknown: what began beside it, or within 2 s after magi-node's start, keeps
/// the engine from being sure.
const TRIES: u32 = 2;
/// How long the whole pull may take, and its removal.
const PULLED_WITHIN: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(2),
    answer: Duration::from_secs(5),
};

/// What is pulled.
struct Target {
    reference: String,
    repository: String,
    uid: String,
    digest: String,
}

/// What came of it.
struct Found {
    pulled: Result<(), Status>,
    removed: Result<(), Status>,
    /// magi-node's view of the pull while it went on.
    report: Result<Option<PullReport>, ClientError>,
    /// And its status afterwards.
    status: Result<NodeStatus, ClientError>,
}

/// The names of the checks, for who does not ask for a pull.
pub(super) fn not_asked() -> Vec<Check> {
    [PULL, CALLED, OWNER]
        .map(|question| question.skip("not asked for; --active pulls a tiny image"))
        .to_vec()
}

/// Pulls, and tells what was seen of it. `verifier` is how the check of the installed verifier went.
pub(super) async fn checks(facts: &Facts, verifier: Outcome, local: bool) -> Vec<Check> {
    let Ok(containerd) = &facts.containerd else {
        return [PULL, CALLED, OWNER]
            .map(|question| question.skip("containerd cannot be asked"))
            .to_vec();
    };
    let mut last = Vec::new();
    for _try in 0..TRIES {
        let (target, registry) = match offer().await {
            Ok(offered) => offered,
            Err(error) => {
                let advice = "see that this machine has a loopback (ip link show lo) and free descriptors";
                return vec![PULL.fail(format!("no registry could be offered: {error}"), advice)];
            }
        };
        let found = pull(facts, containerd.channel.clone(), &registry, &target).await;
        let owner = judge_owner(facts, &found, &target);
        let doubtful = owner.outcome == Outcome::Warn && found.pulled.is_ok();
        last = vec![
            judge_pull(&found, &target),
            judge_called(facts, &found, &target, verifier, local),
            owner,
        ];
        if !doubtful {
            break;
        }
    }
    last
}

/// An image that nobody has, and a registry that has nothing else.
async fn offer() -> std::io::Result<(Target, Registry)> {
    let mark = mark();
    let repository = format!("{POD}/{mark}");
    let image = Image::new(&mark)?;
    let digest = image.manifest.digest.clone();
    let registry = Registry::start(&repository, image).await?;
    let target = Target {
        reference: format!("{}/{repository}:1", registry.address()),
        repository,
        uid: format!("{POD}-{mark}"),
        digest,
    };
    Ok((target, registry))
}

/// Pulls and removes the image again, whatever happens between.
async fn pull(facts: &Facts, channel: Channel, registry: &Registry, target: &Target) -> Found {
    let mut client = ImageServiceClient::new(channel.clone());
    let request = PullImageRequest {
        image: Some(spec(&target.reference)),
        auth: None,
        sandbox_config: Some(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: POD.to_owned(),
                uid: target.uid.clone(),
                namespace: POD.to_owned(),
                attempt: 0,
            }),
            ..PodSandboxConfig::default()
        }),
    };
    let pulling = async {
        tokio::select! {
            answer = client.pull_image(request) => answer.map(drop),
            Ok(()) = ctrl_c() => Err(Status::cancelled("interrupted")),
            () = sleep(PULLED_WITHIN) => Err(Status::deadline_exceeded(format!(
                "gave up after {} s", PULLED_WITHIN.as_secs()
            ))),
        }
    };
    tokio::pin!(pulling);
    let watching = async {
        let seen = watch(facts, target).await;
        registry.release();
        seen
    };
    tokio::pin!(watching);
    // A pull that ends early needs no more watching; one that is watched to its end is still waited for.
    let (pulled, report) = tokio::select! {
        biased;
        report = &mut watching => (pulling.await, report),
        pulled = &mut pulling => {
            let report = timeout(STEP.saturating_mul(20), &mut watching).await;
            (pulled, report.unwrap_or(Ok(None)))
        }
    };
    let removing = ImageServiceClient::new(channel);
    let removed = remove(removing, &target.reference).await;
    let status = async { Client::connect(&facts.socket, PATIENCE).await?.status().await };
    Found {
        pulled,
        removed,
        report,
        status: status.await,
    }
}

async fn remove(mut client: ImageServiceClient<Channel>, reference: &str) -> Result<(), Status> {
    let request = RemoveImageRequest {
        image: Some(spec(reference)),
    };
    timeout(PULLED_WITHIN, client.remove_image(request))
        .await
        .map_err(|_| Status::deadline_exceeded("no answer"))?
        .map(drop)
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec {
        image: reference.to_owned(),
        user_specified_image: reference.to_owned(),
        ..ImageSpec::default()
    }
}

/// Looks until magi-node knows whose the pull is, or long enough.
async fn watch(facts: &Facts, target: &Target) -> Result<Option<PullReport>, ClientError> {
    let mut client = Client::connect(&facts.socket, PATIENCE).await?;
    let mut seen = None;
    let looking = async {
        loop {
            let (_, report) = client.pulls(true).await?;
            if let Some(pull) = ours(report, target) {
                let known = pull.owner.is_some();
                seen = Some(pull);
                if known {
                    return Ok::<(), ClientError>(());
                }
            }
            sleep(STEP).await;
        }
    };
    match timeout(SEEN_WITHIN, looking).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(seen),
    }
}

fn ours(report: Report, target: &Target) -> Option<PullReport> {
    let is_ours = |pull: &PullReport| {
        let asked = pull.owner.iter().chain(&pull.owner_candidates);
        // A repository's name is written without the port in the labels that it is read from.
        pull.repositories
            .iter()
            .any(|one| one.as_str().ends_with(&target.repository))
            || asked
                .into_iter()
                .any(|owner| owner.image.as_str() == target.reference)
    };
    report.pulls.into_iter().chain(report.ended).find(is_ours)
}

fn judge_pull(found: &Found, target: &Target) -> Check {
    let reference = &target.reference;
    match (&found.pulled, &found.removed) {
        (Ok(()), Ok(())) => PULL.ok(format!("{reference} was pulled and removed again")),
        (Ok(()), Err(status)) => PULL.warn(
            format!("{reference} was pulled, but not removed: {}", status.message()),
            format!("remove it: crictl rmi {reference}"),
        ),
        (Err(status), _) if status.message().contains("magi:") => PULL.warn(
            format!("{reference} was refused by magi itself: {}", status.message()),
            "have the policy allow images of 127.0.0.1 for namespace magi-doctor while this is tried",
        ),
        (Err(status), _) => PULL.fail(
            format!("{reference} could not be pulled: {}", status.message()),
            "see that containerd reaches the loopback of this network namespace without a proxy (NO_PROXY), and see its log",
        ),
    }
}

fn judge_called(facts: &Facts, found: &Found, target: &Target, verifier: Outcome, local: bool) -> Check {
    let Some(version) = facts.version().filter(|version| version.verifies()) else {
        return CALLED.skip("this version of containerd calls no image verifier");
    };
    let status = match &found.status {
        Ok(status) => status,
        Err(error) => return CALLED.skip(causes(error)),
    };
    let heard = status
        .verifier
        .lately
        .iter()
        .any(|one| one.image.as_str() == target.reference && one.digest.as_str() == target.digest);
    if heard {
        return CALLED.ok("containerd called magi-verify, and magi-node heard it ask for that image: pulls take the transfer path");
    }
    if local {
        return CALLED.skip("not called: pulls go in process, see `pull-path`");
    }
    if verifier != Outcome::Ok {
        return CALLED.skip("not called: see `verifier`");
    }
    CALLED
        .fail(
            format!("magi-node heard no question for that image from containerd {version}"),
            format!(
                "see that magi-verify asks at {}: write `socket = {}` into /etc/magi/verify.conf, and see containerd's log \
                 for \"image verifier\"",
                facts.socket.display(),
                facts.socket.display()
            ),
        )
        .or("see that containerd was restarted since its configuration was changed")
}

fn judge_owner(facts: &Facts, found: &Found, target: &Target) -> Check {
    let report = match (&found.report, facts.status()) {
        (_, Err(why)) => return OWNER.skip(why),
        (Err(error), _) => return OWNER.skip(causes(error)),
        (Ok(report), Ok(status)) => {
            if !super::node::is_up(status, Source::Requests) {
                return OWNER.skip("requests are not read: see `requests`");
            }
            report
        }
    };
    let advice = "try again while no other pull begins; if it stays so, magi-node's log and `magictl pulls -v` say what it saw";
    let Some(pull) = report else {
        return match &found.pulled {
            Ok(()) => OWNER
                .fail("magi-node saw no such pull", "see `watches-containerd`")
                .or(advice),
            Err(_) => OWNER.skip("there was no pull to see"),
        };
    };
    let Some(owner) = &pull.owner else {
        let count = pull.owner_candidates.len();
        return OWNER.warn(
            format!(
                "magi-node saw the pull as {}, and not whose it is ({count} may have asked)",
                pull.id
            ),
            advice,
        );
    };
    let right = owner.image.as_str() == target.reference
        && owner.pod.as_ref().is_some_and(|pod| {
            pod.uid.as_str() == target.uid && pod.namespace.as_str() == POD && pod.name.as_str() == POD
        });
    let proof: Vec<_> = owner.proof.iter().map(ToString::to_string).collect();
    let proof = proof.join(" and ");
    if !right {
        return OWNER.fail(
            format!(
                "magi-node takes it for the pull of {} by {:?}",
                owner.image, owner.pod
            ),
            "report this: it is a defect of magi",
        );
    }
    if !owner.proof.contains(&Source::Requests) {
        return OWNER.warn(format!("known, but by {proof} only"), advice);
    }
    OWNER.ok(format!("{} is the pull of pod {POD}/{POD}, by {proof}", pull.id))
}

/// Unlike that of any other run.
fn mark() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_nanos(), std::process::id())
}
