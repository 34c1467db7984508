//! Why there is no room: which machines and disks have how much, what the layout needs of them, and
//! what one machine more would give. "304 MiB free, 0 can be had" helps nobody.

use std::collections::{BTreeMap, BTreeSet};

use block::size::Human;
use uuid::Uuid;

use super::labels::words_of_joints;
use super::pool::Pool;
use super::rebalance::gain_bytes;
use super::spare::words;
use crate::allocate::{Usable, usable_bytes};
use crate::error::PoolError;
use crate::forecast::{LayoutRoom, PoolForecast, VotesForecast};
use crate::format::{DiskId, DiskNumber, FailureDomain};
use crate::metadata::{Disk, Layout, MetaRecord, Metadata};
use crate::spare::Spare;

/// Where space may be taken from, and what people call those disks.
pub(crate) struct Room {
    pub(crate) usable: Usable,
    names: BTreeMap<DiskNumber, String>,
}

impl Pool {
    /// The disks that take part now.
    pub(crate) fn room(&self) -> Room {
        let members = self.members();
        let names = members.iter().map(|member| (member.number, member.display_name()));
        Room { usable: self.usable_disks(), names: names.collect() }
    }
}

/// What a pool with this metadata could hold, and what new volumes could have on the disks that take part. Only layouts that
/// there are enough failure domains for.
pub(super) fn forecast_of(
    metadata: &Metadata,
    usable: &Usable,
    losses: Vec<String>,
    votes: VotesForecast,
) -> PoolForecast {
    let disks = || metadata.data_disks();
    let there = disks().filter(|disk| usable.contains(&disk.number));
    let domains: BTreeSet<Uuid> = there.map(|disk| metadata.domain_of(disk)).collect();
    let mirrors =
        (2..=Layout::COPIES_ASKED_MAX).take_while(|copies| usize::from(*copies) <= domains.len());
    let layouts = [Layout::Raid0].into_iter().chain(mirrors.map(Layout::Mirror));
    let extents: u64 = disks().map(|disk| u64::from(disk.room())).sum();
    PoolForecast {
        losses,
        joined: Vec::new(),
        capacity_bytes: extents * metadata.shape().extent_bytes(),
        volumes: layouts
            .map(|layout| LayoutRoom {
                layout: layout.to_string(),
                bytes: usable_bytes(metadata, usable, layout, None),
            })
            .collect(),
        votes,
    }
}

/// Domains that are listed, at most.
const LISTED_MAX: usize = 12;

/// The refusal of a volume of `needed` bytes, or of growth by so many, where `free` can be had.
pub(super) fn no_space(
    meta: &Metadata,
    room: &Room,
    layout: Layout,
    needed: u64,
    free: u64,
) -> PoolError {
    let what = domain_word(meta);
    let mut domains: BTreeMap<Uuid, Vec<&Disk>> = BTreeMap::new();
    for disk in meta.data_disks() {
        domains.entry(meta.domain_of(disk)).or_default().push(disk);
    }
    let listed = domains.iter().take(LISTED_MAX);
    let listed = listed.map(|(domain, disks)| room_of(meta, room, *domain, disks));
    let mut listed: Vec<String> = listed.collect();
    if domains.len() > LISTED_MAX {
        listed.push(format!("{} more", domains.len() - LISTED_MAX));
    }
    let rule = match layout {
        Layout::Raid0 => format!("{layout} needs free extents on any {what}"),
        Layout::Mirror(copies) => {
            format!("{layout} needs free extents on {copies} {what}s at once")
        }
    };
    let more = match one_more(meta, &room.usable, layout) {
        Some((bytes, gain)) if gain > free => {
            format!("one more {what} with {} would make it {}", Human(bytes), Human(gain))
        }
        _ => format!("one more {what} alone would not help, two would"),
    };
    let labels = match meta.has_joined_domains() {
        true => " that no label joins with the others",
        false => "",
    };
    // What is free may only be on too few of them.
    let rebalance = match gain_bytes(meta, &room.usable, layout) {
        Some(gain) => format!("moving groups would make it {} (pool rebalance); ", Human(gain)),
        None => String::new(),
    };
    let spare = Spare::of(meta)
        .map_or_else(String::new, |spare| format!(" and for the pool's spare ({})", words(spare)));
    PoolError::NoSpace {
        needed_bytes: needed,
        free_bytes: free,
        remedy: format!(
            "{rule}, besides what is kept for logs{spare}; free: {}; {rebalance}{more}{labels} (pool extend)",
            listed.join("; ")
        ),
    }
}

/// What copies must not share, for people.
pub(super) fn domain_word(meta: &Metadata) -> &'static str {
    match meta.pool().failure_domain {
        _ if meta.has_joined_domains() => "failure domain",
        FailureDomain::Node => "machine",
        FailureDomain::Disk => "disk",
    }
}

/// `n1 304 MiB (e1.0 304 MiB, e1.1 is away)`, or `n1 and n2, one failure domain (rack=A joins e1.0, e2.0), ...`.
fn room_of(meta: &Metadata, room: &Room, domain: Uuid, disks: &[&Disk]) -> String {
    let extent = meta.shape().extent_bytes();
    let name_of = |disk: DiskNumber| room.names.get(&disk).cloned().unwrap_or_default();
    let name = |disk: &Disk| name_of(disk.number);
    let free = |disk: &Disk| u64::from(disk.free.len()) * extent;
    let here = disks.iter().filter(|disk| room.usable.contains(&disk.number));
    let total: u64 = here.map(|disk| free(disk)).sum();
    let each = disks.iter().map(|disk| match room.usable.contains(&disk.number) {
        true => format!("{} {}", name(disk), Human(free(disk))),
        false => format!("{} is away", name(disk)),
    });
    let each: Vec<String> = each.collect();
    let nodes: BTreeSet<&str> = disks.iter().map(|disk| disk.node_name.as_str()).collect();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let joined = words_of_joints(meta, Some(domain), name_of);
    let joined = match joined.is_empty() {
        true => String::new(),
        false => format!(", one failure domain ({}),", joined.join("; ")),
    };
    format!("{}{joined} {} ({})", nodes.join(" and "), Human(total), each.join(", "))
}

/// A disk as large as the largest, in a domain of its own: its size, and what the layout could have.
fn one_more(meta: &Metadata, usable: &Usable, layout: Layout) -> Option<(u64, u64)> {
    let largest = meta.data_disks().max_by_key(|disk| disk.extents)?;
    let number = meta.counters().disk;
    let added = MetaRecord::DiskAdded {
        number,
        id: DiskId(Uuid::from_u128(u128::from(number.0) + 1)),
        node: Uuid::from_u128(1),
        node_name: String::new(),
        bytes: largest.bytes,
        area: None,
    };
    let with = meta.with(&[added]).ok()?;
    let mut usable: Usable = usable.clone();
    usable.insert(DiskNumber(number.0));
    Some((largest.bytes, usable_bytes(&with, &usable, layout, None)))
}

/// Two sizes as people read them, or to the byte where they would look alike.
pub(super) fn told_apart(sizes: [u64; 2]) -> [String; 2] {
    let [first, second] = sizes.map(|bytes| Human(bytes).to_string());
    match first == second {
        true => sizes.map(|bytes| format!("{bytes} bytes")),
        false => [first, second],
    }
}
