//! The command line: every command, option and example.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use magi_engine::ids::PullId;

use crate::master::args::{AuditCommand, MasterCommand, PolicyCommand, SwitchCommand};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    usage, or a confirmation that nobody could give
  3    magi-node (for `pull`: containerd; for `policy`, `audit`, `master` and `switch`: the master) not reachable
  4    no such pull in flight
  5    the pull is still running; magi-node goes on trying
  6    `doctor` found something that fails
  7    `policy status`: a node does not run the newest policy; `policy diff`: the texts differ
  130  interrupted";

/// Sees and stops the image pulls of this node; asks the master about all nodes.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The control socket of magi-node, which only root can open.
    #[arg(long, global = true, env = "MAGI_SOCKET", value_name = "PATH", default_value = magi_node_api::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the image pulls in flight.
    Pulls(PullsArgs),
    /// Stop one pull, and wait until it has ended.
    Abort(AbortArgs),
    /// Close every registry connection of containerd: all pulls fail, good ones too.
    Panic(PanicArgs),
    /// Show how magi-node does.
    Status(StatusArgs),
    /// List the pods of this node, as NRI tells of them.
    Pods(PodsArgs),
    /// Prove each source and lever of magi on this node, and say what to do about what fails.
    Doctor(DoctorArgs),
    /// Pull an image through containerd's CRI, as kubelet does.
    Pull(PullArgs),
    /// The pull policy: which node runs which, push another one, try one on pulls of the past.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// The audit records of all nodes.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The master.
    #[command(subcommand)]
    Master(MasterCommand),
    /// The kill switch of all nodes.
    #[command(subcommand)]
    Switch(SwitchCommand),
    /// Register magi with containerd: NRI's socket and the image verifier.
    Install(crate::install::InstallArgs),
    /// Take back all that `install` did, to the byte.
    Uninstall(crate::install::UninstallArgs),
}

/// Options of `pulls`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl pulls                     what is being pulled now
  magictl pulls --ended --layers    with what ended lately, layers and sockets of each
  magictl pulls --watch             look again every second until interrupted
  magictl pulls --json | jq '.pulls[] | {id, repositories, stage, declared, stored, verdict}'

In JSON, times are microseconds since the Unix epoch, sizes are bytes, and p3 is 3.")]
pub(crate) struct PullsArgs {
    /// List those that ended lately too.
    #[arg(long)]
    pub(crate) ended: bool,

    /// Show the layers and sockets of each pull, and why it was judged.
    #[arg(short = 'v', long, visible_alias = "verbose")]
    pub(crate) layers: bool,

    /// Print one line of JSON (with --watch one for each look).
    #[arg(long)]
    pub(crate) json: bool,

    /// Look again and again, with this pause between.
    #[arg(
        long,
        value_name = "PAUSE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1s",
        value_parser = duration
    )]
    pub(crate) watch: Option<Duration>,
}

/// Options of `abort`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl abort p3           stop the pull that `magictl pulls` lists as p3
  magictl abort p3 --json    {\"pull\":3,\"answer\":\"ended\"}

Exits with 0 if the pull has ended, 4 if there is no such pull in flight, 5 if it has not ended yet.")]
pub(crate) struct AbortArgs {
    /// The pull's ID in `magictl pulls`, such as p3.
    #[arg(value_name = "PULL", value_parser = pull_id)]
    pub(crate) pull: PullId,

    /// Print the answer as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `panic`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl panic          asks first
  magictl panic --yes    does not ask; needed where no terminal is")]
pub(crate) struct PanicArgs {
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,

    /// Print the answer as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `status`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl status
  magictl status --json | jq -e .containerd.up")]
pub(crate) struct StatusArgs {
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `pods`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl pods
  magictl pods --json | jq '.pods[] | {pod, images, stopped}'")]
pub(crate) struct PodsArgs {
    /// Print one line of JSON, with labels.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl doctor
  magictl doctor --active    pulls a tiny image that magictl itself serves on the loopback, and removes it again
  magictl doctor --json | jq -r '.checks[] | select(.outcome == \"fail\") | .id, .advice[]'

Exits with 0 if nothing fails (warnings are no failures), and with 6 if something does.")]
pub(crate) struct DoctorArgs {
    /// Pull a tiny image, too: it proves that the verifier is called and that the request is seen.
    #[arg(long)]
    pub(crate) active: bool,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,

    /// magi-node's settings; without it the defaults hold, and what magi-node itself says.
    #[arg(long, value_name = "FILE", env = "MAGI_SETTINGS")]
    pub(crate) settings: Option<PathBuf>,

    /// containerd's configuration, if not the one that containerd was started with.
    #[arg(long, value_name = "FILE")]
    pub(crate) containerd_config: Option<PathBuf>,
}

/// Options of `pull`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl pull registry.example/team/app:1
  magictl pull registry.example/team/app:1 --pod team/app-0 --timeout 5m
  MAGI_REGISTRY_AUTH=user:password magictl pull registry.example/private:1

Registry credentials are read from MAGI_REGISTRY_AUTH: USER:PASSWORD, or the base64 `auth` of docker's config.json.
Interrupted or out of time, the call is cancelled, and containerd stops the pull.")]
pub(crate) struct PullArgs {
    /// The image, with tag or digest.
    pub(crate) image: String,

    /// Pull on behalf of this pod.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod)]
    pub(crate) pod: Option<Pod>,

    /// The pod's uid.
    #[arg(long, requires = "pod")]
    pub(crate) uid: Option<String>,

    /// containerd's socket.
    #[arg(long, value_name = "PATH", default_value = "/run/containerd/containerd.sock")]
    pub(crate) containerd: String,

    /// Give up after this time, such as 90s or 5m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A pod by name.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

fn pull_id(text: &str) -> Result<PullId, &'static str> {
    let digits = text.strip_prefix('p').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = digits.parse()
    {
        return Ok(PullId(number));
    }
    Err("not the ID of a pull; they look like p3, see `magictl pulls`")
}

fn pod(text: &str) -> Result<Pod, &'static str> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        }
        Some(_) | None => Err("a pod is named NAMESPACE/NAME"),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match magi_config::parse_duration(text) {
        Ok(Duration::ZERO) => Err("the time must be more than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn pulls_are_named_with_or_without_their_letter() {
        assert_eq!(pull_id("p3"), Ok(PullId(3)));
        assert_eq!(pull_id("12"), Ok(PullId(12)));
        for text in ["", "p", "pp3", "q3", "p-1", "+1", "p18446744073709551616", "p3 "] {
            assert!(pull_id(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn pods_have_two_names() {
        assert!(pod("team/app-0").is_ok());
        for text in ["", "app", "/app", "team/", "a/b/c"] {
            assert!(pod(text).is_err(), "{text:?}");
        }
    }
}
