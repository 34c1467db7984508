//! The counters of an export and of each of its clients, kept together: whatever is counted is
//! counted for the client whose command is being handled too.
//!
//! Clients are bounded. The one that was silent longest makes room for a new one, those that never
//! moved a sector first (else anyone could have the others forgotten by inventing addresses); what it
//! did stays in the sum of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use block::{Histogram, Instant};

use crate::plain::recent::Recent;
use crate::queue::QueueLimits;
use crate::stats::{Counter, ExportStats, Latencies, Moved};
use aoe_wire::MacAddr;

/// Clients per export that are told apart.
const CLIENTS_MAX: usize = 256;
/// Clients per export whose writes are remembered.
const RECENT_MAX: usize = 64;
/// For how long after its last frame a client has a claim to room in the queue.
const COMPANY: Duration = Duration::from_secs(1);

/// Where a client is kept, for the life of a command. What took its place since is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientSlot {
    index: u16,
    pub mac: MacAddr,
}

/// Who asked, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub client: ClientSlot,
    pub arrived: Instant,
}

/// What is known of a client.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    /// Who it is; `None` for the sum of those that aren't told apart any more.
    pub mac: Option<MacAddr>,
    /// When its last frame arrived.
    pub last_seen: Instant,
    /// Its share of the export's counters.
    pub stats: ExportStats,
    /// How long its reads, writes and flushes took.
    pub latency: Histogram,
}

struct Client {
    mac: MacAddr,
    last_seen: Instant,
    stats: ExportStats,
    latency: Histogram,
    recent: Option<Box<Recent>>,
    /// Commands in the queue, and the bytes that they hold.
    held: usize,
    held_bytes: u64,
}

/// See the module.
pub(crate) struct Meter {
    pub total: ExportStats,
    pub latencies: Latencies,
    pub queued_max: usize,
    clients: Vec<Client>,
    index: BTreeMap<MacAddr, u16>,
    others: Client,
    /// Whose command is being handled.
    current: Option<Origin>,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter {
            total: ExportStats::default(),
            latencies: Latencies::default(),
            queued_max: 0,
            clients: Vec::new(),
            index: BTreeMap::new(),
            others: Client::new(MacAddr::default(), Instant::default()),
            current: None,
        }
    }
}

impl Client {
    fn new(mac: MacAddr, now: Instant) -> Client {
        let (stats, latency) = Default::default();
        Client { mac, last_seen: now, stats, latency, recent: None, held: 0, held_bytes: 0 }
    }

    fn status(&self, mac: Option<MacAddr>) -> ClientStatus {
        ClientStatus { mac, last_seen: self.last_seen, stats: self.stats, latency: self.latency }
    }
}

impl Meter {
    /// A client's frame has arrived: what is counted from now on is its doing.
    pub(crate) fn arrives(&mut self, mac: MacAddr, now: Instant) {
        let current = self.current;
        let index = match current {
            // Frames come in bursts.
            Some(last) if last.client.mac == mac && self.client(last.client).is_some() => {
                last.client.index
            }
            _ => self.index.get(&mac).copied().unwrap_or_else(|| self.admit(mac, now)),
        };
        if let Some(client) = self.clients.get_mut(usize::from(index)) {
            client.last_seen = now;
        }
        self.current = Some(Origin { client: ClientSlot { index, mac }, arrived: now });
    }

    /// A command that came earlier is handled: what is counted from now on is its client's doing.
    pub(crate) fn resumes(&mut self, origin: Origin) {
        self.current = Some(origin);
    }

    /// Whose command is being handled, to be kept with it.
    pub(crate) fn origin(&self, now: Instant) -> Origin {
        let nobody = ClientSlot { index: u16::MAX, mac: MacAddr::default() };
        self.current.unwrap_or(Origin { client: nobody, arrived: now })
    }

    fn client(&mut self, slot: ClientSlot) -> Option<&mut Client> {
        self.clients.get_mut(usize::from(slot.index)).filter(|client| client.mac == slot.mac)
    }

    /// Counts one of something for the export and for the client.
    pub(crate) fn count(&mut self, counter: Counter) {
        self.change(|stats| stats.count(counter, 1));
    }

    fn change(&mut self, change: impl Fn(&mut ExportStats)) {
        change(&mut self.total);
        match self.current.and_then(|origin| self.client(origin.client)) {
            Some(client) => change(&mut client.stats),
            None => change(&mut self.others.stats),
        }
    }

    /// Sectors were moved, or flushed.
    pub(crate) fn moved(&mut self, what: Moved, bytes: u64, now: Instant) {
        self.change(|stats| stats.moved(what, bytes));
        let Some(origin) = self.current else { return };
        let took = now.since(origin.arrived);
        self.latencies.of_mut(what).note(took);
        match self.client(origin.client) {
            Some(client) => client.latency.note(took),
            None => self.others.latency.note(took),
        }
    }

    /// A command of the present client enters the queue.
    pub(crate) fn enters(&mut self, bytes: u64) {
        let current = self.current;
        if let Some(client) = current.and_then(|origin| self.client(origin.client)) {
            client.held += 1;
            client.held_bytes += bytes;
        }
    }

    /// It leaves the queue.
    pub(crate) fn leaves(&mut self, origin: Origin, bytes: u64) {
        if let Some(client) = self.client(origin.client) {
            client.held = client.held.saturating_sub(1);
            client.held_bytes = client.held_bytes.saturating_sub(bytes);
        }
    }

    /// Whether the present client has as much in the queue as this, and isn't alone.
    pub(crate) fn is_greedy(&mut self, share: QueueLimits, now: Instant) -> bool {
        let Some(current) = self.current else { return false };
        let has_less = |client: &mut Client| {
            client.held < share.entries_max && client.held_bytes < share.bytes_max
        };
        if self.client(current.client).is_none_or(has_less) {
            return false;
        }
        let others = self.clients.iter().filter(|client| client.mac != current.client.mac);
        others.into_iter().any(|client| now.since(client.last_seen) < COMPANY)
    }

    /// The last writes of a client, if any are remembered.
    pub(crate) fn recent(&mut self, slot: ClientSlot) -> Option<&mut Recent> {
        self.client(slot)?.recent.as_deref_mut()
    }

    /// The last writes of a client that writes.
    pub(crate) fn recent_of_writer(&mut self, slot: ClientSlot) -> Option<&mut Recent> {
        if self.client(slot)?.recent.is_none() {
            self.make_room_for_writer();
        }
        Some(self.client(slot)?.recent.get_or_insert_default())
    }

    fn make_room_for_writer(&mut self) {
        let writers = || self.clients.iter().filter(|client| client.recent.is_some());
        if writers().count() < RECENT_MAX {
            return;
        }
        let last_used =
            |client: &&mut Client| client.recent.as_ref().map(|recent| recent.last_used);
        let writers = self.clients.iter_mut().filter(|client| client.recent.is_some());
        if let Some(client) = writers.min_by_key(last_used) {
            client.recent = None;
        }
    }

    /// Whatever was written may be gone: nothing counts as done any more.
    pub(crate) fn forget_writes(&mut self) {
        self.clients.iter_mut().for_each(|client| client.recent = None);
    }

    /// Who has been here.
    pub(crate) fn known(&self) -> impl Iterator<Item = MacAddr> {
        self.index.keys().copied()
    }

    /// All clients that are told apart, by address, and then the sum of the others if there were any.
    pub(crate) fn clients(&self) -> Vec<ClientStatus> {
        let known = self.index.values().filter_map(|index| self.clients.get(usize::from(*index)));
        let mut all: Vec<_> = known.map(|client| client.status(Some(client.mac))).collect();
        if self.others.stats != ExportStats::default() {
            all.push(self.others.status(None));
        }
        all
    }

    /// A place for a client that isn't known.
    fn admit(&mut self, mac: MacAddr, now: Instant) -> u16 {
        if self.clients.len() < CLIENTS_MAX {
            let index = self.clients.len() as u16;
            self.clients.push(Client::new(mac, now));
            self.index.insert(mac, index);
            return index;
        }
        let silent = |client: &Client| (client.stats.has_moved(), client.last_seen);
        let oldest = self.clients.iter().enumerate().min_by_key(|(_, client)| silent(client));
        let index = oldest.map_or(0, |(index, _)| index);
        let former = std::mem::replace(&mut self.clients[index], Client::new(mac, now));
        self.index.remove(&former.mac);
        self.index.insert(mac, index as u16);
        self.others.stats.add(&former.stats);
        self.others.latency.add(&former.latency);
        self.others.last_seen = self.others.last_seen.max(former.last_seen);
        index as u16
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use block::IoError;

    use super::*;

    fn mac(n: u16) -> MacAddr {
        let [a, b] = n.to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    fn at(us: u64) -> Instant {
        Instant::from_nanos(us * 1000)
    }

    #[test]
    fn what_is_counted_is_the_clients_too() {
        let mut meter = Meter::default();
        meter.arrives(mac(1), at(0));
        let first = meter.origin(at(0));
        meter.arrives(mac(2), at(5));
        meter.count(Counter::Denied);
        meter.resumes(first);
        meter.moved(Moved::Read, 512, at(100));
        meter.count(Counter::of_error(IoError::Lost));
        let clients = meter.clients();
        assert_eq!(clients.iter().map(|c| c.mac).collect::<Vec<_>>(), [Some(mac(1)), Some(mac(2))]);
        let [one, two] = [clients[0].stats, clients[1].stats];
        assert_eq!(
            (
                one[Counter::Reads],
                one[Counter::ReadBytes],
                one[Counter::Lost],
                one[Counter::Denied]
            ),
            (1, 512, 1, 0)
        );
        assert_eq!((two[Counter::Reads], two[Counter::Denied]), (0, 1));
        assert_eq!(clients[0].latency.count(), 1);
        assert_eq!(meter.latencies.read.sum(), Duration::from_micros(100));
        let mut sum = one;
        sum.add(&two);
        assert_eq!(sum, meter.total);
    }

    #[test]
    fn writers_are_bounded() {
        let mut meter = Meter::default();
        let mut slots = Vec::new();
        for n in 0..200 {
            meter.arrives(mac(n), at(u64::from(n)));
            let slot = meter.origin(at(0)).client;
            assert!(meter.recent(slot).is_none());
            meter.recent_of_writer(slot).unwrap().last_used = at(u64::from(n));
            slots.push(slot);
        }
        let kept = |meter: &mut Meter, slots: &[ClientSlot]| {
            slots.iter().filter(|slot| meter.recent(**slot).is_some()).count()
        };
        assert_eq!(kept(&mut meter, &slots), RECENT_MAX);
        assert_eq!(kept(&mut meter, &slots[200 - RECENT_MAX..]), RECENT_MAX, "the latest");
        meter.forget_writes();
        assert_eq!(kept(&mut meter, &slots), 0);
    }

    #[test]
    fn clients_are_bounded_and_none_that_works_is_forgotten_for_one_that_doesnt() {
        let mut meter = Meter::default();
        meter.arrives(mac(0), at(0));
        meter.moved(Moved::Write, 512, at(1));
        let worker = meter.origin(at(0));
        for n in 1..2000 {
            meter.arrives(mac(n), at(u64::from(n)));
            meter.count(Counter::Denied);
        }
        let clients = meter.clients();
        assert_eq!(clients.len(), CLIENTS_MAX + 1);
        assert_eq!((clients[0].mac, clients[0].stats[Counter::Writes]), (Some(mac(0)), 1));
        let others = clients.last().unwrap();
        assert_eq!((others.mac, others.stats[Counter::Denied]), (None, 1999 - 255));
        // A command of a client that has been forgotten meanwhile counts for the others.
        meter.arrives(mac(1999), at(3000));
        let late = meter.origin(at(3000));
        for n in 3000..3300 {
            meter.arrives(mac(n), at(u64::from(n)));
        }
        meter.resumes(late);
        meter.moved(Moved::Read, 512, at(4000));
        assert_eq!(meter.clients().last().unwrap().stats[Counter::Reads], 1);
        meter.resumes(worker);
        meter.moved(Moved::Write, 512, at(4000));
        assert_eq!(meter.clients()[0].stats[Counter::Writes], 2);
    }
}
