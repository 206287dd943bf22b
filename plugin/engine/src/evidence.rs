//! Why a pull may be stopped: reasons, pieces of evidence, and which sources must agree.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Cookie, Digest, ImageName, IngestRef, PodNamespace, SocketName, VerdictId};
use crate::owner::PodIdentity;

/// Why a pull is condemned. Closed: the same words are the audit's code and the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The declared compressed size of all layers is over the policy's limit.
    ImageTooLarge,
    /// The declared compressed size of one layer is over the policy's limit.
    LayerTooLarge,
    /// More bytes were stored for a layer than its manifest declares.
    LayerOverrunsManifest,
    /// A rule of the policy denies the image.
    DeniedByRule,
    /// The same digest was stopped a short while ago.
    DeniedRecently,
    /// What its namespace may pull in a span of time is used up.
    NamespaceBudget,
    /// What it still needs would leave the node's disk with less than the policy keeps free.
    NoDiskHeadroom,
    /// It holds download slots and hardly uses them, while other pulls wait for one.
    StarvingOthers,
    /// No live pod of this node wants the image any more.
    Orphaned,
    /// A person asked for it.
    Operator,
}

impl Reason {
    /// The code, as in audit records and metric labels.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::ImageTooLarge => "image-too-large",
            Self::LayerTooLarge => "layer-too-large",
            Self::LayerOverrunsManifest => "layer-overruns-manifest",
            Self::DeniedByRule => "denied-by-rule",
            Self::DeniedRecently => "denied-recently",
            Self::NamespaceBudget => "namespace-budget",
            Self::NoDiskHeadroom => "no-disk-headroom",
            Self::StarvingOthers => "starving-others",
            Self::Orphaned => "orphaned",
            Self::Operator => "operator",
        }
    }

    /// Whether it may end by time alone, or by what becomes of other pulls.
    #[must_use]
    pub(crate) const fn passes(self) -> bool {
        match self {
            Self::DeniedRecently
            | Self::NamespaceBudget
            | Self::NoDiskHeadroom
            | Self::StarvingOthers
            | Self::Orphaned => true,
            Self::ImageTooLarge
            | Self::LayerTooLarge
            | Self::LayerOverrunsManifest
            | Self::DeniedByRule
            | Self::Operator => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Who knows something. Two different ones must agree before a lever is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// containerd's API: leases, ingests, manifests.
    Containerd,
    /// The kernel, through magi's probes: which socket feeds which ingest.
    Probes,
    /// The kernel, through its socket table: byte counts of containerd's sockets.
    SocketTable,
    /// The kernel, through magi's probes: requests on containerd's CRI socket.
    Requests,
    /// The node's pods, as containerd tells an NRI plugin.
    Nri,
    /// containerd's image verifier hook.
    Verifier,
    /// magi's gateway: pulls that go through it.
    Gateway,
    /// magi's master: what the API server says.
    Master,
    /// A person on the node's control socket.
    Operator,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Containerd,
        Self::Probes,
        Self::SocketTable,
        Self::Requests,
        Self::Nri,
        Self::Verifier,
        Self::Gateway,
        Self::Master,
        Self::Operator,
    ];
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd",
            Self::Probes => "probes",
            Self::SocketTable => "socket-table",
            Self::Requests => "requests",
            Self::Nri => "nri",
            Self::Verifier => "verifier",
            Self::Gateway => "gateway",
            Self::Master => "master",
            Self::Operator => "operator",
        })
    }
}

/// How a socket was tied to an ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TieMethod {
    /// The same goroutine reads the socket and writes the ingest.
    Goroutine,
    /// By majority, the same thread does.
    Thread,
    /// The bytes received match the ingest's offset, and no other's.
    ByteCount,
}

/// One fact that speaks for stopping a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Evidence {
    /// The manifest declares more bytes than the policy allows for the image.
    DeclaredImage {
        /// The manifest.
        manifest: Digest,
        /// Declared bytes of all layers.
        declared: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The manifest declares a layer with more bytes than the policy allows.
    DeclaredLayer {
        /// The manifest.
        manifest: Digest,
        /// The layer.
        layer: Digest,
        /// Declared bytes.
        declared: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// An ingest holds more bytes than its manifest declares: certain, no second interpretation.
    IngestOverrun {
        /// The ingest.
        ingest: IngestRef,
        /// Bytes stored.
        offset: u64,
        /// Bytes declared.
        total: u64,
    },
    /// A socket feeds one of the pull's ingests.
    SocketFeeds {
        /// The socket.
        socket: SocketName,
        /// The ingest.
        ingest: IngestRef,
        /// How this is known.
        method: TieMethod,
        /// Bytes seen on it so far.
        bytes: u64,
    },
    /// containerd lists the pull's lease as in flight.
    LeaseInFlight {
        /// Ingests that the lease holds.
        ingests: u64,
    },
    /// The kernel lists open registry sockets of containerd.
    SocketsOpen {
        /// How many.
        count: u64,
    },
    /// A rule of the policy denies this image.
    DeniedImage {
        /// Repository or digest, as the lease has it.
        image: String,
    },
    /// A manifest that the lease holds was stopped a short while ago.
    StoppedBefore {
        /// The manifest.
        manifest: Digest,
        /// Why it was stopped.
        reason: Reason,
        /// For how many more seconds it is denied.
        seconds_left: u64,
    },
    /// The pulls of a namespace have used up what they may fetch.
    BudgetUsed {
        /// The namespace.
        namespace: PodNamespace,
        /// The budget.
        budget: String,
        /// What is used up.
        what: BudgetKind,
        /// How much is used, this pull included.
        used: u64,
        /// How much may be used.
        limit: u64,
    },
    /// What the pulls in flight still need does not fit on a disk.
    DiskShort {
        /// Which one.
        place: DiskPlace,
        /// What there is too little of.
        unit: DiskUnit,
        /// How much is free.
        free: u64,
        /// How much is to stay free.
        keep: u64,
        /// Bytes that all pulls in flight still need there.
        wanted: u64,
        /// Bytes that this one does.
        needed: u64,
    },
    /// Its downloads are slow, and other pulls get no slot.
    HoldsSlots {
        /// Downloads that it has in flight.
        downloads: u64,
        /// Bytes per second that it must bring.
        rate: u64,
        /// Bytes by which it has fallen behind that.
        behind: u64,
        /// Pulls that wait for a slot.
        waiting: u64,
    },
    /// The kernel saw this pull being asked for.
    AskedFor {
        /// The image, as it was asked for.
        image: ImageName,
        /// For this pod.
        pod: Option<PodIdentity>,
    },
    /// The pull's call is in magi's gateway, which has read its request.
    CalledThrough {
        /// The image, as it was asked for.
        image: ImageName,
        /// For this pod.
        pod: Option<PodIdentity>,
        /// Calls that ask for just that.
        calls: u64,
    },
    /// The API server, by the master's word, has no such pod any more, or the pod wants other images.
    PodLost {
        /// The master's verdict; its own records name it, too.
        verdict: VerdictId,
        /// The pod.
        pod: PodIdentity,
        /// The image.
        image: ImageName,
        /// What made it so.
        cause: String,
    },
    /// A person asked.
    Asked {
        /// Who, as the control socket's peer credentials say.
        actor: String,
    },
}

/// A file system that containerd writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskPlace {
    /// That of the blobs.
    Content,
    /// That of the snapshots.
    Snapshots,
    /// The one that holds both.
    Both,
}

/// What a file system may run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskUnit {
    /// Bytes.
    Bytes,
    /// Files.
    Inodes,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BudgetKind {
    /// Bytes fetched.
    Bytes,
    /// Pulls begun.
    Pulls,
}

impl fmt::Display for BudgetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Pulls => "pulls",
        })
    }
}

impl fmt::Display for DiskPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "for blobs",
            Self::Snapshots => "to unpack",
            Self::Both => "for blobs and to unpack",
        })
    }
}

impl fmt::Display for DiskUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Inodes => "inodes",
        })
    }
}

impl Evidence {
    /// Who knows this.
    #[must_use]
    pub const fn source(&self) -> Source {
        match self {
            Self::DeclaredImage { .. }
            | Self::DeclaredLayer { .. }
            | Self::IngestOverrun { .. }
            | Self::DeniedImage { .. }
            | Self::StoppedBefore { .. }
            | Self::BudgetUsed { .. }
            | Self::DiskShort { .. }
            | Self::HoldsSlots { .. }
            | Self::LeaseInFlight { .. } => Source::Containerd,
            Self::AskedFor { .. } => Source::Requests,
            Self::CalledThrough { .. } => Source::Gateway,
            Self::PodLost { .. } => Source::Master,
            Self::SocketFeeds {
                method: TieMethod::Goroutine | TieMethod::Thread,
                ..
            } => Source::Probes,
            Self::SocketFeeds {
                method: TieMethod::ByteCount,
                ..
            }
            | Self::SocketsOpen { .. } => Source::SocketTable,
            Self::Asked { .. } => Source::Operator,
        }
    }

    /// The socket that this speaks of, if it does.
    #[must_use]
    pub const fn cookie(&self) -> Option<Cookie> {
        match self {
            Self::SocketFeeds { socket, .. } => Some(socket.cookie),
            Self::DeclaredImage { .. }
            | Self::DeclaredLayer { .. }
            | Self::IngestOverrun { .. }
            | Self::LeaseInFlight { .. }
            | Self::SocketsOpen { .. }
            | Self::DeniedImage { .. }
            | Self::StoppedBefore { .. }
            | Self::BudgetUsed { .. }
            | Self::DiskShort { .. }
            | Self::HoldsSlots { .. }
            | Self::AskedFor { .. }
            | Self::CalledThrough { .. }
            | Self::PodLost { .. }
            | Self::Asked { .. } => None,
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeclaredImage { declared, limit, .. } => {
                write!(
                    f,
                    "the manifest declares {declared} bytes, {limit} are allowed for an image"
                )
            }
            Self::DeclaredLayer {
                layer,
                declared,
                limit,
                ..
            } => {
                write!(
                    f,
                    "the manifest declares {declared} bytes for layer {layer}, {limit} are allowed for a layer"
                )
            }
            Self::IngestOverrun {
                ingest,
                offset,
                total,
            } => {
                write!(f, "{offset} bytes are stored for {ingest}, {total} were declared")
            }
            Self::SocketFeeds { socket, ingest, .. } => write!(f, "socket {socket} feeds {ingest}"),
            Self::LeaseInFlight { ingests } => write!(f, "the lease is in flight with {ingests} ingests"),
            Self::SocketsOpen { count } => write!(f, "{count} sockets of containerd are open"),
            Self::DeniedImage { image } => write!(f, "the policy denies {image}"),
            Self::StoppedBefore {
                manifest,
                reason,
                seconds_left,
            } => write!(
                f,
                "{manifest} was stopped a short while ago ({reason}) and is denied for {seconds_left} s more"
            ),
            Self::BudgetUsed {
                namespace,
                budget,
                what,
                used,
                limit,
            } => write!(
                f,
                "namespace {namespace} has used {used} {what}, {limit} are allowed by budget {budget}"
            ),
            Self::DiskShort {
                place,
                unit,
                free,
                keep,
                wanted,
                needed,
            } => write!(
                f,
                "pulls in flight still need {wanted} bytes {place}, this one {needed}; {free} {unit} are free, {keep} are to stay so"
            ),
            Self::HoldsSlots {
                downloads,
                rate,
                behind,
                waiting,
            } => write!(
                f,
                "its {downloads} downloads are {behind} bytes behind {rate} bytes/s, and {waiting} pulls wait for a slot"
            ),
            Self::AskedFor {
                image,
                pod: Some(pod),
            } => write!(f, "{image} was asked for by pod {pod}"),
            Self::AskedFor { image, pod: None } => write!(f, "{image} was asked for, for no pod"),
            Self::CalledThrough { image, calls, .. } => {
                write!(f, "{calls} calls in the gateway ask for {image}")
            }
            Self::PodLost {
                pod, image, cause, ..
            } => write!(f, "pod {pod} wants {image} no longer ({cause})"),
            Self::Asked { actor } => write!(f, "{actor} asked for it"),
        }
    }
}

/// The pairs of sources that suffice for a reason, any one of them.
#[must_use]
pub const fn sufficient_pairs(reason: Reason) -> &'static [(Source, Source)] {
    match reason {
        Reason::ImageTooLarge
        | Reason::LayerTooLarge
        | Reason::DeniedByRule
        | Reason::DeniedRecently
        | Reason::NoDiskHeadroom => &[
            (Source::Containerd, Source::Probes),
            (Source::Containerd, Source::SocketTable),
            // What containerd holds of it, and that the kernel saw it asked for: enough before its first layer.
            (Source::Containerd, Source::Requests),
            (Source::Containerd, Source::Gateway),
        ],
        Reason::LayerOverrunsManifest | Reason::StarvingOthers => &[
            (Source::Containerd, Source::Probes),
            (Source::Containerd, Source::SocketTable),
            (Source::Containerd, Source::Gateway),
        ],
        // Whose bytes they are, only the request tells.
        Reason::NamespaceBudget => &[
            (Source::Requests, Source::Probes),
            (Source::Requests, Source::SocketTable),
            (Source::Requests, Source::Gateway),
        ],
        // That the pod is gone, the master knows; that the pull is that pod's, the kernel, which saw it ask.
        Reason::Orphaned => &[
            (Source::Master, Source::Requests),
            (Source::Master, Source::Probes),
            (Source::Master, Source::SocketTable),
            (Source::Master, Source::Gateway),
        ],
        Reason::Operator => &[
            (Source::Operator, Source::Containerd),
            (Source::Operator, Source::Probes),
            (Source::Operator, Source::SocketTable),
            (Source::Operator, Source::Gateway),
        ],
    }
}

/// Whether `evidence` comes from two sources that suffice for `reason`.
#[must_use]
pub fn suffices(reason: Reason, evidence: &[Evidence]) -> bool {
    let sources: BTreeSet<Source> = evidence.iter().map(Evidence::source).collect();
    sufficient_pairs(reason)
        .iter()
        .any(|(a, b)| sources.contains(a) && sources.contains(b))
}
