//! Every bound of the contract. What goes beyond one is refused by whoever receives it.

use std::time::Duration;

/// Bytes of one message from a node.
pub const MAX_UP: usize = 96 << 10;
/// Bytes of one message from a master.
pub const MAX_DOWN: usize = 64 << 10;
/// Bytes of a policy; a ConfigMap of Kubernetes holds no more either.
pub const MAX_POLICY: usize = 1 << 20;
/// Bytes of one message to or from an operator: a policy, or a record, and what stands around it.
pub const MAX_ADMIN: usize = MAX_POLICY + (16 << 10);
/// Bytes of one piece of a policy. Small, because a master may hold one for each of thousands of nodes.
pub const POLICY_PART: usize = 8 << 10;
/// Bytes of a node's name (a DNS subdomain, RFC 1123).
pub const MAX_NODE: usize = 253;
/// Bytes of a word such as a cause or an ability.
pub const MAX_WORD: usize = 64;
/// Bytes of a version.
pub const MAX_VERSION: usize = 256;
/// Bytes of text for people.
pub const MAX_TEXT: usize = 1024;
/// Abilities that a node may tell of.
pub const MAX_COVERAGE: usize = 64;
/// Bytes of a pod's uid; the API server's have 36.
pub const MAX_UID: usize = 128;
/// Bytes of a pod's name or namespace (a DNS subdomain, RFC 1123).
pub const MAX_POD: usize = 253;
/// Bytes of an image as a pod names it.
pub const MAX_IMAGE: usize = 4096;
/// Images of one verdict. Whoever has more says several.
pub const MAX_IMAGES: usize = 256;
/// Bytes of all images of one verdict together, so that a verdict fits into a message.
pub const MAX_IMAGE_BYTES: usize = 48 << 10;
/// Bytes of one audit record.
pub const MAX_RECORD: usize = 64 << 10;
/// Records of one message.
pub const MAX_RECORDS: usize = 64;
/// Bytes of records after which a node begins another message, so that a master's buffers stay small.
pub const RECORD_BYTES: usize = 16 << 10;
/// Runs of a node whose audit trails a master tells of.
pub const MAX_RUNS: usize = 4;
/// Records that an operator gets from one question.
pub const MAX_QUERY: u32 = 1000;
/// Silence that a master may announce, at most and at least.
pub const PING_EVERY: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(120);
/// So many times the announced silence, and the other side is gone.
pub const SILENT_PINGS: u32 = 3;
