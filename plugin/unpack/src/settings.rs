//! What a layer may unpack to, from a small file: `/etc/magi/unpack.conf`, or the one that the argument `--bounds` or the
//! variable `MAGI_UNPACK_CONF` names. A file that is not there or cannot be read bounds nothing, and every layer is
//! unpacked as containerd would: a mistake in it must not be the reason that a good pull fails.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

const DEFAULT_FILE: &str = "/etc/magi/unpack.conf";
const FILE_ARGUMENT: &str = "--bounds";
const FILE_VARIABLE: &str = "MAGI_UNPACK_CONF";

/// magi-node's control socket unless the file says otherwise (`magi-node-api`, `DEFAULT_SOCKET`).
const NODE: &str = "/run/magi/node.sock";
/// What the file says in its place to have nobody told.
const NOBODY: &str = "none";

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// Most notes about one file: containerd keeps them in memory.
const MAX_NOTES: usize = 4;

/// Up to here the ratio does not count unless the file says otherwise: what is small does no harm.
const DEFAULT_RATIO_FROM: u64 = 256 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `None`: nothing is bounded, and the tar need not be followed.
    pub(crate) bounds: Option<Bounds>,
    /// magi-node's control socket; `None`: it is told nothing.
    pub(crate) node: Option<PathBuf>,
}

/// What one layer may come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes of its tar, or on a disk, whichever is more.
    pub(crate) unpacked: Option<u64>,
    pub(crate) ratio: Option<Ratio>,
    /// Where they were read.
    pub(crate) file: PathBuf,
}

/// How many times its compressed bytes a layer may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ratio {
    pub(crate) times: NonZeroU64,
    /// Counts above this many unpacked bytes.
    pub(crate) from: u64,
}

impl Settings {
    /// Finds the file and reads it. What is wrong is noted, and left out.
    pub(crate) fn load(arguments: &[OsString]) -> Self {
        let named = match arguments {
            [argument, path] if argument == FILE_ARGUMENT => Some(path.clone()),
            _ => None,
        };
        let path = named
            .or_else(|| std::env::var_os(FILE_VARIABLE))
            .filter(|path| !path.is_empty())
            .map_or_else(|| PathBuf::from(DEFAULT_FILE), PathBuf::from);
        let (settings, problems) = match read(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(problem) => {
                let none = Self {
                    bounds: None,
                    node: None,
                };
                (none, vec![problem])
            }
        };
        for problem in problems.iter().take(MAX_NOTES) {
            eprintln!("magi-unpack: {}: {problem}", path.display());
        }
        settings
    }

    /// Reads `key = value` lines; `#` begins a comment, at the beginning of a line or after a space. What it complains about does not count.
    fn parse(text: &str, path: &Path) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let (mut unpacked, mut times, mut from) = (None, None, DEFAULT_RATIO_FROM);
        let mut node = Some(PathBuf::from(NODE));
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let value = value.trim();
            let read = match key.trim() {
                "unpacked" => bytes(value).map(|bytes| unpacked = Some(bytes)),
                "ratio" => whole(value).map(|whole| times = Some(whole)),
                "ratio-from" => bytes(value).map(|bytes| from = bytes),
                "node" if value == NOBODY => {
                    node = None;
                    Ok(())
                }
                "node" => absolute(value).map(|path| node = Some(path)),
                _ => Err("neither unpacked, ratio, ratio-from nor node".to_owned()),
            };
            if let Err(problem) = read {
                problems.push(format!("line {number}: {problem}"));
            }
        }
        let bounds = Bounds {
            unpacked,
            ratio: times.map(|times| Ratio { times, from }),
            file: path.to_owned(),
        };
        let is_bound = bounds.unpacked.is_some() || bounds.ratio.is_some();
        let bounds = is_bound.then_some(bounds);
        (Self { bounds, node }, problems)
    }
}

/// The file's text; empty if there is none, which is no mistake.
fn read(path: &Path) -> Result<String, String> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        // Opening a fifo would wait for its other end.
        Ok(metadata) if !metadata.is_file() => return Err("not a file".to_owned()),
        Ok(_) | Err(_) => {}
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 <= MAX_FILE {
        Ok(text)
    } else {
        Err(format!("more than {MAX_FILE} bytes"))
    }
}

/// `10737418240`, `10GiB`, `512 MiB`: a whole number, and at most one unit.
fn bytes(value: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| Some((value.strip_suffix(unit)?.trim_end(), shift)))
        .unwrap_or((value, 0));
    whole(number)?
        .get()
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{value:?} is more than there is"))
}

fn absolute(value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{value:?} is neither a path from / on nor `{NOBODY}`"))
    }
}

fn whole(value: &str) -> Result<NonZeroU64, String> {
    value
        .parse()
        .map_err(|_| format!("{value:?} is no whole number above 0, with KiB, MiB, GiB or TiB behind bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, times and the ratio's floor, with 0 for none; and how many lines are wrong.
    fn parse(text: &str) -> ([u64; 3], usize) {
        let (settings, problems) = Settings::parse(text, Path::new("/f"));
        let bounds = settings.bounds.map_or([0; 3], |bounds| {
            let ratio = bounds.ratio.map(|ratio| (ratio.times.get(), ratio.from));
            let (times, from) = ratio.unwrap_or_default();
            [bounds.unpacked.unwrap_or_default(), times, from]
        });
        (bounds, problems.len())
    }

    #[test]
    fn the_file_s_lines_are_read_and_bad_ones_passed_over() {
        let text =
            "# magi\n\n unpacked = 20 GiB   # each\nratio=200\nratio-from = 1MiB\nspeed = 9\nnonsense\n";
        assert_eq!(parse(text), ([20 << 30, 200, 1 << 20], 2));
        assert_eq!(parse("unpacked = 7\nunpacked = x"), ([7, 0, 0], 1));
        assert_eq!(parse("ratio = 9"), ([0, 9, DEFAULT_RATIO_FROM], 0));
    }

    #[test]
    fn magi_node_is_told_unless_the_file_forbids_it() {
        let node = |text: &str| Settings::parse(text, Path::new("/f")).0.node;
        assert_eq!(node(""), Some(PathBuf::from(NODE)));
        assert_eq!(node("node = /x/y.sock"), Some(PathBuf::from("/x/y.sock")));
        assert_eq!(node("node = none"), None);
        assert_eq!(node("node = x"), Some(PathBuf::from(NODE)));
    }

    #[test]
    fn a_file_that_bounds_nothing_is_as_none() {
        for text in ["", "#unpacked = 7", "ratio-from = 7"] {
            assert_eq!(parse(text), ([0; 3], 0), "{text}");
        }
        for value in [
            "",
            "0",
            "-1",
            "1.5GiB",
            "1 GB",
            "1k",
            "16777216TiB",
            "99999999999999999999",
        ] {
            assert_eq!(parse(&format!("unpacked = {value}")), ([0; 3], 1), "{value}");
        }
    }

    #[test]
    fn no_file_is_no_mistake_and_a_folder_is_one() {
        assert_eq!(read(Path::new("/no/such/file")), Ok(String::new()));
        assert!(read(Path::new("/")).is_err());
        assert!(read(Path::new("/dev/zero")).is_err());
    }
}
