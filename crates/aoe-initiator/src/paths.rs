//! The ways to a target: pairs of one of our ports and one of its addresses.
//!
//! One path carries everything until it stops answering; then the next one does. A path that fails
//! isn't forgotten: its turn comes again when the others fail. A path also knows the
//! largest frame that gets through: where a switch eats jumbo frames, small ones still pass, and only
//! the missing answers tell.

use std::collections::BTreeMap;

use block::{Instant, SECTOR_BYTES};

use aoe_wire::{MacAddr, PortId, SessionVersion, session_sectors_max};

/// What a state machine must know of a port to send through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPort {
    /// The port.
    pub id: PortId,
    /// Its address.
    pub mac: MacAddr,
    /// Its largest Ethernet payload.
    pub mtu_bytes: usize,
    /// Whether it leads to programs of this machine only.
    pub trusted: bool,
}

/// A way to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathId {
    /// Our side.
    pub port: PortId,
    /// The target's side.
    pub target: MacAddr,
}

/// What passes every Ethernet.
const MTU_STANDARD_BYTES: usize = 1500;
/// Paths to one target; a flood of announcements must not grow this.
pub(crate) const PATHS_MAX: usize = 8;
/// Losses in a row after which another path is tried.
const LOSSES_MAX: u32 = 3;
/// The Ethernet header, which the MTU doesn't count.
const ETHERNET_BYTES: usize = 14;

#[derive(Clone, Copy, Debug)]
struct Path {
    id: PathId,
    heard: Option<Instant>,
    /// Requests lost since something was heard.
    losses: u32,
    mtu_limit_bytes: usize,
    /// A frame larger than the standard MTU has been answered.
    large_proven: bool,
    /// Most sectors of data in one frame that the target takes this way, as it said.
    takes: Option<u16>,
}

/// All paths to one target.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    ports: BTreeMap<PortId, LocalPort>,
    paths: Vec<Path>,
    active: usize,
    /// Only those to programs of this machine are used.
    confined: bool,
}

impl Paths {
    /// Learns of a port, or of its changed address or MTU.
    pub fn set_port(&mut self, port: LocalPort) {
        self.ports.insert(port.id, port);
    }

    /// Forgets a port and all paths through it.
    pub fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.retain(|path| path.id.port != port);
    }

    /// Adds a path; false when it was known. When there are too many, the one unheard for longest
    /// makes room.
    pub fn add(&mut self, id: PathId) -> bool {
        if self.contains(id) {
            return false;
        }
        if self.paths.len() >= PATHS_MAX {
            let stalest = self.paths.iter().min_by_key(|path| path.heard).map(|path| path.id);
            self.retain(|path| Some(path.id) != stalest);
        }
        self.paths.push(Path {
            id,
            heard: None,
            losses: 0,
            mtu_limit_bytes: usize::MAX,
            large_proven: false,
            takes: None,
        });
        true
    }

    /// Gives up a path.
    pub fn remove(&mut self, id: PathId) {
        self.retain(|path| path.id != id);
    }

    /// Whether a path is known.
    pub fn contains(&self, id: PathId) -> bool {
        self.paths.iter().any(|path| path.id == id)
    }

    /// All paths.
    pub fn ids(&self) -> Vec<PathId> {
        self.paths.iter().map(|path| path.id).collect()
    }

    /// The path to send on, with our side of it.
    pub fn active(&self) -> Option<(PathId, LocalPort)> {
        let path = self.paths.get(self.active).filter(|path| self.admits(path.id))?;
        Some((path.id, *self.ports.get(&path.id.port)?))
    }

    /// Whether only paths to programs of this machine are used.
    pub fn is_confined(&self) -> bool {
        self.confined
    }

    /// From now on only paths to programs of this machine are used, or all: what is said there in clear is for no
    /// Ethernet.
    pub fn confine(&mut self, confined: bool) {
        self.confined = confined;
        self.leave_unfit();
    }

    /// Whether a path is used at present.
    pub fn admits(&self, id: PathId) -> bool {
        !self.confined || self.is_local(id)
    }

    /// From a path that isn't used to one that is, if there is any.
    fn leave_unfit(&mut self) {
        for _ in 0..self.paths.len() {
            if !self.confined || self.active().is_some() {
                return;
            }
            self.active = (self.active + 1) % self.paths.len();
        }
    }

    /// Whether a path leads to a program of this machine.
    pub fn is_local(&self, id: PathId) -> bool {
        self.port_of(id).is_some_and(|port| port.trusted)
    }

    /// Our side of a path, known or not.
    pub fn port_of(&self, id: PathId) -> Option<LocalPort> {
        self.ports.get(&id.port).copied()
    }

    /// Makes a path the one to send on.
    pub fn prefer(&mut self, id: PathId) {
        let position = self.paths.iter().position(|path| path.id == id);
        if let Some(index) = position.filter(|_| self.admits(id)) {
            self.active = index;
        }
    }

    /// Goes on to the next path, whatever it is worth: for tries where none is known to work.
    pub fn rotate(&mut self) {
        if !self.paths.is_empty() {
            self.active = (self.active + 1) % self.paths.len();
            self.leave_unfit();
        }
    }

    /// Something valid came this way, in answer to a frame of `frame_bytes` or with one.
    pub fn heard(&mut self, id: PathId, now: Instant, frame_bytes: usize) {
        if let Some(path) = self.get_mut(id) {
            path.heard = Some(now);
            path.losses = 0;
            path.large_proven |= frame_bytes > MTU_STANDARD_BYTES + ETHERNET_BYTES;
        }
    }

    /// The target takes so many sectors of data in one frame that comes this way; 0 doesn't say.
    pub fn told(&mut self, id: PathId, takes: u16) {
        if takes > 0
            && let Some(path) = self.get_mut(id)
        {
            path.takes = Some(takes);
        }
    }

    /// A request that went this way was lost. Moves on to the next path after some of these.
    pub fn lost(&mut self, id: PathId) {
        let Some(path) = self.get_mut(id) else { return };
        path.losses = path.losses.saturating_add(1);
        if path.losses < LOSSES_MAX || self.paths.get(self.active).map(|path| path.id) != Some(id) {
            return;
        }
        self.rotate();
        if let Some(next) = self.paths.get_mut(self.active) {
            next.losses = 0;
        }
    }

    /// Whether frames of this length are known to pass.
    pub fn carries(&self, id: PathId, frame_bytes: usize) -> bool {
        let is_standard = frame_bytes <= MTU_STANDARD_BYTES + ETHERNET_BYTES;
        self.paths.iter().any(|path| path.id == id && (is_standard || path.large_proven))
    }

    /// Whether large frames seem to vanish on a path on which small ones pass: nothing large was
    /// ever answered, though something was heard after `since`.
    pub fn swallows_large(&self, id: PathId, since: Instant, frame_bytes: usize) -> bool {
        self.paths.iter().any(|path| {
            path.id == id
                && frame_bytes > MTU_STANDARD_BYTES + ETHERNET_BYTES
                && !path.large_proven
                && path.heard.is_some_and(|heard| heard > since)
        })
    }

    /// From now on this path carries only what passes every Ethernet.
    pub fn limit_to_standard(&mut self, id: PathId) {
        if let Some(path) = self.get_mut(id) {
            path.mtu_limit_bytes = MTU_STANDARD_BYTES;
        }
    }

    /// Sectors that fit behind `head_bytes` (Ethernet header included) on the active path.
    pub fn data_sectors(&self, head_bytes: usize) -> u64 {
        let Some(path) = self.paths.get(self.active) else { return 0 };
        let mtu = self.ports.get(&path.id.port).map_or(0, |port| port.mtu_bytes);
        let frame_bytes = mtu.min(path.mtu_limit_bytes) + ETHERNET_BYTES;
        (frame_bytes.saturating_sub(head_bytes) / SECTOR_BYTES) as u64
    }

    /// Sectors of a fragment on the active path: what both ends of it carry. Until the target has said what
    /// its side does, what passes every Ethernet.
    pub fn fragment_sectors(&self) -> u32 {
        let head_bytes = SessionVersion::Two.header_bytes();
        let own = u32::try_from(self.data_sectors(head_bytes)).unwrap_or(u32::MAX);
        let takes = self.paths.get(self.active).and_then(|path| path.takes);
        let standard = session_sectors_max(MTU_STANDARD_BYTES, SessionVersion::Two);
        own.min(takes.map_or(standard, u32::from)).max(1)
    }

    fn get_mut(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| path.id == id)
    }

    fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        let active = self.paths.get(self.active).map(|path| path.id);
        self.paths.retain(keep);
        self.active = self.paths.iter().position(|path| Some(path.id) == active).unwrap_or(0);
        self.leave_unfit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u32, target: u8) -> PathId {
        PathId { port: PortId(port), target: MacAddr([target; 6]) }
    }

    fn two() -> Paths {
        let mut paths = Paths::default();
        for id in [1, 2] {
            let mac = MacAddr([id as u8; 6]);
            paths.set_port(LocalPort { id: PortId(id), mac, mtu_bytes: 9000, trusted: false });
            assert!(paths.add(path(id, 9)));
        }
        paths
    }

    #[test]
    fn losses_move_on_and_answers_forgive() {
        let mut paths = two();
        let now = Instant::default();
        (0..LOSSES_MAX - 1).for_each(|_| paths.lost(path(1, 9)));
        paths.heard(path(1, 9), now, 60);
        (0..LOSSES_MAX - 1).for_each(|_| paths.lost(path(1, 9)));
        assert_eq!(paths.active().map(|(id, _)| id), Some(path(1, 9)));
        paths.lost(path(1, 9));
        assert_eq!(paths.active().map(|(id, _)| id), Some(path(2, 9)));
        paths.remove_port(PortId(2));
        assert_eq!(paths.active().map(|(id, _)| id), Some(path(1, 9)));
        paths.remove_port(PortId(1));
        assert!(paths.active().is_none());
    }

    #[test]
    fn a_path_carries_what_was_seen_to_pass_there() {
        let mut paths = two();
        let carried = |paths: &Paths| {
            [1, 2].map(|port| [1514, 1515].map(|bytes| paths.carries(path(port, 9), bytes)))
        };
        assert_eq!(carried(&paths), [[true, false]; 2]);
        paths.heard(path(1, 9), Instant::default(), 1514);
        assert_eq!(carried(&paths), [[true, false]; 2]);
        paths.heard(path(1, 9), Instant::default(), 1515);
        assert_eq!(carried(&paths), [[true, true], [true, false]]);
        assert!(!paths.carries(path(3, 9), 60));
    }

    #[test]
    fn the_number_of_paths_is_bounded() {
        let mut paths = two();
        paths.heard(path(1, 9), Instant::from_nanos(5), 60);
        (0..100).for_each(|n| assert!(paths.add(path(2, n + 50))));
        assert_eq!(paths.ids().len(), PATHS_MAX);
        assert!(paths.contains(path(1, 9)), "the one that was heard stays");
    }

    #[test]
    fn sectors_follow_the_mtu() {
        let mut paths = two();
        assert_eq!(paths.data_sectors(96), 17);
        assert_eq!(paths.fragment_sectors(), 2, "nothing was said");
        for (takes, sectors) in [(0, 2), (7, 7), (30, 17), (0, 17)] {
            paths.told(path(1, 9), takes);
            assert_eq!(paths.fragment_sectors(), sectors);
        }
        paths.limit_to_standard(path(1, 9));
        assert_eq!(paths.data_sectors(96), 2);
        paths.set_port(LocalPort {
            id: PortId(1),
            mac: MacAddr::default(),
            mtu_bytes: 10,
            trusted: false,
        });
        assert_eq!((paths.data_sectors(96), paths.fragment_sectors()), (0, 1));
    }
}
