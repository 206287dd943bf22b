//! Where the master hears from: the audit log, the audit webhook, the pod watch. Each turns what it hears into
//! [`Change`](crate::change::Change)s, and none knows the ledger.

pub mod audit;
pub mod file;
pub mod lines;
pub mod watch;
pub mod webhook;
