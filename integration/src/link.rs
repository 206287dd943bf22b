//! Two network namespaces of the run's own, the node's and the registry's, and a link of limited rate between them.
//!
//! Each namespace lives by a process that sleeps in it and ends with us, however we end: namespaces, link and limit then
//! go with it, and nothing of them has a name that could be left behind. The host's network is not touched.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{Launch, Process};
use crate::wait;

const BOUND: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);
/// Its name at both ends.
const INTERFACE: &str = "wire0";
/// For documentation (RFC 5737): no such network is anywhere near.
const REGISTRY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The bucket holds what flows in so many milliseconds: the seed's 16 kbit at 500 kbit/s.
const BURST_MS: u64 = 32;
/// The longest that a packet may wait, as the seed has it.
const LATENCY: &str = "50ms";

/// The link and its two ends.
#[derive(Debug)]
pub struct Link {
    node: Space,
    registry: Space,
    megabits: u64,
}

/// A network namespace.
#[derive(Debug)]
struct Space {
    file: File,
    // It keeps it alive.
    sleeper: Process,
}

impl Link {
    /// Makes both namespaces and joins them; towards the node, no more than so many megabits per second flow.
    pub fn limited(megabits: u64) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder")?;
        let link = Self {
            node: Space::make("the node's network", &folder.path().join("node"))?,
            registry: Space::make("the registry's network", &folder.path().join("registry"))?,
            megabits,
        };
        let there = link.node.sleeper.pid().to_string();
        let words = [
            "link", "add", "name", INTERFACE, "type", "veth", "peer", "name", INTERFACE,
        ];
        link.registry
            .run("ip", &[words.as_slice(), &["netns", &there]].concat())?;
        for (space, address) in [(&link.registry, REGISTRY), (&link.node, NODE)] {
            let address = format!("{address}/30");
            space.run("ip", &["address", "add", &address, "dev", INTERFACE])?;
            space.run("ip", &["link", "set", INTERFACE, "up"])?;
            space.run("ip", &["link", "set", "lo", "up"])?;
            space.forget_connections()?;
        }
        let rate = format!("{megabits}mbit");
        let burst = (megabits * 1000 / 8 * BURST_MS).to_string();
        let bucket = ["root", "tbf", "rate", &rate, "burst", &burst, "latency", LATENCY];
        let words = ["qdisc", "add", "dev", INTERFACE];
        link.registry.run("tc", &[words.as_slice(), &bucket].concat())?;
        Ok(link)
    }

    /// A socket on the registry's side that listens.
    pub fn listener(&self) -> Result<TcpListener> {
        self.registry
            .within(|| TcpListener::bind((REGISTRY, 0)).context("listen on the link"))
    }

    /// Does it on a thread of the node's network; what that starts, threads and processes, is in there too.
    pub fn on_node<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.node.within(act)
    }

    /// What tc says of the limit and what has passed it.
    pub fn state(&self) -> Result<String> {
        self.registry
            .run("tc", &["-s", "qdisc", "show", "dev", INTERFACE])
    }

    /// The limit, in megabits per second.
    pub fn megabits(&self) -> u64 {
        self.megabits
    }
}

impl Space {
    fn make(name: &str, log: &std::path::Path) -> Result<Self> {
        let sleeper = Launch::new(name, "unshare", log)
            .arg("--net")
            .arg("--")
            .arg("sleep")
            .arg("infinity")
            .start()?;
        let ours = inode(&own()?)?;
        let path = format!("/proc/{}/ns/net", sleeper.pid());
        // Its program changes twice before it sleeps; the namespace is there once it is another than ours.
        let file = wait::until_blocking(name, BOUND, STEP, || {
            let file = File::open(&path).ok()?;
            (inode(&file).ok()? != ours).then_some(file)
        })
        .with_context(|| sleeper.log_tail(5))?;
        Ok(Self { file, sleeper })
    }

    fn within<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        // A thread of its own: the caller stays where it is.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter(&self.file).with_context(|| format!("enter {}", self.sleeper.name()))?;
                    act()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Lets no connection begin with what an earlier one learnt of the path: each measurement would colour the next.
    fn forget_connections(&self) -> Result<()> {
        self.within(|| {
            std::fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1").context("set tcp_no_metrics_save")
        })
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.within(|| {
            let output = Command::new(program)
                .args(args)
                .stdin(Stdio::null())
                .output()
                .with_context(|| format!("start {program}, which the Debian package iproute2 has"))?;
            ensure!(
                output.status.success(),
                "{program} {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).map_err(|_| anyhow!("{program} speaks no UTF-8"))
        })
    }
}

/// The network namespace of the calling thread.
pub(crate) fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Moves the calling thread into a network namespace. It asks for no right if the thread is in there already.
pub(crate) fn enter(network: &File) -> io::Result<()> {
    if inode(network)? == inode(&own()?)? {
        return Ok(());
    }
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn inode(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.ino())
}
