//! Nothing of the machine that it was written on: no folder of it, no host from which it takes its packages.

use std::path::{Path, PathBuf};

use crate::files::{self, File};
use crate::graph::{output_of, root};

/// Folders that hold a checkout on many machines, and that files may speak of.
const COMMON: &[&str] = &[
    "/", "/tmp", "/root", "/home", "/opt", "/srv", "/mnt", "/usr/src", "/var/tmp",
];

/// Complains about lines that hold one of `needles`.
pub(crate) fn traces(file: &File, needles: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        if needles.iter().any(|needle| line.contains(needle.as_str())) {
            complaints.push(format!(
                "{}:{}: a folder or host of one machine: {line}",
                file.path,
                at + 1
            ));
        }
    }
    complaints
}

/// Folders of this machine: the checkout, what it lies in, and cargo's own.
fn folders() -> Vec<String> {
    let above = root().parent().map(Path::to_owned);
    let above = above.filter(|folder| !COMMON.iter().any(|common| Path::new(common) == folder));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    [Some(root().to_owned()), above, cargo]
        .into_iter()
        .flatten()
        .map(|folder| format!("{}/", folder.display()))
        .collect()
}

/// Hosts that the package managers of this machine are set up with. Managers that are not there name none.
fn hosts() -> Vec<String> {
    let asked: [(&str, &[&str]); 3] = [
        ("apt-get", &["indextargets", "--format", "$(SITE)"]),
        ("npm", &["config", "get", "registry"]),
        ("pip", &["config", "get", "global.index-url"]),
    ];
    let mut hosts: Vec<String> = asked
        .iter()
        .filter_map(|(program, args)| output_of(program, args).ok())
        .flat_map(|said| said.lines().filter_map(host).collect::<Vec<_>>())
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn host(address: &str) -> Option<String> {
    let (_, rest) = address.trim().split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    let is_local = host.is_empty() || host == "localhost" || host.starts_with("127.");
    (!is_local).then(|| host.to_owned())
}

#[test]
fn no_file_names_this_machine() {
    let needles: Vec<String> = folders().into_iter().chain(hosts()).collect();
    let files = files::all().expect("the files");
    let ours = files.iter().filter(|file| !file.is_foreign());
    crate::nothing_to_complain(ours.flat_map(|file| traces(file, &needles)).collect());
}

#[test]
fn traces_of_a_machine_are_seen() {
    let needles = ["/builds/someone/".to_owned(), "mirror.invalid".to_owned()];
    let file = File::new(
        "x.md",
        "fine\nsee /builds/someone/magi/README.md\nfrom https://mirror.invalid/debian\n",
    );
    assert_eq!(traces(&file, &needles).len(), 2);
    assert!(folders().iter().all(|folder| folder.len() > 2), "{:?}", folders());
}

#[test]
fn hosts_are_cut_from_addresses() {
    assert_eq!(
        host("https://mirror.invalid/debian").as_deref(),
        Some("mirror.invalid")
    );
    assert_eq!(
        host("http://user:secret@mirror.invalid:80/x"),
        Some("mirror.invalid".to_owned())
    );
    for none in [
        "undefined",
        "http://localhost:4873/",
        "http://127.0.0.1/",
        "file:///x",
    ] {
        assert_eq!(host(none), None, "{none}");
    }
}
