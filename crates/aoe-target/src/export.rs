//! What the target knows of one export.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, DriveHealth, Geometry, Holder, Instance, Instant, SECTOR_BYTES, Trust};
use seal::{Grant, PublicKey};

use crate::ExportId;
use crate::fenced::Ownership;
use crate::io::Work;
use crate::merge::Merger;
use crate::meter::Meter;
use crate::plain::change::Fence;
use crate::plain::rate::{RateLimits, Throttle};
use crate::plain::remembered::Remembered;
use crate::policy::{AccessOperation, AccessPolicy, ListEditors};
use crate::probe::{Probe, Prober};
use crate::pump::Flight;
use crate::queue::{Queue, QueueLimits, Ticket};
use crate::session::Sessions;
use aoe_wire::PortId;
use aoe_wire::{COMMAND_SECTORS_MAX, MacAddr, SessionVersion, ShelfSlot, WINDOW_MAX};
use aoe_wire::{ata_sectors_max, session_sectors_max};

/// Commands that an export takes before it drops: the windows of a few busy sessions.
const QUEUE_ENTRIES_MAX: usize = 2 * WINDOW_MAX as usize;
/// Bytes that the commands of an export may hold or ask for.
const QUEUE_BYTES_MAX: u64 = 16 << 20;
/// What plain clients get at once by default: whole 4 KiB blocks, and no more fragments than Linux
/// can put into a frame.
const PLAIN_SECTORS_DEFAULT: u8 = 16;
/// The fewest buffers to advertise: with one, Linux never comes up.
const BUFFER_COUNT_MIN: u16 = 4;
/// An owner that wasn't heard for so long answers nobody any more: its lease runs for six seconds, and is renewed
/// every two.
const OWNER_SILENT: Duration = Duration::from_secs(7);

/// How requests that are refused for who asks (a reservation) are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum OnRefusal {
    /// By an ATA error: Linux turns it into an I/O error at once.
    #[default]
    AtaError,
    /// By an AoE error, as the protocol has it; Linux retries for three minutes.
    AoeError,
    /// Not at all. WinAoE takes any error as success.
    Silent,
}

block::words!(OnRefusal { AtaError = "ata-error", AoeError = "aoe-error", Silent = "silent" });
block::serde_as_text!(OnRefusal);

/// On which ports an export answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// On all.
    #[default]
    AllPorts,
    /// On those of these names.
    Ports(BTreeSet<String>),
}

/// How an export behaves.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Its address; no wildcards.
    pub address: ShelfSlot,
    /// Its name, for people.
    pub name: String,
    /// Serial number in IDENTIFY, at most 20 bytes.
    pub serial: String,
    /// Serial number of its drive, for those who look for it; empty where that isn't known.
    pub drive_serial: String,
    /// Refuse writes.
    pub read_only: bool,
    /// Answer plain writes before they are on stable storage, and say so in IDENTIFY. What an
    /// export begins with, if clients may switch it.
    pub write_cache: bool,
    /// Whether clients may switch the write cache by SET FEATURES, until the export ends.
    pub write_cache_switchable: bool,
    /// Most sectors per command to advertise to plain clients; `None` for what suits the port.
    pub sectors_max: Option<u8>,
    /// Messages to advertise that we queue.
    pub buffer_count: u16,
    /// Commands that wait or run before more are dropped.
    pub queue_length: usize,
    /// Announce at start and at changes.
    pub announce: bool,
    /// What clients left with it in its last run. Looked at when the export is added, and never
    /// again: from then on clients change it.
    pub remembered: Remembered,
    /// Who may do what.
    pub access: AccessPolicy,
    /// Who may change mask list and reservation by the protocol.
    pub list_editors: ListEditors,
    /// How much it may do in a second.
    pub limits: RateLimits,
    /// Report every request to the log of requests.
    pub trace: bool,
    /// Whether to look for others at its address before it answers.
    pub probe: Probe,
    /// How refusals are told.
    pub on_refusal: OnRefusal,
    /// Where it answers.
    pub reach: Reach,
}

impl ExportOptions {
    /// The defaults for an export at `address`.
    pub fn new(address: ShelfSlot, name: impl Into<String>) -> ExportOptions {
        ExportOptions {
            address,
            name: name.into(),
            serial: format!("{}.{}", address.shelf, address.slot),
            drive_serial: String::new(),
            read_only: false,
            write_cache: false,
            write_cache_switchable: false,
            sectors_max: None,
            buffer_count: 64,
            queue_length: QUEUE_ENTRIES_MAX,
            announce: true,
            remembered: Remembered::default(),
            access: AccessPolicy::default(),
            list_editors: ListEditors::default(),
            limits: RateLimits::default(),
            trace: false,
            probe: Probe::default(),
            on_refusal: OnRefusal::default(),
            reach: Reach::default(),
        }
    }
}

/// The bounds of a queue of this length; one command must fit into any.
pub(crate) fn queue_limits(queue_length: usize) -> QueueLimits {
    QueueLimits { entries_max: queue_length.max(1), bytes_max: QUEUE_BYTES_MAX }
}

/// What an export's driver can do for it beside reading and writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Keep what clients change on stable storage ([`crate::IoOperation::Remember`]); otherwise it
    /// is kept in memory.
    pub remembers: bool,
    /// Ask the disk for its health ([`crate::IoOperation::Smart`]).
    pub smart: bool,
}

/// The device behind an export as its driver sees it.
#[derive(Clone, Debug)]
pub struct DeviceState {
    /// Size and block limits.
    pub geometry: Geometry,
    /// The instance that answers at present.
    pub instance: Instance,
    /// Whose it is.
    pub ownership: Ownership,
    /// Its size in bytes as the labels in its first two slots have it.
    pub labelled: [Option<u64>; 2],
    /// Whom it obeys, if that is anybody in particular.
    pub grant: Option<Rc<Grant>>,
}

/// Who asks for something within a session.
#[derive(Clone, Copy)]
pub(crate) struct Asker {
    /// It is a program of this machine.
    pub trusted: bool,
    /// What it has proved to have the secret half of.
    pub key: Option<PublicKey>,
    /// It may have this disk, which obeys nobody.
    pub is_own: bool,
}

/// An interface as the state machine sees it.
#[derive(Clone, Debug)]
pub(crate) struct PortState {
    pub id: PortId,
    pub name: String,
    pub mac: MacAddr,
    pub mtu_bytes: usize,
    /// It leads to programs of this machine only: no list of clients applies.
    pub trusted: bool,
    /// Frames have somewhere to go.
    pub up: bool,
}

pub(crate) struct Export {
    pub id: ExportId,
    pub options: ExportOptions,
    pub device: DeviceState,
    /// How its drive is, as far as that is known.
    pub health: Option<DriveHealth>,
    /// When a request under the accepted epoch was last heard.
    pub owner_heard: Option<Instant>,
    pub abilities: Abilities,
    pub remembered: Remembered,
    /// Changes of that in the queue.
    pub changes: usize,
    /// Those that are in force and whose answer waits for writes that are with the device.
    pub fences: Vec<Fence>,
    /// Questions to the disk itself in the queue.
    pub questions: usize,
    /// Whether plain writes are answered early, at present.
    pub write_cache: bool,
    /// Whether SMART is switched on, as far as clients have switched it.
    pub smart_enabled: bool,
    /// A write-back failed under this instance: every flush fails until the device is reopened.
    pub flush_failed: bool,
    pub queue: Queue<Work>,
    /// Does what needs no waiting.
    pub nowait: Option<Rc<dyn BlockDevice>>,
    /// Transfers that wait to be joined, and those with the device.
    pub merger: Merger,
    pub flights: BTreeMap<Ticket, Flight>,
    /// On the list of those where commands may start.
    pub woken: bool,
    pub sessions: Sessions,
    pub meter: Meter,
    pub prober: Prober,
    pub throttle: Throttle,
    /// Plain writes were answered from a cache since the last flush.
    pub plain_unflushed: bool,
    /// Under which instance all was flushed that a former process, too, may have answered early.
    pub plain_flushed: Option<Instance>,
    /// Such writes may be gone with an instance: the next plain flush says so.
    pub plain_lost: bool,
}

impl Export {
    pub(crate) fn new(
        id: ExportId,
        mut options: ExportOptions,
        device: DeviceState,
        abilities: Abilities,
    ) -> Export {
        let limits = queue_limits(options.queue_length);
        let remembered = std::mem::take(&mut options.remembered).bounded();
        let write_cache = options.write_cache;
        let throttle = Throttle::new(options.limits);
        Export {
            id,
            options,
            device,
            health: None,
            owner_heard: None,
            abilities,
            remembered,
            changes: 0,
            fences: Vec::new(),
            questions: 0,
            write_cache,
            smart_enabled: true,
            flush_failed: false,
            queue: Queue::new(limits),
            nowait: None,
            merger: Merger::default(),
            flights: BTreeMap::new(),
            woken: false,
            sessions: Sessions::default(),
            meter: Meter::default(),
            prober: Prober::default(),
            throttle,
            plain_unflushed: false,
            plain_flushed: None,
            plain_lost: false,
        }
    }

    pub(crate) fn address(&self) -> ShelfSlot {
        self.options.address
    }

    /// Who holds the medium, and how long ago that was last heard.
    pub(crate) fn holder(&self, now: Instant) -> Holder {
        let heard = self.owner_heard.map(|at| now.since(at));
        Holder { heard, ..self.device.ownership.holder() }
    }

    /// Whether the medium has an owner who wasn't heard for so long that it answers nobody any more, by which
    /// observers who ask for it may read all.
    pub(crate) fn is_owner_silent(&self, now: Instant) -> bool {
        let is_silent = |at: Instant| now.since(at) >= OWNER_SILENT;
        matches!(self.device.ownership, Ownership::Held(_))
            && self.owner_heard.is_none_or(is_silent)
    }

    /// Whether the medium obeys somebody: programs of this machine always, others if they have proved a key that it
    /// lets in, or that a grant does which they show and which follows the medium's. One that obeys nobody is for those
    /// whom this machine takes for its own. Nobody locks himself out by what he shows.
    pub(crate) fn obeys(&self, asker: Asker, shown: &Trust) -> bool {
        if asker.trusted {
            return true;
        }
        let grant = self.device.grant.as_deref();
        if grant.is_none() && !asker.is_own {
            return false;
        }
        let Some(key) = asker.key else { return grant.is_none() };
        let known = grant.is_none_or(|grant| grant.names(&key));
        let read = |bytes: &[u8]| Grant::parse(bytes).filter(|shown| shown.names(&key));
        match (shown, grant) {
            (Trust::Unchanged | Trust::Forget, _) => known,
            (Trust::Replace(shown), _) => known && read(shown).is_some(),
            (Trust::Follow(shown), None) => read(shown).is_some(),
            (Trust::Follow(shown), Some(grant)) if **shown == *grant.bytes() => known,
            (Trust::Follow(shown), Some(grant)) => {
                let follows = Grant::parse(shown).filter(|shown| shown.follows(grant));
                follows.map_or(known, |follows| follows.names(&key))
            }
        }
    }

    /// Whether somebody may look at all of the medium by a grant that he has shown in his session, and that nobody has to
    /// keep: it follows the medium's and names him.
    pub(crate) fn admits_guest(&self, asker: Asker, shown: &Grant) -> bool {
        let names = asker.key.is_some_and(|key| shown.names(&key));
        names && self.device.grant.as_ref().is_some_and(|grant| shown.follows(grant))
    }

    /// Whether whom the medium obeys may be another after a claim, or the claim has to be judged for that.
    pub(crate) fn may_change_trust(&self, trust: &Trust) -> bool {
        match (trust, &self.device.grant) {
            (Trust::Unchanged, _) | (Trust::Forget, None) => false,
            (Trust::Follow(shown), Some(known)) => **shown != *known.bytes(),
            _ => true,
        }
    }

    /// Takes note of whose the medium is. Another owner than before hasn't been heard yet.
    pub(crate) fn set_ownership(&mut self, ownership: Ownership) {
        if !ownership.holder().is_same(self.device.ownership.holder()) {
            self.owner_heard = None;
        }
        self.device.ownership = ownership;
    }

    /// When something is to happen here though nothing arrives.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let deadlines = [self.prober.deadline(), self.throttle.deadline(), self.merger.deadline()];
        deadlines.into_iter().flatten().min()
    }

    pub(crate) fn answers_on(&self, port: &PortState) -> bool {
        match &self.options.reach {
            Reach::AllPorts => true,
            Reach::Ports(names) => names.contains(&port.name),
        }
    }

    /// Whether a client may, by the administrator's rules.
    pub(crate) fn permits(
        &self,
        trusted: bool,
        operation: AccessOperation,
        client: MacAddr,
    ) -> bool {
        trusted || self.options.access.allows(operation, client)
    }

    /// Whether a client is heard at all, by the protocol's mask list. That is nothing to an owner, nor to
    /// programs of this machine.
    pub(crate) fn hears(&self, trusted: bool, client: MacAddr) -> bool {
        trusted
            || !self.device.ownership.is_open_to_plain_clients()
            || self.remembered.is_heard(client)
    }

    /// Whether a client may use the disk, by the protocol's reservation; for others as
    /// [`Export::hears`].
    pub(crate) fn admits(&self, trusted: bool, client: MacAddr) -> bool {
        trusted
            || !self.device.ownership.is_open_to_plain_clients()
            || self.remembered.may_use(client)
    }

    /// Whether a client was shut out by mask list or reservation.
    pub(crate) fn shuts_out(&self, client: MacAddr) -> bool {
        !(self.hears(false, client) && self.admits(false, client))
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.options.read_only || self.device.geometry.read_only
    }

    pub(crate) fn buffer_count(&self) -> u16 {
        self.options.buffer_count.max(BUFFER_COUNT_MIN)
    }

    fn transfer_sectors_max(&self) -> u32 {
        self.device.geometry.max_transfer_bytes / SECTOR_BYTES as u32
    }

    /// Most sectors that a plain command may have on this port.
    pub(crate) fn plain_sectors_max(&self, port: &PortState) -> u8 {
        let transfer = u8::try_from(self.transfer_sectors_max()).unwrap_or(u8::MAX);
        ata_sectors_max(port.mtu_bytes).min(transfer)
    }

    /// Most sectors per plain command to advertise on this port: whole blocks where they fit, so
    /// that no client makes the disk read in order to write.
    pub(crate) fn plain_sectors_advertised(&self, port: &PortState) -> u8 {
        let possible = self.plain_sectors_max(port);
        let wanted = self.options.sectors_max.unwrap_or(PLAIN_SECTORS_DEFAULT).max(1);
        let sectors = possible.min(wanted);
        if sectors >= 8 && self.options.sectors_max.is_none() { sectors & !7 } else { sectors }
    }

    /// Most sectors that a session's READ or WRITE may have on this port, in fragments or not.
    pub(crate) fn session_sectors_max(&self, port: &PortState, version: SessionVersion) -> u32 {
        let possible = match version {
            SessionVersion::One => session_sectors_max(port.mtu_bytes, version),
            SessionVersion::Two | SessionVersion::Three => COMMAND_SECTORS_MAX,
        };
        possible.min(self.transfer_sectors_max())
    }

    /// Another instance answers now: no session outlives that.
    pub(crate) fn set_instance(&mut self, instance: Instance) {
        if self.device.instance != instance {
            self.device.instance = instance;
            self.sessions.end_all();
            self.flush_failed = false;
            self.meter.forget_writes();
            self.plain_lost |= std::mem::take(&mut self.plain_unflushed);
        }
    }
}
