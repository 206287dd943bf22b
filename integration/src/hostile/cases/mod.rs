//! The attacks: what is published, and how it is served. What stops them stands nowhere here.

mod content;
mod unpacking;
mod ways;

use std::time::Duration;

use anyhow::Result;

use super::world::World;
use crate::image::Image;
use crate::{Behaviour, Containerd, Registry};

/// What one connection of an attacker gets, where it is not the point.
const RATE: u64 = 20_000_000;
const MIB: u64 = 1 << 20;
/// What a layer declares that does not end there.
const DECLARED: u64 = MIB;

/// What no part of magi stops yet, whatever there is of it: known, told in SECURITY.md, and not silently more than these.
pub const OPEN: [&str; 3] = ["ignores-range-slowly", "repeated-layer", "other-type-bomb"];

/// An attack.
#[derive(Debug)]
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, for the table.
    pub what: &'static str,
    /// Publishes it.
    pub(super) set: fn(&Scene<'_>) -> Result<Attack>,
    /// How long it may go on, at most.
    pub(super) patience: Duration,
    /// The healthy pull begins when so many layers have.
    pub(super) layers_first: usize,
    /// What it writes to disk is the point.
    pub unpacks: bool,
    /// Why it is no harm that it was pulled.
    pub(super) if_pulled: Option<&'static str>,
    /// Why it is no harm that it goes on.
    pub(super) if_it_goes_on: Option<&'static str>,
    /// Why nothing stops it, where nothing does.
    pub(super) if_it_escapes: &'static str,
}

impl Case {
    const fn new(name: &'static str, what: &'static str, set: fn(&Scene<'_>) -> Result<Attack>) -> Self {
        Self {
            name,
            what,
            set,
            patience: Duration::from_secs(30),
            layers_first: 1,
            unpacks: false,
            if_pulled: None,
            if_it_goes_on: None,
            if_it_escapes: "nothing stopped it",
        }
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Case> {
    content::CASES.iter().chain(unpacking::CASES).chain(ways::CASES)
}

/// Where an attack is set up.
pub(super) struct Scene<'s> {
    pub(super) world: &'s World,
    pub(super) node: &'s Containerd,
    /// Its own, in each registry.
    pub(super) repository: String,
    /// Its own, and up to 999 more.
    pub(super) seed: u64,
}

impl Scene<'_> {
    /// Publishes an image that is served so, and gives its reference.
    fn put(&self, registry: &Registry, image: &Image, behaviour: Behaviour) -> String {
        registry.behave(&self.repository, behaviour);
        registry.put(&self.repository, "1", image)
    }
}

/// What was published.
#[derive(Debug)]
pub(super) struct Attack {
    /// What is pulled at once.
    pub(super) pulls: Vec<String>,
    /// The healthy image beside it, if not just any.
    pub(super) healthy: Option<(String, Image)>,
}

impl Attack {
    fn of(reference: String) -> Result<Self> {
        Ok(Self {
            pulls: vec![reference],
            healthy: None,
        })
    }
}
