//! Prints what the probes see of the given processes, and what follows from it. For trying things out:
//! `cargo run -p magi-probes --example watch -- PID...`

use std::error::Error;
use std::time::{Duration, Instant};

use magi_probes::attribution::Attribution;
use magi_probes::{Level, Options, Probes, Strategy, release_memory};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn main() -> Result<(), Box<dyn Error>> {
    let mut pids = Vec::new();
    let mut options = Options::default();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--syscalls" => options.strategy = Strategy::Only(Level::SyscallTracepoints),
            pid => pids.push(pid.parse()?),
        }
    }
    println!("before {}", resident()?);
    let start = Instant::now();
    let mut probes = Probes::load(&options)?;
    println!("loaded {} in {:?}", resident()?, start.elapsed());
    release_memory();
    println!("released {}", resident()?);
    println!("level {:?} {:?}", probes.level(), probes.fell_back());
    probes.watch(&pids)?;
    let mut attribution = Attribution::new();
    loop {
        let mut ready = [PollFd::new(&probes, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec::try_from(Duration::from_secs(1))?))?;
        let mut show = |record| {
            println!("{record:?}");
            attribution.observe(&record, &mut |change| println!("=> {change:?}"));
        };
        while probes.drain(1024, &mut show) == 1024 {}
        let lost = probes.lost()?;
        if lost > 0 {
            println!("lost {lost}");
        }
    }
}

fn resident() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(status
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon"))
        .collect())
}
