//! Debian packages by name through apt, with private lists and state: the system's own apt is only read, never changed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::process::on_path;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One part: a package of a suite whose version starts with a prefix; the highest such version is taken.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Name of its folder in the cache.
    pub(super) part: &'static str,
    /// The package, and the name of its main program.
    package: &'static str,
    suite: Suite,
    prefix: &'static str,
}

impl Wanted {
    /// Whether the cache has it already.
    pub(super) fn is_in(&self, cache: &Path) -> bool {
        cache.join(self.part).join("bin").join(self.package).is_file()
    }
}

#[derive(Debug, Clone, Copy)]
enum Suite {
    Named(&'static str),
    /// The machine's own: what depends on more of libc than containerd does must come from there.
    Own,
}

/// Everything that is fetched. Versions are patterns: those in Debian move.
pub(super) const WANTED: &[Wanted] = &[
    Wanted {
        part: "1.7",
        package: "containerd",
        suite: Suite::Named("trixie"),
        prefix: "1.7.",
    },
    Wanted {
        part: "2.x",
        package: "containerd",
        suite: Suite::Named("sid"),
        prefix: "2.",
    },
    Wanted {
        part: "runc",
        package: "runc",
        suite: Suite::Own,
        prefix: "",
    },
    Wanted {
        part: "pigz",
        package: "pigz",
        suite: Suite::Own,
        prefix: "",
    },
    Wanted {
        part: "docker-registry",
        package: "docker-registry",
        suite: Suite::Named("sid"),
        prefix: "",
    },
];

/// Downloads and unpacks `wanted` into `cache`, each part appearing in one step.
pub(super) fn fetch(cache: &Path, wanted: &[&Wanted], say: &mut dyn FnMut(&str)) -> Result<()> {
    for tool in ["apt-get", "apt-cache", "dpkg", "dpkg-deb"] {
        ensure!(on_path(tool).is_some(), "{tool} is not on PATH");
    }
    ensure!(
        Path::new(KEYRING).is_file(),
        "Debian's archive keyring is not installed"
    );
    let staging = tempfile::Builder::new()
        .prefix(".staging-")
        .tempdir_in(cache)
        .with_context(|| format!("create a folder in {}", cache.display()))?;
    let own = own_suite()?;
    let apt = Apt::new(staging.path(), &own, wanted)?;
    say("reading Debian's package lists (private copy)");
    apt.run("apt-get", &["update"])?;
    for wanted in wanted {
        let suite = match wanted.suite {
            Suite::Named(name) => name,
            Suite::Own => own.as_str(),
        };
        let version = apt.newest(wanted, suite)?;
        say(&format!("fetching {} {version} ({suite})", wanted.package));
        apt.place(wanted, &version, cache)?;
    }
    Ok(())
}

struct Apt {
    dir: PathBuf,
    options: Vec<OsString>,
}

impl Apt {
    fn new(dir: &Path, own: &str, wanted: &[&Wanted]) -> Result<Self> {
        for sub in ["state/lists/partial", "cache/archives/partial", "download"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("create {sub} in {}", dir.display()))?;
        }
        let mirror = mirror(own)?;
        let mut suites: Vec<&str> = wanted
            .iter()
            .map(|wanted| match wanted.suite {
                Suite::Named(name) => name,
                Suite::Own => own,
            })
            .collect();
        suites.sort_unstable();
        suites.dedup();
        let list: String = suites
            .iter()
            .map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .collect();
        let list_path = dir.join("sources.list");
        fs::write(&list_path, list).with_context(|| format!("write {}", list_path.display()))?;
        let set = |key: &str, value: &Path| {
            let mut option = OsString::from(format!("{key}="));
            option.push(value);
            [OsString::from("-o"), option]
        };
        let options = [
            set("Dir::Etc::sourcelist", &list_path),
            set("Dir::Etc::sourceparts", Path::new("-")),
            set("Dir::Etc::preferences", Path::new("-")),
            set("Dir::Etc::preferencesparts", Path::new("-")),
            set("Dir::State", &dir.join("state")),
            set("Dir::State::status", Path::new("/dev/null")),
            set("Dir::Cache", &dir.join("cache")),
            // A setting of the machine's could prefer a suite that this list does not have.
            set("APT::Default-Release", Path::new("")),
            // apt's own user may not enter a folder of ours.
            set("APT::Sandbox::User", Path::new("root")),
            set("Acquire::Languages", Path::new("none")),
            set("Acquire::Retries", Path::new("3")),
        ];
        Ok(Self {
            dir: dir.to_owned(),
            options: options.into_iter().flatten().collect(),
        })
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command
            .args(&self.options)
            .args(args)
            .current_dir(self.dir.join("download"))
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        text(
            command.output().with_context(|| format!("run {program}"))?,
            program,
        )
    }

    /// The highest version of the package in the suite that fits the prefix.
    fn newest(&self, wanted: &Wanted, suite: &str) -> Result<String> {
        let table = self.run("apt-cache", &["madison", wanted.package])?;
        let mut best: Option<String> = None;
        for version in table
            .lines()
            .filter_map(|line| version_of(line, wanted.package, suite))
        {
            let fits = version.starts_with(wanted.prefix);
            if fits && best.as_deref().is_none_or(|best| is_newer(version, best)) {
                best = Some(version.to_owned());
            }
        }
        best.ok_or_else(|| anyhow!("{suite} has no {} {}*", wanted.package, wanted.prefix))
    }

    fn place(&self, wanted: &Wanted, version: &str, cache: &Path) -> Result<()> {
        let downloads = self.dir.join("download");
        self.run("apt-get", &["download", &format!("{}={version}", wanted.package)])?;
        let prefix = format!("{}_", wanted.package);
        let deb = fs::read_dir(&downloads)
            .with_context(|| format!("read {}", downloads.display()))?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .ok_or_else(|| anyhow!("apt-get download left no {prefix}*.deb"))?;
        let tree = self.dir.join("tree");
        let output = Command::new("dpkg-deb")
            .arg("-x")
            .arg(&deb)
            .arg(&tree)
            .output()
            .context("run dpkg-deb")?;
        text(output, "dpkg-deb")?;
        let part = self.dir.join(wanted.part);
        let bin = part.join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
        // Some packages keep a program in one of these and a link to it in the other: the link would point nowhere.
        for folder in ["usr/bin", "usr/sbin"] {
            for entry in fs::read_dir(tree.join(folder))
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
            {
                if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    fs::rename(entry.path(), bin.join(entry.file_name()))
                        .with_context(|| format!("move {}", entry.path().display()))?;
                }
            }
        }
        ensure!(
            bin.join(wanted.package).is_file(),
            "{} holds no program {}",
            deb.display(),
            wanted.package
        );
        fs::write(part.join("version"), format!("{version}\n")).context("write the version file")?;
        fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))?;
        fs::remove_file(&deb).with_context(|| format!("remove {}", deb.display()))?;
        let place = cache.join(wanted.part);
        if place.exists() {
            fs::remove_dir_all(&place).with_context(|| format!("remove the broken {}", place.display()))?;
        }
        fs::rename(&part, &place).with_context(|| format!("move {} into place", wanted.part))
    }
}

/// The version column of a line of `apt-cache madison`, if the line is of that package and suite.
fn version_of<'l>(line: &'l str, package: &str, suite: &str) -> Option<&'l str> {
    let mut columns = line.split('|').map(str::trim);
    let name = columns.next()?;
    let version = columns.next()?;
    let source = columns.next()?;
    let component = source.split_whitespace().nth(1)?;
    (name == package && component.split('/').next() == Some(suite)).then_some(version)
}

fn is_newer(version: &str, than: &str) -> bool {
    Command::new("dpkg")
        .args(["--compare-versions", version, "gt", than])
        .status()
        .is_ok_and(|status| status.success())
}

fn own_suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let field = |key: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .map(|value| value.trim_matches('"').to_owned())
    };
    let id = field("ID=").unwrap_or_default();
    ensure!(id == "debian", "this system is {id:?}, not Debian");
    // Testing and unstable name no codename.
    Ok(field("VERSION_CODENAME=").unwrap_or_else(|| "sid".to_owned()))
}

/// The mirror from which this machine takes its own suite.
fn mirror(own: &str) -> Result<String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI) $(COMPONENT) $(ORIGIN)",
        ])
        .output()
        .context("run apt-get indextargets")?;
    let targets = text(output, "apt-get indextargets")?;
    mirror_of(&targets, own).ok_or_else(|| anyhow!("apt's sources have no entry for Debian's {own}"))
}

/// Third parties may offer a suite of the same name. Where package lists were read before, the origin tells them apart;
/// a machine without lists leaves that column unfilled, and Debian's component must do.
fn mirror_of(targets: &str, own: &str) -> Option<String> {
    let names = [own, "stable", "oldstable", "testing", "unstable"];
    let from = |known: bool| {
        targets.lines().find_map(|line| {
            let mut columns = line.split_whitespace();
            let (release, uri, component) = (columns.next()?, columns.next()?, columns.next()?);
            let is_debian = if known {
                columns.next() == Some("Debian")
            } else {
                component == "main"
            };
            (is_debian && names.contains(&release)).then(|| uri.to_owned())
        })
    };
    from(true).or_else(|| from(false))
}

fn text(output: Output, program: &str) -> Result<String> {
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = errors.lines().rev().take(5).collect();
        bail!(
            "{program} failed ({}): {}",
            output.status,
            last.into_iter().rev().collect::<Vec<_>>().join(" | ")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{is_newer, mirror_of, version_of};

    const LINE: &str = "containerd | 2.1.9+ds1-5 | scheme://mirror/debian sid/main amd64 Packages";

    #[test]
    fn a_madison_line_gives_its_version_for_the_right_suite_only() {
        assert_eq!(version_of(LINE, "containerd", "sid"), Some("2.1.9+ds1-5"));
        assert_eq!(version_of(LINE, "containerd", "trixie"), None);
        assert_eq!(version_of(LINE, "runc", "sid"), None);
        assert_eq!(version_of("N: nothing", "containerd", "sid"), None);
    }

    #[test]
    fn versions_are_compared_as_debian_does() {
        assert!(is_newer("2.1.10-1", "2.1.9+ds1-5"));
        assert!(!is_newer("2.1.6-1", "2.1.9+ds1-5"));
    }

    #[test]
    fn the_mirror_is_debians_own() {
        let lists = "sid x://third/ main Third\nbookworm-security x://security/ main Debian\nbookworm x://mirror/ main Debian\n";
        assert_eq!(mirror_of(lists, "bookworm").as_deref(), Some("x://mirror/"));
        let fresh = "bookworm x://third/ stable $(ORIGIN)\nbookworm x://mirror/ main $(ORIGIN)\n";
        assert_eq!(mirror_of(fresh, "bookworm").as_deref(), Some("x://mirror/"));
        assert_eq!(mirror_of("jammy x://other/ main Ubuntu", "bookworm"), None);
    }
}
