//! The stream processor that containerd executes for each layer: the compressed layer on standard input, its tar on
//! standard output, and a layer that unpacks to more than it may is stopped, with its reason in the pull's error.
//!
//! Within its bounds it gives the bytes that containerd's own decoder would give, or fails where that would fail. It works
//! alone: nothing but its own small file is asked, and without that file nothing is bounded.
#![forbid(unsafe_code)]

mod decode;
mod follow;
mod guard;
mod header;
mod input;
mod layer;
mod linger;
mod output;
mod settings;
mod sink;
mod tell;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::parent_id;
use std::process::ExitCode;

use decode::Failure;
use input::Input;
use settings::Settings;
use sink::Sink;

/// None of our command lines has more.
const MOST_ARGUMENTS: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).take(MOST_ARGUMENTS).collect();
    if let Some(parent) = linger::asked(&arguments) {
        linger::outlive(parent);
        return ExitCode::SUCCESS;
    }
    let settings = Settings::load(&arguments);
    let mut input = Input::new(Box::new(io::stdin().lock()));
    match unpack(&settings, &mut input) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let layer = layer::digest(parent_id(), input.beginning());
            if let (Failure::Bound(exceeded), Some(node)) = (&failure, &settings.node) {
                // containerd hears it in any case.
                let _told = tell::node(node, &exceeded.told_of(layer.as_deref()));
            }
            let layer = layer.map_or(String::new(), |digest| format!("; the layer is {digest}"));
            // containerd makes what stands here the pull's error, white space and all.
            let _nobody_listens = write!(io::stderr(), "magi-unpack: {failure}{layer}");
            // Where containerd does not read any more, it has its own reason, and asks nobody for another.
            if !matches!(failure, Failure::Write(_) | Failure::Gone) {
                linger::after_us();
            }
            ExitCode::FAILURE
        }
    }
}

fn unpack(settings: &Settings, input: &mut Input) -> Result<(), Failure> {
    let stdout = io::stdout();
    // A larger pipe lets containerd and this program wait for one another less often. It may be refused: no matter.
    for widened in [
        rustix::pipe::fcntl_setpipe_size(io::stdin(), input::PIPE),
        rustix::pipe::fcntl_setpipe_size(&stdout, input::PIPE),
    ] {
        let _no_pipe_or_too_many = widened;
    }
    // Not through the standard output's own buffer, which copies, and looks for line ends.
    let stdout = stdout.as_fd().try_clone_to_owned().map_err(Failure::Write)?;
    let mut sink = Sink::start(settings.bounds.clone(), File::from(stdout))?;
    let decoded = decode::decode(input, &mut sink);
    // What was let through goes out whatever happened: containerd must see the same bytes as from its own decoder.
    let written = sink.finish();
    decoded.and(written)
}
