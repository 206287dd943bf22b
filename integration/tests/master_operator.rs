//! What an operator asks and tells a master with magictl: real processes, a real node, certificates of `magi-master certs`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::cri::Pod;
use magi_integration::image::{Compression, ImageBuilder, Layer};
use magi_integration::magi::{self, Magi};
use magi_integration::master::Master;
use magi_integration::{Behaviour, Containerd, Line, Registry, wait};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);
const LAX: &str = "version: 1\nmode: observe\n";
const STRICT: &str = "version: 1\nmode: observe\ndenyFor: 0s\nlimits: { image: 1MB }\n";
const SIZE: u64 = 3_000_000;

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| text(output))
}

/// Runs magictl and wants this exit code.
fn asked(master: &Master, code: i32, args: &[&str]) -> Result<Output> {
    let output = master.ctl(args)?;
    ensure!(output.status.code() == Some(code), "{args:?}: {output:?}");
    Ok(output)
}

async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> Result<T> {
    wait::until(what, BOUND, STEP, || async { look() }).await
}

/// Ends with the test, however that ends.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pushes_a_policy_and_reads_what_came_of_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let (lax, strict) = (file("lax.yaml", LAX)?, file("strict.yaml", STRICT)?);
    let registry = Registry::start()?;
    let node = Containerd::start(Line::V2).await?;
    node.trust(&registry)?;
    let master = Master::start_for_pushes().await?;
    let mut options = magi::Options::policy(LAX);
    options.settings = master.node_settings(&folder.path().join("state"));
    let magi = Magi::start(&node, &options).await?;

    // Nothing is in force; what is wrong is shown in its line, and not pushed.
    let wrong = file("wrong.yaml", "version: 1\nmode: sometimes\nlimit: {}\n")?;
    let told = text(&asked(&master, 1, &["policy", "push", &wrong])?);
    ensure!(
        told.contains("2 problems") && told.contains("^") && told.contains("sometimes"),
        "{told}"
    );
    asked(&master, 7, &["policy", "diff", &lax])?;
    let pushed = json(&asked(&master, 0, &["policy", "push", &lax, "--json"])?)?;
    let first = pushed["policy"]["revision"].as_u64().context("a revision")?;
    asked(&master, 0, &["policy", "diff", &lax])?;
    let diff = text(&asked(&master, 7, &["policy", "diff", &strict])?);
    ensure!(diff.contains("+limits: { image: 1MB }"), "{diff}");
    let late = text(&asked(
        &master,
        1,
        &["policy", "push", &strict, "--replaces", "1"],
    )?);
    ensure!(late.contains("somebody else was faster"), "{late}");
    asked(
        &master,
        0,
        &["policy", "push", &strict, "--replaces", &first.to_string()],
    )?;
    let status = until("the node to run the newest policy", || {
        let output = master.ctl(&["policy", "status", "--json"]).ok()?;
        let status = json(&output).ok()?;
        (output.status.success() && status["nodes"][0]["newest"] == true).then_some(status)
    });
    let status = status.await.with_context(|| magi.log_tail(20))?;
    ensure!(
        status["all_newest"] == true
            && status["by"] == "operator tester"
            && status["nodes"][0]["connected"] == true
            && status["nodes"][0]["policy"] == status["policy"]
            && status["nodes"][0]["policy_since_ms"].is_u64(),
        "{status}"
    );
    let table = text(&asked(&master, 0, &["policy", "status"])?);
    println!("{table}");
    ensure!(
        table.contains("node-1") && table.contains("1 of 1 nodes run the newest policy"),
        "{table}"
    );

    // A pull that the pushed policy would stop; its record goes up, and is followed there.
    let mut follow = master.ctl_command(&[
        "audit",
        "tail",
        "-n",
        "0",
        "--follow",
        "--json",
        "--namespace",
        "team",
    ])?;
    let mut follow = Following(follow.stdout(Stdio::piped()).spawn()?);
    let pod = Pod::new("team", "web-0");
    let mut found = None;
    // Who asked in the first second of the node's life stays unknown; then another one is asked for.
    for round in 0..2_u64 {
        let name = format!("too-large-{round}");
        let layer = Layer::random(round, SIZE, Compression::None)?;
        let reference = registry.put(&name, "1", &ImageBuilder::oci().layer(layer).build()?);
        registry.behave(&name, Behaviour::rate(1_000_000));
        let pull = node.cri().pull_as(&reference, Some(&pod), None).await;
        ensure!(pull.outcome.is_ok(), "{}", pull.error());
        let looked = until("a record of the pull", || {
            let args = [
                "audit",
                "query",
                "--json",
                "--image",
                &name,
                "--reason",
                "image-too-large",
            ];
            let output = master.ctl(&args).ok()?;
            (output.status.success() && !output.stdout.is_empty()).then_some(output)
        });
        let output = looked.await.with_context(|| magi.log_tail(20))?;
        if text(&output).contains("web-0") {
            found = Some(output);
            break;
        }
    }
    let found = found.context("no record of whose pull it was")?;
    let line = BufReader::new(follow.0.stdout.take().context("no output")?)
        .lines()
        .next();
    let followed: Value = serde_json::from_str(&line.context("nothing followed")??)?;
    let queried: Value = serde_json::from_str(text(&found).lines().next().context("a line")?)?;
    ensure!(
        followed == queried && followed["record"]["kind"] == "would-abort",
        "{followed}\n{queried}"
    );
    let table = asked(
        &master,
        0,
        &[
            "audit", "query", "--node", "node-1", "--since", "1h", "--limit", "5",
        ],
    )?;
    println!("{}", text(&table));
    ensure!(text(&table).contains("team/web-0"), "{}", text(&table));
    let none = asked(&master, 0, &["audit", "query", "--until", "1h", "--json"])?;
    ensure!(none.stdout.is_empty(), "{none:?}");

    // The same records, and the node's own report, judged by either policy.
    let audit = file("audit.jsonl", &String::from_utf8(found.stdout)?)?;
    let pulls = file(
        "pulls.jsonl",
        &String::from_utf8(magi.ctl(&["pulls", "--ended", "--json"])?.stdout)?,
    )?;
    for (kind, path) in [("--audit", &audit), ("--pulls", &pulls)] {
        let tried = |policy: &str| {
            json(&asked(
                &master,
                0,
                &["policy", "test", "--policy", policy, kind, path, "--json"],
            )?)
        };
        let outcome = tried(&strict)?;
        let is_ours = |row: &Value| {
            row["namespace"] == "team" && row["reason"] == "image-too-large" && row["mode"] == "observe"
        };
        let rows = outcome["would_abort"].as_array().context("rows")?;
        ensure!(rows.iter().any(is_ours), "{kind}: {outcome}");
        let outcome = tried(&lax)?;
        ensure!(
            outcome["would_abort"] == serde_json::json!([]) && outcome["not_judged"] == serde_json::json!([]),
            "{outcome}"
        );
    }
    println!(
        "{}",
        text(&asked(
            &master,
            0,
            &["policy", "test", "--policy", &strict, "--audit", &audit]
        )?)
    );

    // The kill switch reaches the node.
    let switch = json(&asked(
        &master,
        0,
        &["switch", "on", "--reason", "a test", "--json"],
    )?)?;
    let status = until("the node to hear of the switch", || {
        let status = json(&master.ctl(&["master", "status", "--json"]).ok()?).ok()?;
        (status["nodes"][0]["kill_switch"] == switch["revision"]).then_some(status)
    });
    let status = status.await?;
    ensure!(
        status["kill_switch"]["engaged"] == true
            && status["kill_switch"]["by"] == "operator tester"
            && status["intakes"][0]["kind"] == "audit-log",
        "{status}"
    );
    let shown = text(&asked(&master, 0, &["master", "status"])?);
    println!("{shown}");
    ensure!(
        shown.contains("ON: nothing is stopped") && shown.contains("audit-log up"),
        "{shown}"
    );
    asked(&master, 0, &["switch", "off"])?;
    magi.stop()?;
    let away = until("the node to be away", || {
        let status = json(&master.ctl(&["policy", "status", "--json"]).ok()?).ok()?;
        (status["nodes"][0]["connected"] == false).then_some(status)
    });
    ensure!(
        away.await?["nodes"][0]["newest"] == true,
        "what it runs is known all the same"
    );
    node.shutdown()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, STRICT)?;
    let path = path.display().to_string();
    let master = Master::start(LAX).await?;
    let refused = text(&asked(&master, 1, &["policy", "push", &path])?);
    ensure!(
        refused.contains("policy.yaml") && refused.contains("policy: null"),
        "{refused}"
    );
    let status = json(&asked(&master, 0, &["policy", "status", "--json"])?)?;
    ensure!(
        status["source"]
            .as_str()
            .is_some_and(|source| source.ends_with("policy.yaml")),
        "{status}"
    );

    let with = |code: i32, name: &str, value: &str, wanted: &str| -> Result<()> {
        let mut command = master.ctl_command(&["master", "status"])?;
        let output = if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        }
        .output()?;
        println!("{}", text(&output));
        ensure!(
            output.status.code() == Some(code) && text(&output).contains(wanted),
            "{name}: {output:?}"
        );
        Ok(())
    };
    with(2, "MAGI_MASTER", "", "--master HOST:PORT")?;
    with(3, "MAGI_MASTER", "localhost:1", "cannot connect")?;
    let nowhere = folder.path().join("nowhere").display().to_string();
    with(1, "MAGI_MASTER_TLS", &nowhere, "magi-master certs --operator")?;
    with(
        1,
        "MAGI_MASTER_TLS",
        &master.node().display().to_string(),
        "an operator's certificate",
    )?;
    with(3, "MAGI_MASTER_NAME", "another.example", "not valid for name")?;
    // Of another authority, as far as either side can tell.
    let other = Master::start(LAX).await?;
    with(
        3,
        "MAGI_MASTER_TLS",
        &other.operator().display().to_string(),
        "invalid peer certificate",
    )?;
    let mixed = folder.path().join("mixed");
    std::fs::create_dir(&mixed)?;
    for (name, from) in [("tls.crt", &other), ("tls.key", &other), ("ca.crt", &master)] {
        std::fs::copy(from.operator().join(name), mixed.join(name))?;
    }
    with(
        3,
        "MAGI_MASTER_TLS",
        &mixed.display().to_string(),
        "does not take this certificate",
    )?;
    Ok(())
}
