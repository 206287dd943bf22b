//! What the settings mean for the parts of the master.

use std::time::Duration;

use magi_config::{LogFormat, LogLevel, MasterSettings};
use magi_master_api::tls::TlsFiles;
use tracing_subscriber::filter::LevelFilter;

use crate::store::StoreSettings;
use crate::stream::Limits;

/// The policy's file is looked at so often.
pub const POLICY_EVERY: Duration = Duration::from_secs(1);

/// Where the certificates lie.
#[must_use]
pub fn tls(settings: &MasterSettings) -> TlsFiles {
    TlsFiles {
        certificate: settings.tls.certificate.clone(),
        key: settings.tls.key.clone(),
        ca: settings.tls.ca.clone(),
    }
}

/// Bounds of the streams.
#[must_use]
pub fn limits(settings: &MasterSettings) -> Limits {
    Limits {
        connections: usize::try_from(settings.nodes.most).unwrap_or(usize::MAX),
        ping_every: settings.nodes.ping,
        verdict_age: settings.nodes.verdict_age,
        ..Limits::default()
    }
}

/// Where the audit store lies, and how much of it is kept.
#[must_use]
pub fn store(settings: &MasterSettings) -> StoreSettings {
    StoreSettings {
        path: settings.audit.path.clone(),
        rotate: settings.audit.rotate,
        keep: settings.audit.keep,
        age: settings.audit_age,
    }
}

/// Writes the master's log to standard error as the settings say. A second call changes nothing.
pub fn log(settings: &MasterSettings) {
    let level = match settings.log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let writer = tracing_subscriber::fmt()
        .with_max_level(level)
        // Where nobody reads the log any more, a complaint about that would be a panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let set = match settings.log.format {
        LogFormat::Text => writer.try_init(),
        LogFormat::Json => writer.json().try_init(),
    };
    // There is a log already: the caller's.
    drop(set);
}
