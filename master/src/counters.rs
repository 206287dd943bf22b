//! What is counted, for operators: every refusal, every loss, and what went well beside it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$about:meta])+ $variant:ident = $name:literal;)+) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Count {
            $($(#[$about])+ $variant,)+
        }

        impl Count {
            const ALL: &[(Self, &str)] = &[$((Self::$variant, $name)),+];
        }

        /// The numbers. Changed by: [`Self::add`], from anywhere.
        #[derive(Debug, Default)]
        #[expect(non_snake_case, reason = "each field has its variant's name, so that neither can be forgotten")]
        pub struct Counters {
            $($variant: AtomicU64,)+
        }

        impl Counters {
            fn of(&self, count: Count) -> &AtomicU64 {
                match count {
                    $(Count::$variant => &self.$variant,)+
                }
            }
        }
    };
}

counters! {
    /// Connections that came through TLS.
    Accepted = "connections-accepted";
    /// There were too many connections.
    RefusedFull = "refused-too-many-connections";
    /// It took too long to show a certificate.
    RefusedSlow = "refused-slow-handshake";
    /// No TLS, or none that we speak.
    RefusedTls = "refused-bad-tls";
    /// No certificate was shown.
    RefusedNoCertificate = "refused-no-certificate";
    /// The certificate is over, or not yet good.
    RefusedExpired = "refused-expired-certificate";
    /// The certificate is of another authority.
    RefusedAuthority = "refused-other-authority";
    /// The certificate is wrong in another way.
    RefusedCertificate = "refused-bad-certificate";
    /// The certificate names no peer.
    RefusedNameless = "refused-nameless-certificate";
    /// The peer called what it may not call.
    RefusedRole = "refused-wrong-role";
    /// A node said that it is another.
    RefusedName = "refused-another-name";
    /// Nothing was called, or no hello came.
    RefusedSilent = "refused-no-hello";
    /// There were too many nodes.
    RefusedNodes = "refused-too-many-nodes";
    /// A message that makes no sense, or is too large.
    BadMessage = "bad-messages";
    /// A message that a later release may know.
    UnknownMessage = "unknown-messages";
    /// Streams that began.
    Streams = "streams";
    /// Streams that went on where the last one was cut.
    Resumed = "streams-resumed";
    /// Streams that ended because nothing was heard.
    Silent = "streams-silent";
    /// Connections that ended because the certificate was over.
    CertificateOver = "connections-certificate-over";
    /// Streams that ended because the node opened another.
    Replaced = "streams-replaced";
    /// Certificates that were read anew.
    Reloaded = "certificates-reloaded";
    /// Certificates that were changed into something unusable.
    ReloadFailed = "certificates-reload-failed";
    /// Verdicts that came in.
    Verdicts = "verdicts";
    /// Verdicts that were queued or answered already.
    VerdictsRepeated = "verdicts-repeated";
    /// Verdicts that were handed to a stream, again ones included.
    VerdictsSent = "verdicts-sent";
    /// Verdicts that a node answered.
    VerdictsAnswered = "verdicts-answered";
    /// Verdicts that an earlier stream had delivered, by what the node says.
    VerdictsResumed = "verdicts-resumed";
    /// Verdicts that were too old to be sent.
    VerdictsExpired = "verdicts-expired";
    /// Verdicts that did not hold any more when they could be sent.
    VerdictsMoot = "verdicts-moot";
    /// Verdicts that were forgotten because too many waited.
    VerdictsLost = "verdicts-lost";
    /// Verdicts about changes that were too old when they were heard.
    VerdictsTooOld = "verdicts-about-old-changes";
    /// Verdicts that were lost while the audit log was caught up with, because too many were held.
    VerdictsHeldLost = "verdicts-held-lost";
    /// Verdicts that were forgotten though a node that comes back might want them.
    VerdictsUnremembered = "verdicts-unremembered";
    /// How far the audit log was read could not be kept, or not be read.
    PlaceFailed = "audit-log-place-failures";
    /// Verdicts that the contract cannot carry.
    VerdictsUnsayable = "verdicts-unsayable";
    /// Nodes that were forgotten because too many were known by name only.
    NodesForgotten = "nodes-forgotten";
    /// Policies that were published.
    Policies = "policies";
    /// Policies that could not be read or were wrong.
    PolicyProblems = "policy-problems";
    /// Nodes that refused a policy.
    PolicyRefused = "policy-refused-by-node";
    /// Audit records that were stored.
    Records = "audit-records";
    /// Audit records that were stored before.
    RecordsRepeated = "audit-records-repeated";
    /// Audit records that are no JSON object.
    RecordsUnusable = "audit-records-unusable";
    /// Writes of the audit store that failed, and are tried again.
    StoreFailed = "audit-store-failures";
    /// Audit files that were removed for their age or number.
    StoreRotated = "audit-files-removed";
    /// Audit records that the webhook took.
    Pushed = "audit-webhook-pushed";
    /// Attempts to push that failed.
    PushFailed = "audit-webhook-failures";
    /// Audit records that were not pushed, and are in the store only.
    PushDropped = "audit-webhook-dropped";
}

impl Counters {
    /// Adds `number`.
    pub fn add(&self, count: Count, number: u64) {
        self.of(count).fetch_add(number, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn one(&self, count: Count) {
        self.add(count, 1);
    }

    /// The number so far.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.of(count).load(Ordering::Relaxed)
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        Count::ALL
            .iter()
            .map(|(count, name)| (*name, self.get(*count)))
            .collect()
    }
}
