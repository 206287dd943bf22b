//! Every bound of the engine's memory and patience, named in one place.

use std::time::Duration;

/// Pulls in flight that are remembered; the node's real number is below a hundred.
pub const MAX_PULLS: usize = 4096;
/// Manifests remembered for one pull: an index yields one per platform, and attestations add a few.
pub const MAX_MANIFESTS_PER_PULL: usize = 32;
/// Layers of one manifest; the sources refuse longer ones before the engine sees them.
pub const MAX_LAYERS: usize = 16_384;
/// Layers of one pull that a report names.
pub const MAX_LAYERS_REPORTED: usize = 128;
/// Ingests, content digests or snapshots of one lease that are looked at.
pub const MAX_RESOURCES_PER_LEASE: usize = 20_000;
/// Sockets whose ingest is known.
pub const MAX_FEEDS: usize = 16_384;
/// Levers in flight that are waited for: one for each pull, one for each ended one, and the panic button's.
pub const MAX_FLIGHTS: usize = MAX_PULLS + MAX_AFTERMATHS + MAX_QUESTIONS;
/// Layers, and entries of indexes, remembered for one pull.
pub const MAX_DECLARED_PER_PULL: usize = 4 * MAX_LAYERS;
/// Questions that wait for their answer.
pub const MAX_QUESTIONS: usize = 256;
/// Ended pulls kept for people to look at.
pub const MAX_ENDED: usize = 256;
/// Condemned pulls that have ended and whose leftovers are still watched.
pub const MAX_AFTERMATHS: usize = 1024;

/// How long a look at containerd may be acted on.
pub const PICTURE_HOLDS: Duration = Duration::from_millis(1_000);
/// How long a look counts as just taken: between its manifest and its first layer a pull fetches its config and writes to
/// containerd's database five times (14–40 ms measured).
pub const PICTURE_IS_NEW: Duration = Duration::from_millis(10);
/// How long a pull whose lease was deleted may go on before it is given up as stopped or not.
pub const WITHOUT_LEASE_LONGEST: Duration = Duration::from_secs(60);
/// Looks that must come after a new tie before it counts, where another pull may have taken the ingest over: the first
/// may have been under way already.
pub const LOOKS_TO_CONFIRM: u8 = 2;
/// When a look or a listing that was asked for counts as lost.
pub const ANSWER_LOST_AFTER: Duration = Duration::from_millis(2_000);
/// When a lever that has not come back is reported.
pub const LEVER_LOST_AFTER: Duration = Duration::from_millis(5_000);
/// How long a lever may take to bring its pull to an end before the next one is tried (16–70 ms measured).
pub const VERIFY_WITHIN: Duration = Duration::from_millis(1_000);
/// How long after "the socket was already gone" the end of the pull is awaited.
pub const VERIFY_GONE_WITHIN: Duration = Duration::from_millis(250);
/// First and longest pause between two looks while the end of a pull is awaited.
pub const LOOK_FIRST: Duration = Duration::from_millis(5);
/// See [`LOOK_FIRST`].
pub const LOOK_LONGEST: Duration = Duration::from_millis(200);
/// Longest pause between two looks at a pull that was reported as not stopped: a lease that nobody works for any more
/// may stay for a day (containerd.md §12).
pub const LOOK_RARE: Duration = Duration::from_secs(2);
/// That pause, as a share of the time for which nothing could be done.
pub const LOOK_RARE_SHARE: u32 = 16;
/// Longest pause between looks for the pull to which an unknown ingest belongs: it may be nobody's that is watched.
pub const STRANGER_LONGEST: Duration = Duration::from_millis(2_000);
/// Pause between looks while a condemned pull offers nothing to close.
pub const LOOK_FOR_TARGET: Duration = Duration::from_millis(50);
/// Pause before a lever is tried again that failed for a reason of its own.
pub const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Levers tried at full pace before the pull is reported as not stopped.
pub const MAX_ATTEMPTS: u32 = 16;
/// Pause between attempts once a pull was reported as not stopped.
pub const STUBBORN_PAUSE: Duration = Duration::from_secs(10);
/// How long a condemned pull may go without offering a target before that is reported.
pub const REPORT_UNREACHABLE_AFTER: Duration = Duration::from_secs(2);
/// How long containerd's own collection may take before magi removes leftovers (0.6–2.3 s measured).
pub const CLEANUP_GRACE: Duration = Duration::from_secs(4);
/// Times that the removal of one leftover is tried.
pub const MAX_REMOVALS: u8 = 3;
/// How long leftovers and take-overs of an ended pull are watched at most.
pub const AFTERMATH_LONGEST: Duration = Duration::from_secs(60);
/// How long a question may wait for its pull to end.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Ingests in flight at once up to which sockets are tied to them by byte counts.
pub const MAX_PAIRED_INGESTS: usize = 64;

/// Requests on the CRI socket that are remembered.
pub const MAX_CALLS: usize = 512;
/// Pulls in flight through gateways that can be called back: two gateways full of them, as one takes over from another.
pub const MAX_GATEWAY_CALLS: usize = 2048;
/// For so long other levers wait until it is sure which call in the gateway is the pull's: by them its caller would not hear
/// why it ends. Requests are told apart 30 ms after they began.
pub const CALL_KNOWN_WITHIN: Duration = Duration::from_millis(100);
/// Spans in which requests may have gone unseen; when there are more, the oldest two become one.
pub const MAX_MISSED_SPANS: usize = 64;
/// Looks of which is remembered when they began, for requests that are told late.
pub const MAX_LOOKS: usize = 256;
/// Ended pulls that still explain a request.
pub const MAX_GONE_PULLS: usize = 256;
/// For so long after a request its lease and manifest are looked for at a quick pace.
pub const LEASE_EXPECTED: Duration = Duration::from_millis(1_500);
/// Pause between these looks.
pub const LOOK_FOR_LEASE: Duration = Duration::from_millis(5);
/// Pods that are gone, by the master's word, that are remembered.
pub const MAX_LOST_PODS: usize = 4096;
/// Images of one such pod; Kubernetes allows a pod some hundred containers.
pub const MAX_LOST_IMAGES: usize = 256;
/// How far the clocks of the kernel's records and of containerd's leases may differ.
pub const CLOCKS_DIFFER: Duration = Duration::from_micros(500);
/// So soon after magi's gateway has read a call it passes it on to containerd: a question to magi-node lies between.
pub const PASSED_ON_WITHIN: Duration = Duration::from_secs(1);
/// A pull that has had nothing to download for so long, and lacks something, waits for a slot.
pub const WAITS_FOR_SLOT: Duration = Duration::from_secs(5);
/// Bytes of a compressed layer that containerd unpacks in a second, at the slowest: for so long a pull is not slow.
pub const UNPACKS_AT_LEAST: u64 = 2 << 20;
/// Shortest pause after a collection of garbage that magi asked for.
pub const COLLECT_EVERY: Duration = Duration::from_millis(100);
/// So many times as long as a collection took, at least, before the next: containerd's own `pause_threshold` is 0.02
/// (containerd 1.7.24 gc/scheduler/scheduler.go).
pub const COLLECT_SHARE: u32 = 50;
/// A collection that has not come back by then is not waited for.
pub const COLLECT_LONGEST: Duration = Duration::from_secs(60);
/// Orphaned pulls of which something is kept at a time.
pub const MAX_KEEPS: usize = 64;
/// Layers and documents that are kept of one pull.
pub const MAX_KEPT_RESOURCES: usize = 64;
/// For so long a pod's pulls are stopped after the master said that it is gone: the kubelet queues pulls for long.
pub const ORPHANS_REMEMBERED: Duration = Duration::from_secs(3_600);
/// Pods of the node that are remembered.
pub const MAX_PODS: usize = 4096;
/// Labels of one pod that are remembered, and requests that a report names as possible.
pub const MAX_LABELS: usize = 128;
/// Askers that a report or record names where the owner is not known for sure.
pub const MAX_CANDIDATES_REPORTED: usize = 8;
/// Manifests that are remembered for questions of the verifier.
pub const MAX_KNOWN_MANIFESTS: usize = 4096;
/// Digests that are denied at once.
pub const MAX_DENIALS: usize = 4096;
/// Layers of an image up to which the directories of their ingests are foreseen.
pub const MAX_FORESEEN_LAYERS: usize = 128;
/// Layers of a denied manifest that is remembered whole.
pub const MAX_DENIED_ENTRIES: usize = MAX_FORESEEN_LAYERS;
/// Accounts of budgets: one for each budget and namespace.
pub const MAX_ACCOUNTS: usize = 4096;
/// Ended pulls that one account remembers one by one.
pub const MAX_ACCOUNT_ENTRIES: usize = 1024;
/// Between two records of refusals of the same digest.
pub const REFUSAL_RECORDED_EVERY: Duration = Duration::from_secs(10);
