//! What the disks hold, block by block.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;

/// By block: the byte that it is filled with (none: no right copy), copies, and whether the log has it.
type Blocks = BTreeMap<u64, (Option<u8>, u32, bool)>;

fn blocks(images: &[Vec<u8>]) -> Blocks {
    let blocks = RefCell::new(Blocks::new());
    let visit = |told: &BlockCopies<'_>| {
        assert_eq!(told.volume, "v");
        let fill = told.contents.map(|contents| {
            assert!(contents.len() == BLOCK_BYTES && contents.iter().all(|b| *b == contents[0]));
            contents[0]
        });
        let told_of = (fill, told.copies, told.record.is_some());
        let before = blocks.borrow_mut().insert(told.offset_bytes / BLOCK_BYTES as u64, told_of);
        assert_eq!(before, None, "told of twice");
    };
    check_contents(&images_of(images), &CheckOptions::default(), &visit);
    blocks.into_inner()
}

#[test]
fn contents_come_from_the_log_until_they_are_in_place() {
    let machines = Machines::new(80);
    machines.write(10, 4, 0x11);
    machines.write(12, 1, 0x22);
    let found = blocks(&machines.images());
    let expected = [(10, 0x11), (11, 0x11), (12, 0x22), (13, 0x11)];
    let expected = expected.map(|(block, fill)| (block, (Some(fill), 2, true)));
    assert_eq!(found, Blocks::from(expected));
    machines.quiesce();
    let found = blocks(&machines.images());
    let in_place = expected.map(|(block, (fill, copies, _))| (block, (fill, copies, false)));
    assert_eq!(found, Blocks::from(in_place));
    // Newer contents of one block, and one that is zeros.
    machines.write(11, 1, 0x33);
    let zeros =
        machines.volume.write_zeroes(block::SectorRange::new(Lba(13 * 8), 8), Durability::Durable);
    machines.bench.run(zeros).unwrap();
    let found = blocks(&machines.images());
    assert_eq!(found[&11], (Some(0x33), 2, true));
    assert_eq!(found[&13], (Some(0), 2, true));
    assert_eq!(found[&12], (Some(0x22), 2, false));
    assert_eq!(found.len(), 4);
}

#[test]
fn copies_that_are_gone_do_not_count() {
    let machines = Machines::new(81);
    machines.write(700, 20, 0x44);
    machines.quiesce();
    let images = machines.released();
    let holders: Vec<usize> = (0..3)
        .filter(|disk| {
            let mut left = images.clone();
            left.remove(*disk);
            blocks(&left)[&700].1 == 1
        })
        .collect();
    assert_eq!(holders.len(), 2);
    let mut damaged = images.clone();
    for disk in holders {
        let rows = (0..images[disk].len() / 8192).map(|block| block * 4096);
        let row = rows.filter(|at| images[disk][*at..at + 4096].iter().all(|byte| *byte == 0x44));
        damaged[disk][row.min().unwrap() + 5] = 0;
    }
    let found = blocks(&damaged);
    assert_eq!(found[&700], (None, 0, false));
    assert_eq!(found[&701], (Some(0x44), 2, false));
}
