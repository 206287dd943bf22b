//! The command line.

use std::time::Duration;

/// How to call it.
pub(crate) const USAGE: &str = "\
usage: magi-bench [--quick] [--check] [--only abort|orphan|intake|throughput|unpack|idle|sandbox|verify|gateway|experiment-m]...
                  [--write]

  --quick   few rounds, a small image, ten seconds of idling: for trying it out, not for figures
  --check   end with an error if a goal is missed
  --only    measure this alone; may be given several times
  --write   put experiment m's table and plot into integration/benches

Results go to bench/*.json in cargo's target folder, those of --quick to bench/quick/.";

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// From the first byte of a layer to the end of the pull.
    Abort,
    /// From the API server's word that a pod is gone to the end of its pull.
    Orphan,
    /// Audit logs, read by magi-master and by the seed's line of grep and jq.
    Intake,
    /// A good pull, with magi and without.
    Throughput,
    /// A compressed layer, decompressed by magi-unpack, by containerd and by pigz.
    Unpack,
    /// Processor and memory.
    Idle,
    /// RunPodSandbox with and without an NRI plugin.
    Sandbox,
    /// magi-verify from its start to its exit.
    Verify,
    /// Calls through magi-gateway and past it.
    Gateway,
    /// Legit pulls beside an attack, over a link of limited rate.
    ExperimentM,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) check: bool,
    pub(crate) write: bool,
    pub(crate) what: Vec<What>,
}

impl Options {
    /// Stopped pulls of each kind.
    pub(crate) fn abort_rounds(&self) -> usize {
        if self.quick { 3 } else { 21 }
    }

    /// Pods that are deleted in the middle of their pulls, for each way in which the master hears of it.
    pub(crate) fn orphan_rounds(&self) -> usize {
        if self.quick { 5 } else { 100 }
    }

    /// Bytes of audit log that are read, at least.
    pub(crate) fn intake_bytes(&self) -> u64 {
        if self.quick { 40_000_000 } else { 300_000_000 }
    }

    /// How often they are read, by each.
    pub(crate) fn intake_rounds(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    /// Complete pulls with magi, and as many without.
    pub(crate) fn throughput_rounds(&self) -> usize {
        if self.quick { 3 } else { 15 }
    }

    /// Bytes of each of the four layers of the image that is pulled.
    pub(crate) fn layer_bytes(&self) -> u64 {
        if self.quick { 32 << 20 } else { 256 << 20 }
    }

    /// Complete pulls of a compressed layer, by each way of decompressing it.
    pub(crate) fn unpack_rounds(&self) -> usize {
        if self.quick { 2 } else { 7 }
    }

    /// Bytes that this layer unpacks to.
    pub(crate) fn unpacked_bytes(&self) -> u64 {
        if self.quick { 200 << 20 } else { 1 << 30 }
    }

    /// How long magi is left alone.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(if self.quick { 10 } else { 60 })
    }

    /// Blocks of ten sandboxes with magi, and as many without.
    pub(crate) fn sandbox_blocks(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    /// Questions of the verifier.
    pub(crate) fn verify_rounds(&self) -> usize {
        if self.quick { 50 } else { 500 }
    }

    /// Calls of each kind through the gateway, and as many past it.
    pub(crate) fn gateway_rounds(&self) -> usize {
        if self.quick { 100 } else { 2000 }
    }

    /// Stopped pulls before memory is looked at again.
    pub(crate) fn aborts_before_memory(&self) -> usize {
        if self.quick { 5 } else { 20 }
    }
}

/// Reads the arguments; `None` if only help is wanted.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options {
        quick: false,
        check: false,
        write: false,
        what: Vec::new(),
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--check" => options.check = true,
            "--write" => options.write = true,
            "--only" => {
                let what = args.next().ok_or("--only needs a name")?;
                options.what.push(match what.as_str() {
                    "abort" => What::Abort,
                    "orphan" => What::Orphan,
                    "intake" => What::Intake,
                    "throughput" => What::Throughput,
                    "unpack" => What::Unpack,
                    "idle" => What::Idle,
                    "sandbox" => What::Sandbox,
                    "verify" => What::Verify,
                    "gateway" => What::Gateway,
                    "experiment-m" => What::ExperimentM,
                    other => return Err(format!("nothing is called {other}")),
                });
            }
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("what is {other}?")),
        }
    }
    if options.write && options.quick {
        return Err("what --quick finds is not for --write".to_owned());
    }
    if options.what.is_empty() {
        options.what = vec![
            What::Abort,
            What::Orphan,
            What::Intake,
            What::Throughput,
            What::Unpack,
            What::Idle,
            What::Sandbox,
            What::Verify,
            What::Gateway,
            What::ExperimentM,
        ];
    }
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::{What, parse};

    fn of(args: &[&str]) -> Result<Option<super::Options>, String> {
        parse(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn everything_is_measured_unless_told_otherwise() {
        let all = of(&[]).expect("fine").expect("options");
        let expected = [
            What::Abort,
            What::Orphan,
            What::Intake,
            What::Throughput,
            What::Unpack,
            What::Idle,
            What::Sandbox,
            What::Verify,
            What::Gateway,
            What::ExperimentM,
        ];
        assert_eq!(all.what, expected);
        let one = of(&["--quick", "--only", "idle", "--check"])
            .expect("fine")
            .expect("options");
        assert!(one.quick && one.check);
        assert_eq!(one.what, [What::Idle]);
    }

    #[test]
    fn slips_are_named() {
        assert!(of(&["--only"]).is_err());
        assert!(of(&["--only", "everything"]).is_err_and(|problem| problem.contains("everything")));
        assert!(of(&["--fast"]).is_err_and(|problem| problem.contains("--fast")));
        assert!(of(&["--quick", "--write"]).is_err_and(|problem| problem.contains("--write")));
        assert!(of(&["--help"]).is_ok_and(|options| options.is_none()));
    }
}
