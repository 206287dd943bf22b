//! Fetches what the harness runs (containerd 1.7 and 2.x, runc, docker-registry) and says what it did.

use magi_integration::parts;

fn main() -> anyhow::Result<()> {
    let found = parts::obtain_saying(&mut |line| println!("{line}"))?;
    if found.runc.is_none() {
        println!("no runc of our own: the one on PATH is used where a pod is started");
    }
    if found.docker_registry.is_none() {
        println!("no docker-registry: tests against it say that they were skipped");
    }
    Ok(())
}
