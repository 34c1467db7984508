//! Whether somebody else answers for an export's address. Initiators take two targets of one address
//! for two paths to one disk, and write to both.
//!
//! An export that defends its address asks for it before it says anything: three queries, and if
//! nobody has answered 300 ms after the first, the address is its own and stays so. While somebody
//! does answer, it is silent and asks again every five seconds. What is heard later is reported. Of
//! two that ask at the same time the one with the lower Ethernet address goes on; they know each
//! other's queries by a mark in fields that targets ignore.

use std::rc::Rc;
use std::time::Duration;

use block::Instant;

use crate::discover;
use crate::export::{Export, PortState};
use crate::stats::Counter;
use crate::{ExportId, Shared};
use aoe_wire::PortId;
use aoe_wire::{Command, ConfigCommand, ConfigMessage, Header, MacAddr};

/// Queries before an address counts as free.
const QUERIES: u8 = 3;
const QUERY_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is asked for an address that isn't free.
const RETRY: Duration = Duration::from_secs(5);
/// How often one foreign target is reported for one export.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Foreign targets per export that are told apart, and reported in a minute at most.
const FOREIGN_MAX: usize = 16;
/// Events that wait to be fetched.
pub(crate) const EVENTS_MAX: usize = 64;
/// In the firmware field of our queries.
const MARK: u16 = 0xe7a0;

/// Whether to look for others at an export's address before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum Probe {
    /// No.
    #[default]
    Off,
    /// Report others, and answer at once all the same.
    Report,
    /// Answer only when nobody else does. Once up, an export stays up.
    Defend,
}

block::words!(Probe { Off = "off", Report = "report", Defend = "defend" });
block::serde_as_text!(Probe);

/// Whether an export answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportState {
    /// It does.
    #[default]
    Up,
    /// Not yet: it asks whether its address is free, or waits for a port with a link to ask on.
    Probing,
    /// Somebody else answers for its address.
    Conflict {
        /// Who.
        mac: MacAddr,
    },
}

/// What a target tells unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetEvent {
    /// Somebody else answers for the address of an export.
    AddressConflict {
        /// Which export.
        export: ExportId,
        /// Where it was heard.
        port: PortId,
        /// Who answers.
        mac: MacAddr,
    },
    /// An export answers now, after its address turned out to be free.
    AddressFree {
        /// Which export.
        export: ExportId,
    },
}

/// How far an export is in looking for others.
#[derive(Default)]
pub(crate) struct Prober {
    /// It doesn't answer until the address is free.
    silent: bool,
    /// Who answered last.
    conflict: Option<MacAddr>,
    /// Queries sent in this round; nothing is under way without a time for the next step.
    sent: u8,
    next: Option<Instant>,
    /// Foreign targets and when they were reported, the latest last.
    reported: Vec<(MacAddr, Instant)>,
}

impl Prober {
    /// Begins to look, as soon as there is a port.
    pub(crate) fn begin(&mut self, how: Probe, now: Instant) {
        self.silent = how == Probe::Defend;
        self.sent = 0;
        self.next = (how != Probe::Off).then_some(now);
    }

    /// Takes note of another setting. An export that answers goes on to.
    pub(crate) fn set(&mut self, how: Probe, now: Instant) {
        let silent = self.silent && how == Probe::Defend;
        if !silent || how == Probe::Off {
            self.begin(how, now);
        }
        self.silent = silent;
    }

    /// Whether the export answers.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    pub(crate) fn state(&self) -> ExportState {
        match (self.silent, self.conflict) {
            (false, _) => ExportState::Up,
            (true, Some(mac)) => ExportState::Conflict { mac },
            (true, None) => ExportState::Probing,
        }
    }

    /// When the next step is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    fn is_asking(&self) -> bool {
        self.next.is_some() && self.sent > 0
    }

    /// Whether a foreign target is news; it is remembered either way.
    fn is_news(&mut self, mac: MacAddr, now: Instant) -> bool {
        let known = self.reported.iter().position(|(reported, _)| *reported == mac);
        if let Some(index) = known {
            if now.since(self.reported[index].1) < REPORT_INTERVAL {
                return false;
            }
            self.reported.remove(index);
        } else if self.reported.len() >= FOREIGN_MAX {
            // The first is the one that was reported longest ago.
            if self.reported.first().is_some_and(|(_, at)| now.since(*at) < REPORT_INTERVAL) {
                return false;
            }
            self.reported.remove(0);
        }
        self.reported.push((mac, now));
        true
    }
}

/// The time for a step may have come. Returns whether the export has begun to answer.
pub(crate) fn step(export: &mut Export, shared: &mut Shared) -> bool {
    if export.prober.next.is_none_or(|next| next > shared.now) {
        return false;
    }
    let ports: Vec<_> = shared.ports.values().cloned().collect();
    let is_asked = |port: &&Rc<PortState>| port.up && !port.trusted && export.answers_on(port);
    let mut ports = ports.iter().filter(is_asked).peekable();
    if ports.peek().is_none() && export.prober.silent {
        // The next port begins anew.
        export.prober.sent = 0;
        export.prober.next = None;
        return false;
    }
    if export.prober.sent < QUERIES {
        for port in ports {
            query(export, shared, port);
        }
        export.prober.sent += 1;
        export.prober.next = Some(shared.now + QUERY_INTERVAL);
        return false;
    }
    // Nobody answered.
    export.prober.next = None;
    export.prober.conflict = None;
    let begins = std::mem::take(&mut export.prober.silent);
    if begins {
        shared.event(TargetEvent::AddressFree { export: export.id });
    }
    begins
}

/// A port has come, on which nobody has been asked.
pub(crate) fn port_came(export: &mut Export, now: Instant) {
    let prober = &mut export.prober;
    let asking = prober.silent && prober.is_asking();
    if export.options.probe != Probe::Off && (prober.next.is_none() || asking) {
        prober.sent = 0;
        prober.next = Some(now);
    }
}

fn query(export: &Export, shared: &mut Shared, port: &PortState) {
    let header =
        Header::request(MacAddr::BROADCAST, port.mac, export.address(), Command::Config, 0);
    let query = ConfigMessage::request(header, ConfigCommand::Read);
    shared.send(port.id, ConfigMessage { firmware: MARK, ..query }.emit(b""));
}

/// A response has arrived on a port, which only a target sends: somebody else has an address. Which
/// one is told by the caller.
pub(crate) fn foreign_answer(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    mac: MacAddr,
) {
    export.meter.total.count(Counter::ForeignAnswers, 1);
    if export.prober.is_news(mac, shared.now) {
        shared.event(TargetEvent::AddressConflict { export: export.id, port: port.id, mac });
    }
    if export.prober.silent {
        yield_to(export, shared, mac);
    }
}

/// Something was asked of an export that is silent: another target asks for its address too, maybe.
pub(crate) fn rival_query(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    header: &Header,
    frame: &[u8],
) {
    let rival = header.command == Command::Config
        && ConfigMessage::parse(frame).is_ok_and(|(query, _)| query.firmware == MARK);
    let ours = shared.ports.values().any(|port| port.mac == header.source);
    if rival && !ours && export.prober.is_asking() && header.source < port.mac {
        yield_to(export, shared, header.source);
    }
}

fn yield_to(export: &mut Export, shared: &mut Shared, mac: MacAddr) {
    export.prober.conflict = Some(mac);
    export.prober.sent = 0;
    export.prober.next = Some(shared.now + RETRY);
}

/// Tells of an export, if it answers.
pub(crate) fn announce(export: &Export, shared: &mut Shared) {
    if !export.options.announce || export.prober.is_silent() {
        return;
    }
    let ports: Vec<_> = shared.ports.values().cloned().collect();
    for port in ports.iter().filter(|port| port.up && export.answers_on(port)) {
        discover::announce(export, shared, port);
    }
}
