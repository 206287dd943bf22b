//! `magictl policy`: which node runs which, push another one, and what would change.

use std::path::Path;

use magi_master_api::wire;
use serde::Serialize;
use sha2::{Digest, Sha256};
use similar::TextDiff;
use tonic::Code;

use super::args::{DiffArgs, PushArgs, StatusArgs};
use super::status::state;
use super::{MasterState, NodeState, Version, answer, connect, now_ms, refused};
use crate::output::{Exit, Failure, Reader, print, print_json, say};
use crate::show;
use crate::terminal::room;

/// Lines of context in a diff.
const AROUND: usize = 3;

#[derive(Serialize)]
struct StatusJson<'a> {
    now_ms: u64,
    policy: Option<&'a Version>,
    source: Option<&'a str>,
    by: Option<&'a str>,
    problem: &'a str,
    all_newest: bool,
    nodes: Vec<NodeJson<'a>>,
}

#[derive(Serialize)]
struct NodeJson<'a> {
    newest: bool,
    #[serde(flatten)]
    node: &'a NodeState,
}

/// Whether the node runs what the master has now. The number may be another master's, the text is the same.
pub(crate) fn runs_newest(node: &NodeState, master: &MasterState) -> bool {
    match (&node.policy, &master.policy) {
        (Some(theirs), Some(ours)) => theirs.sha256 == ours.sha256,
        (None, _) | (_, None) => false,
    }
}

/// `magictl policy status`
pub(crate) async fn status(args: StatusArgs) -> Result<Exit, Failure> {
    let (master, nodes) = state(&args.master).await?;
    let now_ms = now_ms();
    let all_newest = nodes.iter().all(|node| runs_newest(node, &master));
    let _nothing_more_to_print = if args.json {
        print_json(&StatusJson {
            now_ms,
            policy: master.policy.as_ref(),
            source: master.policy_source.as_deref(),
            by: master.policy_by.as_deref(),
            problem: &master.policy_problem,
            all_newest,
            nodes: nodes
                .iter()
                .map(|node| NodeJson {
                    newest: runs_newest(node, &master),
                    node,
                })
                .collect(),
        })?
    } else {
        print(&(show::nodes::policies(now_ms, &master, &nodes, room()).join("\n") + "\n"))?
    };
    Ok(if all_newest { Exit::Done } else { Exit::Differs })
}

/// A policy that is right, as text.
fn checked(path: &Path) -> Result<String, Failure> {
    let (_, text) = magi_config::load_policy_text(path)
        .map_err(|error| Failure::verbatim(Exit::Failed, error.to_string()))?;
    Ok(text)
}

/// `magictl policy push`
pub(crate) async fn push(args: PushArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct PushJson {
        policy: Option<Version>,
        unchanged: bool,
    }
    let text = checked(&args.file)?;
    let mut client = connect(&args.master).await?;
    let request = wire::PushPolicyRequest {
        text: text.into(),
        replaces: args.replaces.unwrap_or_default(),
    };
    let pushed = answer(client.push_policy(request)).await?.into_inner();
    let unchanged = pushed.unchanged;
    let policy: Option<Version> = pushed.version.map(Into::into);
    let _nothing_more_to_print = if args.json {
        print_json(&PushJson { policy, unchanged })?
    } else {
        let revision = policy.map_or(0, |policy| policy.revision);
        say(if unchanged {
            format!("Nothing changes: revision {revision} is the same text.")
        } else {
            format!("Pushed as revision {revision}; `magictl policy status` shows which node runs it.")
        })?
    };
    Ok(Exit::Done)
}

/// `magictl policy diff`
pub(crate) async fn diff(args: DiffArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct DiffJson<'a> {
        in_force: Option<&'a Version>,
        file_sha256: String,
        equal: bool,
        diff: &'a str,
    }
    let ours = checked(&args.file)?;
    let mut client = connect(&args.master).await?;
    let theirs = match client.get_policy(wire::GetPolicyRequest {}).await {
        Ok(policy) => Some(policy.into_inner()),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => return Err(refused(&status)),
    };
    let wire::Policy { version, text } = theirs.unwrap_or_default();
    let version = version.map(Version::from);
    let equal = version.is_some() && text == ours.as_bytes();
    let text = String::from_utf8_lossy(&text);
    let name = version.as_ref().map_or_else(
        || "no policy".to_owned(),
        |version| format!("revision {}", version.revision),
    );
    let diff = unified(&name, &text, &args.file.display().to_string(), &ours);
    let _nothing_more_to_print: Reader = if args.json {
        print_json(&DiffJson {
            in_force: version.as_ref(),
            file_sha256: hex::encode(Sha256::digest(&ours)),
            equal,
            diff: &diff,
        })?
    } else if equal {
        say(format!("The same text is in force, as {name}."))?
    } else {
        print(&show::diff(&diff))?
    };
    Ok(if equal { Exit::Done } else { Exit::Differs })
}

fn unified(old_name: &str, old: &str, new_name: &str, new: &str) -> String {
    TextDiff::from_lines(old, new)
        .unified_diff()
        .context_radius(AROUND)
        .header(old_name, new_name)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_shows_what_a_push_would_change() {
        let diff = unified(
            "revision 7",
            "version: 1\nmode: observe\n",
            "p.yaml",
            "version: 1\nmode: enforce\n",
        );
        assert_eq!(
            diff,
            "--- revision 7\n+++ p.yaml\n@@ -1,2 +1,2 @@\n version: 1\n-mode: observe\n+mode: enforce\n"
        );
    }
}
