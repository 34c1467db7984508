//! What a dump tells of whole pools, of wrecks, and of what isn't a pool.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::*;

fn told(images: &[Vec<u8>], options: &DumpOptions<'_>) -> (usize, Vec<DumpItem>) {
    let mut items = Vec::new();
    let pools = dump(&images_of(images), options, &mut |item| {
        items.push(item);
        ControlFlow::Continue(())
    });
    (pools, items)
}

const ALL: DumpOptions<'static> =
    DumpOptions { pool: None, checksums: true, reservation: &|_, _| None };

fn structures(items: &[DumpItem]) -> impl Iterator<Item = &Structure> {
    items.iter().filter_map(|item| match item {
        DumpItem::Structure(structure) => Some(structure),
        _ => None,
    })
}

#[test]
fn a_pool_is_told_with_all_that_it_has() {
    let machines = Machines::new(80);
    machines.write(10, 100, 0xa1);
    machines.quiesce();
    machines.write(20, 4, 1);
    machines.write(90, 2, 2);
    machines.bench.pass(Duration::from_millis(200));
    let images = machines.images();
    let (pools, items) = told(&images, &ALL);
    assert_eq!(pools, 1);
    let mut sound: BTreeMap<StructureKind, u32> = BTreeMap::new();
    for structure in structures(&items).filter(|s| s.state == StructureState::Sound) {
        *sound.entry(structure.kind).or_default() += 1;
    }
    assert_eq!(sound[&StructureKind::Label], 12);
    assert!(sound[&StructureKind::Vote] >= 3 && sound[&StructureKind::CheckpointHeader] >= 3);
    assert!(sound[&StructureKind::DataRecord] >= 4, "{sound:?}");
    assert!(sound[&StructureKind::MarkRecord] >= 2, "{sound:?}");
    assert!(sound[&StructureKind::ChecksumBlock] >= 4, "{sound:?}");
    // What is said of a volume is what a check reads.
    let report = look(&images, false);
    let says = items.iter().find_map(|item| match item {
        DumpItem::Volume(says) => Some(says),
        _ => None,
    });
    let says = says.unwrap();
    assert_eq!(says.get("name"), Some(&Value::Text("v".into())));
    assert_eq!(says.get("released_record"), Some(&Value::Number(volume(&report).released)));
    // A damaged byte is told where it is.
    let record = structures(&items).find(|s| s.kind == StructureKind::DataRecord).unwrap();
    let disk = images_of(&images).iter().position(|image| image.name == record.disk).unwrap();
    let mut damaged = images.clone();
    damaged[disk][record.disk_offset_bytes as usize + 70] ^= 4;
    let (_, items) = told(&damaged, &ALL);
    let same = structures(&items).find(|s| {
        (s.disk.as_str(), s.disk_offset_bytes) == (record.disk.as_str(), record.disk_offset_bytes)
    });
    assert_eq!(same.unwrap().state, StructureState::Damaged);
}

/// Who has a segment's key can forge records in what he writes to a volume.
#[test]
fn keys_are_not_told() {
    let machines = Machines::new(81);
    machines.write(10, 4, 0xa1);
    let images = machines.images();
    let key = {
        let mut findings = Findings::default();
        let images = images_of(&images);
        let mut disks: Vec<Disk<'_>> =
            images.iter().filter_map(|image| Some(read_disk(image, &mut findings)?.1)).collect();
        let (config, _) = judge_votes(&mut disks, &mut findings);
        let pool = disks[0].label.pool;
        let metadata = copies::read_metadata(pool, &disks, config.as_ref(), &mut findings).metadata;
        let metadata = metadata.unwrap();
        let volume = metadata.volumes().values().next().unwrap().clone();
        volume.log.segments.values().next().unwrap().key
    };
    let (_, items) = told(&images, &ALL);
    let text = format!("{items:?}");
    assert!(!text.contains(&key.to_string()) && !text.contains(&format!("{key:x}")));
}

#[test]
fn strangers_wrecks_and_who_has_had_enough() {
    let mut images = at_rest(82);
    images.push(vec![0; 4 << 20]);
    images.push(vec![0xee; 3 << 20]);
    images.push(Vec::new());
    let (pools, items) = told(&images, &ALL);
    assert_eq!(pools, 1);
    let strangers = items.iter().filter(|item| matches!(item, DumpItem::Stranger(_)));
    assert_eq!(strangers.count(), 3);
    let named = |pool| told(&images, &DumpOptions { pool: Some(pool), ..ALL });
    assert_eq!((named("pond").0, named("puddle")), (1, (0, Vec::new())));
    let mut count = 0;
    dump(&images_of(&images), &ALL, &mut |_| {
        count += 1;
        if count == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(count, 5);
    // All that has a label and nothing else.
    for image in &mut images[..3] {
        image[16 << 10..39 << 20].fill(0xc5);
    }
    let (_, items) = told(&images[..3], &ALL);
    assert!(structures(&items).any(|s| s.state == StructureState::Damaged));
}

/// What a disk says may be what a terminal would obey.
#[test]
fn text_is_told_so_that_it_harms_nobody() {
    let of = |text: &str| Value::Text(text.to_owned()).to_string();
    assert_eq!(of("cluster"), "cluster");
    assert_eq!(of(""), "\"\"");
    assert_eq!(of("a b=c"), "\"a b=c\"");
    assert_eq!(of("x\u{1b}[2J\n"), "\"x\\u{1b}[2J\\n\"");
}
