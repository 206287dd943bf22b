//! `magi-node replay`: a recorded trace through the engine, line by line, without touching anything.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use magi_engine::trace;

/// Replays the trace at `path` and prints the effects of each line as JSON, or only where they differ from the
/// recorded ones. Succeeds if nothing differs.
///
/// # Errors
/// The trace cannot be read, a line of it is no event, or `out` fails.
pub fn run(path: &Path, quiet: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let file = File::open(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
    let (mut lines, mut differences) = (0u64, 0u64);
    for replayed in trace::replay(BufReader::new(file)) {
        let replayed = replayed.with_context(|| format!("cannot replay {}", path.display()))?;
        lines += 1;
        if !quiet {
            let line = trace::Line {
                at: replayed.at,
                event: replayed.event,
                effects: Some(replayed.effects),
            };
            line.write_to(out).context("cannot print")?;
        }
        if let Some(difference) = replayed.difference {
            differences += 1;
            let text = |action: Option<_>| match action {
                Some(action) => serde_json::to_string(&action),
                None => Ok("nothing more".to_owned()),
            };
            writeln!(
                out,
                "line {}, effect {}: recorded {}, now {}",
                replayed.line,
                difference.index,
                text(difference.recorded)?,
                text(difference.replayed)?
            )
            .context("cannot print")?;
        }
    }
    eprintln!("{lines} events, {differences} with other effects than recorded");
    Ok(if differences == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
