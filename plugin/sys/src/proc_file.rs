//! Reading small files of `/proc`, bounded.

use std::fs::File;
use std::io::{self, Read};

/// More than any of the files read here has.
const LIMIT: u64 = 64 * 1024;

/// The file's text. Names that processes choose for themselves may hold any bytes, hence the loss.
///
/// A file that reaches the bound gives `FileTooLarge`.
pub(crate) fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    let length = File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    if u64::try_from(length).is_ok_and(|length| length < LIMIT) {
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// The value of `name:` in a file of `name:<blanks>value` lines.
pub(crate) fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}
