//! The bounds, applied to a tar on its way out: what would cross them is withheld before its first byte is written.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::follow::{Follower, Step};
use crate::header::BLOCK;
use crate::input::Input;
use crate::settings::{Bounds, Ratio};

/// How far above its ratio an entry that has begun may go, in bytes: if it is small, the archive can be ended properly
/// behind it.
const BEGUN: u64 = 32 << 20;

/// What a guard thinks of some bytes.
pub(crate) enum Verdict {
    Pass,
    Stop(Stop),
}

/// Where it ends.
pub(crate) struct Stop {
    /// Bytes of those shown that may go out still.
    pub(crate) after: usize,
    /// Whether the archive is to be ended there, so that containerd reads a whole one, and then asks for our reason. An
    /// entry that has begun cannot be ended: it is cut.
    pub(crate) end_archive: bool,
    pub(crate) why: Exceeded,
}

/// What was crossed, in the words that reach the pull's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exceeded {
    what: What,
    /// What the layer unpacks to, at least; in bytes.
    unpacked: u64,
    /// Of that, what went out.
    passed: u64,
    /// Where the bound stands.
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Unpacked { bound: u64 },
    Ratio { times: u64, compressed: u64 },
}

impl Exceeded {
    /// The same in magi-node's words (`magi-node-api`, `Ask::UnpackStopped`), of this layer.
    pub(crate) fn told_of(&self, layer: Option<&str>) -> String {
        let layer = layer.map_or("null".to_owned(), |digest| format!("\"{digest}\""));
        let limit = match self.what {
            What::Unpacked { bound } => format!(r#"{{"unpacked":{{"bytes":{bound}}}}}"#),
            What::Ratio { times, compressed } => {
                format!(r#"{{"ratio":{{"times":{times},"compressed":{compressed}}}}}"#)
            }
        };
        format!(
            r#"{{"v":1,"ask":"unpack-stopped","stop":{{"layer":{layer},"limit":{limit},"unpacked":{},"passed":{}}}}}"#,
            self.unpacked, self.passed
        )
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unpacked, passed) = (self.unpacked, self.passed);
        write!(f, "layer stopped: it unpacks to {unpacked} bytes or more")?;
        let key = match self.what {
            What::Unpacked { bound } => {
                write!(f, ", the limit is {bound}")?;
                "unpacked"
            }
            What::Ratio { times, compressed } => {
                write!(
                    f,
                    " from {compressed} compressed ones, the limit is {times} times as many"
                )?;
                "ratio"
            }
        };
        write!(
            f,
            "; {passed} bytes were let through; to exempt it, raise `{key}` in {} on this node",
            self.file.display()
        )
    }
}

/// Counts, and follows the archive.
pub(crate) struct Guard {
    bounds: Bounds,
    tar: Follower,
    /// Bytes that went by.
    passed: u64,
    /// Bytes that the entries so far may take on a disk.
    disk: u64,
    /// Bytes to come that need not be looked at.
    skip: u64,
}

impl Guard {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            tar: Follower::new(),
            passed: 0,
            disk: 0,
            skip: 0,
        }
    }

    /// Looks at whole blocks, those that follow what it saw before.
    pub(crate) fn look(&mut self, fresh: &[u8], input: &mut Input) -> io::Result<Verdict> {
        if let Some(what) = self.ratio(self.passed.saturating_sub(BEGUN), input)? {
            return Ok(self.stop(what, self.passed, 0, false));
        }
        let mut rest = fresh;
        while let Some(block) = rest.get(..BLOCK) {
            let after = fresh.len() - rest.len();
            if self.skip == 0 {
                let step = self.tar.step(block);
                self.skip = match step {
                    Step::Pass(bytes) => bytes,
                    Step::Entry { .. } | Step::Ended | Step::Lost => BLOCK as u64,
                };
                let unpacked = self.grown(step);
                let what = match self.absolute(unpacked) {
                    None if matches!(step, Step::Entry { .. }) => self.entry_ratio(unpacked, input)?,
                    what => what,
                };
                if let Some(what) = what {
                    let end_archive = matches!(step, Step::Entry { .. });
                    return Ok(self.stop(what, unpacked, after, end_archive));
                }
            }
            let bytes = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rest.len());
            rest = rest.get(bytes..).unwrap_or_default();
            self.passed += bytes as u64;
            self.skip -= bytes as u64;
        }
        Ok(Verdict::Pass)
    }

    /// What the layer comes to with this step.
    fn grown(&mut self, step: Step) -> u64 {
        match step {
            Step::Entry { stored, disk } => {
                self.disk = self.disk.saturating_add(disk);
                self.passed.saturating_add(stored).max(self.disk)
            }
            // It was counted with its entry.
            Step::Pass(_) => 0,
            // Nobody declared what is still to come.
            Step::Ended | Step::Lost => self.passed + BLOCK as u64,
        }
    }

    fn absolute(&self, unpacked: u64) -> Option<What> {
        let bound = self.bounds.unpacked.filter(|bound| unpacked > *bound)?;
        Some(What::Unpacked { bound })
    }

    /// Whether the ratio is crossed before an entry, or certainly will be with it, which brings the layer to `unpacked`.
    fn entry_ratio(&self, unpacked: u64, input: &mut Input) -> io::Result<Option<What>> {
        match self.ratio(unpacked, input)? {
            Some(what) if input.has_ended() => Ok(Some(what)),
            // How much more there is compressed is not known: only what is unpacked so far counts.
            Some(_) => self.ratio(self.passed, input),
            None => Ok(None),
        }
    }

    /// Whether `unpacked` bytes are too many for the compressed ones, as far ahead as those can be seen.
    fn ratio(&self, unpacked: u64, input: &mut Input) -> io::Result<Option<What>> {
        match self.bounds.ratio {
            Some(Ratio { times, from }) if unpacked > from => {
                let is_enough = input.has(unpacked.div_ceil(times.get()))?;
                Ok((!is_enough).then(|| What::Ratio {
                    times: times.get(),
                    compressed: input.known(),
                }))
            }
            Some(_) | None => Ok(None),
        }
    }

    fn stop(&self, what: What, unpacked: u64, after: usize, end_archive: bool) -> Verdict {
        Verdict::Stop(Stop {
            after,
            end_archive,
            why: Exceeded {
                what,
                unpacked,
                passed: self.passed,
                file: self.bounds.file.clone(),
            },
        })
    }
}
