//! The master: from the API server's truth to verdicts on the right node.
//!
//! Data goes one way: `intake` (audit log, audit webhook, pod watch) → `ledger` → `verdict` → `stream`. The ledger and the
//! verdicts are pure code; everything that waits, reads or writes lies at the two ends.

pub mod certs;
pub mod change;
pub mod counters;
pub mod files;
pub mod intake;
pub mod ledger;
pub mod names;
pub mod policy;
pub mod push;
pub mod replay;
pub mod server;
pub mod settings;
pub mod store;
pub mod stream;
pub mod switch;
pub mod truth;
pub mod verdict;
