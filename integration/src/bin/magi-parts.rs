//! Fetches what the harness runs (containerd 1.7 and 2.x, runc, docker-registry) and says what it did.

use std::process::ExitCode;

use magi_integration::parts;

fn main() -> ExitCode {
    match parts::obtain_saying(&mut |line| println!("{line}")) {
        Ok(found) => {
            if found.runc.is_none() {
                println!("no runc of our own: the one on PATH is used where a pod is started");
            }
            if found.docker_registry.is_none() {
                println!("no docker-registry: tests against it say that they were skipped");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            // On one line: whoever reads it needs to know what to set, not where in the code it was found out.
            eprintln!("magi-parts: {error:#}");
            ExitCode::FAILURE
        }
    }
}
