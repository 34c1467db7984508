//! What people are told of the space that a pool keeps free for a loss (`crate::spare`): how much that is, and whether it
//! is enough now.

use uuid::Uuid;

use super::open_pool::OpenPool;
use super::space::{domain_word, human};
use crate::allocate::{Usable, kept_for_spare};
use crate::format::DiskNumber;
use crate::metadata::Metadata;
use crate::report::SpareReport;
use crate::spare::{Ledger, Loss, Shortage, Spare};

/// What was kept when that was counted last, which is only then not so any more when something else is free.
#[derive(Debug, Default)]
pub(super) struct Kept {
    of: Option<Counted>,
    extents: u64,
}

/// What that depends on: the map and logs change with what is free.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    spare: Spare,
    copies: u8,
    volumes: usize,
    free: Vec<(DiskNumber, u32)>,
}

impl OpenPool {
    /// How the pool's spare stands.
    pub(super) fn spare_report(&self, meta: &Metadata) -> Option<SpareReport> {
        let keeps = Spare::of(meta)?;
        let usable = self.pool.usable_disks();
        let shortage = Ledger::new(meta, &usable, 0)?.shortage();
        let extent_bytes = meta.shape().extent_bytes();
        Some(SpareReport {
            keeps,
            kept_bytes: self.kept_extents(meta, &usable, keeps) * extent_bytes,
            lacks_bytes: shortage.map_or(0, |shortage| shortage.extents * extent_bytes),
            lacks: shortage.map(|shortage| self.short_of(meta, shortage)),
        })
    }

    fn kept_extents(&self, meta: &Metadata, usable: &Usable, spare: Spare) -> u64 {
        let copies = meta.volumes().values().map(|volume| volume.wanted_layout().copies());
        let domains = super::pool::Pool::domains(meta, usable.iter().copied());
        let copies = copies.max().unwrap_or(if domains > 1 { 2 } else { 1 });
        let free = usable.iter().filter_map(|disk| meta.disks().get(disk));
        let free = free.map(|disk| (disk.number, disk.free.len())).collect();
        let volumes = meta.volumes().size();
        let now = Counted { spare, copies, volumes, free };
        let mut kept = self.jobs.kept.borrow_mut();
        if kept.of.as_ref() != Some(&now) {
            *kept = Kept { of: Some(now), extents: kept_for_spare(meta, usable, copies) };
        }
        kept.extents
    }

    /// What the spare would lack with only these disks, if that is more than it does.
    pub(super) fn spare_lacks_more(&self, meta: &Metadata, usable: &Usable) -> Option<String> {
        let then = Ledger::new(meta, usable, 0)?.shortage()?;
        let now = Ledger::new(meta, &self.pool.usable_disks(), 0)?.lacks();
        (then.extents > now).then(|| self.short_of(meta, then))
    }

    /// What finds no place after which loss.
    pub(super) fn short_of(&self, meta: &Metadata, shortage: Shortage) -> String {
        let bytes = human(shortage.extents * meta.shape().extent_bytes());
        let where_to = format!("on a {} that doesn't have the other copies", domain_word(meta));
        match shortage.loss {
            Loss::Nothing => {
                format!("{bytes} of what is lost already might find no place {where_to}")
            }
            Loss::Disk(disk) => {
                let disk = self.pool.disk_name(disk);
                format!("if {disk} were lost, {bytes} of it might find no place {where_to}")
            }
            Loss::Node(node) => {
                let node = node_name(meta, node);
                format!("if machine {node} were lost, {bytes} of it might find no place {where_to}")
            }
        }
    }
}

fn node_name(meta: &Metadata, node: Uuid) -> String {
    let disk = meta.data_disks().find(|disk| disk.node == node);
    disk.map_or_else(String::new, |disk| disk.node_name.clone())
}

/// The loss that a spare is for.
pub(super) fn words(spare: Spare) -> String {
    match spare {
        Spare::Disk => "for the loss of any one disk".to_owned(),
        Spare::Node => "for the loss of any one machine".to_owned(),
        Spare::Bytes(bytes) => format!("for the loss of {} on any one disk", human(bytes)),
    }
}
