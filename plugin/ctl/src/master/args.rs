//! The command line of what asks a master, or judges what it has collected.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use magi_engine::Reason;

use super::now_ms;

/// Which master, and who asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct MasterArgs {
    /// The master.
    #[arg(long, value_name = "HOST:PORT", env = "MAGI_MASTER")]
    pub(crate) master: Option<String>,

    /// The folder of the operator's certificate: tls.crt, tls.key, and the master's authority in ca.crt.
    #[arg(
        long,
        value_name = "DIR",
        env = "MAGI_MASTER_TLS",
        default_value = "/etc/magi/operator"
    )]
    pub(crate) tls: PathBuf,

    /// The name in the master's certificate, if it is not the host.
    #[arg(long, value_name = "NAME", env = "MAGI_MASTER_NAME")]
    pub(crate) server_name: Option<String>,

    /// Settings of magi-node: its master, where --master names none.
    #[arg(long, value_name = "FILE", env = "MAGI_SETTINGS")]
    pub(crate) settings: Option<PathBuf>,
}

/// What `policy` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show which node runs which revision of the policy.
    Status(StatusArgs),
    /// Check a policy, and make it the one of all nodes.
    Push(PushArgs),
    /// Compare a policy with the one that the master has.
    Diff(DiffArgs),
    /// Judge pulls of the past by a policy; asks nobody.
    Test(crate::trial::TestArgs),
}

/// Options of `policy status` and `master status`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl policy status --master magi-master.magi.svc:7443 --tls tls/operators/me
  magictl policy status --json | jq -r '.nodes[] | select(.newest | not) | .node'
  magictl master status --json | jq '.intakes[] | {kind, up, trouble}'

`policy status` exits with 0 if every node that the master knows runs the newest policy, and with 7 if one does not.
In JSON, times are milliseconds since the Unix epoch.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) master: MasterArgs,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `policy push`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl policy push policy.yaml
  magictl policy diff policy.yaml; magictl policy push policy.yaml --replaces 1767225600000

The file is checked first, with every mistake shown in its line. The master checks it again, numbers it, keeps it, and
sends it to all nodes that are connected to it. It does so only where its settings say `policy: null`: a master that takes
its policy from a file, such as a mounted ConfigMap, refuses, and names the file to change instead. Of several masters,
each has to be given the policy.")]
pub(crate) struct PushArgs {
    /// The policy.
    pub(crate) file: PathBuf,

    /// Only if this revision is still in force.
    #[arg(long, value_name = "REVISION")]
    pub(crate) replaces: Option<u64>,

    #[command(flatten)]
    pub(crate) master: MasterArgs,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `policy diff`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl policy diff policy.yaml

Shows what `policy push` would change, as a unified diff. The file is checked first.
Exits with 0 if both are the same text, and with 7 if they differ.")]
pub(crate) struct DiffArgs {
    /// The policy.
    pub(crate) file: PathBuf,

    #[command(flatten)]
    pub(crate) master: MasterArgs,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `audit` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the newest audit records of all nodes, and those to come.
    Tail(TailArgs),
    /// Ask for audit records of all nodes.
    Query(QueryArgs),
}

/// Which records.
#[derive(Clone, Debug, Args)]
pub(crate) struct Filter {
    /// Of pulls for pods of this namespace.
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,

    /// Of this image, or of those whose name begins or ends so, up to a separator.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,

    /// With this reason, such as `image-too-large`.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub(crate) reason: Option<Reason>,

    /// Of this node.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
}

/// Options of `audit tail`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl audit tail --follow
  magictl audit tail --follow --namespace team-a --json | jq .record.kind

In JSON, one line per record: node, its run and number in that node's trail, when the master stored it (milliseconds since
the Unix epoch), and the record as the node wrote it. `policy test --audit` reads these lines.")]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Go on with each record that the master stores, until interrupted.
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Begin with the newest so many.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(magi_master_api::bounds::MAX_QUERY)))]
    pub(crate) lines: u32,

    #[command(flatten)]
    pub(crate) master: MasterArgs,

    /// Print one line of JSON for each record.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `audit query`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl audit query --namespace team-a --since 24h
  magictl audit query --reason orphaned --since 2026-01-01T00:00:00Z --until 2026-01-02T00:00:00Z
  magictl audit query --json > records.jsonl; magictl policy test --policy policy.yaml --audit records.jsonl

In JSON, one line per record, as with `audit tail`. Times are those at which the master stored the records. Exits with 0
also if there are none; how many older ones found no room in the answer is said on standard error.")]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Stored at this time or later: a span before now, such as 90m, or a time as in RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<u64>,

    /// Stored before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<u64>,

    /// The newest so many.
    #[arg(long, value_name = "NUMBER", default_value_t = magi_master_api::bounds::MAX_QUERY,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(magi_master_api::bounds::MAX_QUERY)))]
    pub(crate) limit: u32,

    #[command(flatten)]
    pub(crate) master: MasterArgs,

    /// Print one line of JSON for each record.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `master` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum MasterCommand {
    /// Show how the master does: what it knows pods from, its nodes, its policy, the kill switch, what it has counted.
    Status(StatusArgs),
}

/// What `switch` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum SwitchCommand {
    /// Stop nothing any more, on any node that this master reaches, whatever the policy says.
    On(SwitchArgs),
    /// Let the policy decide again.
    Off(SwitchArgs),
}

/// Options of `switch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  magictl switch on --reason 'incident 4711'
  magictl switch off

Who did it is recorded by the name in the certificate. A node that is away hears of it when it comes back; which node has
heard, `magictl master status` says.")]
pub(crate) struct SwitchArgs {
    /// Why, for whoever finds it so.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,

    #[command(flatten)]
    pub(crate) master: MasterArgs,

    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

fn reason(text: &str) -> Result<Reason, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// A time in milliseconds since the epoch.
fn moment(text: &str) -> Result<u64, String> {
    if let Ok(span) = magi_config::parse_duration(text) {
        return Ok(now_ms().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
    }
    let at: jiff::Timestamp = text
        .parse()
        .map_err(|_| "write a span before now, such as 90m, or a time such as 2026-01-31T18:00:00Z")?;
    u64::try_from(at.as_millisecond()).map_err(|_| "the time is before 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spans_before_now_or_absolute() {
        assert_eq!(moment("2026-01-01T00:00:00.5Z"), Ok(1_767_225_600_500));
        let before = now_ms();
        let hour_ago = moment("1h").unwrap();
        assert!(
            (before..=now_ms()).contains(&(hour_ago + 3_600_000)),
            "{hour_ago}"
        );
        for wrong in ["", "yesterday", "1969-01-01T00:00:00Z"] {
            assert!(moment(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_reason_that_is_none_is_told_with_those_that_are() {
        assert_eq!(reason("orphaned"), Ok(Reason::Orphaned));
        assert!(reason("orphan").unwrap_err().contains("`namespace-budget`"));
    }
}
