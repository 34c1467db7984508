//! Labels of disks, and the failure domains that follow from them. A label says that disks may be lost together: those of
//! a rack, of a room, of a purchase. It **joins** domains and never splits one: two disks are in one domain if they
//! share a machine (where machines fail as a whole) or a label, or if a third one shares something with each. So
//! domains stay a partition of the disks, and whoever keeps copies in different ones needs to know no more.
//!
//! A disk's labels are a property of the pool, so that they outlive whoever owns it: words `KIND=VALUE` between
//! spaces, one of each kind. The domains aren't kept anywhere: they are computed when they are asked for first after
//! disks or labels changed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk_property::key_of;
use super::{Disk, MetaRecord, Metadata};
use crate::format::{DiskNumber, FailureDomain};

/// What begins the properties' names; the disk's number follows.
pub(super) const KEY: &str = "domain-";
/// Labels that a disk may have, of different kinds, and kinds that those of a pool's disks may be of.
pub const LABELS_MAX: usize = 8;
/// Longest kind and longest value.
pub const LABEL_WORD_BYTES_MAX: usize = 32;
/// What a kind can't be called: failure domains that there are without labels.
const TAKEN: [&str; 3] = ["disk", "node", "machine"];

/// Not a label, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// It lacks a part.
    #[error(
        "'{0}' names no label with its disks: want KIND=VALUE:DISK,DISK, for example rack=A:e1.0,e1.1"
    )]
    Form(String),
    /// A word is none.
    #[error(
        "'{0}' is not a word of a label: 1 to {LABEL_WORD_BYTES_MAX} letters, digits, '.', '_' and '-', beginning with a \
         letter or digit"
    )]
    Word(String),
    /// Something else is called that.
    #[error("'{0}' is a failure domain without any label: call the kind something else")]
    Taken(String),
    /// A disk would have more than it may.
    #[error("{0} would have more than {LABELS_MAX} labels")]
    TooMany(String),
    /// The pool would have more kinds than it may.
    #[error("labels of the pool's disks would be of {0}: more than {LABELS_MAX} kinds")]
    TooManyKinds(String),
}

/// What kind of thing a label tells of a disk: `rack`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
pub struct LabelKind(String);

/// Which one it is: `A`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
pub struct LabelValue(String);

impl std::str::FromStr for LabelKind {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<LabelKind, InvalidLabel> {
        match TAKEN.contains(&text) {
            true => Err(InvalidLabel::Taken(text.to_owned())),
            false => Ok(LabelKind(word(text)?)),
        }
    }
}

impl std::str::FromStr for LabelValue {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<LabelValue, InvalidLabel> {
        Ok(LabelValue(word(text)?))
    }
}

fn word(text: &str) -> Result<String, InvalidLabel> {
    let is_one = text.len() <= LABEL_WORD_BYTES_MAX && block::check_name(text).is_ok();
    if is_one { Ok(text.to_owned()) } else { Err(InvalidLabel::Word(text.to_owned())) }
}

impl std::fmt::Display for LabelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl std::fmt::Display for LabelValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

block::serde_as_text!(LabelKind, LabelValue);

/// A disk's labels: of each kind a value.
pub type Labels = BTreeMap<LabelKind, LabelValue>;

/// A label that disks get, or lose: on a command line `rack=A:e1.0,node2`, and without a value `rack=:e1.0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DomainLabel {
    /// Its kind.
    pub kind: LabelKind,
    /// Its value, instead of the one of this kind that they may have; with none they lose that.
    #[serde(default)]
    pub value: Option<LabelValue>,
    /// Each a disk, by the name under which it is or was present or by its identity, or a machine: all of its disks.
    pub disks: Vec<String>,
}

impl std::str::FromStr for DomainLabel {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<DomainLabel, InvalidLabel> {
        let form = || InvalidLabel::Form(text.to_owned());
        let (label, disks) = text.split_once(':').ok_or_else(form)?;
        let (kind, value) = label.split_once('=').ok_or_else(form)?;
        let disks: Vec<String> = disks.split(',').map(str::to_owned).collect();
        if disks.iter().any(String::is_empty) {
            return Err(form());
        }
        let value = (!value.is_empty()).then(|| value.parse()).transpose()?;
        Ok(DomainLabel { kind: kind.parse()?, value, disks })
    }
}

impl std::fmt::Display for DomainLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.as_ref().map_or("", |value| &value.0);
        write!(f, "{}={value}:{}", self.kind, self.disks.join(","))
    }
}

impl DomainLabel {
    /// Puts it on a disk, or takes it away; `name` is that disk for people.
    pub(crate) fn put_on(&self, labels: &mut Labels, name: &str) -> Result<(), InvalidLabel> {
        match &self.value {
            Some(value) => labels.insert(self.kind.clone(), value.clone()),
            None => labels.remove(&self.kind),
        };
        if labels.len() > LABELS_MAX {
            return Err(InvalidLabel::TooMany(name.to_owned()));
        }
        Ok(())
    }
}

/// Why disks are in one failure domain though they share no machine, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joint {
    /// The label.
    pub kind: LabelKind,
    /// Its value.
    pub value: LabelValue,
    /// The disks that it joins.
    pub disks: Vec<DiskNumber>,
}

/// What labels join. It is no part of what the metadata says.
#[derive(Clone, Debug, Default)]
pub(super) struct Domains(OnceCell<Rc<Joined>>);

#[derive(Debug, Default)]
struct Joined {
    /// The failure domains that hold data.
    data_domains: usize,
    /// The domain of each disk that a label joins with others.
    by_all: BTreeMap<DiskNumber, Uuid>,
    /// Of each kind of label the same by those alone.
    by_kind: BTreeMap<LabelKind, BTreeMap<DiskNumber, Uuid>>,
}

impl PartialEq for Domains {
    fn eq(&self, _: &Domains) -> bool {
        true
    }
}

impl Eq for Domains {}

impl MetaRecord {
    /// A disk has these labels from now on.
    pub fn labels(disk: DiskNumber, labels: &Labels) -> MetaRecord {
        let words: Vec<String> =
            labels.iter().map(|(kind, value)| format!("{kind}={value}")).collect();
        let value = (!words.is_empty()).then(|| words.join(" "));
        MetaRecord::PoolPropertySet { key: key_of(KEY, disk), value }
    }

    /// Whether disks may be in other domains after it.
    pub(super) fn changes_domains(&self) -> bool {
        match self {
            MetaRecord::DiskAdded { .. }
            | MetaRecord::DiskRemoved { .. }
            | MetaRecord::DiskMoved { .. } => true,
            MetaRecord::PoolPropertySet { key, .. } => key.starts_with(KEY),
            _ => false,
        }
    }
}

impl Metadata {
    /// A disk's labels. What can't be read as one is none.
    pub fn labels(&self, disk: DiskNumber) -> Labels {
        let value = self.properties().get(&key_of(KEY, disk)).map_or("", String::as_str);
        let labels = value.split(' ').filter_map(|word| {
            let (kind, value) = word.split_once('=')?;
            Some((kind.parse().ok()?, value.parse().ok()?))
        });
        labels.take(LABELS_MAX).collect()
    }

    /// The failure domain of a disk: what may be lost as one, told by the least of what it consists of.
    pub fn domain_of(&self, disk: &Disk) -> Uuid {
        self.domain_in(&self.joined().by_all, disk)
    }

    fn domain_in(&self, joined: &BTreeMap<DiskNumber, Uuid>, disk: &Disk) -> Uuid {
        joined.get(&disk.number).copied().unwrap_or_else(|| self.unjoined_domain_of(disk))
    }

    /// How many failure domains have disks for data.
    pub fn data_domains(&self) -> usize {
        self.joined().data_domains
    }

    /// Whether some label joins disks that would fail apart from each other without it.
    pub fn has_joined_domains(&self) -> bool {
        !self.joined().by_all.is_empty()
    }

    /// Those of [`Metadata::label_kinds`] by which copies are counted.
    pub fn counted_kinds(&self) -> impl Iterator<Item = &LabelKind> {
        self.joined().by_kind.keys()
    }

    /// The failure domain of a disk by the labels of each of [`Metadata::counted_kinds`] alone. A machine that fails as
    /// a whole is in the rack of each of its disks; what has no label of that kind is lost by itself.
    pub fn domains_by_kind<'a>(&'a self, disk: &'a Disk) -> impl Iterator<Item = Uuid> + 'a {
        self.joined().by_kind.values().map(|joined| self.domain_in(joined, disk))
    }

    fn joined(&self) -> &Joined {
        self.domains.0.get_or_init(|| Rc::new(self.joined_domains()))
    }

    /// What a disk is lost with whatever its labels are.
    pub(crate) fn unjoined_domain_of(&self, disk: &Disk) -> Uuid {
        match self.pool.failure_domain {
            FailureDomain::Node => disk.node,
            FailureDomain::Disk => disk.id.0,
        }
    }

    fn joined_domains(&self) -> Joined {
        let data_domains = |joined: &BTreeMap<DiskNumber, Uuid>| {
            let domains = self.data_disks().map(|disk| self.domain_in(joined, disk));
            domains.collect::<BTreeSet<Uuid>>().len()
        };
        if !self.properties().range(KEY.to_owned()..).any(|(key, _)| key.starts_with(KEY)) {
            let data_domains = data_domains(&BTreeMap::new());
            return Joined { data_domains, ..Joined::default() };
        }
        let disks = self.disks.values();
        let disks: Vec<(DiskNumber, Uuid, Labels)> = disks
            .map(|disk| (disk.number, self.unjoined_domain_of(disk), self.labels(disk.number)))
            .collect();
        let by = |counts: &dyn Fn(&LabelKind) -> bool| -> BTreeMap<DiskNumber, Uuid> {
            let domains = join(disks.iter().map(|(_, own, labels)| (*own, labels)), counts);
            let joined = disks.iter().zip(domains).filter(|((_, own, _), domain)| own != domain);
            joined.map(|((number, ..), domain)| (*number, domain)).collect()
        };
        // Those of another making may be of more.
        let kinds = self.label_kinds().into_iter().take(LABELS_MAX);
        let by_kind = kinds.map(|kind| {
            let joined = by(&|other| *other == kind);
            (kind, joined)
        });
        let (by_all, by_kind) = (by(&|_| true), by_kind.collect());
        Joined { data_domains: data_domains(&by_all), by_all, by_kind }
    }

    /// What joins disks that would be lost apart from each other without labels, by kind and value; within a domain if
    /// one is told.
    pub fn joints(&self, within: Option<Uuid>) -> Vec<Joint> {
        let mut labelled: BTreeMap<(LabelKind, LabelValue), Vec<&Disk>> = BTreeMap::new();
        let disks = self.disks.values();
        let disks = disks.filter(|disk| within.is_none_or(|one| self.domain_of(disk) == one));
        for disk in disks {
            for label in self.labels(disk.number) {
                labelled.entry(label).or_default().push(disk);
            }
        }
        let joins = |disks: &Vec<&Disk>| {
            let own: BTreeSet<Uuid> =
                disks.iter().map(|disk| self.unjoined_domain_of(disk)).collect();
            own.len() > 1
        };
        let joints = labelled.into_iter().filter(|(_, disks)| joins(disks));
        let joint = |((kind, value), disks): ((LabelKind, LabelValue), Vec<&Disk>)| Joint {
            kind,
            value,
            disks: disks.iter().map(|disk| disk.number).collect(),
        };
        joints.map(joint).collect()
    }

    /// The kinds of labels that its disks have.
    pub fn label_kinds(&self) -> BTreeSet<LabelKind> {
        self.disks.keys().flat_map(|disk| self.labels(*disk).into_keys()).collect()
    }
}

/// Refuses more kinds of labels than a pool may have, but for those that it had before.
pub(crate) fn check_kinds(
    before: &BTreeSet<LabelKind>,
    kinds: &BTreeSet<LabelKind>,
) -> Result<(), InvalidLabel> {
    if kinds.len() <= LABELS_MAX || kinds.is_subset(before) {
        return Ok(());
    }
    let kinds: Vec<String> = kinds.iter().map(LabelKind::to_string).collect();
    Err(InvalidLabel::TooManyKinds(kinds.join(", ")))
}

/// The domain of each of these, by what it is lost with whatever its labels are, and by its labels of those kinds that
/// count.
fn join<'a>(
    disks: impl Iterator<Item = (Uuid, &'a Labels)>,
    counts: &dyn Fn(&LabelKind) -> bool,
) -> Vec<Uuid> {
    let disks: Vec<(Uuid, &Labels)> = disks.collect();
    // Of each that was joined one that is less; of the least of a domain itself.
    let mut least: BTreeMap<Uuid, Uuid> = disks.iter().map(|(own, _)| (*own, *own)).collect();
    let mut first: BTreeMap<(&LabelKind, &LabelValue), Uuid> = BTreeMap::new();
    for (own, labels) in &disks {
        for label in labels.iter().filter(|(kind, _)| counts(kind)) {
            let other = *first.entry(label).or_insert(*own);
            let (one, other) = (root_of(&least, *own), root_of(&least, other));
            least.insert(one.max(other), one.min(other));
        }
    }
    disks.iter().map(|(own, _)| root_of(&least, *own)).collect()
}

fn root_of(least: &BTreeMap<Uuid, Uuid>, mut of: Uuid) -> Uuid {
    while let Some(less) = least.get(&of).filter(|less| **less != of) {
        of = *less;
    }
    of
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
