//! magictl doctor on real nodes: what works is proven, and each thing that is broken on purpose is found and explained.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::api::Counts;
use magi_integration::containerd::{self, Options};
use magi_integration::magi::{self, Magi};
use magi_integration::{Containerd, Line, wait};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);
const OBSERVE: &str = "version: 1\nmode: observe\n";
/// Lines that are in order on every node of these tests, unless a test breaks them.
const ALWAYS: [&str; 15] = [
    "kernel",
    "btf",
    "capabilities",
    "probes",
    "requests",
    "destroy-socket",
    "disconnect-socket",
    "containerd",
    "containerd-config",
    "snapshotter",
    "magi-node",
    "watches-containerd",
    "policy",
    "audit",
    "active-pull",
];

/// What the doctor said, and its exit code.
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    fn check(&self, id: &str) -> Result<&Value> {
        let mut checks = self.list("checks");
        checks
            .find(|check| text(check, "id") == id)
            .with_context(|| format!("no line {id} in {}", self.json))
    }

    fn is(&self, id: &str, outcome: &str) -> Result<()> {
        let check = self.check(id)?;
        ensure!(text(check, "outcome") == outcome, "not {outcome}: {check}");
        Ok(())
    }

    /// A line that fails, or warns, and says what to do.
    fn advises(&self, id: &str, outcome: &str, advice: &str) -> Result<()> {
        self.is(id, outcome)?;
        let check = self.check(id)?;
        let given = check.get("advice").context("no advice")?.to_string();
        ensure!(given.contains(advice), "no {advice:?} in {check}");
        Ok(())
    }

    /// Whether what may be stopped at each of the three stages is this.
    fn covers(&self, stages: [bool; 3]) -> Result<()> {
        let covered = |stage: &Value| stage.get("covered").and_then(Value::as_bool);
        let found: Vec<_> = self.list("stages").filter_map(covered).collect();
        ensure!(found == stages, "{}", self.json);
        Ok(())
    }

    /// The names of the lines with this outcome.
    fn all(&self, outcome: &str) -> Vec<&str> {
        let checks = self.list("checks");
        checks
            .filter(|check| text(check, "outcome") == outcome)
            .map(|check| text(check, "id"))
            .collect()
    }

    fn list(&self, name: &str) -> impl Iterator<Item = &Value> {
        let list = self.json.get(name).and_then(Value::as_array);
        list.into_iter().flatten()
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn doctor(magi: &Magi, more: &[&str]) -> Result<Report> {
    let settings = magi.dir().join("settings.yaml").display().to_string();
    let output = magi.ctl(&[&["doctor", "--json", "--settings", &settings], more].concat())?;
    let json = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(Report {
        code: output.status.code(),
        json,
    })
}

/// magi-node beside `node`, waited for until these sources are up.
async fn magi(node: &Containerd, sources: &[&str], btf: Option<&Path>) -> Result<Magi> {
    let options = magi::Options {
        nri: Some(node.dir().join("nri.sock")),
        btf: btf.map(Path::to_owned),
        ..magi::Options::policy(OBSERVE)
    };
    let magi = Magi::launch(&node.address(), &options)?;
    wait::until("all sources", BOUND, STEP, || async {
        if magi.process().exited().is_some() {
            return Some(());
        }
        let changes = magi.audit_of("source-changed").ok()?;
        let up = |source: &&str| {
            let is_it = |change: &Value| text(change, "source") == *source;
            changes
                .iter()
                .any(|change| is_it(change) && change.get("up") == Some(&Value::Bool(true)))
        };
        sources.iter().all(up).then_some(())
    })
    .await
    .with_context(|| magi.log_tail(40))?;
    ensure!(magi.process().is_running(), "{}", magi.log_tail(40));
    Ok(magi)
}

/// Puts magi-verify where containerd executes it. It is told by a script where to ask, as /etc is not ours to write.
fn verifier(node: &Containerd, socket: &Path) -> Result<()> {
    let text = format!(
        "#!/bin/sh\nMAGI_SOCKET={} exec {} \"$@\"\n",
        socket.display(),
        magi::binary("magi-verify")?.display()
    );
    put(&node.dir().join("magi-verify.new"), &text, 0o755)?;
    fs::rename(
        node.dir().join("magi-verify.new"),
        node.verifier_dir().join("magi-verify"),
    )
    .context("move it in")
}

fn put(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_good_node_everything_is_proven() -> Result<()> {
    let options = Options {
        nri: true,
        ..Options::default()
    };
    for node in containerd::both_with(&options).await? {
        let magi = magi(&node, &["containerd", "probes", "requests", "nri"], None).await?;
        verifier(&node, &magi.socket())?;
        let report = doctor(&magi, &["--active"])?;
        println!("{}: {}", node.version(), report.json);
        ensure!(
            report.code == Some(0) && report.json["ok"] == true,
            "{}\n{}\n{}",
            report.json,
            magi.log_tail(30),
            node.log_tail(20)
        );
        for id in ALWAYS.iter().chain(&["nri", "pull-path", "owner-known"]) {
            report.is(id, "ok")?;
        }
        let verifies = if node.line() == Line::V2 { "ok" } else { "skip" };
        for id in ["verifier", "verifier-called"] {
            report.is(id, verifies)?;
        }
        report.covers([node.line() == Line::V2, true, false])?;
        node.expect_nothing_left(&Counts::default(), BOUND).await?;

        // The same for people, and without a pull.
        let settings = magi.dir().join("settings.yaml").display().to_string();
        let text = magi.ctl(&["doctor", "--settings", &settings])?;
        let shown = String::from_utf8_lossy(&text.stdout).into_owned();
        println!("{shown}");
        ensure!(
            text.status.success() && shown.contains("nothing fails") && shown.contains("STAGE OF A PULL"),
            "{shown}"
        );
        magi.stop()?;
        node.shutdown()?.expect_none()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_verifier_is_found() -> Result<()> {
    let options = Options {
        nri: true,
        ..Options::default()
    };
    let node = Containerd::start_with(Line::V2, &options).await?;
    let magi = magi(&node, &["containerd", "nri"], None).await?;

    let missing = doctor(&magi, &[])?;
    ensure!(missing.code == Some(6), "{}", missing.json);
    missing.advises("verifier", "fail", "magictl install containerd")?;
    missing.covers([false, true, false])?;

    // It is there, and asks where nobody listens: only a real pull can tell.
    verifier(&node, Path::new("/nowhere/node.sock"))?;
    let unproven = doctor(&magi, &[])?;
    unproven.is("verifier", "ok")?;
    unproven.covers([true, true, false])?;
    let deaf = doctor(&magi, &["--active"])?;
    ensure!(deaf.code == Some(6), "{}", deaf.json);
    deaf.advises("verifier-called", "fail", "/etc/magi/verify.conf")?;
    deaf.is("active-pull", "ok")?;
    deaf.covers([false, true, false])?;

    // A stray file blocks every pull, and this one too.
    verifier(&node, &magi.socket())?;
    let stray = node.verifier_dir().join("README");
    put(&stray, "read me", 0o644)?;
    let blocked = doctor(&magi, &["--active"])?;
    blocked.advises("verifier", "fail", "remove it")?;
    blocked.is("active-pull", "fail")?;
    fs::remove_file(&stray).context("remove it")?;
    ensure!(doctor(&magi, &["--active"])?.code == Some(0), "it is repaired");

    node.expect_nothing_left(&Counts::default(), BOUND).await?;
    magi.stop()?;
    node.shutdown()?.expect_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_that_go_past_the_verifier_are_told() -> Result<()> {
    let options = Options {
        nri: true,
        local_pull: true,
        ..Options::default()
    };
    let node = Containerd::start_with(Line::V2, &options).await?;
    let magi = magi(&node, &["containerd", "requests", "nri"], None).await?;
    verifier(&node, &magi.socket())?;
    let report = doctor(&magi, &["--active"])?;
    ensure!(report.code == Some(0), "a warning is no failure: {}", report.json);
    report.advises("pull-path", "warn", "take these settings out")?;
    report.is("verifier-called", "skip")?;
    report.is("owner-known", "ok")?;
    report.covers([false, true, false])?;
    magi.stop()?;
    node.shutdown()?.expect_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_type_information_nri_or_magi_is_told_what_to_do() -> Result<()> {
    let node = Containerd::start(Line::V1_7).await?;
    let nowhere = node.dir().join("no-btf");
    let magi = magi(&node, &["containerd", "socket-table"], Some(&nowhere)).await?;
    let report = doctor(&magi, &["--active"])?;
    ensure!(report.code == Some(6), "{}", report.json);
    report.advises("btf", "fail", "probes.btf")?;
    report.advises("probes", "fail", "restart magi-node")?;
    report.advises("requests", "fail", "restart magi-node")?;
    report.advises("nri", "fail", "magictl install containerd")?;
    ensure!(
        report.all("fail") == ["btf", "probes", "requests", "nri"],
        "{}",
        report.json
    );
    report.is("owner-known", "skip")?;
    report.covers([false, true, false])?;

    let settings = magi.dir().join("settings.yaml");
    let kept = node.dir().join("settings.yaml");
    fs::copy(&settings, &kept).context("keep the settings")?;
    let ctl = magi::binary("magictl")?;
    magi.stop()?;
    let output = std::process::Command::new(ctl)
        .args(["doctor", "--json", "--settings"])
        .arg(&kept)
        .output()?;
    let report = Report {
        code: output.status.code(),
        json: serde_json::from_slice(&output.stdout)?,
    };
    ensure!(report.code == Some(6), "{}", report.json);
    report.advises("magi-node", "fail", "start magi-node")?;
    report.is("containerd", "ok")?;
    report.is("destroy-socket", "ok")?;
    for id in ["probes", "requests", "watches-containerd"] {
        report.is(id, "skip")?;
    }
    report.covers([false; 3])?;
    node.shutdown()?.expect_none()
}
