//! From what an administrator wrote to what a target does: every setting with its value, every
//! group with its members, and nothing that contradicts itself.

use std::collections::BTreeMap;
use std::fmt;

use aoe_target::{
    AccessPolicy, ExportOptions, ListEditors, OnRefusal, Probe, Rate, RateLimits, Reach, Remembered,
};
use aoe_wire::{MacAddr, ShelfSlot};
use block::{Lba, SectorRange};

use super::access::{GroupError, Resolver};
use super::config::ExportConfig;
use super::settings::{DamagedState, ExportSettings, Groups, IoMode, Limit, WriteCache};

/// Bytes of a serial number in IDENTIFY.
const SERIAL_BYTES_MAX: usize = 20;
/// Bytes of a configuration string, by the protocol.
const CONFIG_STRING_BYTES_MAX: usize = 1024;
/// The fewest buffers that Linux comes up with.
const BUFFERS_MIN: u16 = 4;
/// As many as an export has that doesn't say.
const BUFFERS_DEFAULT: u16 = 64;
/// The least that Ethernet carries, and room for a command with two sectors.
const MTU_MIN: u32 = 1060;

/// An export, ready to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPlan {
    /// Its address.
    pub address: ShelfSlot,
    /// What is exported.
    pub medium: MediumPlan,
    /// Name of a symbolic link to the path.
    pub link: Option<String>,
    /// Serial number in IDENTIFY; `None` for the default.
    pub serial: Option<String>,
    /// Interfaces to answer on, as names or patterns; empty for all.
    pub interfaces: Vec<String>,
    /// Refuse writes.
    pub read_only: bool,
    /// When writes are answered.
    pub write_cache: WriteCache,
    /// Commands that are queued; `None` for the target's default.
    pub queue_length: Option<u32>,
    /// Messages that clients may have outstanding; `None` for the target's default.
    pub buffers: Option<u16>,
    /// Most sectors per command to tell clients; `None` for what suits the interface.
    pub sectors: Option<u8>,
    /// Log every request.
    pub trace_io: bool,
    /// The configuration string until a client sets another.
    pub config_string: String,
    /// Announce it.
    pub announce: bool,
    /// How refusals are told.
    pub on_refusal: OnRefusal,
    /// What is done about others with the address.
    pub probe: Probe,
    /// Who may do what.
    pub access: AccessPolicy,
    /// Who may change mask list and reservation.
    pub editors: ListEditors,
    /// Bounds for all clients together.
    pub limit: Limit,
    /// Bounds for each client.
    pub client_limit: Limit,
    /// What to do about a damaged memory.
    pub damaged_state: DamagedState,
    /// Whom it answers at all at its first start; everybody if empty. For vblade's `-m`.
    pub mask: Vec<MacAddr>,
    /// Whether what clients set by the protocol is kept in a file.
    pub remember: bool,
}

/// The part of an export that can't change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediumPlan {
    /// As configured: a path, or `UUID=…`.
    pub path: String,
    /// How it is reached.
    pub io: IoMode,
    /// Which part of it: a start, and a length unless it goes to the end.
    pub window: Window,
    /// Whether the file is opened for writing: some export of it takes writes.
    pub writable: bool,
    /// Whether nobody else may have it.
    pub exclusive: bool,
}

impl ExportPlan {
    /// The plan as a target takes it: with the names of the interfaces that its patterns mean at
    /// present, what was left with it in its last run, and the serial number that it has by default.
    pub fn options(
        &self,
        name: &str,
        reach: Reach,
        remembered: Remembered,
        default_serial: &str,
    ) -> ExportOptions {
        let mut options = ExportOptions::new(self.address, name);
        let serial = self.serial.as_deref().unwrap_or(default_serial);
        options.serial = serial.chars().take(SERIAL_BYTES_MAX).collect();
        options.read_only = self.read_only;
        options.write_cache = self.write_cache == WriteCache::On;
        options.write_cache_switchable = self.write_cache == WriteCache::Switchable;
        options.sectors_max = self.sectors;
        options.buffer_count = self.buffers.unwrap_or(options.buffer_count);
        options.queue_length = self
            .queue_length
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(options.queue_length.max(options.buffer_count.into()));
        options.announce = self.announce;
        options.remembered = remembered;
        options.access = self.access.clone();
        options.list_editors = self.editors.clone();
        options.limits = RateLimits { export: rate(self.limit), client: rate(self.client_limit) };
        options.trace = self.trace_io;
        options.probe = self.probe;
        options.on_refusal = self.on_refusal;
        options.reach = reach;
        options
    }
}

/// In a line, for people who check a configuration.
impl fmt::Display for ExportPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.address, self.medium.path)?;
        let window = self.medium.window;
        match window.sectors {
            Some(sectors) => write!(f, ", sectors {}+{sectors}", window.start.0)?,
            None if !window.is_whole() => write!(f, " from sector {} on", window.start.0)?,
            None => {}
        }
        write!(f, "; {}, ", self.medium.io)?;
        match self.read_only {
            true => f.write_str("read-only")?,
            false => write!(f, "write cache {}", self.write_cache)?,
        }
        match &self.interfaces[..] {
            [] => f.write_str("; on all interfaces"),
            interfaces => write!(f, "; on {}", interfaces.join(", ")),
        }
    }
}

fn rate(limit: Limit) -> Rate {
    Rate {
        requests_per_second: limit.requests_per_second,
        bytes_per_second: limit.bytes_per_second,
    }
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Where it begins.
    pub start: Lba,
    /// How many sectors; `None` up to the end, wherever that is.
    pub sectors: Option<u64>,
}

impl Window {
    /// The sectors, as far as they may ever reach.
    pub fn range(&self) -> SectorRange {
        let rest = u64::MAX - self.start.0;
        SectorRange::new(self.start, self.sectors.unwrap_or(rest).min(rest))
    }

    /// Whether it is the whole disk.
    pub fn is_whole(&self) -> bool {
        *self == Window::default()
    }
}

/// An export that can't be as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// Where it stands, if in a file.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: PlanProblem,
}

/// What can be wrong with exports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanProblem {
    /// An address that no export can have.
    #[error(
        "'{0}' is not an address of an export (want for example e194.0; shelf 65535 and slot 255 mean all)"
    )]
    Address(String),
    /// Two exports under one address.
    #[error("{0} is exported twice; initiators would take both for two paths to one disk")]
    DuplicateAddress(ShelfSlot),
    /// Two exports of the same sectors, one of which takes writes.
    #[error(
        "{0} and {1} have sectors of {2} in common, and not both are read-only; two file systems would destroy each other"
    )]
    Overlap(ShelfSlot, ShelfSlot, String),
    /// Two exports of one disk that want it opened differently.
    #[error("{0} and {1} are parts of {2}, but want different io")]
    MixedIo(ShelfSlot, ShelfSlot, String),
    /// No path.
    #[error("{0} has an empty path")]
    NoPath(ShelfSlot),
    /// A length of nothing.
    #[error("{0} has length zero")]
    NoLength(ShelfSlot),
    /// A link's name that is a path or nothing.
    #[error("'{0}' can't be the name of a link")]
    LinkName(String),
    /// Two links of one name.
    #[error("two exports are named '{0}'")]
    DuplicateLink(String),
    /// Two exports that say the same serial number.
    #[error("two exports have the serial '{0}'; clients may take both for one disk")]
    DuplicateSerial(String),
    /// An interface without a name.
    #[error("an interface has an empty name")]
    NoInterface,
    /// A serial number that doesn't fit.
    #[error("serial '{0}' is not 1 to 20 characters of ASCII")]
    Serial(String),
    /// A configuration string that doesn't fit.
    #[error("the configuration string has {0} bytes, the protocol has room for 1024")]
    ConfigString(usize),
    /// A number outside of what makes sense.
    #[error("{what} = {value} is not between {least} and {most}")]
    OutOfBounds {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Clients are told that they may send what then is dropped.
    #[error(
        "queue-length = {queue_length} is less than buffers = {buffers}, which clients are told they may have outstanding"
    )]
    ShortQueue {
        /// Commands that are queued.
        queue_length: u32,
        /// Messages that a client may have outstanding.
        buffers: u16,
    },
    /// A list with something that is neither MAC nor group.
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => self.problem.fmt(f),
        }
    }
}

impl std::error::Error for PlanError {}

/// Makes plans of what is configured.
///
/// # Errors
/// The first thing that is wrong, alone or together with what stands before it.
pub fn plan(
    exports: &[ExportConfig],
    defaults: &ExportSettings,
    groups: &Groups,
) -> Result<Vec<ExportPlan>, PlanError> {
    let resolver = Resolver::new(groups);
    // Wrong in a group or a default is wrong even if no export uses it.
    let at_top = |problem| PlanError { line: None, problem };
    resolver.check().map_err(|error| at_top(error.into()))?;
    let probe = ExportConfig {
        address: "e0.0".to_owned(),
        path: "/".to_owned(),
        ..ExportConfig::default()
    };
    let mut alone = defaults.clone();
    if alone.buffers.is_none() && !exports.is_empty() {
        // Each export may say how many it has.
        alone.queue_length = None;
        check_numbers(defaults).map_err(at_top)?;
    }
    plan_one(&probe, &alone, &resolver).map_err(at_top)?;

    let mut plans: Vec<ExportPlan> = Vec::new();
    for config in exports {
        let here = |problem| PlanError { line: config.line, problem };
        let plan = plan_one(config, defaults, &resolver).map_err(here)?;
        for other in &plans {
            compatible(other, &plan).map_err(here)?;
        }
        plans.push(plan);
    }
    share_writability(&mut plans);
    Ok(plans)
}

/// The plan of a disk that was found, not named.
///
/// # Errors
/// When the defaults make no sense.
pub fn plan_found(
    address: ShelfSlot,
    path: &str,
    defaults: &ExportSettings,
    groups: &Groups,
) -> Result<ExportPlan, PlanError> {
    let mut settings = defaults.clone();
    // Nobody chose this address: it may be somebody else's.
    settings.probe.get_or_insert(Probe::Defend);
    let config = ExportConfig {
        address: address.to_string(),
        path: path.to_owned(),
        ..ExportConfig::default()
    };
    plan_one(&config, &settings, &Resolver::new(groups))
        .map_err(|problem| PlanError { line: None, problem })
}

/// Whether two exports can be side by side.
fn compatible(former: &ExportPlan, plan: &ExportPlan) -> Result<(), PlanProblem> {
    if former.address == plan.address {
        return Err(PlanProblem::DuplicateAddress(plan.address));
    }
    if let Some(link) = &plan.link
        && former.link.as_ref() == Some(link)
    {
        return Err(PlanProblem::DuplicateLink(link.clone()));
    }
    if let Some(serial) = &plan.serial
        && former.serial.as_ref() == Some(serial)
    {
        return Err(PlanProblem::DuplicateSerial(serial.clone()));
    }
    if former.medium.path != plan.medium.path {
        return Ok(());
    }
    share(former, plan)
}

/// Whether two exports of one disk can be side by side. Also for those whose names don't show that
/// they are.
pub fn share(former: &ExportPlan, plan: &ExportPlan) -> Result<(), PlanProblem> {
    let (one, other) = (&former.medium, &plan.medium);
    let path = || other.path.clone();
    let both_read_only = former.read_only && plan.read_only;
    if !both_read_only
        && one.exclusive
        && other.exclusive
        && one.window.range().overlaps(other.window.range())
    {
        return Err(PlanProblem::Overlap(former.address, plan.address, path()));
    }
    if one.io != other.io {
        return Err(PlanProblem::MixedIo(former.address, plan.address, path()));
    }
    Ok(())
}

/// One open file serves all exports of a disk: it is writable if one of them is.
fn share_writability(plans: &mut [ExportPlan]) {
    let mut writable: BTreeMap<String, bool> = BTreeMap::new();
    for plan in &*plans {
        *writable.entry(plan.medium.path.clone()).or_default() |= !plan.read_only;
    }
    for plan in plans {
        plan.medium.writable = writable.get(&plan.medium.path).copied().unwrap_or(false);
    }
}

fn plan_one(
    config: &ExportConfig,
    defaults: &ExportSettings,
    resolver: &Resolver<'_>,
) -> Result<ExportPlan, PlanProblem> {
    let address = config.address.parse();
    let address: ShelfSlot = address.map_err(|_| PlanProblem::Address(config.address.clone()))?;
    let settings = config.settings.clone().or(defaults);
    if config.path.is_empty() {
        return Err(PlanProblem::NoPath(address));
    }
    if config.length.is_some_and(|length| length.0 == 0) {
        return Err(PlanProblem::NoLength(address));
    }
    check_texts(config, &settings)?;
    check_numbers(&settings)?;
    check_queue(&settings)?;
    let read_only = settings.read_only.unwrap_or(false);
    Ok(ExportPlan {
        address,
        medium: MediumPlan {
            path: config.path.clone(),
            io: settings.io.unwrap_or_default(),
            window: Window {
                start: Lba(config.offset.0),
                sectors: config.length.map(|length| length.0),
            },
            writable: !read_only,
            exclusive: true,
        },
        link: config.name.clone(),
        serial: config.serial.clone(),
        interfaces: settings.interfaces.unwrap_or_default(),
        read_only,
        write_cache: settings.write_cache.unwrap_or_default(),
        queue_length: settings.queue_length,
        buffers: settings.buffers,
        sectors: sectors_max(settings.sectors, settings.mtu),
        trace_io: settings.trace_io.unwrap_or(false),
        config_string: settings.config_string.unwrap_or_default(),
        announce: settings.announce.unwrap_or(true),
        on_refusal: settings.on_refusal.unwrap_or_default(),
        // An address that somebody chose is used at once: a foreign machine must not be able to
        // keep it down by answering for it.
        probe: settings.probe.unwrap_or(Probe::Report),
        access: resolver.access(
            settings.default_access.unwrap_or_default(),
            &settings.access.unwrap_or_default(),
        )?,
        editors: resolver.editors(&settings.list_editors.unwrap_or_default())?,
        limit: settings.limit.unwrap_or_default(),
        client_limit: settings.client_limit.unwrap_or_default(),
        damaged_state: settings.damaged_state.unwrap_or_default(),
        mask: Vec::new(),
        remember: true,
    })
}

fn check_texts(config: &ExportConfig, settings: &ExportSettings) -> Result<(), PlanProblem> {
    if let Some(link) = &config.name {
        let hidden = link.starts_with('.');
        if link.is_empty() || hidden || link.contains(['/', '\0']) || link.len() > 255 {
            return Err(PlanProblem::LinkName(link.clone()));
        }
    }
    if let Some(serial) = &config.serial {
        let printable = serial.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if serial.is_empty() || serial.len() > SERIAL_BYTES_MAX || !printable {
            return Err(PlanProblem::Serial(serial.clone()));
        }
    }
    if settings.interfaces.iter().flatten().any(String::is_empty) {
        return Err(PlanProblem::NoInterface);
    }
    match settings.config_string.as_ref().map(String::len) {
        Some(len) if len > CONFIG_STRING_BYTES_MAX => Err(PlanProblem::ConfigString(len)),
        _ => Ok(()),
    }
}

fn check_numbers(settings: &ExportSettings) -> Result<(), PlanProblem> {
    let limits = [settings.limit, settings.client_limit].map(Option::unwrap_or_default);
    let bounded = [
        ("buffers", settings.buffers.map(u64::from), u64::from(BUFFERS_MIN), u64::from(u16::MAX)),
        ("queue-length", settings.queue_length.map(u64::from), 1, 65_535),
        ("sectors", settings.sectors.map(u64::from), 1, 255),
        ("mtu", settings.mtu.map(u64::from), u64::from(MTU_MIN), 65_535),
        ("requests-per-second", limits[0].requests_per_second, 1, u64::MAX),
        ("requests-per-second", limits[1].requests_per_second, 1, u64::MAX),
        ("bytes-per-second", limits[0].bytes_per_second, 1, u64::MAX),
        ("bytes-per-second", limits[1].bytes_per_second, 1, u64::MAX),
    ];
    for (what, value, least, most) in bounded {
        if let Some(value) = value
            && !(least..=most).contains(&value)
        {
            return Err(PlanProblem::OutOfBounds { what, value, least, most });
        }
    }
    Ok(())
}

/// One client with all that it may have outstanding must fit in.
fn check_queue(settings: &ExportSettings) -> Result<(), PlanProblem> {
    let buffers = settings.buffers.unwrap_or(BUFFERS_DEFAULT);
    match settings.queue_length {
        Some(queue_length) if queue_length < u32::from(buffers) => {
            Err(PlanProblem::ShortQueue { queue_length, buffers })
        }
        _ => Ok(()),
    }
}

/// A cap on the frame is a cap on what fits into it.
fn sectors_max(sectors: Option<u8>, mtu: Option<u32>) -> Option<u8> {
    let fit = mtu.map(|mtu| aoe_wire::ata_sectors_max(usize::try_from(mtu).unwrap_or(usize::MAX)));
    match (sectors, fit) {
        (Some(sectors), Some(fit)) => Some(sectors.min(fit)),
        // Whole blocks of 4 KiB where they fit, as without a cap.
        (None, Some(fit)) if fit >= 8 => Some((fit & !7).min(16)),
        (None, fit) => fit,
        (sectors, None) => sectors,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::node::NodeConfig;
    use std::path::Path;

    fn plans(text: &str) -> Result<Vec<ExportPlan>, String> {
        let config = NodeConfig::parse(text, Path::new("t")).map_err(|error| error.to_string())?;
        Ok(config.plans().unwrap())
    }

    fn two(first: &str, second: &str) -> Result<Vec<ExportPlan>, String> {
        plans(&format!(
            "[[export]]\naddress='e1.0'\npath='/d'\n{first}\n[[export]]\naddress='e1.1'\npath='/d'\n{second}\n"
        ))
    }

    #[test]
    fn parts_of_a_disk_may_not_overlap_unless_all_are_read_only() {
        let half = "length='1M'";
        let plans = two(half, "offset='1M'\nread-only=true").unwrap();
        assert!(plans.iter().all(|plan| plan.medium.writable));
        assert!(two(half, "offset='2047s'").unwrap_err().contains("in common"));
        assert!(two("", "offset='1M'").unwrap_err().contains("in common"));
        assert!(two("read-only=true", "offset='1M'").unwrap_err().contains("in common"));
        let plans = two("read-only=true", "read-only=true").unwrap();
        assert!(plans.iter().all(|plan| !plan.medium.writable));
        assert!(two("length='1M'\nio='buffered'", "offset='1M'").unwrap_err().contains("io"));
        let same = two("length='1M'\nserial='S'", "offset='1M'\nserial='S'");
        assert!(same.unwrap_err().contains("serial"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let one = |text: &str| plans(&format!("[[export]]\naddress='e1.0'\npath='/d'\n{text}"));
        for (text, word) in [
            ("length='0'", "length zero"),
            ("name='a/b'", "a/b"),
            ("name='..'", ".."),
            ("serial='123456789012345678901'", "20 characters"),
            ("serial=''", "20 characters"),
            ("interfaces=['']", "empty name"),
            ("buffers=3", "buffers"),
            ("queue-length=0", "queue-length"),
            ("queue-length=63", "less than buffers = 64"),
            ("queue-length=100\nbuffers=101", "less than buffers = 101"),
            ("sectors=0", "sectors"),
            ("mtu=500", "mtu"),
            ("limit={requests-per-second=0}", "requests-per-second"),
            ("access.read.accept=['wbe']", "wbe"),
            ("list-editors=['wbe']", "wbe"),
        ] {
            let error = one(text).unwrap_err();
            assert!(error.starts_with("t: line 1: ") && error.contains(word), "{text}: {error}");
        }
        assert!(plans("access.read.accept=['wbe']").unwrap_err().contains("wbe"));
        assert!(plans("groups.a=['wbe']").unwrap_err().contains("wbe"));
        assert!(two("name='x'", "offset='1M'\nname='x'").is_err());
        // In whichever places they stand.
        let export = "[[export]]\naddress='e1.0'\npath='/d'\n";
        let queue = |plan: &ExportPlan| {
            plan.options("", Reach::AllPorts, Remembered::default(), "").queue_length
        };
        let short = plans(&format!("queue-length=16\n{export}")).unwrap_err();
        assert!(short.contains("line 2") && short.contains("less than buffers = 64"), "{short}");
        assert!(plans("queue-length=16\nbuffers=17").unwrap_err().contains("less than"));
        assert!(plans("queue-length=16").unwrap_err().contains("less than"));
        let fits = plans(&format!("queue-length=16\n{export}buffers=16\n")).unwrap();
        assert_eq!(fits.iter().map(queue).collect::<Vec<_>>(), [16]);
        // The queue that nobody named is long enough for what was.
        let many = one("buffers=5000").unwrap();
        assert_eq!(many.iter().map(queue).collect::<Vec<_>>(), [5000]);
        for address in ["e65535.0", "e1.255", "1.2", "e1", "e70000.1", ""] {
            let text = format!("[[export]]\naddress='{address}'\npath='x'\n");
            assert!(plans(&text).unwrap_err().contains("address"), "{address}");
        }
    }

    #[test]
    fn a_plan_reads_as_a_line() {
        let plans = two(
            "length='1M'\nread-only=true\ninterfaces=['a', 'b*']",
            "offset='1M'\nwrite-cache='on'",
        );
        let lines: Vec<String> = plans.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "e1.0 is /d, sectors 0+2048; direct, read-only; on a, b*",
                "e1.1 is /d from sector 2048 on; direct, write cache on; on all interfaces"
            ]
        );
    }

    #[test]
    fn a_small_frame_carries_whole_blocks_where_it_can() {
        for (sectors, mtu, expected) in [
            (None, None, None),
            (Some(2), None, Some(2)),
            (Some(17), Some(1500), Some(2)),
            (None, Some(1500), Some(2)),
            (None, Some(9000), Some(16)),
            (None, Some(4200), Some(8)),
        ] {
            assert_eq!(sectors_max(sectors, mtu), expected, "{sectors:?} {mtu:?}");
        }
    }
}
