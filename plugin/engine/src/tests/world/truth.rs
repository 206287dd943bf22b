//! What really happens in containerd and in the kernel, and how it looks from outside at one moment.

use std::time::Duration;

use super::requests::Asker;
use super::{Ingest, LayerKey, Pull, Socket, World, images};
use crate::event::{Event, LeaseView, SocketStat, View};
use crate::evidence::Source;
use crate::ids::{Cookie, LeaseKey};
use crate::owner::RequestEnd;
use crate::tests::build::{self, KIB, MIB};

/// Pulls at once.
const MOST_PULLS: usize = 7;

impl World {
    /// A pull begins, for whoever asks: a pod, nobody by CRI, or a client that nobody sees.
    pub(super) fn begin_pull(&mut self, image: usize, namespace: &'static str, asker: Asker) {
        if self.pulls.len() >= MOST_PULLS {
            return;
        }
        let number = self.count();
        let snapshot = build::snapshot(namespace, &format!("extract-{number} chain"));
        // Nothing happens at once: whatever is near is a millisecond away.
        self.pass(Duration::from_millis(1));
        let asked = self.request(image, namespace, asker);
        self.pass(Duration::from_millis(1));
        self.pulls.push(Pull {
            lease: build::lease_key(namespace, &format!("lease-{number}")),
            namespace,
            image: image % images::count(),
            created: self.now,
            asked,
            is_leaseless: false,
            runs: true,
            documents_told: 0,
            content: images::documents(image)
                .iter()
                .map(|one| one.digest.clone())
                .collect(),
            lists: Default::default(),
            unpacks: false,
            snapshot,
        });
    }

    /// Bytes of a layer arrive; the ingest and the socket appear when they are needed. A layer that another pull
    /// fetches is waited for. Tells which socket brought them.
    pub(super) fn advance(&mut self, pull: usize, layer: usize, bytes: u64) -> Option<u64> {
        let one = self.pulls.get_mut(pull).filter(|one| one.runs)?;
        let layers = images::layers(one.image);
        let sent = layers[layer % layers.len()];
        if one.content.contains(&build::digest(sent.layer)) {
            return None;
        }
        let key: LayerKey = (one.namespace, sent.layer);
        if one.is_leaseless && !one.lists.contains(&sent.layer) {
            // containerd opens no ingest for it any more.
            self.end_pull(pull, false);
            return None;
        }
        if one.lists.is_empty() {
            self.extracts.insert(one.snapshot.clone());
            one.unpacks = true;
        }
        let ingest = self.ingests.entry(key).or_insert(Ingest {
            offset: 0,
            total: sent.total,
            writer: None,
        });
        if *ingest.writer.get_or_insert_with(|| one.lease.clone()) != one.lease {
            return None;
        }
        let before = ingest.offset;
        ingest.offset = ingest.offset.saturating_add(bytes).min(sent.bytes.max(before));
        let bytes = ingest.offset - before;
        one.lists.insert(sent.layer);
        let owner = one.lease.clone();
        let cookie = self.socket_for(key, &owner);
        let socket = self.sockets.get_mut(&cookie).unwrap();
        socket.received += bytes;
        socket.for_ingest += bytes;
        Some(cookie)
    }

    /// The socket that feeds an ingest: the one that does, an idle one of the same pull, or a new one.
    fn socket_for(&mut self, layer: LayerKey, owner: &LeaseKey) -> u64 {
        let of_owner = |feeds: Option<LayerKey>| {
            self.sockets
                .iter()
                .find(|(_, socket)| socket.owner == *owner && socket.feeds == feeds)
                .map(|(cookie, _)| *cookie)
        };
        let cookie = of_owner(Some(layer))
            .or_else(|| of_owner(None))
            .unwrap_or_else(|| {
                let cookie = self.count();
                let headers = 300 + cookie % 1700;
                let socket = Socket {
                    owner: owner.clone(),
                    feeds: None,
                    received: headers,
                    for_ingest: 0,
                    unread: (cookie % 7) * 100 * KIB,
                };
                self.sockets.insert(cookie, socket);
                cookie
            });
        let socket = self.sockets.get_mut(&cookie).unwrap();
        if socket.feeds != Some(layer) {
            socket.feeds = Some(layer);
            socket.for_ingest = 0;
        }
        cookie
    }

    /// A lease lists an ingest that another pull writes: two explanations for one socket.
    pub(super) fn share(&mut self, pull: usize, layer: usize) {
        let Some(one) = self.pulls.get_mut(pull) else {
            return;
        };
        let layers = images::layers(one.image);
        let layer = layers[layer % layers.len()].layer;
        if self.ingests.contains_key(&(one.namespace, layer)) {
            one.lists.insert(layer);
        }
    }

    /// A complete layer becomes a blob, for whoever lists it.
    pub(super) fn commit(&mut self, pull: usize, layer: usize) {
        let Some(one) = self.pulls.get(pull).filter(|one| one.runs) else {
            return;
        };
        let layers = images::layers(one.image);
        let sent = layers[layer % layers.len()];
        let key: LayerKey = (one.namespace, sent.layer);
        let complete = self
            .ingests
            .get(&key)
            .is_some_and(|ingest| ingest.writer.as_ref() == Some(&one.lease) && ingest.offset == sent.bytes);
        if !complete {
            return;
        }
        self.ingests.remove(&key);
        for other in self.pulls.iter_mut().filter(|other| other.namespace == key.0) {
            if other.lists.remove(&key.1) {
                other.content.insert(build::digest(sent.layer));
            }
        }
        for (cookie, socket) in &mut self.sockets {
            if socket.feeds == Some(key) {
                socket.feeds = None;
                if self.up.contains(&Source::Probes) {
                    let cookie = Cookie(*cookie);
                    self.records.push_back(Event::SocketUnfed { cookie });
                }
            }
        }
    }

    pub(super) fn is_complete(&self, pull: usize) -> bool {
        self.pulls.get(pull).is_some_and(|one| {
            let mut layers = images::layers(one.image).iter();
            one.runs && layers.all(|sent| one.content.contains(&build::digest(sent.layer)))
        })
    }

    /// The pull is over: its sockets and its lease go, its leftovers stay for a while or for ever.
    pub(super) fn end_pull(&mut self, pull: usize, leave: bool) {
        if pull >= self.pulls.len() {
            return;
        }
        let one = self.pulls.remove(pull);
        if let Some(asked) = one.asked {
            self.request_ends(asked, RequestEnd::Answered);
            self.pass(Duration::from_millis(1));
        }
        self.close_sockets(|socket| socket.owner == one.lease);
        for layer in &one.lists {
            let key = (one.namespace, *layer);
            let listed = self
                .pulls
                .iter()
                .any(|other| other.namespace == key.0 && other.lists.contains(layer));
            let Some(ingest) = self.ingests.get_mut(&key) else {
                continue;
            };
            if ingest.writer.as_ref() != Some(&one.lease) {
                continue;
            }
            ingest.writer = None;
            if !leave && !listed {
                self.ingests.remove(&key);
            }
        }
        if !leave {
            self.extracts.remove(&one.snapshot);
        }
    }

    pub(super) fn drip(&mut self) {
        for ingest in self.ingests.values_mut().filter(|ingest| ingest.writer.is_none()) {
            ingest.offset += MIB;
        }
    }

    /// containerd's collection: whatever no lease holds goes.
    pub(super) fn collect(&mut self) {
        let pulls = &self.pulls;
        self.ingests.retain(|key, _| {
            pulls
                .iter()
                .any(|pull| pull.namespace == key.0 && pull.lists.contains(&key.1))
        });
        self.extracts
            .retain(|name| pulls.iter().any(|pull| pull.snapshot == *name));
    }

    /// containerd is started anew: leases and ingests are still there, but nobody works for them.
    pub(super) fn restart_containerd(&mut self) {
        let asked: Vec<_> = self
            .pulls
            .iter_mut()
            .filter_map(|pull| pull.asked.take())
            .collect();
        for asked in asked {
            self.request_ends(asked, RequestEnd::Closed);
        }
        self.pulls.retain(|pull| !pull.is_leaseless);
        for pull in &mut self.pulls {
            pull.runs = false;
            pull.documents_told = 0;
        }
        for ingest in self.ingests.values_mut() {
            ingest.writer = None;
        }
        self.close_sockets(|_| true);
    }

    fn close_sockets(&mut self, which: impl Fn(&Socket) -> bool) {
        let cookies: Vec<u64> = self
            .sockets
            .iter()
            .filter(|(_, socket)| which(socket))
            .map(|(cookie, _)| *cookie)
            .collect();
        for cookie in cookies {
            self.close_socket(cookie);
        }
    }

    pub(super) fn close_socket(&mut self, cookie: u64) {
        if self.sockets.remove(&cookie).is_some() && self.up.contains(&Source::Probes) {
            self.records.push_back(Event::SocketClosed {
                cookie: Cookie(cookie),
            });
        }
    }

    pub(super) fn view(&self, extracts: bool) -> View {
        let ingests = self
            .ingests
            .iter()
            .map(|(key, ingest)| {
                // containerd writes in steps of its buffer.
                let offset = ingest.offset / MIB * MIB;
                build::ingest_view(key.0, key.1, offset, ingest.total)
            })
            .collect();
        let leases = self
            .pulls
            .iter()
            .filter(|pull| !pull.is_leaseless)
            .map(|pull| LeaseView {
                key: pull.lease.clone(),
                created: Some(pull.created),
                content: pull.content.iter().cloned().collect(),
                ingests: pull.lists.iter().map(|layer| build::ingest_ref(*layer)).collect(),
                snapshots: pull.unpacks.then(|| pull.snapshot.clone()).into_iter().collect(),
            })
            .collect();
        View {
            begun: Some(self.now),
            leases,
            ingests,
            extracts: extracts.then(|| self.extracts.iter().cloned().collect()),
        }
    }

    pub(super) fn list(&self) -> Vec<SocketStat> {
        self.sockets
            .iter()
            .map(|(cookie, socket)| SocketStat {
                unread: socket.unread,
                ..build::stat(*cookie, socket.received + socket.unread)
            })
            .collect()
    }
}
