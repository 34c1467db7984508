//! Every write of a label, vote, applied block, metadata, segment header or log, cut off behind every sector of it.

use std::collections::BTreeSet;

use super::busy::{Contents, Pond};
use super::every_byte::collect;
use super::*;
use crate::engine::PoolSettings;
use crate::format::DiskGeometry;

/// A pool's work on its disks, write by write: disk, offset, contents.
struct Work {
    base: Vec<Vec<u8>>,
    writes: Vec<(String, u64, Vec<u8>)>,
    before: Contents,
    pond: Pond,
}

/// Where nothing but structures is: by disk, from and to.
fn places_of_structures(images: &[DiskImage<'_>]) -> Vec<(String, u64, u64)> {
    let mut places = Vec::new();
    for image in images {
        let [_, _, tail, _] = DiskGeometry::label_slots(image.bytes);
        places.push((image.name.clone(), 0, MIB));
        places.push((image.name.clone(), tail.byte_offset(), image.bytes));
    }
    let options = DumpOptions { pool: None, checksums: false, reservation: &|_, _| None };
    let number = |fields: &Fields, name: &str| match fields.get(name) {
        Some(Value::Number(number)) => *number,
        _ => 0,
    };
    let mut extent_bytes = 0;
    dump(images, &options, &mut |item| {
        match item {
            DumpItem::Pool(pool) => extent_bytes = number(&pool, "extent_bytes"),
            DumpItem::Disk(disk) => {
                let name = images[number(&disk, "number") as usize].name.clone();
                let from = MIB + number(&disk, "area_first") * extent_bytes;
                places.push((name, from, from + number(&disk, "area_extents") * extent_bytes));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    places
}

/// What a pool writes while it is written to, destaged, has a damaged label mended, loses a disk for a moment, and is
/// opened again.
fn at_work() -> Work {
    let mut pond = Pond::new(7003);
    pond.write(0, 4);
    pond.pass(Duration::from_secs(3));
    pond.bench.disks[2].damage(70, |byte| *byte ^= 1);
    let base = pond.begin_journal();
    let before = pond.contents["m"].clone();
    pond.story.clear();
    pond.write(2, 3);
    pond.pass(Duration::from_millis(1200));
    let engine = Rc::clone(&pond.bench.engine);
    let scrub = async move { engine.scrub_pool("pond", &PoolSettings::default()).await };
    pond.bench.run(scrub).unwrap();
    pond.pass(Duration::from_secs(3));
    pond.write(100, 40);
    pond.write(6, 1);
    pond.pass(Duration::from_millis(300));
    pond.bench.set_mode(1, Mode::Lost);
    pond.write(8, 2);
    pond.pass(Duration::from_secs(2));
    pond.bench.set_mode(1, Mode::Well);
    pond.pass(Duration::from_secs(6));
    pond.write(9, 2);
    let mut pond = pond.again();
    pond.write(11, 2);
    pond.pass(Duration::from_millis(200));
    let writes = pond.end_journal().into_iter();
    let writes = writes.map(|(disk, at, data)| (disk, at.byte_offset(), data.to_vec())).collect();
    Work { base, writes, before, pond }
}

#[test]
fn a_metadata_write_that_is_torn_anywhere_loses_nothing() {
    let Work { base, writes, before, pond } = at_work();
    let busy = pond.on(&base);
    let places = places_of_structures(&busy.images());
    let is_structure = |(disk, at, data): &(String, u64, Vec<u8>)| {
        let magics: [&[u8]; 3] = [b"epSEGMNT", b"epLR", b"epCS"];
        places.iter().any(|(name, from, end)| name == disk && (*from..*end).contains(at))
            || magics.iter().any(|magic| data.starts_with(magic))
    };
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for (index, write) in writes.iter().enumerate().filter(|(_, write)| is_structure(write)) {
        cuts.extend((0..write.2.len() / 512).map(|sectors| (index, sectors)));
    }
    let begins: BTreeSet<&[u8]> = cuts.iter().map(|(index, _)| &writes[*index].2[..4]).collect();
    for magic in [b"EPLA", b"epVO", b"epCO", b"epCH", b"epME", b"epSE", b"epLR", b"epCS"] {
        assert!(begins.contains(&magic[..]), "no write that begins with {magic:?}");
    }
    let chosen = sample(cuts.len(), trials_wanted(16)).into_iter().map(|index| cuts[index]);
    let chosen: Vec<(usize, usize)> = chosen.collect();
    let (pools, now, story) = (busy.pools.clone(), busy.now, &pond.story);
    let contents: Vec<Contents> =
        chosen.iter().map(|(index, _)| Contents::after(&before, story, *index)).collect();
    let jobs: Vec<((usize, usize), Contents)> = chosen.into_iter().zip(contents).collect();
    collect(
        &jobs,
        || Busy::made_of(&base, &pools, now),
        |busy, ((index, sectors), contents)| {
            let (disk, at, data) = &writes[*index];
            let what = format!(
                "write {index} of {}, {disk}:{at} ({}), {sectors} of {} sectors",
                writes.len(),
                String::from_utf8_lossy(&data[..8]).escape_debug(),
                data.len() / 512
            );
            for (disk, at, data) in &writes[..*index] {
                busy.disks[busy.disk_of(disk)].overwrite(Lba(at / 512), data);
            }
            busy.disks[busy.disk_of(disk)].overwrite(Lba(at / 512), &data[..sectors * 512]);
            let outcome = busy.with(contents).trial(&what);
            assert!(outcome.is_right(), "{what}: {outcome:?}");
        },
    );
}
