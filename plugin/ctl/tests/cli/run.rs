//! Runs the program: in pipes, or on a terminal of its own.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// The program with nothing of our own environment that it heeds.
pub(crate) fn magictl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_magictl"));
    command.args(arguments).stdin(Stdio::null());
    for name in [
        "MAGI_MASTER",
        "MAGI_MASTER_NAME",
        "MAGI_MASTER_TLS",
        "MAGI_SETTINGS",
        "MAGI_SOCKET",
        "MAGI_REGISTRY_AUTH",
        "COLUMNS",
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "CLICOLOR",
    ] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm");
    command
}

/// Exit code, standard output and standard error.
pub(crate) fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A child that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

/// Runs on a terminal of 80 columns, types `input`, and returns the exit code and all that was shown.
pub(crate) fn on_terminal(mut command: Command, input: &str) -> (i32, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let end: OwnedFd = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&end, size).unwrap();
    command
        .stdin(end.try_clone().unwrap())
        .stdout(end.try_clone().unwrap())
        .stderr(end);
    let mut child = Running(command.spawn().unwrap());
    // The command holds the last other end of the terminal.
    drop(command);

    let mut terminal = std::fs::File::from(terminal);
    terminal.write_all(input.as_bytes()).unwrap();
    let mut shown = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match terminal.read(&mut chunk) {
            // EIO is how a terminal ends.
            Ok(0) | Err(_) => break,
            Ok(length) => shown.extend_from_slice(&chunk[..length]),
        }
    }
    let code = child.0.wait().unwrap().code().unwrap();
    (code, String::from_utf8(shown).unwrap().replace("\r\n", "\n"))
}

/// Reads `lines` lines of what a child prints.
pub(crate) fn read_lines(from: impl Read, lines: usize) -> Vec<String> {
    use io::BufRead;
    io::BufReader::new(from)
        .lines()
        .take(lines)
        .collect::<Result<_, _>>()
        .unwrap()
}
