//! `magictl install` and `uninstall` against real containerds: what they read afterwards, and what they do then.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use magi_integration::containerd::{self, Options};
use magi_integration::image::{Compression, Image, ImageBuilder, Layer};
use magi_integration::magi::binary;
use magi_integration::{Containerd, Line, Registry, parts, wait};
use serde_json::Value;
use toml::Table;

const BOUND: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(20);
const NRI: &str = "io.containerd.nri.v1.nri";
/// Only shell built-ins: containerd gives it its own PATH, and that holds no tools.
const ALLOWS: &str = "#!/bin/sh\nprintf '%s\\n' \"$*\" >> \"${0%/*}/../called\"\nexit 0\n";
const REFUSES: &str = "#!/bin/sh\necho 'too large for this test'\nexit 1\n";

fn containerd_of(line: Line) -> Result<PathBuf> {
    let parts = parts::obtain()?;
    Ok(match line {
        Line::V1_7 => &parts.containerd_1_7,
        Line::V2 => &parts.containerd_2,
    }
    .join("containerd"))
}

/// A configuration, and magictl's way to it.
struct Registration {
    line: Line,
    dir: PathBuf,
    verifier: PathBuf,
}

impl Registration {
    fn new(line: Line, dir: &Path) -> Result<Self> {
        let verifier = dir.join("magi-verify-source");
        fs::write(&verifier, ALLOWS)?;
        fs::set_permissions(&verifier, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            line,
            dir: dir.to_owned(),
            verifier,
        })
    }

    fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn run(&self, command: &str, more: &[&str]) -> Result<Value> {
        let mut magictl = Command::new(binary("magictl")?);
        magictl.args([command, "containerd", "--yes", "--json", "--state"]);
        magictl.arg(self.dir.join("magi-state")).args(more);
        let output = magictl.output().context("run magictl")?;
        ensure!(
            output.status.success(),
            "magictl {command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn install(&self) -> Result<Value> {
        let (config, program) = (self.config(), containerd_of(self.line)?);
        let path = |path: &Path| {
            path.to_str()
                .map(ToOwned::to_owned)
                .context("a path that is no text")
        };
        let (config, program, verifier) = (path(&config)?, path(&program)?, path(&self.verifier)?);
        let named = ["--config", &config, "--containerd-binary", &program];
        self.run(
            "install",
            &[&named[..], &["--verifier-binary", &verifier]].concat(),
        )
    }

    fn uninstall(&self) -> Result<Value> {
        self.run("uninstall", &[])
    }

    /// What containerd makes of its files.
    fn dump(&self) -> Result<Table> {
        let output = Command::new(containerd_of(self.line)?)
            .arg("--config")
            .arg(self.config())
            .args(["config", "dump"])
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut dump: Table = toml::from_str(&String::from_utf8(output.stdout)?)?;
        // Which files were read is not what they say.
        dump.remove("imports");
        Ok(dump)
    }
}

/// Path, bytes, and time of change.
type File = (PathBuf, Vec<u8>, i64, i64);

fn files(dir: &Path) -> Result<Vec<File>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = path.symlink_metadata()?;
        if meta.is_dir() {
            all.extend(files(&path)?);
        } else if meta.is_file() {
            all.push((path.clone(), fs::read(&path)?, meta.mtime(), meta.mtime_nsec()));
        }
    }
    all.sort();
    Ok(all)
}

fn open_nri(dump: &mut Table) -> Result<()> {
    let nri = dump
        .get_mut("plugins")
        .and_then(|plugins| plugins.get_mut(NRI)?.as_table_mut());
    let nri = nri.context("containerd knows no NRI")?;
    nri.insert("disable".to_owned(), false.into());
    nri.insert("disable_connections".to_owned(), false.into());
    Ok(())
}

/// Takes magi's stream processors out of what containerd says, and gives their programs.
fn take_processors(dump: &mut Table) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    if let Some(all) = dump.get_mut("stream_processors") {
        let all = all.as_table_mut().context("stream_processors are no table")?;
        for id in ["magi.unpack.gzip", "magi.unpack.zstd"] {
            let found = all.remove(id);
            programs.extend(found.and_then(|one| Some(PathBuf::from(one.get("path")?.as_str()?))));
        }
        if all.is_empty() {
            dump.remove("stream_processors");
        }
    }
    Ok(programs)
}

/// Default configurations, imports, and tables in several places: containerd itself says what they mean.
#[tokio::test]
async fn containerd_reads_what_was_planned() -> Result<()> {
    for line in Line::ALL {
        let default = Command::new(containerd_of(line)?)
            .args(["config", "default"])
            .output()?;
        let default = String::from_utf8(default.stdout)?;
        let version = match line {
            Line::V1_7 => 2,
            Line::V2 => 3,
        };
        let imports = format!("version = {version}\nimports = [\"conf.d/*.toml\"]\n");
        let closed =
            format!("[plugins.\"{NRI}\"]\n  disable = true # why\n  socket_path = \"/x/nri.sock\"\n");
        let cases = [
            (default.clone(), None),
            (default.replace("disable = false", "disable = true"), None),
            (default.replace('\n', "\r\n"), None),
            (imports.clone(), None),
            (format!("{imports}{closed}"), None),
            (
                format!("{imports}{closed}disable_connections = true\n"),
                Some(format!("[plugins.\"{NRI}\"]\nplugin_path = \"/y\"\n")),
            ),
            (imports.clone(), Some(closed.clone())),
        ];
        for (number, (root, import)) in cases.into_iter().enumerate() {
            let dir = tempfile::tempdir()?;
            let node = Registration::new(line, dir.path())?;
            fs::write(node.config(), &root)?;
            if let Some(import) = &import {
                fs::create_dir(dir.path().join("conf.d"))?;
                fs::write(dir.path().join("conf.d/50-theirs.toml"), import)?;
            }
            let before = files(dir.path())?;
            let mut expected = node.dump()?;
            open_nri(&mut expected)?;
            let plan = node.run(
                "install",
                &[
                    "--without",
                    "verifier",
                    "--with",
                    "unpack",
                    "--unpack-binary",
                    node.verifier.to_str().context("a path")?,
                    "--config",
                    node.config().to_str().context("a path")?,
                    "--containerd-binary",
                    containerd_of(line)?.to_str().context("a path")?,
                ],
            )?;
            let mut found = node.dump()?;
            let processors = take_processors(&mut found)?;
            let _none = take_processors(&mut expected)?;
            ensure!(
                processors == [node.verifier.clone(), node.verifier.clone()],
                "{line}, case {number}: {processors:?}"
            );
            ensure!(found == expected, "{line}, case {number}: {plan}");
            node.uninstall()?;
            let contents = |files: Vec<File>| -> Vec<_> {
                files.into_iter().map(|(path, bytes, ..)| (path, bytes)).collect()
            };
            ensure!(
                contents(files(dir.path())?) == contents(before),
                "{line}, case {number}: not undone"
            );
            ensure!(!dir.path().join("magi-state").exists(), "{line}: state is left");
        }
    }
    Ok(())
}

async fn answers(socket: &Path) -> bool {
    let up = wait::until("NRI's socket", BOUND, STEP, async || {
        UnixStream::connect(socket).ok()
    })
    .await;
    up.is_ok()
}

fn image() -> Result<Image> {
    ImageBuilder::oci()
        .layer(Layer::random(1, 1 << 20, Compression::Gzip)?)
        .build()
}

/// Both start with what was edited, NRI's socket answers then and neither before nor after, and undo gives the bytes back.
#[tokio::test]
async fn nri_answers_after_a_restart() -> Result<()> {
    let options = Options {
        nri: true,
        ..Options::default()
    };
    for mut node in containerd::both_with(&options).await? {
        let registration = Registration::new(node.line(), node.dir())?;
        let config = fs::read_to_string(registration.config())?;
        let closed = config.replace("disable = false", "disable = true # not yet") + "# the end";
        ensure!(closed.contains("# not yet"), "{config}");
        fs::write(registration.config(), &closed)?;
        node.restart().await?;
        let socket = node.dir().join("nri.sock");
        ensure!(UnixStream::connect(&socket).is_err(), "NRI was on already");

        let done = registration.install()?;
        ensure!(done["result"] == "done" && done["restart"] == true, "{done}");
        ensure!(
            UnixStream::connect(&socket).is_err(),
            "somebody restarted containerd"
        );
        node.restart().await?;
        ensure!(answers(&socket).await, "{}", node.log_tail(20));

        let before = files(&node.dir().join("magi-state"))?;
        let config = registration.config();
        let time = |path: &Path| -> Result<_> {
            let meta = path.metadata()?;
            Ok((meta.ino(), meta.mtime(), meta.mtime_nsec()))
        };
        let (bytes, times) = (fs::read(&config)?, time(&config)?);
        let again = registration.install()?;
        ensure!(
            again["result"] == "nothing-to-do" && again["restart"] == false,
            "{again}"
        );
        ensure!(fs::read(&config)? == bytes && time(&config)? == times);
        ensure!(files(&node.dir().join("magi-state"))? == before);

        registration.uninstall()?;
        ensure!(fs::read_to_string(&config)? == closed, "not undone to the byte");
        ensure!(!node.dir().join("magi-state").exists());
        ensure!(node.dir().join("verifiers").read_dir()?.next().is_none());
        node.restart().await?;
        ensure!(UnixStream::connect(&socket).is_err(), "NRI is on after uninstall");
    }
    Ok(())
}

/// containerd 2.1 calls what was put there, without a restart, for exactly as long as it is there.
#[tokio::test]
async fn the_verifier_is_called() -> Result<()> {
    let registry = Registry::start()?;
    let node = Containerd::start(Line::V2).await?;
    node.trust(&registry)?;
    let registration = Registration::new(Line::V2, node.dir())?;
    // The harness closes NRI by name, which install does not overrule.
    let config = fs::read_to_string(registration.config())?;
    fs::write(registration.config(), config.replace(&format!(", \"{NRI}\""), ""))?;
    let called = node.dir().join("called");
    let pull = async |repository: &str| -> Result<_> {
        let reference = registry.put(repository, "1", &image()?);
        Ok((node.cri().pull(&reference).await, reference))
    };
    let (before, _) = pull("before").await?;
    ensure!(before.outcome.is_ok() && !called.exists(), "{before:?}");

    let done = registration.install()?;
    ensure!(done["result"] == "done" && done["restart"] == false, "{done}");
    let (allowed, reference) = pull("allowed").await?;
    ensure!(allowed.outcome.is_ok(), "{allowed:?}");
    let said = fs::read_to_string(&called)?;
    ensure!(
        said.starts_with(&format!("-name {reference} -digest sha256:")),
        "called with {said}"
    );

    fs::write(&registration.verifier, REFUSES)?;
    ensure!(registration.install()?["changes"][0]["action"] == "edit");
    let (refused, _) = pull("refused").await?;
    ensure!(refused.error().contains("too large for this test"), "{refused:?}");

    registration.uninstall()?;
    ensure!(node.verifier_dir().read_dir()?.next().is_none());
    let (after, _) = pull("after").await?;
    ensure!(after.outcome.is_ok(), "{after:?}");
    ensure!(fs::read_to_string(&called)? == said, "called after uninstall");
    Ok(())
}
