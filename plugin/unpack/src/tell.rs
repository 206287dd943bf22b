//! Tells magi-node what was stopped, for its audit trail. Nothing hangs on it: magi-node may be absent, slow or hung.
//!
//! The line is written here by hand, so that this program needs no dependency; `plugin/api/src/request.rs` has its shape.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Longest wait for magi-node to take the line, and again for its answer. The failing pull waits so long.
const WITHIN: Duration = Duration::from_millis(200);
/// Of the answer, only that it comes is of interest: then the line was read.
const ANSWER: usize = 1;

/// Sends one line, and waits until magi-node has heard it.
pub(crate) fn node(path: &Path, line: &str) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Without waiting: where the queue of connections is full, nobody takes them.
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WITHIN))?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    stream.read_exact(&mut [0; ANSWER])
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::io::BufReader;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn the_line_is_sent_and_nobody_is_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.sock");
        assert!(node(&path, "{}").is_err(), "nobody listens");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(node(&path, "{}").is_err(), "nobody answers");
        drop(listener.accept().unwrap());
        let answers = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(b"{}\n").unwrap();
            line
        });
        node(&path, "{\"v\":1}").unwrap();
        assert_eq!(answers.join().unwrap(), "{\"v\":1}\n");
    }
}
