//! Prints what passes on a unix socket of the given process, but for the bytes. For trying things out:
//! `cargo run -p magi-probes --example listen -- PID SOCKET`

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use magi_probes::{ConversationOptions, Conversations, Hooks, Strategy, release_memory};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut options = ConversationOptions::default();
    if arguments.next_if_eq("--syscalls").is_some() {
        options.strategy = Strategy::Only(Hooks::SyscallTracepoints);
    }
    let pid = arguments.next().ok_or("which process?")?.parse()?;
    options.paths = arguments.map(PathBuf::from).collect();
    let mut conversations = Conversations::load(&options)?;
    release_memory();
    println!("{:?} {:?}", conversations.hooks(), conversations.fell_back());
    conversations.watch(&[pid])?;
    loop {
        let mut ready = [PollFd::new(&conversations, PollFlags::IN)];
        let seconds = Timespec::try_from(Duration::from_secs(2))?;
        if poll(&mut ready, Some(&seconds))? == 0 {
            conversations.sweep()?;
            println!("{} held, {:?}", conversations.held()?, conversations.lost()?);
        }
        while conversations.drain(1024, &mut |passed| println!("{passed:?}")) == 1024 {}
    }
}
