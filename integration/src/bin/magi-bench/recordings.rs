//! A long audit log, made of the recordings that the master is tested with.
//!
//! They are written one after the other, again and again; each time the uids of pods and everything else that looks like
//! one are others, so that no pod comes a second time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const DASHES: [usize; 4] = [8, 13, 18, 23];
const UUID: usize = 36;

/// Writes at least so many bytes to `path`; how many it were.
pub(crate) fn write(path: &Path, least: u64) -> Result<u64> {
    let recordings = read()?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).context("create the audit log")?);
    let (mut written, mut round) = (0, 0_u16);
    while written < least {
        let mut copy = recordings.clone();
        if round > 0 {
            rename(&mut copy, round);
        }
        file.write_all(&copy).context("write the audit log")?;
        written += copy.len() as u64;
        round += 1;
    }
    file.flush().context("write the audit log")?;
    Ok(written)
}

/// All of them, each with a newline at its end.
fn read() -> Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../master/tests/fixtures/audit");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "zst"))
        .collect();
    paths.sort();
    ensure!(!paths.is_empty(), "no recordings in {}", folder.display());
    let mut all = Vec::new();
    for path in &paths {
        let packed = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let text = zstd::decode_all(&packed[..]).with_context(|| format!("unpack {}", path.display()))?;
        all.extend_from_slice(text.trim_ascii_end());
        all.push(b'\n');
    }
    Ok(all)
}

/// Changes the first four digits of everything that is written as a UUID.
fn rename(text: &mut [u8], round: u16) {
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(find) {
        let start = at + found;
        let Some(digits) = text.get_mut(start..start + 4) else {
            return;
        };
        let old = std::str::from_utf8(digits).ok();
        let old = old.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        if let Some(old) = old {
            digits.copy_from_slice(format!("{:04x}", old ^ round).as_bytes());
        }
        at = start + UUID;
    }
}

/// Where the next UUID begins.
fn find(text: &[u8]) -> Option<usize> {
    text.windows(UUID).position(|window| {
        window.get(DASHES[0]) == Some(&b'-')
            && window.iter().enumerate().all(|(place, byte)| {
                if DASHES.contains(&place) {
                    *byte == b'-'
                } else {
                    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
                }
            })
    })
}

#[cfg(test)]
mod tests {
    use super::{find, read, rename};

    #[test]
    fn only_uids_change() {
        let mut text = b"{\"uid\":\"3ab74c3c-4df8-47cd-bac0-f05be7b4dd7b\",\"a\":\"3ab74c3c-4df8\"}".to_vec();
        rename(&mut text, 1);
        assert_eq!(
            String::from_utf8_lossy(&text),
            "{\"uid\":\"3ab64c3c-4df8-47cd-bac0-f05be7b4dd7b\",\"a\":\"3ab74c3c-4df8\"}"
        );
        assert_eq!(find(b"3ab74c3c-4df8-47cd-bac0-f05be7b4dd7"), None);
    }

    #[test]
    fn the_recordings_are_there() {
        let all = read().expect("recordings");
        assert!(all.len() > 10_000_000 && find(&all).is_some());
        assert!(
            all.split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .all(|line| line.first() == Some(&b'{'))
        );
    }
}
