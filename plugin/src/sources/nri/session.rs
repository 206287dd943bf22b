//! One connection to the runtime, from registration to its end.
//!
//! Every call is answered before anything is made of it, and always with consent: while the runtime waits, no sandbox
//! and no container of the node gets on, and an error would make a pod fail.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::decode::{self, Asked};
use super::fields::Malformed;
use super::inventory::{Happening, Inventory, Listing};
use super::list;
use super::mux::{Connection, Trunk, TrunkError, frames};
use super::outbox::Outbox;
use super::ttrpc::{self, Kind, Message, Refusal};
use crate::causes;
use crate::containerd::ApiError;

/// Stream of the one call that magi makes.
const REGISTRATION: u32 = 1;
/// Longest wait for its answer. The runtime takes one plugin at a time, and waits for a container that is being stopped.
const REGISTERED_WITHIN: Duration = Duration::from_secs(60);
/// Longest wait for the runtime to take an answer; after this time it has given up on it.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
/// When CRI's list is looked at, counted from the synchronization; then at the last pace for ever.
const LOOKS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The runtime closed it.
    #[error("the runtime closed the connection")]
    Closed,
    /// The socket failed.
    #[error("cannot {what} the socket")]
    Socket {
        /// Read or write.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The runtime does not take answers.
    #[error("the runtime took no answer within {TAKEN_WITHIN:?}")]
    Stuck,
    /// The trunk makes no sense.
    #[error("the trunk cannot be read")]
    Trunk(#[from] TrunkError),
    /// A call makes no sense.
    #[error("{what} cannot be read")]
    Message {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: Malformed,
    },
    /// The runtime does not want the plugin.
    #[error("the runtime refused the registration")]
    Refused(#[from] Refusal),
    /// The runtime did not answer the registration.
    #[error("the runtime did not answer the registration within {REGISTERED_WITHIN:?}")]
    NotRegistered,
    /// There is nobody left to tell.
    #[error("nobody listens any more")]
    NobodyListens,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session<'a> {
    socket: UnixStream,
    trunk: Trunk,
    outbox: &'a mut Outbox,
    /// Where CRI's list is to be had.
    cri: Option<PathBuf>,
    registered: bool,
    /// What a synchronization has brought so far.
    gathered: Listing,
    /// There once the synchronization is complete.
    inventory: Option<Inventory>,
    looks: Looks,
    /// The log has it that CRI's list is not to be had.
    said: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(socket: UnixStream, outbox: &'a mut Outbox, cri: Option<PathBuf>) -> Self {
        Self {
            socket,
            trunk: Trunk::default(),
            outbox,
            cri,
            registered: false,
            gathered: Listing::default(),
            inventory: None,
            looks: Looks::default(),
            said: false,
        }
    }

    /// Whether it came as far as to know the pods.
    pub(super) fn is_synchronized(&self) -> bool {
        self.inventory.is_some()
    }

    /// Registers, answers and tells until the connection ends.
    pub(super) async fn run(&mut self) -> Ended {
        match self.serve().await {
            Err(ended) => ended,
            Ok(never) => match never {},
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Ended> {
        let (method, payload) = decode::registration();
        let call = ttrpc::call(REGISTRATION, decode::RUNTIME, method, payload, REGISTERED_WITHIN);
        self.send(Connection::Runtime, &call).await?;
        let deadline = Instant::now() + REGISTERED_WITHIN;
        loop {
            while let Some((connection, message)) = self.trunk.next()? {
                self.take(connection, &message).await?;
            }
            tokio::select! {
                biased;
                read = self.socket.read_buf(self.trunk.room()) => match read {
                    Ok(0) => return Err(Ended::Closed),
                    Ok(_) => {}
                    Err(source) => return Err(Ended::Socket { what: "read from", source }),
                },
                () = self.outbox.closed() => return Err(Ended::NobodyListens),
                () = sleep_until(deadline), if !self.registered => return Err(Ended::NotRegistered),
                () = self.outbox.room(), if self.outbox.is_behind() => self.outbox.catch_up(self.inventory.as_ref()),
                listing = self.looks.next(self.cri.as_ref()) => self.compare(listing),
            }
        }
    }

    async fn take(&mut self, connection: Connection, message: &Message) -> Result<(), Ended> {
        match (connection, message.kind) {
            (Connection::Plugin, Kind::Request) => self.take_call(message).await,
            (Connection::Runtime, Kind::Response) if message.stream == REGISTRATION => {
                ttrpc::read_outcome(&message.payload).map_err(|source| Ended::Message {
                    what: "the answer to the registration",
                    source,
                })??;
                self.registered = true;
                Ok(())
            }
            // Nothing else is spoken here; what a later version may add is none of magi's business.
            (Connection::Plugin | Connection::Runtime, Kind::Request | Kind::Response | Kind::Other) => {
                Ok(())
            }
        }
    }

    async fn take_call(&mut self, message: &Message) -> Result<(), Ended> {
        let call = ttrpc::read_call(&message.payload).map_err(|source| Ended::Message {
            what: "a call",
            source,
        })?;
        let asked = Asked::by(&call);
        let answer = match asked.answer() {
            Some(payload) => ttrpc::answer(message.stream, payload),
            None => ttrpc::unimplemented(message.stream, &call),
        };
        self.send(Connection::Plugin, &answer).await?;
        match asked {
            Asked::Configure(configure) => {
                let (runtime, version) = decode::runtime(configure);
                info!(runtime, version, "registered with NRI");
            }
            Asked::Synchronize(part) => self.synchronize(part)?,
            Asked::Event {
                happening,
                pod,
                container,
                message,
            } => self.hear(happening, (pod, container), message),
            Asked::Nothing => debug!(
                method = ttrpc::quoted(call.method),
                "a call of NRI that says nothing"
            ),
            Asked::Unknown => debug!(
                method = ttrpc::quoted(call.method),
                "a call of NRI that is not known"
            ),
        }
        Ok(())
    }

    fn synchronize(&mut self, part: &[u8]) -> Result<(), Ended> {
        let more = decode::part(part, &mut self.gathered).map_err(|source| Ended::Message {
            what: "the list of pods",
            source,
        })?;
        if !more {
            let listing = std::mem::take(&mut self.gathered);
            info!(
                sandboxes = listing.pods.len(),
                containers = listing.containers.len(),
                "NRI told all pods"
            );
            let inventory = self.inventory.insert(Inventory::of(listing));
            self.outbox.deliver(inventory.whole());
            self.looks.start();
        }
        Ok(())
    }

    fn hear(&mut self, happening: Happening, at: (u64, u64), message: &[u8]) {
        // Before the list is complete nothing is told: what happens meanwhile is in the list.
        let Some(inventory) = &mut self.inventory else {
            return;
        };
        match decode::event(happening, at, message) {
            Ok(Some(event)) => {
                let mut changes = Vec::new();
                inventory.hear(event, &mut changes);
                changes.into_iter().for_each(|change| self.outbox.deliver(change));
            }
            Ok(None) | Err(_) => {
                warn!(
                    ?happening,
                    "an event of NRI cannot be read; CRI's list will show what it was"
                );
                inventory.missed_something();
                self.outbox.deliver(inventory.whole());
                self.looks.start();
            }
        }
    }

    fn compare(&mut self, listing: Result<Listing, ApiError>) {
        let listing = match listing {
            Ok(listing) => listing,
            Err(error) if !std::mem::replace(&mut self.said, true) => {
                let error = causes::in_one_line(&error);
                warn!(
                    error,
                    "cannot compare what NRI tells with CRI's list; trying again"
                );
                return;
            }
            Err(_) => return,
        };
        self.said = false;
        let Some(inventory) = &mut self.inventory else {
            return;
        };
        let mut changes = Vec::new();
        inventory.compare(listing, &mut changes);
        if !changes.is_empty() {
            debug!(changes = changes.len(), "CRI's list shows what NRI did not tell");
        }
        changes.into_iter().for_each(|change| self.outbox.deliver(change));
    }

    async fn send(&mut self, connection: Connection, message: &[u8]) -> Result<(), Ended> {
        timeout(TAKEN_WITHIN, self.socket.write_all(&frames(connection, message)))
            .await
            .map_err(|_| Ended::Stuck)?
            .map_err(|source| Ended::Socket {
                what: "write to",
                source,
            })
    }
}

/// The looks at CRI's list: one at a time, beside everything else.
#[derive(Debug, Default)]
struct Looks {
    asking: JoinSet<Result<Listing, ApiError>>,
    done: usize,
    next: Option<Instant>,
}

impl Looks {
    /// Begins anew with the shortest pause. A look that is under way began too early to count.
    fn start(&mut self) {
        self.asking.abort_all();
        self.done = 0;
        self.plan();
    }

    fn plan(&mut self) {
        let pause = LOOKS.get(self.done).or(LOOKS.last());
        self.next = pause.map(|pause| Instant::now() + *pause);
        self.done = self.done.saturating_add(1);
    }

    /// Waits for the next list. May be dropped and called again at any time.
    async fn next(&mut self, cri: Option<&PathBuf>) -> Result<Listing, ApiError> {
        loop {
            // The end of one that was broken off is no list.
            while let Some(done) = self.asking.join_next().await {
                if let Ok(listing) = done {
                    self.plan();
                    return listing;
                }
            }
            let (Some(at), Some(address)) = (self.next, cri) else {
                return std::future::pending().await;
            };
            sleep_until(at).await;
            let address = address.clone();
            self.asking.spawn(async move { list::ask(&address).await });
            self.next = None;
        }
    }
}
