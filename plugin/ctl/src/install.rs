//! `magictl install` and `uninstall`: shows what would change, asks, and does it. What to change is magi-install's to know.

use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use magi_install::{
    ApplyError, DEFAULT_CONFIG, DEFAULT_STATE, Place, Plan, PlanError, Request, UNPACK_NAME, VERIFIER_NAME,
    Version, plan_install, plan_uninstall,
};
use serde::Serialize;

use crate::output::{Exit, Failure, complain, print, print_json, say};
use crate::show::escape;
use crate::terminal::{BAD, BOLD, GOOD, PLAIN, WARN};

/// Longest reply to a question that is read.
const REPLY: u64 = 64;
const CONTAINERD: &str = "containerd";
/// Where containerd is where PATH does not say.
const USUAL: &[&str] = &["/usr/bin", "/usr/local/bin", "/usr/sbin"];

/// Options of `install`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl install containerd --dry-run              show what would change
  magictl install containerd                        show it, ask, and do it
  magictl install containerd --yes --json           for scripts
  magictl install containerd --without verifier     NRI only
  magictl install containerd --with unpack          magi-unpack as well
  magictl install containerd --root /mnt --containerd-version 1.7.24

What changes: NRI's socket is opened where the configuration keeps it closed (containerd 1.7: always, unless somebody opened
it), by a drop-in file where `imports` covers one, else by an edit that keeps every other byte; and magi-verify is put into
the image verifiers' folder (containerd 2.1 and later). With `--with unpack`, containerd has magi-unpack decompress each layer;
what a layer may unpack to stands in /etc/magi/unpack.conf. A second run finds nothing to do.

containerd is never restarted; it is said when it must be.
Exits with 0 if all is as it should be, 1 if something is not understood or failed, 2 if nobody could be asked.")]
pub(crate) struct InstallArgs {
    /// What magi is registered with.
    target: Target,

    /// containerd's configuration.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    config: PathBuf,

    /// Ask this containerd for its version (default: the one on PATH).
    #[arg(long, value_name = "PATH", conflicts_with = "containerd_version")]
    containerd_binary: Option<PathBuf>,

    /// The version of containerd, instead of asking it.
    #[arg(long, value_name = "VERSION")]
    containerd_version: Option<Version>,

    /// The verifier to copy (default: magi-verify beside magictl).
    #[arg(long, value_name = "PATH")]
    verifier_binary: Option<PathBuf>,

    /// Leave this out; may be said twice.
    #[arg(long, value_name = "PART")]
    without: Vec<Part>,

    /// What is left out unless it is asked for.
    #[arg(long, value_name = "PART")]
    with: Vec<Extra>,

    /// The program that containerd is to execute for each layer, where it lies on the node (default: magi-unpack beside
    /// magictl).
    #[arg(long, value_name = "PATH", requires = "with")]
    unpack_binary: Option<PathBuf>,

    #[command(flatten)]
    how: How,
}

/// Options of `uninstall`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl uninstall containerd --dry-run
  magictl uninstall containerd

A file that nobody touched since becomes what it was, to the byte. From a file that was edited since, only magi's own
additions are taken out. Nothing is left, the journal included.")]
pub(crate) struct UninstallArgs {
    /// What magi is registered with.
    target: Target,

    #[command(flatten)]
    how: How,
}

/// What both have.
#[derive(Clone, Debug, Args)]
struct How {
    /// Where the originals are kept, to be put back.
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_STATE)]
    state: PathBuf,

    /// Find the node's files below this folder, as in a chroot. Programs that options name are not below it.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    /// Only show what would change.
    #[arg(long, visible_alias = "diff")]
    dry_run: bool,

    /// Print one line of JSON; needs --yes or --dry-run.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Target {
    Containerd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The sandboxes' life, for knowing whose pull it is.
    Nri,
    /// The question before each pull.
    Verifier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Extra {
    /// Decompress layers, and stop those that unpack to too much.
    Unpack,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    NothingToDo,
    Planned,
    Done,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    containerd: Option<String>,
    #[serde(flatten)]
    plan: &'a Plan,
    result: Outcome,
}

/// `magictl install`
pub(crate) fn install(args: &InstallArgs) -> Result<Exit, Failure> {
    let Target::Containerd = args.target;
    args.how.check("install")?;
    let version = version(args)?;
    let verifier = match &args.verifier_binary {
        _ if args.without.contains(&Part::Verifier) || !version.verifies() => None,
        Some(path) => Some(path.clone()),
        None => Some(beside_us(VERIFIER_NAME)?),
    };
    let unpack = match &args.unpack_binary {
        _ if !args.with.contains(&Extra::Unpack) => None,
        Some(path) => Some(path.clone()),
        None => Some(beside_us(UNPACK_NAME)?),
    };
    let plan = plan_install(&Request {
        place: Place::new(&args.how.root),
        config: args.config.clone(),
        state: args.how.state.clone(),
        version,
        nri: !args.without.contains(&Part::Nri),
        verifier,
        unpack,
    })
    .map_err(refused)?;
    args.how.go(&plan, Some(version))
}

/// `magictl uninstall`
pub(crate) fn uninstall(args: &UninstallArgs) -> Result<Exit, Failure> {
    let Target::Containerd = args.target;
    args.how.check("uninstall")?;
    let plan = plan_uninstall(&Place::new(&args.how.root), &args.how.state).map_err(refused)?;
    args.how.go(&plan, None)
}

fn failed(error: ApplyError) -> Failure {
    if error.is_partial() {
        complain(
            "Not all of it was done. The same command goes on; `magictl uninstall containerd` takes it back.\n",
        );
    }
    Failure::caused(Exit::Failed, &error)
}

fn refused(error: PlanError) -> Failure {
    if let Some(excerpt) = error.excerpt() {
        complain(&(lines(excerpt) + "\n"));
    }
    Failure::caused(Exit::Failed, &error)
}

fn version(args: &InstallArgs) -> Result<Version, Failure> {
    if let Some(version) = args.containerd_version {
        return Ok(version);
    }
    let binary = match &args.containerd_binary {
        Some(binary) => binary.clone(),
        None if args.how.root == Path::new("/") => on_path().ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                "no containerd on PATH; say --containerd-binary or --containerd-version",
            )
        })?,
        None => {
            return Err(Failure::new(
                Exit::Usage,
                "with --root, say --containerd-version (or --containerd-binary)",
            ));
        }
    };
    Version::of_binary(&binary).map_err(|error| Failure::caused(Exit::Failed, &error))
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders
        .chain(USUAL.iter().map(PathBuf::from))
        .map(|folder| folder.join(CONTAINERD))
        .find(|file| file.is_file())
}

fn beside_us(name: &str) -> Result<PathBuf, Failure> {
    let us = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot find {name}: {error}")))?;
    Ok(us.with_file_name(name))
}

impl How {
    /// Whether somebody can be asked, before anything is looked at.
    fn check(&self, command: &str) -> Result<(), Failure> {
        if !self.root.is_absolute() {
            return Err(Failure::new(Exit::Usage, "--root must be an absolute path"));
        }
        let silent = self.yes || self.dry_run;
        if self.json && !silent {
            return Err(Failure::new(Exit::Usage, "--json needs --yes or --dry-run"));
        }
        if silent || (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Usage,
            format!(
                "`magictl {command}` asks before it changes anything; without a terminal to ask on, say --yes, or --dry-run to see what would change"
            ),
        ))
    }

    fn go(&self, plan: &Plan, version: Option<Version>) -> Result<Exit, Failure> {
        let nothing = plan.is_nothing();
        if !self.json {
            let _nobody_reads = print(&shown(plan, version))?;
        }
        if !nothing && !self.dry_run {
            if !self.yes {
                confirm(plan.restart)?;
            }
            plan.apply().map_err(failed)?;
        }
        let result = match (nothing, self.dry_run) {
            (true, _) => Outcome::NothingToDo,
            (false, true) => Outcome::Planned,
            (false, false) => Outcome::Done,
        };
        if self.json {
            let _nothing_more_to_print = print_json(&Report {
                containerd: version.map(|version| version.to_string()),
                plan,
                result,
            })?;
            return Ok(Exit::Done);
        }
        let restart = match (plan.restart, self.dry_run) {
            (false, _) => "containerd need not be restarted.",
            (true, true) => {
                "containerd would have to be restarted for this to take effect; magictl never does that."
            }
            (true, false) => "Restart containerd for this to take effect; magictl does not do that.",
        };
        let _nothing_more_to_print = match result {
            Outcome::NothingToDo => say("Nothing to do.")?,
            Outcome::Planned => say(format!("Nothing was changed. {restart}"))?,
            Outcome::Done => say(format!("Done. {restart}"))?,
        };
        Ok(Exit::Done)
    }
}

fn shown(plan: &Plan, version: Option<Version>) -> String {
    let mut text = String::new();
    if let Some(version) = version {
        text.push_str(&format!("{BOLD}containerd {version}{BOLD:#}\n"));
    }
    for change in &plan.changes {
        for line in change.diff.lines() {
            let style = match line.as_bytes().first() {
                Some(b'+') => GOOD,
                Some(b'-') => BAD,
                Some(_) | None => PLAIN,
            };
            text.push_str(&format!("{style}{}{style:#}\n", lines(line)));
        }
    }
    for note in &plan.notes {
        text.push_str(&format!("{}\n", escape::text(note)));
    }
    if plan.unfinished && plan.changes.is_empty() {
        text.push_str("An earlier run is brought to its end.\n");
    }
    for warning in &plan.warnings {
        text.push_str(&format!("{WARN}warning:{WARN:#} {}\n", escape::text(warning)));
    }
    text
}

/// Several lines that others wrote: tabs and line ends count, nothing else that controls a terminal does.
fn lines(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(escape::text).collect::<Vec<_>>().join("\t");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn confirm(restart: bool) -> Result<(), Failure> {
    if restart {
        complain(
            "For this to take effect, containerd must be restarted afterwards; magictl does not do that.\n",
        );
    }
    complain("Go on? [y/N] ");
    let mut reply = String::new();
    let _length = std::io::stdin()
        .lock()
        .take(REPLY)
        .read_line(&mut reply)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read the reply: {error}")))?;
    if matches!(reply.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failed, "not confirmed; nothing was done"))
    }
}
