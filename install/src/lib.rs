//! containerd's configuration: what magi adds to it, and how it is taken away again to the byte.
//!
//! Three things are registered: NRI's socket is opened where a configuration keeps it closed, the image verifier is put
//! where containerd executes it, and magi-unpack becomes a stream processor if that is asked for. [`plan_install`] and [`plan_uninstall`] look and decide, and touch nothing; what they
//! return shows itself as unified diffs, and [`Plan::apply`] carries it out, behind a journal that survives a crash.
//!
//! No text is ever rendered from parsed values: an edit splices a few bytes into the file, and is accepted only if parsing
//! the result gives what parsing the original gave plus exactly the wanted settings, through all imports, as containerd
//! merges them.

mod apply;
mod diff;
mod document;
mod edit;
mod effective;
mod files;
mod imports;
mod journal;
mod place;
mod plan;
mod search;

mod undo;
mod unpack;
mod verifier;
mod version;

pub use apply::ApplyError;
pub use document::DocumentError;
pub use edit::EditError;
pub use effective::{Effective, Nri, SettingError, Verifier, forced_local};
pub use files::FileError;
pub use imports::{LoadError, effective};
pub use journal::JournalError;
pub use place::{Place, PlaceError};
pub use plan::{Action, Change, Plan, PlanError, Request, plan_install};
pub use undo::plan_uninstall;
pub use unpack::{NAME as UNPACK_NAME, UnpackError};
pub use verifier::{NAME as VERIFIER_NAME, VerifierError};
pub use version::{Version, VersionError};

/// containerd's configuration where nobody says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/containerd/config.toml";
/// Where the journal is kept that `uninstall` needs.
pub const DEFAULT_STATE: &str = "/var/lib/magi/install";

#[cfg(test)]
mod tests;
