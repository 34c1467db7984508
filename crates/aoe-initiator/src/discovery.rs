//! Finds targets: broadcasts configuration queries, listens to announcements, and asks each target
//! that answers what it is.
//!
//! Anybody on the segment can announce anything, so everything here is bounded: the table, the
//! probes at a time, the strings. When the table is full, who was announced but never answered a
//! probe makes room.
//!
//! Two targets may answer for one shelf.slot: by mistake, or because one machine replaced another.
//! Mixing them as two paths to one disk (as Linux does) corrupts data, so the second is listed as a
//! conflict and not used while the first is around.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use block::Instant;
use runtime::EventQueue;
use seal::{Identity, PublicKey};

use super::client::Random;
use super::outlet::{Outlet, Transmit};
use super::paths::{LocalPort, PATHS_MAX, PathId};
use super::probe::{Probe, ProbeState, TargetKind};
use aoe_wire::{
    Command, ConfigCommand, ConfigMessage, ExportInfo, Header, MacAddr, PortId, ShelfSlot,
};

/// Targets that are remembered: a thousand machines of 24 disks, each by two cables.
pub const TARGETS_MAX: usize = 1 << 16;
/// Targets that are asked at the same time.
const PROBES_MAX: usize = 32;
/// Queries follow each other so quickly at first.
const EAGER_INTERVAL: Duration = Duration::from_secs(1);
const EAGER_FOR: Duration = Duration::from_secs(5);
/// And then so.
const INTERVAL: Duration = Duration::from_secs(10);
/// A target that answered no query for so long doesn't defend its address any more.
const GONE_AFTER: Duration = Duration::from_secs(35);
/// One that answers queries, but nothing else, is asked again after this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A plain target is asked again whether it has learnt to open sessions.
const ASK_PLAIN_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Events not yet fetched; more are dropped, the next announcement brings them again.
const EVENTS_MAX: usize = 4 * TARGETS_MAX;

/// What a target says about itself in answer to a configuration query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetConfig {
    /// Requests that it queues.
    pub buffer_count: u16,
    /// Its firmware version.
    pub firmware: u16,
    /// Most sectors in an ATA command.
    pub sectors_max: u8,
    /// Its configuration string.
    pub string: Vec<u8>,
}

/// A target on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// Its address.
    pub address: ShelfSlot,
    /// Our port and its MAC.
    pub path: PathId,
    /// What it announced.
    pub config: TargetConfig,
    /// What it turned out to be; `None` until it answered.
    pub kind: Option<TargetKind>,
    /// Another target has the same address and was there first.
    pub is_conflict: bool,
    /// When it last answered or announced itself.
    pub seen: Instant,
}

/// What discovery has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// A target was asked and answered. Comes again when it is asked again.
    Found(Box<TargetInfo>),
    /// A target that is known showed itself: a sign of life.
    Seen(ShelfSlot, PathId),
    /// A second target answers for an address. It isn't used.
    Conflict(Box<TargetInfo>),
}

struct Entry {
    info: TargetInfo,
    probe: Option<Probe>,
    place: Place,
    /// When it was asked last what it is.
    probed: Option<Instant>,
}

/// In which of the lists an entry stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Waits for a probe; who answered our query before who just announced itself.
    Waiting { is_unasked: bool, since: Instant },
    /// Is being asked.
    Probing,
    /// Was asked and has never answered.
    Silent { since: Instant },
    /// Has answered.
    Known,
}

type Key = (ShelfSlot, PathId);

/// Discovery on all ports.
pub struct Discovery {
    random: Random,
    identity: Option<Rc<Identity>>,
    outlet: Outlet,
    ports: BTreeMap<PortId, LocalPort>,
    entries: BTreeMap<Key, Entry>,
    /// The entries by place, so that a flood costs little.
    waiting: BTreeSet<(bool, Instant, Key)>,
    probing: BTreeSet<Key>,
    silent: BTreeSet<(Instant, Key)>,
    eager_until: Instant,
    next_query: Instant,
    query_tag: u32,
    events: EventQueue<DiscoveryEvent, EVENTS_MAX>,
}

impl Discovery {
    /// Queries as soon as there is a port, as who we are if we have a key.
    pub fn new(now: Instant, mut random: Random, identity: Option<Rc<Identity>>) -> Discovery {
        let first_tag = random() as u32;
        Discovery {
            random,
            identity,
            outlet: Outlet::new(ShelfSlot::ANY, first_tag),
            ports: BTreeMap::new(),
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            probing: BTreeSet::new(),
            silent: BTreeSet::new(),
            eager_until: now + EAGER_FOR,
            next_query: now,
            query_tag: first_tag,
            events: EventQueue::default(),
        }
    }

    /// Learns of a port, or of its changed address or MTU; asks there at once.
    pub fn set_port(&mut self, now: Instant, port: LocalPort) {
        self.outlet.paths.set_port(port);
        if self.ports.insert(port.id, port) != Some(port) {
            self.ask_soon(now);
        }
    }

    /// Forgets a port and who was seen there.
    pub fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.outlet.paths.remove_port(port);
        self.forget_where(|key, _| key.1.port == port);
    }

    /// Asks everybody now, and those who are known again what they are.
    pub fn ask(&mut self, now: Instant) {
        self.ask_soon(now);
        let idle: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.place, Place::Known | Place::Silent { .. }))
            .map(|(key, _)| *key)
            .collect();
        idle.into_iter().for_each(|key| self.queue(key, false, now));
    }

    /// All targets, by address.
    pub fn targets(&self) -> Vec<TargetInfo> {
        self.entries.values().map(|entry| entry.info.clone()).collect()
    }

    /// A reply or announcement arrived. False when it wasn't for discovery.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        port: PortId,
        header: &Header,
        frame: &[u8],
    ) -> bool {
        let path = PathId { port, target: header.source };
        if header.command == Command::Config {
            self.handle_config(now, path, frame);
        } else {
            let entry = self.entries.get_mut(&(header.address, path));
            let Some(probe) = entry.and_then(|entry| entry.probe.as_mut()) else { return false };
            self.outlet.address = header.address;
            let (is_mine, state) =
                probe.handle_frame(now, header, frame, &mut self.outlet, &mut self.random);
            if !is_mine {
                return false;
            }
            self.finish_probe(now, (header.address, path), state);
        }
        self.advance(now);
        true
    }

    /// The time of [`Discovery::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outlet.poll()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DiscoveryEvent> {
        self.events.pop()
    }

    /// When [`Discovery::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let query = (!self.ports.is_empty()).then_some(self.next_query);
        let probes = self.probing.iter().filter_map(|key| self.entries.get(key)?.probe.as_ref());
        probes.map(Probe::deadline).chain(query).min()
    }

    /// Another disk than the one that was found opened at an address: nobody is known there until all who answer for it
    /// have said what they are.
    pub fn doubt(&mut self, now: Instant, address: ShelfSlot) {
        let is_due = |entry: &Entry| entry.probed.is_none_or(|at| now >= at + ASK_AGAIN_AFTER);
        let doubted: Vec<Key> = self
            .entries
            .iter_mut()
            .filter(|(key, entry)| key.0 == address && entry.probe.is_none() && is_due(entry))
            .map(|(key, entry)| {
                entry.info.kind = None;
                *key
            })
            .collect();
        doubted.into_iter().for_each(|key| self.queue(key, false, now));
    }

    fn ask_soon(&mut self, now: Instant) {
        self.next_query = now;
        self.eager_until = now + EAGER_FOR;
    }

    fn handle_config(&mut self, now: Instant, path: PathId, frame: &[u8]) {
        let Ok((message, string)) = ConfigMessage::parse(frame) else { return };
        let header = message.header;
        let is_station =
            !header.source.0[0].is_multiple_of(2) || header.source == MacAddr::default();
        if !header.response || header.error.is_some() || !header.address.is_concrete() || is_station
        {
            return;
        }
        let config = TargetConfig {
            buffer_count: message.buffer_count,
            firmware: message.firmware,
            sectors_max: message.sectors_max,
            string: string.to_vec(),
        };
        let was_asked = header.tag == self.query_tag;
        let key = (header.address, path);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.info.seen = now;
            entry.info.config = config;
            let again_after = match &entry.info.kind {
                None => Some(ASK_AGAIN_AFTER),
                Some(TargetKind::Session { .. }) if !entry.info.is_conflict => None,
                Some(_) => Some(ASK_PLAIN_AGAIN_AFTER),
            };
            let is_due = again_after.zip(entry.probed).is_some_and(|(wait, at)| now >= at + wait);
            // One that refuses us, or that we refuse, is no way to a disk.
            let is_usable =
                matches!(entry.info.kind, Some(TargetKind::Session { .. } | TargetKind::Plain(_)));
            let is_answering = is_usable && !entry.info.is_conflict;
            let moves_up = matches!(entry.place, Place::Waiting { is_unasked: true, .. });
            let is_idle = matches!(entry.place, Place::Known | Place::Silent { .. });
            if is_due && is_idle || moves_up && was_asked {
                self.queue(key, !was_asked, now);
            }
            if is_answering {
                self.events.push(DiscoveryEvent::Seen(key.0, key.1));
            }
            return;
        }
        if !self.make_room(header.address, was_asked) {
            return;
        }
        let info = TargetInfo {
            address: header.address,
            path,
            config,
            kind: None,
            is_conflict: false,
            seen: now,
        };
        let entry = Entry { info, probe: None, place: Place::Known, probed: None };
        self.entries.insert(key, entry);
        self.queue(key, !was_asked, now);
    }

    fn queue(&mut self, key: Key, is_unasked: bool, now: Instant) {
        self.set_place(key, Place::Waiting { is_unasked, since: now });
    }

    fn set_place(&mut self, key: Key, place: Place) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        match std::mem::replace(&mut entry.place, place) {
            Place::Waiting { is_unasked, since } => {
                self.waiting.remove(&(is_unasked, since, key));
            }
            Place::Probing => {
                self.probing.remove(&key);
            }
            Place::Silent { since } => {
                self.silent.remove(&(since, key));
            }
            Place::Known => {}
        }
        match place {
            Place::Waiting { is_unasked, since } => {
                self.waiting.insert((is_unasked, since, key));
            }
            Place::Probing => {
                self.probing.insert(key);
            }
            Place::Silent { since } => {
                self.silent.insert((since, key));
            }
            Place::Known => {}
        }
    }

    fn forget(&mut self, key: Key) {
        self.set_place(key, Place::Known);
        self.entries.remove(&key);
    }

    fn forget_where(&mut self, is_gone: impl Fn(&Key, &Entry) -> bool) {
        let gone: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| is_gone(key, entry))
            .map(|(key, _)| *key)
            .collect();
        gone.into_iter().for_each(|key| self.forget(key));
    }

    /// Room for one more; false when there is none.
    fn make_room(&mut self, address: ShelfSlot, was_asked: bool) -> bool {
        // One address has few paths: a hundred MACs for it are no reason to forget the others.
        let of_address = paths_of(address);
        if self.entries.range(of_address.clone()).count() >= 2 * PATHS_MAX {
            let stalest = self
                .entries
                .range(of_address)
                .filter(|(_, entry)| entry.info.kind.is_none() && entry.probe.is_none())
                .min_by_key(|(_, entry)| entry.info.seen)
                .map(|(key, _)| *key);
            return self.displace(stalest);
        }
        if self.entries.len() < TARGETS_MAX {
            return true;
        }
        // Silent ones first, then those who wait unasked, but never for somebody unasked.
        let silent = self.silent.first().map(|(_, key)| *key);
        // The set of those who wait is looked at only for somebody who was asked: announcements cost
        // a stranger nothing and must cost us little.
        let unasked = || {
            let mut waiting = self.waiting.iter().rev().take_while(|(is_unasked, ..)| *is_unasked);
            let is_stranger =
                |key: &Key| self.entries.get(key).is_some_and(|entry| entry.info.kind.is_none());
            waiting.find(|(_, _, key)| is_stranger(key)).map(|(_, _, key)| *key)
        };
        let victim = silent.or_else(|| was_asked.then(unasked).flatten());
        self.displace(victim)
    }

    fn displace(&mut self, victim: Option<Key>) -> bool {
        let Some(victim) = victim else { return false };
        self.forget(victim);
        true
    }

    fn advance(&mut self, now: Instant) {
        if now >= self.next_query {
            self.query();
            self.forget_the_gone(now);
            let eager = now + EAGER_INTERVAL <= self.eager_until;
            self.next_query = now + if eager { EAGER_INTERVAL } else { INTERVAL };
        }
        self.advance_probes(now);
        self.start_probes(now);
    }

    fn query(&mut self) {
        self.query_tag = (self.random)() as u32 & 0x7fff_ffff;
        for port in self.ports.values() {
            let header = Header::request(
                MacAddr::BROADCAST,
                port.mac,
                ShelfSlot::ANY,
                Command::Config,
                self.query_tag,
            );
            let frame = ConfigMessage::request(header, ConfigCommand::Read).emit(&[]);
            self.outlet.push(PathId { port: port.id, target: MacAddr::BROADCAST }, frame);
        }
    }

    fn forget_the_gone(&mut self, now: Instant) {
        self.forget_where(|_, entry| now >= entry.info.seen + GONE_AFTER * 2);
    }

    fn advance_probes(&mut self, now: Instant) {
        let is_due = |key: &Key| {
            let probe = self.entries.get(key).and_then(|entry| entry.probe.as_ref());
            probe.is_some_and(|probe| probe.deadline() <= now)
        };
        let due: Vec<Key> = self.probing.iter().filter(|key| is_due(key)).copied().collect();
        for key in due {
            let Some(probe) = self.entries.get_mut(&key).and_then(|entry| entry.probe.as_mut())
            else {
                continue;
            };
            self.outlet.address = key.0;
            let state = probe.advance(now, &mut self.outlet, &mut self.random);
            self.finish_probe(now, key, state);
        }
    }

    fn start_probes(&mut self, now: Instant) {
        while self.probing.len() < PROBES_MAX {
            let Some(&(_, _, key)) = self.waiting.first() else { return };
            self.set_place(key, Place::Probing);
            let Some(entry) = self.entries.get_mut(&key) else { return };
            let mut probe = Probe::new(now, key.0, key.1, self.identity.clone(), &mut self.random);
            self.outlet.address = key.0;
            let state = probe.advance(now, &mut self.outlet, &mut self.random);
            entry.probed = Some(now);
            entry.probe = Some(probe);
            self.finish_probe(now, key, state);
        }
    }

    fn finish_probe(&mut self, now: Instant, key: Key, state: ProbeState) {
        let kind = match state {
            ProbeState::Running => return,
            ProbeState::Nobody => None,
            ProbeState::Done(kind) => Some(*kind),
        };
        let is_conflict = kind.as_ref().is_some_and(|kind| self.conflicts(now, key, kind));
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.probe = None;
        let place = match kind.is_some() || entry.info.kind.is_some() {
            true => Place::Known,
            false => Place::Silent { since: now },
        };
        self.set_place(key, place);
        let (Some(kind), Some(entry)) = (kind, self.entries.get_mut(&key)) else { return };
        entry.info.kind = Some(kind);
        entry.info.is_conflict = is_conflict;
        entry.info.seen = now;
        let info = entry.info.clone();
        if is_conflict {
            self.events.push(DiscoveryEvent::Conflict(Box::new(info)));
        } else {
            self.events.push(DiscoveryEvent::Found(Box::new(info)));
        }
    }

    /// Another disk has taken the place at an address: no way to it leads by who was there.
    pub fn retire_others(&mut self, address: ShelfSlot, by: &TargetKind) {
        let others = self.entries.range_mut(paths_of(address)).map(|(_, entry)| entry);
        let differs = |entry: &&mut Entry| {
            entry.info.kind.as_ref().is_some_and(|known| !is_same_disk(known, by))
        };
        others.filter(differs).for_each(|entry| entry.info.is_conflict = true);
    }

    /// Whether somebody else is known, and was lately seen, under this address.
    fn conflicts(&self, now: Instant, key: Key, kind: &TargetKind) -> bool {
        let own = self.identity.as_deref();
        self.entries.range(paths_of(key.0)).any(|(other, entry)| {
            other.1 != key.1
                && !entry.info.is_conflict
                && now < entry.info.seen + GONE_AFTER
                && entry
                    .info
                    .kind
                    .as_ref()
                    .is_some_and(|known| !is_same_disk(known, kind) && !gives_way(own, known, kind))
        })
    }
}

/// Whether who was first at an address gives way to another one: a stranger does to a machine of this one's own.
pub(crate) fn gives_way(own: Option<&Identity>, first: &TargetKind, other: &TargetKind) -> bool {
    let Some(own) = own.filter(|own| own.tells_own()) else { return false };
    let is_own = |kind: &TargetKind| match kind {
        TargetKind::Session { node_key: Some(key), .. } => own.is_own(key),
        _ => false,
    };
    !is_own(first) && is_own(other)
}

/// All paths to an address.
fn paths_of(address: ShelfSlot) -> RangeInclusive<Key> {
    let lowest = PathId { port: PortId(0), target: MacAddr::default() };
    let highest = PathId { port: PortId(u32::MAX), target: MacAddr::BROADCAST };
    (address, lowest)..=(address, highest)
}

/// Whether two sessions are with the same disk. A machine calls itself what it likes, but by its own key alone; without
/// one nothing is proved either way.
pub(crate) fn is_same_export(
    (one, of_one): (&ExportInfo, Option<PublicKey>),
    (other, of_other): (&ExportInfo, Option<PublicKey>),
) -> bool {
    one.node_id == other.node_id
        && one.export_name == other.export_name
        && of_one.zip(of_other).is_none_or(|(one, other)| one == other)
}

/// Whether two answers come from the same disk.
pub(crate) fn is_same_disk(one: &TargetKind, other: &TargetKind) -> bool {
    match (one, other) {
        // Who refuses doesn't say who it is, and isn't used.
        (TargetKind::Refused(_) | TargetKind::Unfit(_), _)
        | (_, TargetKind::Refused(_) | TargetKind::Unfit(_)) => true,
        (
            TargetKind::Session { export: one, node_key: of_one },
            TargetKind::Session { export: other, node_key: of_other },
        ) => is_same_export((one, *of_one), (other, *of_other)),
        (TargetKind::Plain(one), TargetKind::Plain(other)) => {
            one.serial == other.serial && one.model == other.model && one.sectors == other.sectors
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
