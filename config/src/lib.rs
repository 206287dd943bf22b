//! Settings and pull policy of magi: YAML in, checked values or every error at once out.
//!
//! A document is read in two steps. The text becomes a tree whose nodes know their places; a description of the
//! document, from which [`reference()`] is worded too, reads the tree into a raw form, in which
//! each value is within its bounds; and one conversion checks what must hold between values. Every step reports
//! and goes on, so that a person repairs a file once.

mod audit_push;
mod document;
mod error;
mod file;
mod master_document;
mod master_intake;
mod master_settings;
mod node_master;
mod number;
mod patterns;
mod policy;
mod problem;
mod reference;
mod render;
mod schema;
mod settings;
mod settings_document;
mod size;
mod span;
mod tree;
mod values;

use std::path::Path;

use magi_engine::policy::Policy;

pub use error::{ConfigError, Invalid, ReadError, Unreadable};
pub use file::MAX_FILE;
pub use master_document::parse_master_settings;
pub use master_settings::{
    AuditLogSettings, AuditPushSettings, IntakeSettings, MasterSettings, MasterTlsSettings, NodesSettings,
    WatchSettings, WebhookSettings,
};
pub use policy::parse_policy;
pub use problem::{Place, Problem};
pub use reference::reference;
pub use settings::{
    AuditSettings, ContainerdSettings, ControlSettings, LogFormat, LogLevel, LogSettings, MasterLinkSettings,
    NriSettings, PollSettings, ProbeMode, ProbeSettings, ResolverMode, ResolverSettings, Settings,
};
pub use settings_document::parse_settings;
pub use size::{SizeError, human_bytes, parse_size};
pub use span::{SpanError, parse_duration};

/// Reads the policy in the file `path`: one bounded read, of nothing but a file.
///
/// # Errors
/// The file cannot be read, or something in it is wrong; the error tells everything that is.
pub fn load_policy(path: &Path) -> Result<Policy, ConfigError> {
    load_policy_text(path).map(|(policy, _)| policy)
}

/// The same, and the text that was read.
///
/// # Errors
/// As [`load_policy`].
pub fn load_policy_text(path: &Path) -> Result<(Policy, String), ConfigError> {
    let text = file::read(path).map_err(|step| Box::new(Unreadable::new(step)))?;
    let policy = parse_policy(&path.display().to_string(), &text)?;
    Ok((policy, text))
}

/// Reads the settings in the file `path`: one bounded read, of nothing but a file.
///
/// # Errors
/// The file cannot be read, or something in it is wrong; the error tells everything that is.
pub fn load_settings(path: &Path) -> Result<Settings, ConfigError> {
    let text = file::read(path).map_err(|step| Box::new(Unreadable::new(step)))?;
    parse_settings(&path.display().to_string(), &text)
}

/// Reads the settings of the master in the file `path`: one bounded read, of nothing but a file.
///
/// # Errors
/// The file cannot be read, or something in it is wrong; the error tells everything that is.
pub fn load_master_settings(path: &Path) -> Result<MasterSettings, ConfigError> {
    let text = file::read(path).map_err(|step| Box::new(Unreadable::new(step)))?;
    parse_master_settings(&path.display().to_string(), &text)
}
