//! Arithmetic between a volume's blocks and the rows of its groups.
//!
//! A volume is a sequence of **sets** of W groups each (W is the volume's stripe width; 1 for
//! mirrors). Group `lane` of a set lies on other disks than its neighbours where possible, and
//! stripe units of 16 rows (64 KiB) go round the lanes, so that sequential I/O uses all of them:
//!
//! ```text
//! block of the set   0..16   16..32  32..48  48..64 …
//! lane, rows         0:0..16 1:0..16 2:0..16 0:16..32 …      (W = 3)
//! ```
//!
//! A group's rows aren't a multiple of a unit; the last unit of each lane is as short as what is
//! left, and all sets are laid out alike, so growing a volume never moves a block.

use crate::format::Row;

/// Rows in a stripe unit: 64 KiB.
pub const STRIPE_UNIT_ROWS: u32 = 16;

/// Address of a 4 KiB block on a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeBlock(pub u64);

/// A row of a volume's group, by the group's place in the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowAddress {
    /// The set.
    pub set: u64,
    /// The group within the set.
    pub lane: u16,
    /// The row within the group.
    pub row: Row,
}

/// Consecutive rows of one group that are consecutive blocks of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First block.
    pub block: VolumeBlock,
    /// Where that lies.
    pub at: RowAddress,
    /// How many.
    pub count: u32,
}

/// How a volume's blocks go over groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeLayout {
    width: u16,
    group_rows: u32,
}

impl StripeLayout {
    /// A layout of sets of `width` groups with `group_rows` rows each; `None` when either is zero.
    pub fn new(width: u16, group_rows: u32) -> Option<StripeLayout> {
        (width > 0 && group_rows > 0).then_some(StripeLayout { width, group_rows })
    }

    /// Groups in a set.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Rows in a group.
    pub fn group_rows(&self) -> u32 {
        self.group_rows
    }

    /// Blocks in a set.
    pub fn set_blocks(&self) -> u64 {
        u64::from(self.width) * u64::from(self.group_rows)
    }

    /// Sets needed for a volume of `blocks` blocks.
    pub fn sets_for(&self, blocks: u64) -> u64 {
        blocks.div_ceil(self.set_blocks())
    }

    /// Where a block lies and how many blocks from it on follow in the same group.
    pub fn locate(&self, block: VolumeBlock) -> Piece {
        let (width, unit) = (u64::from(self.width), u64::from(STRIPE_UNIT_ROWS));
        let rows = u64::from(self.group_rows);
        let set = block.0 / self.set_blocks();
        let inside = block.0 % self.set_blocks();
        let (lane, row, left) = if width == 1 {
            (0, inside, rows - inside)
        } else {
            let whole_units = rows / unit;
            let striped = whole_units * unit * width;
            if inside < striped {
                let (stripe, offset) = (inside / (unit * width), inside % (unit * width));
                (offset / unit, stripe * unit + offset % unit, unit - offset % unit)
            } else {
                let tail = rows - whole_units * unit;
                let offset = inside - striped;
                (offset / tail, whole_units * unit + offset % tail, tail - offset % tail)
            }
        };
        let at = RowAddress { set, lane: lane as u16, row: Row(row as u32) };
        Piece { block, at, count: left as u32 }
    }

    /// The block that a row holds; `None` for a row or lane that the layout doesn't have.
    pub fn block_of(&self, at: RowAddress) -> Option<VolumeBlock> {
        if at.lane >= self.width || at.row.0 >= self.group_rows {
            return None;
        }
        let (width, unit) = (u64::from(self.width), u64::from(STRIPE_UNIT_ROWS));
        let (rows, lane, row) =
            (u64::from(self.group_rows), u64::from(at.lane), u64::from(at.row.0));
        let whole_units = rows / unit;
        let inside = if width == 1 {
            row
        } else if row < whole_units * unit {
            row / unit * unit * width + lane * unit + row % unit
        } else {
            let tail = rows - whole_units * unit;
            whole_units * unit * width + lane * tail + (row - whole_units * unit)
        };
        at.set.checked_mul(self.set_blocks())?.checked_add(inside).map(VolumeBlock)
    }

    /// Splits `count` blocks from `start` into pieces, ascending by block.
    pub fn pieces(&self, start: VolumeBlock, count: u64) -> impl Iterator<Item = Piece> + use<> {
        let layout = *self;
        let end = start.0.saturating_add(count);
        let mut next = start.0;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let mut piece = layout.locate(VolumeBlock(next));
            piece.count = u64::from(piece.count).min(end - next) as u32;
            next += u64::from(piece.count);
            Some(piece)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn layout(width: u16, rows: u32) -> StripeLayout {
        StripeLayout::new(width, rows).unwrap()
    }

    #[test]
    fn every_row_has_one_block_and_back() {
        for (width, rows) in [(1, 1020), (2, 1020), (3, 1020), (3, 16), (5, 7), (4, 33)] {
            let layout = layout(width, rows);
            let mut seen = std::collections::BTreeSet::new();
            for block in 0..2 * layout.set_blocks() {
                let piece = layout.locate(VolumeBlock(block));
                assert!(piece.count > 0);
                assert_eq!(layout.block_of(piece.at), Some(VolumeBlock(block)));
                assert!(seen.insert(piece.at));
            }
        }
    }

    #[test]
    fn stripe_units_go_round_the_lanes() {
        let layout = layout(3, 1020);
        let lanes: Vec<_> = layout
            .pieces(VolumeBlock(0), 64)
            .map(|piece| (piece.at.lane, piece.at.row.0, piece.count))
            .collect();
        assert_eq!(lanes, [(0, 0, 16), (1, 0, 16), (2, 0, 16), (0, 16, 16)]);
        let tail = layout.locate(VolumeBlock(3 * 1008 + 12));
        assert_eq!((tail.at.lane, tail.at.row.0, tail.count), (1, 1008, 12));
    }

    #[test]
    fn pieces_cover_the_range_and_stay_in_their_group() {
        let layout = layout(2, 33);
        let (start, count) = (VolumeBlock(20), 300);
        let mut next = start.0;
        for piece in layout.pieces(start, count) {
            assert_eq!(piece.block.0, next);
            for offset in 0..piece.count {
                let at = RowAddress { row: Row(piece.at.row.0 + offset), ..piece.at };
                assert_eq!(layout.block_of(at), Some(VolumeBlock(next + u64::from(offset))));
            }
            next += u64::from(piece.count);
        }
        assert_eq!(next, start.0 + count);
    }

    #[test]
    fn what_the_layout_lacks_is_none() {
        let layout = layout(2, 33);
        let at = RowAddress { set: u64::MAX, lane: 1, row: Row(5) };
        assert_eq!(layout.block_of(at), None);
        assert_eq!(layout.block_of(RowAddress { set: 0, lane: 2, row: Row(0) }), None);
        assert_eq!(layout.block_of(RowAddress { set: 0, lane: 0, row: Row(33) }), None);
        assert!(StripeLayout::new(0, 5).is_none());
    }
}
