//! What a question costs the pull: magi-verify from its start to its exit, as containerd executes it, when magi-node knows
//! the answer.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use magi_integration::Containerd;
use magi_integration::containerd::Line;
use magi_integration::magi::{self, Magi};
use serde_json::json;

use crate::figure::{Figure, Goal, Run, Series};
use crate::machine;
use crate::options::Options;
use crate::stats::summary;

const MOST_MS: f64 = 10.0;
const IMAGE: &str = "registry.example/team/app:1";
const DIGEST: &str = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
const MEDIA: &str = "application/vnd.oci.image.manifest.v1+json";

/// Measures on 2.x, the line that has verifiers.
pub(crate) async fn measure(options: &Options) -> Result<Figure> {
    let load_before = machine::load();
    let node = Containerd::start(Line::V2).await?;
    let policy = format!(
        "version: 1\nmode: enforce\nrules: [{{ name: bad, match: {{ digests: [\"{DIGEST}\"] }}, deny: true }}]\n"
    );
    let magi = Magi::start(&node, &magi::Options::policy(policy)).await?;
    let program = magi::binary("magi-verify")?;
    let mut samples = Vec::new();
    for round in 0..options.verify_rounds() {
        let took = ask(&program, &magi.socket()).with_context(|| format!("round {round}"))?;
        samples.push(took);
    }
    let found = summary(samples.iter().copied());
    magi.stop()?;
    let version = node.version().to_owned();
    node.shutdown()?.expect_none()?;
    Ok(Figure {
        name: "verify",
        what: "magi-verify, from its start to its exit, when magi-node knows the answer",
        load_before,
        load_after: machine::load(),
        runs: vec![Run {
            line: Some(Line::V2.to_string()),
            containerd: Some(version),
            series: vec![Series {
                what: "start to exit",
                unit: "ms",
                summary: found,
            }],
            goals: vec![Goal::at_most("99th percentile in ms", MOST_MS, found.p99)],
            notes: json!({}),
            samples: json!(samples),
        }],
    })
}

/// One question, in milliseconds; the image is denied, so that the answer is known to have come from magi-node.
fn ask(program: &Path, socket: &Path) -> Result<f64> {
    let began = Instant::now();
    let mut child = Command::new(program)
        .args([
            "-name",
            IMAGE,
            "-digest",
            DIGEST,
            "-stdin-media-type",
            "application/vnd.oci.descriptor.v1+json",
        ])
        .env("MAGI_SOCKET", socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start magi-verify")?;
    let descriptor = json!({ "mediaType": MEDIA, "digest": DIGEST, "size": 423 });
    let mut stdin = child.stdin.take().context("its standard input")?;
    stdin
        .write_all(descriptor.to_string().as_bytes())
        .context("tell it")?;
    drop(stdin);
    let status = child.wait().context("wait for it")?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(status.code() == Some(1), "the denied image was let in: {status}");
    Ok(took)
}
