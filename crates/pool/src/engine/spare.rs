//! What people are told of the space that a pool keeps free for a loss (`crate::spare`): how much that is, and whether it
//! is enough now.

use block::size::Human;
use uuid::Uuid;

use super::open_pool::OpenPool;
use super::pool::Pool;
use super::space::domain_word;
use crate::allocate::{MovePlan, Usable, most_groups};
use crate::format::DiskNumber;
use crate::metadata::{GroupRun, Metadata};
use crate::report::SpareReport;
use crate::spare::{Loss, Shortage, Spare, Standing};

impl OpenPool {
    /// How the pool's spare stands.
    pub(super) fn spare_report(&self, meta: &Metadata) -> Option<SpareReport> {
        let keeps = Spare::of(meta)?;
        let usable = self.pool.usable_disks();
        let copies = most_copies(meta, &usable);
        let now = Standing::with(meta, &usable)?;
        let shortage = now.shortage(copies);
        let free = now.free();
        let left = Standing::for_growth(meta, &usable, false)?.groups_beside(&free, copies);
        let kept = most_groups(&free, copies).saturating_sub(left);
        let extent_bytes = meta.shape().extent_bytes();
        let bytes = |groups: u64| groups * u64::from(copies) * extent_bytes;
        Some(SpareReport {
            keeps,
            kept_bytes: bytes(kept),
            left_bytes: bytes(left),
            lacks_bytes: shortage.map_or(0, |shortage| shortage.extents * extent_bytes),
            lacks: shortage.map(|shortage| self.short_of(meta, shortage)),
        })
    }

    /// What the spare would lack once what is on some disks is on these, if that is more than it does.
    pub(super) fn spare_lacks_more(
        &self,
        meta: &Metadata,
        disks: &[DiskNumber],
        usable: &Usable,
    ) -> Option<String> {
        let copies = most_copies(meta, usable);
        let mut then = Standing::with(meta, usable)?;
        let mut plan = MovePlan::forecast(meta, usable);
        for disk in disks {
            plan.homeless(*disk, None, Some(&mut then));
        }
        let then = then.shortage(copies)?;
        let now = Standing::with(meta, &self.pool.usable_disks())?.shortage(copies);
        (then.extents > now.map_or(0, |now| now.extents)).then(|| self.short_of(meta, then))
    }

    /// Whether a spare that is held is so too if a position of a run moves that is on one of the usable disks. One that
    /// shares its failure domain with another one of its group may go whatever that costs: the layout's promise
    /// comes before that of the spare.
    pub(super) fn move_leaves_spare(
        &self,
        meta: &Metadata,
        run: &GroupRun,
        position: u8,
        to: DiskNumber,
    ) -> bool {
        if Spare::of(meta).is_none() {
            return true;
        }
        let usable = self.pool.usable_disks();
        let from = run.members.get(usize::from(position)).map(|member| member.disk);
        let Some(from) = from.filter(|from| usable.contains(from)) else { return true };
        let Some(mut standing) = Standing::for_growth(meta, &usable, false) else { return true };
        let others = others_of(run, position);
        if shares_domain(meta, from, &others) || standing.shortage(0).is_some() {
            return true;
        }
        standing.move_position(&others, from, to, run.count);
        standing.shortage(0).is_none()
    }

    /// What finds no place after which loss.
    pub(super) fn short_of(&self, meta: &Metadata, shortage: Shortage) -> String {
        let bytes = Human(shortage.extents * meta.shape().extent_bytes());
        let where_to = format!("on a {} that doesn't have the other copies", domain_word(meta));
        match shortage.loss {
            Loss::Disk(disk) => {
                let disk = self.pool.disk_name(disk);
                format!("if {disk} were lost, {bytes} might find no place {where_to}")
            }
            Loss::Node(node) => {
                let node = node_name(meta, node);
                format!("if machine {node} were lost, {bytes} might find no place {where_to}")
            }
        }
    }
}

/// Where the other positions of a run are.
pub(super) fn others_of(run: &GroupRun, position: u8) -> Vec<DiskNumber> {
    let members = run.members.iter().enumerate();
    let others = members.filter(|(index, _)| *index != usize::from(position));
    others.map(|(_, member)| member.disk).collect()
}

/// Whether a disk is in the failure domain of one of the others.
pub(super) fn shares_domain(meta: &Metadata, disk: DiskNumber, others: &[DiskNumber]) -> bool {
    let domain = |disk: &DiskNumber| meta.disks().get(disk).map(|disk| meta.domain_of(disk));
    let of_disk = domain(&disk);
    of_disk.is_some() && others.iter().any(|other| domain(other) == of_disk)
}

/// The most copies that a volume has; where there is none, those of the usual mirror.
fn most_copies(meta: &Metadata, usable: &Usable) -> u8 {
    let copies = meta.volumes().values().map(|volume| volume.wanted_layout().copies());
    let domains = Pool::domains(meta, usable.iter().copied());
    copies.max().unwrap_or(if domains > 1 { 2 } else { 1 })
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
        Spare::Bytes(bytes) => format!("for the loss of {} on any one disk", Human(bytes)),
    }
}
